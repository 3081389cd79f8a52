import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from synthetic_folder import fingerprint, psnr, write_images, write_set

from scene4d.apps.verbs import run_convert as convert
from scene4d.apps.verbs.run_convert import ConvertOptions, run_convert
from scene4d.data.detect import open_recordings
from scene4d.errors import CalibrationError, ConfigError, ResourceError, Scene4DError


def assert_same(read, truth):
    assert torch.equal(read.actions, truth.actions) and torch.equal(read.proprio, truth.proprio)
    assert torch.equal(read.times, truth.times) and read.info["task"] == truth.info["task"]
    for name, frames in truth.views.items():
        got = read.views[name]
        assert psnr(got.rgb, frames.rgb) > 35
        assert float((got.depth - frames.depth).abs().max()) < 1.1e-4
        assert torch.equal(got.cameras.viewmats, frames.cameras.viewmats)
        torch.testing.assert_close(got.cameras.Ks, frames.cameras.Ks)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_converted_reads_as_before(tmp_path, workers):
    truth = write_set(tmp_path / "set")
    before = fingerprint(tmp_path / "set")
    report = run_convert(ConvertOptions(tmp_path / "set", tmp_path / "copy", workers=workers))
    assert (report["episodes"], report["frames"], report["skipped"], report["resumed"]) == (3, 27, [], 0)
    recordings = open_recordings(tmp_path / "copy")
    for recording, episode in zip(recordings, truth, strict=True):
        assert_same(recording.read(), episode)
    kept = json.loads((tmp_path / "copy" / "report.json").read_text())
    assert kept["episodes"] == 3 and kept["source"] == str(tmp_path / "set")
    assert fingerprint(tmp_path / "set") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "set"], "no working files are left"


def test_statistics_are_those_of_all_rows(tmp_path):
    truth = write_set(tmp_path / "set")
    run_convert(ConvertOptions(tmp_path / "set", tmp_path / "copy"))
    stats = json.loads((tmp_path / "copy" / "meta" / "stats.json").read_text())["action"]
    rows = torch.cat([e.actions for e in truth]).double()
    for key, expected in (("mean", rows.mean(0)), ("std", rows.std(0, unbiased=False)), ("max", rows.amax(0))):
        torch.testing.assert_close(torch.tensor(stats[key]).double(), expected, rtol=1e-6, atol=1e-7)
    assert stats["count"] == [27]


def test_a_fix_cameras_and_size_are_applied_to_the_copy(tmp_path):
    write_set(tmp_path / "set", episodes=1)
    run_convert(ConvertOptions(tmp_path / "set", tmp_path / "gl", fix=("opengl",), size=(48, 36), cameras=("hand",)))
    (wrong,) = open_recordings(tmp_path / "gl")
    run_convert(ConvertOptions(tmp_path / "gl", tmp_path / "back", fix=("opengl", "lag=1")))
    (back,) = open_recordings(tmp_path / "back")
    (truth,) = open_recordings(tmp_path / "set")
    poses = truth.read().views["hand"].cameras.viewmats
    assert not torch.allclose(wrong.read().views["hand"].cameras.viewmats, poses, atol=0.1)
    assert torch.equal(back.read().views["hand"].cameras.viewmats, poses[1:])
    assert back.read().views["hand"].rgb.shape[1:3] == (36, 48) and back.info["mends"] == ["opengl", "lag=1"]


def test_a_stopped_run_continues(tmp_path, monkeypatch):
    truth = write_set(tmp_path / "set")
    options = ConvertOptions(tmp_path / "set", tmp_path / "copy")
    write, written = convert.write_lerobot, []

    def stops_at_the_third(path, episodes, **how):
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt
        return write(path, episodes, **how)

    monkeypatch.setattr(convert, "write_lerobot", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_convert(options)
    assert not (tmp_path / "copy").exists()
    with pytest.raises(ConfigError, match="unfinished"):
        run_convert(ConvertOptions(tmp_path / "set", tmp_path / "copy", fix=("opengl",)))
    report = run_convert(options)
    assert report["resumed"] == 2 and len(written) == 4, "finished episodes are not written again"
    for recording, episode in zip(open_recordings(tmp_path / "copy"), truth, strict=True):
        assert_same(recording.read(), episode)


def test_a_killed_process_leaves_nothing_half_written(tmp_path):
    truth = write_set(tmp_path / "set", episodes=6)
    code = (
        "import torch; torch.set_num_threads(1); from pathlib import Path; "
        "from scene4d.apps.verbs.run_convert import ConvertOptions, run_convert; "
        f"run_convert(ConvertOptions(Path({str(tmp_path / 'set')!r}), Path({str(tmp_path / 'copy')!r})))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    parts = tmp_path / ".copy.scene4d-parts"
    deadline = time.monotonic() + 60
    while process.poll() is None and len(list(parts.glob("episode-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = len(list(parts.glob("episode-*")))
    assert 2 <= finished < 6 and not (tmp_path / "copy").exists()
    report = run_convert(ConvertOptions(tmp_path / "set", tmp_path / "copy"))
    assert report["resumed"] == finished and report["episodes"] == 6
    for recording, episode in zip(open_recordings(tmp_path / "copy"), truth, strict=True):
        assert_same(recording.read(), episode)


def test_bad_recordings_stop_the_run_or_are_skipped_and_named(tmp_path):
    write_set(tmp_path / "set")
    video = tmp_path / "set" / "videos" / "observation.images.hand" / "chunk-000" / "file-001.mp4"
    video.write_bytes(video.read_bytes()[:500])
    with pytest.raises(Scene4DError, match=r"file-001\.mp4"):
        run_convert(ConvertOptions(tmp_path / "set", tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()
    report = run_convert(ConvertOptions(tmp_path / "set", tmp_path / "copy", skip_bad=True))
    assert report["episodes"] == 2 and report["resumed"] == 1
    (skipped,) = json.loads((tmp_path / "copy" / "report.json").read_text())["skipped"]
    assert skipped["index"] == 1 and skipped["error"]["file"].endswith("file-001.mp4")
    assert [r.num_frames for r in open_recordings(tmp_path / "copy")] == [8, 10]


def test_recordings_that_do_not_go_together_are_told_apart(tmp_path):
    write_set(tmp_path / "both" / "a", episodes=1)
    write_set(tmp_path / "both" / "b", episodes=1)
    file = tmp_path / "both" / "b" / "meta" / "cameras.json"
    table = json.loads(file.read_text())
    table["cameras"]["hand"]["K"][0][0] *= 1.1
    file.write_text(json.dumps(table))
    with pytest.raises(CalibrationError, match="differs between episodes"):
        run_convert(ConvertOptions(tmp_path / "both", tmp_path / "copy"))
    report = run_convert(ConvertOptions(tmp_path / "both", tmp_path / "copy", skip_bad=True))
    assert report["episodes"] == 1 and report["skipped"][0]["error"]["field"] == "cameras.hand"


def test_places_that_would_lose_something_are_refused(tmp_path):
    write_set(tmp_path / "set", episodes=1)
    with pytest.raises(ConfigError, match="inside the source"):
        run_convert(ConvertOptions(tmp_path / "set", tmp_path / "set" / "copy"))
    shutil.copytree(tmp_path / "set", tmp_path / "other")
    with pytest.raises(ResourceError, match="exists already"):
        run_convert(ConvertOptions(tmp_path / "set", tmp_path / "other"))
    for wrong in ({"size": (0, 4)}, {"fps": -1}, {"workers": 0}, {"depth_unit": 2}):
        with pytest.raises(ConfigError):
            ConvertOptions(tmp_path, **wrong)


def test_a_folder_without_a_robot(tmp_path):
    frames = write_images(tmp_path / "walk", opengl=True)
    report = run_convert(ConvertOptions(tmp_path / "walk", tmp_path / "copy", fix=("opengl",), fps=10))
    (recording,) = open_recordings(tmp_path / "copy")
    read = recording.read()
    assert report["frames"] == 12 and recording.fps == 10 and read.actions.shape == (12, 0)
    torch.testing.assert_close(read.views["camera"].cameras.viewmats, frames.cameras.viewmats, rtol=0, atol=1e-5)
    assert float((read.views["camera"].depth - frames.depth).abs().max()) < 0.6e-3

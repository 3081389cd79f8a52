"""Fault 30: episodes of one source with other cameras: refused with what differs; those that all have can be named."""

import json

import numpy as np
import pytest
from data_fixtures import FPS, HEIGHT, LENGTH, WIDTH, K, assert_refused, episode

from scene4d.apps.cli import main
from scene4d.apps.training.import_recordings import import_stage
from scene4d.apps.training.run_config import RecordConfig
from scene4d.data.detect import open_recordings
from scene4d.data.formats.lerobot.lerobot import write_lerobot
from scene4d.data.load.window_set import WindowConfig, WindowSet
from scene4d.data.video.video import encode_video
from scene4d.errors import DataFormatError


def rig(folder, names):
    """A folder of one video a camera."""
    folder.mkdir(parents=True)
    cameras = {}
    for k, name in enumerate(names):
        frames = np.random.default_rng(k).integers(0, 256, (LENGTH, HEIGHT, WIDTH, 3), dtype=np.uint8)
        encode_video(folder / f"{name}.mp4", frames, fps=FPS)
        cameras[name] = {"width": WIDTH, "height": HEIGHT, "K": K.tolist(), "viewmat": np.eye(4).tolist()}
        cameras[name]["rgb"] = f"{name}.mp4"
    (folder / "cameras.json").write_text(json.dumps({"cameras": cameras}))
    return folder


@pytest.fixture(params=[("front",), ("front", "top"), ("front", "side", "top"), ("left", "right")])
def source(request, tmp_path):
    """Two episodes, the first with cameras front and side, the second with others."""
    rig(tmp_path / "set" / "episode0", ("front", "side"))
    rig(tmp_path / "set" / "episode1", request.param)
    return tmp_path / "set", set(request.param)


def test_30_convert(source, tmp_path, capsys):
    folder, second = source
    act = lambda: main(["--json-errors", "convert", str(folder), "-o", str(tmp_path / "out")])
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert act() == 3
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert error["code"] == "DataFormatError" and "episode1" in error["file"] and error["field"], error
    differ = second ^ {"front", "side"}
    assert any(name in f"{error['found']} {error['expected']} {error['problem']}" for name in differ), error
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert not (tmp_path / "out").exists()


def test_30_convert_of_the_cameras_that_all_have(source, tmp_path, capsys):
    folder, second = source
    if "front" not in second:
        pytest.skip("no camera is in both")
    assert main(["convert", str(folder), "-o", str(tmp_path / "out"), "--cameras", "front"]) == 0
    recordings = open_recordings(tmp_path / "out")
    assert [r.cameras for r in recordings] == [("front",)] * 2
    assert [r.num_frames for r in recordings] == [LENGTH] * 2


def test_30_convert_counts_what_it_skips(source, tmp_path, capsys):
    folder, _ = source
    assert main(["convert", str(folder), "-o", str(tmp_path / "out"), "--skip-bad"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [entry["index"] for entry in report["skipped"]] == [1]
    assert report["skipped"][0]["error"]["code"] == "DataFormatError" and len(open_recordings(tmp_path / "out")) == 1


def test_30_windows_of_several_recordings(source):
    folder, second = source
    recordings = open_recordings(folder)
    if {"front", "side"} <= second:
        assert len(WindowSet(recordings, WindowConfig(horizon=1)).cameras) == 2
        return
    act = lambda: WindowSet(recordings, WindowConfig(horizon=1))
    error = assert_refused(folder, act, kind=DataFormatError, file="episode1", field="cameras", words="lacks")
    assert str(error.expected) == "front, side" and set(str(error.found).split(", ")) == second
    if "front" in second:
        assert WindowSet(recordings, WindowConfig(horizon=1, cameras=("front",))).cameras == ("front",)


def test_30_training(source, tmp_path):
    folder, _ = source
    config = RecordConfig(sources=(str(folder),), cameras=("front", "side"), size=16)
    act = lambda: import_stage(tmp_path / "run", config, least=2, processes=1)
    error = assert_refused(folder, act, kind=DataFormatError, file="", words="")
    assert error.field


def test_30_writing_a_data_set(tmp_path):
    first, second = episode(0), episode(1)
    second = second.replace(views={"top": second.views["front"]})
    with pytest.raises(DataFormatError) as caught:
        write_lerobot(tmp_path / "out", [first, second])
    assert "top" in str(caught.value) or "front" in str(caught.value)
    assert not (tmp_path / "out").exists()

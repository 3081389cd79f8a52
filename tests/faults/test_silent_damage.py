"""Fault 13: bits turned over in the middle of a video that still decodes: found, named, never passed on in silence."""

import json

import numpy as np
import pytest
from data_fixtures import KEY, VIDEO, assert_refused, episode, tree_hash
from floor_scene import decode_frames

from scene4d.apps.cli import main
from scene4d.apps.verbs.options.recordings import CheckOptions
from scene4d.apps.verbs.run_check import run_check
from scene4d.data.detect import open_recordings
from scene4d.data.diagnose.repair.video_cut import whole_frames
from scene4d.data.formats.lerobot.lerobot import write_lerobot
from scene4d.data.video.video import encode_video
from scene4d.errors import VideoError

NUM, SIDE = 40, 64
KEY_FRAMES = 10


def pictures(seed=0):
    """Noise that moves: every picture has something to be damaged."""
    dice = np.random.default_rng(seed)
    noise = dice.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return np.stack([np.roll(noise, k, 1) for k in range(NUM)])


def damage(path, *, first=0.4, last=0.6, bits=8, seed=0):
    """Turn bits over between two places of the file, given as shares of the pictures' bytes."""
    dice = np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 4
    size = len(data) - begin
    for at in dice.integers(begin + int(first * size), begin + int(last * size), bits):
        data[at] ^= 1 << dice.integers(8)
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(6))
def test_13_pictures_before_the_damage_are_read_those_after_it_are_refused(tmp_path, seed):
    path = tmp_path / "a.mp4"
    encode_video(path, pictures(), fps=10)
    whole = decode_frames(path, range(NUM))
    damage(path, seed=seed)
    first, reason = whole_frames(path)
    assert 8 < first < 30 and reason
    before = first - first % KEY_FRAMES  # between two key frames the decoder may notice it a few pictures late
    assert (decode_frames(path, range(before)) == whole[:before]).all(), "what is whole is what it was"
    act = lambda: decode_frames(path, range(NUM))
    error = assert_refused(tmp_path, act, kind=VideoError, file="a.mp4", words="damaged|cannot be decoded")
    assert first <= error.frame < first + 2 * KEY_FRAMES and error.fix


def test_13_from_the_next_key_frame_on_it_is_whole_again(tmp_path):
    path = tmp_path / "a.mp4"
    encode_video(path, pictures(), fps=10)
    whole = decode_frames(path, range(NUM))
    damage(path, first=0.3, last=0.32, bits=3)
    first, _ = whole_frames(path)
    later = range(first - first % KEY_FRAMES + 2 * KEY_FRAMES, NUM)
    assert (decode_frames(path, later) == whole[later.start :]).all()


@pytest.fixture
def data_set(tmp_path):
    """Two episodes, the video of the first damaged in its middle."""
    root = tmp_path / "set"
    write_lerobot(root, [episode(0), episode(1)])
    encode_video(root / VIDEO, np.random.default_rng(0).integers(0, 256, (6, 16, 24, 3), dtype=np.uint8), fps=10)
    damage(root / VIDEO, first=0.3, last=0.9, bits=12)
    return root


def test_13_check_deep(data_set, capsys):
    before = tree_hash(data_set)
    report = run_check(CheckOptions(data_set, deep=True))
    assert not report["ok"]
    found = [f for f in report["findings"] if f["kind"] == "VideoError"]
    assert found and all(VIDEO in f["found"] + str(f["field"]) + json.dumps(f) for f in found), report["findings"]
    assert main(["check", str(data_set), "--deep"]) == 3 and KEY in capsys.readouterr().out
    assert tree_hash(data_set) == before


def test_13_convert_names_it_or_counts_it(data_set, tmp_path, capsys):
    before = tree_hash(data_set)
    assert main(["--json-errors", "convert", str(data_set), "-o", str(tmp_path / "out")]) == 3
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert error["code"] == "VideoError" and VIDEO in error["file"] and error["frame"] is not None
    assert main(["convert", str(data_set), "-o", str(tmp_path / "more"), "--skip-bad"]) == 0
    report = json.loads((tmp_path / "more" / "report.json").read_text())
    assert [entry["error"]["code"] for entry in report["skipped"]] == ["VideoError"]
    assert len(open_recordings(tmp_path / "more")) == 1 and tree_hash(data_set) == before


def test_13_a_whole_set_has_no_finding(tmp_path):
    write_lerobot(tmp_path / "set", [episode(0)])
    report = run_check(CheckOptions(tmp_path / "set", deep=True))
    assert [f for f in report["findings"] if f["kind"] == "VideoError"] == []

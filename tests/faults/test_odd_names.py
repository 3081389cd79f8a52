"""Fault 71: names with digits that are none for `int`, marks of direction, line breaks, and names of 255 bytes."""

import json

import numpy as np
import pytest
import torch
from data_fixtures import FPS, HEIGHT, LENGTH, WIDTH, K
from test_export import ball_scene

from scene4d.apps.verbs.run_reconstruct import _holdout
from scene4d.data.detect import open_recordings
from scene4d.data.files.paths import natural_order
from scene4d.data.video.video import count_frames, encode_video
from scene4d.errors import ConfigError
from scene4d.files import write_text
from scene4d.gaussians.formats.ply import read_ply, write_ply
from scene4d.gaussians.s4d.s4d import load_s4d, write_s4d
from scene4d.train.checkpoint import load_tensors, save_tensors

NAMES = [
    "take²",
    "take٣",
    "take①",
    "\u202erevo\u202c",
    "\u200f1",
    "two\nlines",
    "tab\there",
    " blank ",
    "é" * 115,
    "x" * 230,
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_71_files_of_such_names_are_written_and_read(tmp_path, name):
    scene = ball_scene()
    write_s4d(tmp_path / f"{name}.s4d", scene)
    assert load_s4d(tmp_path / f"{name}.s4d").base.num_gaussians == scene.base.num_gaussians
    write_ply(tmp_path / f"{name}.ply", scene.base)
    assert read_ply(tmp_path / f"{name}.ply").num_gaussians == scene.base.num_gaussians
    save_tensors(tmp_path / f"{name}.safetensors", {"a": torch.ones(2)}, state={"b": 1})
    assert load_tensors(tmp_path / f"{name}.safetensors")[1] == {"b": 1}
    encode_video(tmp_path / f"{name}.mp4", np.zeros((LENGTH, HEIGHT, WIDTH, 3), np.uint8), fps=FPS)
    assert count_frames(tmp_path / f"{name}.mp4") == LENGTH
    write_text(tmp_path / f"{name}.json", "{}")
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_71_videos_and_cameras_of_such_names(tmp_path, name):
    root = tmp_path / name
    root.mkdir()
    encode_video(root / f"{name}.mp4", np.zeros((LENGTH, HEIGHT, WIDTH, 3), np.uint8), fps=FPS)
    camera = {"width": WIDTH, "height": HEIGHT, "K": K.tolist(), "viewmat": np.eye(4).tolist(), "rgb": f"{name}.mp4"}
    (root / "cameras.json").write_text(json.dumps({"cameras": {name: camera}}))
    (recording,) = open_recordings(root)
    assert tuple(recording.cameras) == (name,) and len(recording.read().times) == LENGTH


def test_71_an_order_of_such_names():
    ordered = sorted(["take10", "take²", "take2", "take٣", "take1"], key=natural_order)
    assert [n for n in ordered if n.isascii()] == ["take1", "take2", "take10"]


@pytest.mark.parametrize("holdout", ["²", "٣", "①", "4²", "1", "0"])
def test_71_what_is_held_out_is_a_number_or_a_name(holdout):
    with pytest.raises(ConfigError) as caught:
        _holdout(holdout, ["front"])
    assert caught.value.exit_code == 2 and caught.value.field == "holdout" and caught.value.found == holdout
    assert _holdout("front", ["front"]) == ("front", 0) and _holdout("12", ["front"]) == ("", 12)
    assert _holdout(holdout, ["front", holdout]) == (holdout, 0), "a camera may have that name"

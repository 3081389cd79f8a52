"""`scene4d eval reconstruct` on a folder: what is held out follows the options, the table and the JSON say the same."""

from __future__ import annotations

import json

import pytest
import torch
from box_scene import Box, cast_boxes

from scene4d.apps.verbs.evaluate_reconstruct import EvalReconstructOptions, run_eval_reconstruct, text_of
from scene4d.data.formats.lerobot.lerobot import write_lerobot
from scene4d.errors import ConfigError
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.types import Cameras, Episode, Frames

EYES = {"left": (-0.6, -0.6, 0.6), "right": (0.6, -0.6, 0.6), "overhead": (0.0, -0.5, 0.9)}
SIZE, COUNT = 48, 3


def seen(name, t):
    K, x = intrinsics_from_fov(0.7, width=SIZE, height=SIZE), -0.1 + 0.012 * t
    viewmat = look_at(torch.tensor(EYES[name]), torch.tensor([-0.05, 0.0, 0.05]))
    cameras = Cameras(viewmats=viewmat, Ks=K, width=SIZE, height=SIZE)
    return cast_boxes(cameras, boxes=(Box((x, -0.05, 0.0), (x + 0.12, 0.07, 0.12)),)).replace(extras={}, alpha=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    episode = Episode(
        views={n: Frames.stack([seen(n, t) for t in range(COUNT)]) for n in EYES},
        times=torch.arange(COUNT, dtype=torch.float64) / 10,
        valid=torch.ones(COUNT, dtype=torch.bool),
        actions=torch.zeros(COUNT, 1),
        proprio=torch.zeros(COUNT, 1),
        info={"task": "slide"},
    )
    path = tmp_path_factory.mktemp("recordings") / "slide"
    write_lerobot(path, [episode], fps=10.0)
    return path


def test_a_camera_of_a_folder_is_held_out(folder):
    options = EvalReconstructOptions(sources=(folder,), view_every=2, tsdf=False, instants=False)
    table = run_eval_reconstruct(options)
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    entry = table["sources"]["slide"]
    assert entry["inputs"] == ["left", "right"] and entry["holdouts"] == ["overhead"] and entry["num_views"] == 2
    assert set(entry["methods"]) == {"ours", "three_nearest", "lift"} and entry["motion"] is None
    assert entry["methods"]["ours"]["psnr_covered"] > 18 and entry["seconds_per_frame"] > 0
    shown = text_of(table)
    assert f"{entry['methods']['ours']['psnr']:.2f}" in shown and "left out: lpips" in shown
    assert f"{entry['paired']['lift']['psnr']['mean']:+.2f}" in shown


def test_options_that_fit_nothing_are_refused(folder):
    with pytest.raises(ConfigError, match="fits no camera"):
        run_eval_reconstruct(EvalReconstructOptions(sources=(folder,), holdout=("nowhere",)))
    with pytest.raises(ConfigError, match="given and held out"):
        EvalReconstructOptions(inputs=("left", "front"))
    with pytest.raises(ConfigError, match="empty range"):
        EvalReconstructOptions(seeds=(3, 2))
    with pytest.raises(ConfigError, match="out of range"):
        EvalReconstructOptions(stride=0)

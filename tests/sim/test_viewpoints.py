"""Drawn cameras are valid, see the workspace from different sides, and those of reports are never trained into."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scene4d.apps.training.run_config import RecordConfig, RunConfig
from scene4d.errors import ConfigError
from scene4d.eval.metrics.seeds import LARGEST_SEED
from scene4d.sim import rig
from scene4d.sim.rig_cameras import viewmat_of
from scene4d.sim.viewpoints import UNSEEN_SEED, Viewpoints, drawn_names, episode_seed, unseen_cameras


def _between(cameras, name):
    low, high = getattr(Viewpoints(), name)
    return all(low <= getattr(camera, name) <= high for camera in cameras)


def _azimuth_gaps(cameras):
    turns = np.array([camera.azimuth_deg for camera in cameras])
    apart = np.abs((turns[:, None] - turns + 180) % 360 - 180)
    return apart[~np.eye(len(turns), dtype=bool)]


@pytest.mark.parametrize("seed", range(5))
def test_every_drawn_camera_is_above_the_table_and_looks_at_the_workspace(seed):
    cameras = Viewpoints().draw(200, seed=seed)
    for name in ("azimuth_deg", "elevation_deg", "distance", "fov_y_deg"):
        assert _between(cameras, name)
    for camera in cameras:
        viewmat = viewmat_of(camera)
        place = -viewmat[:3, :3].T @ viewmat[:3, 3]
        assert place[2] > 0.2
        middle = viewmat[:3, :3] @ torch.tensor([0, 0.6, 0.12], dtype=torch.float64) + viewmat[:3, 3]
        slope = math.tan(math.radians(camera.fov_y_deg / 2))
        assert middle[2] > 1 and middle[:2].abs().max() < 0.5 * slope * middle[2]  # well inside the picture


def test_the_whole_range_is_used_and_a_seed_fixes_it():
    cameras = Viewpoints().draw(500, seed=3)
    turns = sorted(camera.azimuth_deg for camera in cameras)
    assert turns[0] < 140 and turns[-1] > 400 and max(np.diff(turns)) < 5
    assert cameras == Viewpoints().draw(500, seed=3) != Viewpoints().draw(500, seed=4)


@pytest.mark.parametrize("num", [1, 2, 3, 5])
def test_inputs_see_the_workspace_from_clearly_different_sides(num):
    draws = [Viewpoints().draw_apart(num, seed=seed) for seed in range(100)]
    for cameras in draws:
        assert len(cameras) == num and all(_between(cameras, name) for name in ("azimuth_deg", "elevation_deg"))
        assert num == 1 or _azimuth_gaps(cameras).min() >= 50 - 1e-9
    firsts = [cameras[0].azimuth_deg for cameras in draws]
    assert min(firsts) < 170 and max(firsts) > 370  # the order tells nothing about the side


def test_on_a_whole_circle_the_ends_are_neighbours():
    ring = Viewpoints(azimuth_deg=(0, 360))
    draws = [ring.draw_apart(4, seed=seed) for seed in range(200)]
    assert min(_azimuth_gaps(cameras).min() for cameras in draws) >= 50 - 1e-9
    turns = [camera.azimuth_deg for cameras in draws for camera in cameras]
    assert min(turns) < 15 and max(turns) > 345
    with pytest.raises(ConfigError, match="do not fit"):
        ring.draw_apart(8, seed=0)


@pytest.mark.parametrize(
    "wrong",
    [{"elevation_deg": (-20, -65)}, {"elevation_deg": (-30, 10)}, {"distance": (0.0, 1.0)}, {"distance": (0.3, 1.0)},
     {"fov_y_deg": (40, math.nan)}, {"lookat": (0.0, 0.6, -1.0)}],
)  # fmt: skip
def test_a_distribution_with_impossible_cameras_is_refused(wrong):
    with pytest.raises(ConfigError, match="viewpoints"):
        Viewpoints(**wrong)


def test_an_episode_has_cameras_of_its_own_inputs_first():
    named = lambda task, seed: Viewpoints().episode(task, seed=seed, num_inputs=2, num_targets=2)
    cameras = named("door-open-v3", 3)
    assert tuple(cameras) == drawn_names(2, 2) == ("input_0", "input_1", "target_0", "target_1")
    assert cameras == named("door-open-v3", 3)
    others = [named("door-open-v3", 4), named("reach-v3", 3)]
    assert all(set(cameras.values()).isdisjoint(other.values()) for other in others)


def test_no_episode_draws_the_cameras_of_the_reports():
    """An episode's seed is 2**32 at least, whatever its task and environment, and that of the reports is below."""
    for task in (*rig.TRAIN_TASKS, *rig.HELD_OUT_TASKS):
        assert episode_seed(task, seed=0) > LARGEST_SEED > UNSEEN_SEED
        for seed in range(0, 1000, 50):
            drawn = Viewpoints().episode(task, seed=seed, num_inputs=2, num_targets=4)
            assert set(drawn.values()).isdisjoint(unseen_cameras().values())
    for name in ("unseen_3", "beyond"):
        with pytest.raises(ConfigError, match=f"record.cameras: are kept for reports.*{name}"):
            RecordConfig(cameras=("left", name))


def test_the_cameras_of_the_reports_are_fixed_and_one_is_twenty_degrees_outside():
    cameras = unseen_cameras()
    assert list(cameras) == [*(f"unseen_{i}" for i in range(8)), "beyond"]
    inside = [camera for name, camera in cameras.items() if name != "beyond"]
    for name in ("azimuth_deg", "elevation_deg", "distance", "fov_y_deg"):
        assert _between(inside, name)
    assert inside == Viewpoints().draw(8, seed=UNSEEN_SEED)
    assert inside[0].azimuth_deg == pytest.approx(340.1154, abs=1e-4)  # drawn once: reports of all times compare
    assert cameras["beyond"].azimuth_deg == Viewpoints().azimuth_deg[1] + 20
    assert _between([cameras["beyond"]], "elevation_deg") and cameras["beyond"].fov_y_deg == 45


def test_drawn_cameras_replace_those_of_the_rig_in_training():
    run = RunConfig(record=RecordConfig(viewpoints=(2, 3)))
    assert run.record.camera_names == drawn_names(2, 3)
    for viewpoints, words in (((1, 3), "num_inputs"), ((0, 3), "record.viewpoints"), ((-1, 0), "record.viewpoints")):
        with pytest.raises(ConfigError, match=words):
            RunConfig(record=RecordConfig(viewpoints=viewpoints))

import tomllib

import pytest
import torch

from scene4d.errors import ConfigError
from scene4d.sim import rig, rig_cameras


def test_rig_has_the_agreed_numbers(shared_data):
    agreed = tomllib.loads((shared_data.parent / "bench" / "rig.toml").read_text())
    for name, camera in agreed["cameras"].items():
        if "named" in camera:
            assert rig.MODEL_CAMERAS[name] == camera["named"]
            continue
        ours = rig.FIXED_CAMERAS[name]
        assert list(ours.lookat) == camera["lookat"] and ours.distance == camera["distance"]
        assert (ours.azimuth_deg, ours.elevation_deg) == (camera["azimuth"], camera["elevation"])
    assert set(rig.CAMERAS) == set(agreed["cameras"])
    assert list(rig.TASKS) == agreed["tasks"]["train"] and list(rig.NOISE) == agreed["episodes"]["noise"]
    assert set(rig.TASKS) <= set(rig.TRAIN_TASKS) and not set(rig.TRAIN_TASKS) & set(rig.HELD_OUT_TASKS)
    assert (len(rig.TRAIN_TASKS), len(rig.HELD_OUT_TASKS)) == (12, 4)
    assert {k: list(v) for k, v in rig.SEEDS.items()} == agreed["episodes"]["seeds"]
    assert agreed["moving"]["threshold_m"] == rig.MOVING_THRESHOLD


@pytest.mark.parametrize("name", rig.FIXED_CAMERAS)
def test_a_camera_sees_its_target_in_the_middle_upright(name):
    camera, viewmat = rig.FIXED_CAMERAS[name], rig_cameras.viewmat(name)
    target = torch.tensor([*camera.lookat, 1.0], dtype=torch.float64)
    assert torch.allclose(viewmat @ target, torch.tensor([0, 0, camera.distance, 1.0], dtype=torch.float64), atol=1e-12)
    above = target + torch.tensor([0, 0, 0.1, 0], dtype=torch.float64)
    assert (viewmat @ above)[1] < 0 and abs((viewmat @ above)[0]) < 1e-12  # y points down


def test_unknown_camera_is_named():
    with pytest.raises(ConfigError, match="side"):
        rig_cameras.viewmat("side")

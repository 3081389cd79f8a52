"""What the encoders of a head see, and what they must not: each modality by the laws of its input."""

from __future__ import annotations

import pytest
import torch

from scene4d.config import config_from_dict
from scene4d.errors import ShapeError
from scene4d.geometry.camera import unproject
from scene4d.policy.encoders import ActionHeadConfig, encoder_for
from scene4d.policy.head import ActionHead
from scene4d.policy.learning.demonstrations import PolicyDataConfig
from scene4d.policy.observation_builder import CameraObservationBuilder, ObservationBuilder, observation_builder_for
from scene4d.policy.virtual_cameras import virtual_cameras
from scene4d.robot.spec import RobotSpec
from scene4d.types import Frames

HAND = torch.tensor([[0.05, 0.6, 0.2]])
ROBOT = RobotSpec.from_info({}, num_actions=4, num_proprio=4)


def frames(num: int = 2) -> Frames:
    generator = torch.Generator().manual_seed(0)
    return Frames(
        rgb=torch.rand(1, num, 64, 64, 3, generator=generator),
        depth=1 + 0.3 * torch.rand(1, num, 64, 64, generator=generator),
        alpha=torch.ones(1, num, 64, 64),
        cameras=virtual_cameras(HAND)[:, :num],
    )


def encoder_of(kind: str):
    torch.manual_seed(0)
    return encoder_for(ActionHeadConfig(modality=kind, num_views=2)).eval()


def test_an_image_policy_sees_colour_alone():
    encoder, seen = encoder_of("images"), frames()
    tokens = encoder(seen, hand=HAND)
    assert torch.equal(encoder(seen.replace(depth=seen.depth + 1), hand=HAND + 1), tokens)
    assert not torch.allclose(encoder(seen.replace(rgb=seen.rgb.flip(-1)), hand=HAND), tokens)


def test_points_do_not_show_which_camera_saw_them_and_stay_with_the_hand():
    encoder, seen = encoder_of("points"), frames()
    tokens = encoder(seen, hand=HAND)
    swapped = seen.map(lambda x: x.flip(1))
    torch.testing.assert_close(encoder(swapped, hand=HAND), tokens, atol=1e-5, rtol=1e-5)
    shift = torch.tensor([0.2, -0.1, 0.05])
    viewmats = seen.cameras.viewmats.clone()
    viewmats[..., :3, 3] -= (viewmats[..., :3, :3] @ shift[:, None])[..., 0]
    moved = seen.replace(cameras=seen.cameras.replace(viewmats=viewmats))
    torch.testing.assert_close(encoder(moved, hand=HAND + shift), tokens, atol=1e-4, rtol=1e-4)
    blind = encoder(seen.replace(depth=torch.zeros_like(seen.depth)), hand=HAND)
    assert blind.isfinite().all() and not torch.allclose(blind, tokens)


def test_surfaces_beyond_the_crop_radius_are_masked_out():
    torch.manual_seed(0)
    encoder, seen = encoder_for(ActionHeadConfig(crop_radius=0.3)).eval(), frames(3)
    points = unproject(seen.depth, seen.cameras.viewmats, Ks=seen.cameras.Ks) - HAND[:, None, None, None]
    far = points[..., :2].norm(dim=-1) > 0.3
    assert 0.1 < float(far.float().mean()) < 0.9
    other = torch.where(far[..., None], 1 - seen.rgb, seen.rgb)
    gone = {"depth": seen.depth * ~far, "alpha": seen.alpha * ~far, "rgb": seen.rgb * ~far[..., None]}
    tokens = encoder(seen, hand=HAND)
    assert torch.equal(encoder(seen.replace(rgb=other), hand=HAND), tokens)
    assert torch.equal(encoder(seen.replace(**gone), hand=HAND), tokens)
    assert not torch.allclose(encoder(seen.replace(rgb=1 - seen.rgb), hand=HAND), tokens)


@pytest.mark.parametrize("kind", ["images", "points"])
def test_a_head_with_other_eyes_acts_on_the_newest_frames(kind):
    config = ActionHeadConfig(
        modality=kind, num_views=2, width=32, heads=2, hidden=32, encoder_depth=1, decoder_depth=1
    )
    torch.manual_seed(0)
    head, builder = ActionHead(config).eval(), observation_builder_for(config, lambda: None, robot=ROBOT)
    with torch.no_grad():
        head.decoder.leave.weight.add_(0.1 * torch.randn_like(head.decoder.leave.weight))
    assert isinstance(builder, CameraObservationBuilder)
    proprio, found = torch.tensor([0.05, 0.6, 0.2, 1.0]), []
    for gain in (1.0, 0.3):
        builder.observe(frames()[0].replace(rgb=gain * frames().rgb[0]), proprio=proprio, time=0.0)
        views, features = builder.views()
        assert features is None
        found.append(head.act(views, features=None, proprio=proprio, task="a", seed=0))
    assert found[0].shape == (8, 4) and not torch.allclose(found[0], found[1])
    other = CameraObservationBuilder(view_size=32)
    with pytest.raises(ShapeError, match="another size"):
        other.observe(frames()[0], proprio=proprio, time=0.0)


def test_a_head_of_views_gets_the_scene():
    assert isinstance(observation_builder_for(ActionHeadConfig(), lambda: None, robot=ROBOT), ObservationBuilder)


def test_settings_of_earlier_versions_are_read_under_their_former_names():
    former = {"eyes": "pictures", "num_views": 2, "reach": 0.0, "told_goal": False}
    now = ActionHeadConfig(modality="images", num_views=2, crop_radius=0.0, goal_conditioned=False)
    assert config_from_dict(former, ActionHeadConfig) == now
    assert config_from_dict({"eyes": "views"}, ActionHeadConfig) == ActionHeadConfig()
    assert config_from_dict({"asides": 3}, PolicyDataConfig) == PolicyDataConfig(num_camera_offsets=3)

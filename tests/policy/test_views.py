"""The virtual cameras: none is a camera of the rig, and those of the hand see the same wherever the hand stands."""

import torch

from scene4d.geometry.camera import project
from scene4d.policy.views import (
    HAND_OFFSET,
    NUM_VIEWS,
    VIRTUAL_CAMERAS,
    points_from_views,
    render_views,
    virtual_cameras,
)
from scene4d.sim import rig
from scene4d.types import Gaussians

HAND = torch.tensor([0.05, 0.6, 0.2])
FOLLOWING = [i for i, camera in enumerate(VIRTUAL_CAMERAS) if camera.follows_hand]


def blobs(places: torch.Tensor, *, radius: float = 0.012) -> Gaussians:
    """Opaque balls of different colours at places [n 3]."""
    count = len(places)
    colours = torch.linspace(-1, 1, 3 * count).reshape(count, 1, 3)
    quats = torch.tensor([1.0, 0, 0, 0]).expand(count, 4)
    return Gaussians(
        means=places,
        quats=quats,
        scales=torch.full((count, 3), radius),
        opacities=torch.full((count,), 0.99),
        sh=colours,
    )


def test_virtual_cameras_are_not_the_rigs():
    eyes = lambda viewmats: -(viewmats[..., :3, :3].mT @ viewmats[..., :3, 3:])[..., 0]
    ours = eyes(virtual_cameras(HAND).viewmats)
    theirs = eyes(torch.stack([rig.viewmat(name) for name in rig.FIXED_CAMERAS]).float())
    assert torch.cdist(ours, theirs).min() > 0.15


def test_hand_stands_in_the_same_pixel_of_following_views():
    hands = torch.randn(5, 3) * 0.1 + HAND
    cameras = virtual_cameras(hands)
    pixels, _ = project(hands[:, None, None].expand(5, NUM_VIEWS, 1, 3), cameras.viewmats, cameras.Ks)
    following = pixels[:, FOLLOWING, 0]
    assert (following - following[:1]).abs().max() < 1e-3
    target = (hands + torch.tensor(HAND_OFFSET))[:, None, None].expand(5, NUM_VIEWS, 1, 3)
    centre, _ = project(target, cameras.viewmats, cameras.Ks)
    assert (centre[:, FOLLOWING] - 32).abs().max() < 1e-3


def test_following_views_do_not_change_when_hand_and_scene_move_together():
    places = HAND + torch.randn(40, 3) * 0.1
    shift = torch.tensor([0.07, -0.03, 0.02])
    here = render_views(blobs(places), hand=HAND, size=48)
    there = render_views(blobs(places + shift), hand=HAND + shift, size=48)
    assert (here.rgb[FOLLOWING] - there.rgb[FOLLOWING]).abs().max() < 2e-3


def test_batched_rendering_is_each_scene_on_its_own():
    sets = [blobs(HAND + torch.randn(n, 3) * 0.1) for n in (10, 25)]
    hands = torch.stack([HAND, HAND + 0.05])
    both = render_views(Gaussians.stack(sets), hand=hands, size=32)
    assert both.batch_shape == (2, NUM_VIEWS)
    for i in range(2):
        assert (both[i].rgb - render_views(sets[i], hand=hands[i], size=32).rgb).abs().max() < 1e-5


def test_points_from_views_are_offsets_from_the_hand():
    place = HAND + torch.tensor([[0.03, 0.1, -0.02]])
    views = render_views(blobs(place, radius=0.02), hand=HAND)
    points = points_from_views(views, HAND)
    for i in range(NUM_VIEWS):
        best = views.alpha[i].flatten().argmax()
        assert views.alpha[i].flatten()[best] > 0.5
        assert (points[i].flatten(0, 1)[best] - (place[0] - HAND)).norm() < 0.02
    assert (points[views.depth == 0] == 0).all()

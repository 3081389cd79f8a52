"""The virtual cameras: none is a camera of the rig, and those of the hand see the same wherever the hand stands."""

import torch

from scene4d.geometry.camera import project
from scene4d.policy.virtual_cameras import (
    HAND_OFFSET,
    NO_OFFSET,
    VIRTUAL_CAMERAS,
    CameraOffset,
    points_from_views,
    random_camera_offset,
    render_views,
    virtual_cameras,
)
from scene4d.sim import rig, rig_cameras
from scene4d.types import Gaussians

HAND = torch.tensor([0.05, 0.6, 0.2])


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
    centres = lambda viewmats: -(viewmats[..., :3, :3].mT @ viewmats[..., :3, 3:])[..., 0]
    virtual = centres(virtual_cameras(HAND).viewmats)
    theirs = centres(torch.stack([rig_cameras.viewmat(name) for name in rig.FIXED_CAMERAS]).float())
    assert torch.cdist(virtual, theirs).min() > 0.15


def test_hand_stands_in_the_same_pixel_of_following_views():
    hands, num = torch.randn(5, 3) * 0.1 + HAND, len(VIRTUAL_CAMERAS)
    cameras = virtual_cameras(hands)
    pixels, _ = project(hands[:, None, None].expand(5, num, 1, 3), cameras.viewmats, Ks=cameras.Ks)
    assert (pixels - pixels[:1]).abs().max() < 1e-3
    target = (hands + torch.tensor(HAND_OFFSET))[:, None, None].expand(5, num, 1, 3)
    centre, _ = project(target, cameras.viewmats, Ks=cameras.Ks)
    assert (centre - 32).abs().max() < 1e-3


def test_following_views_do_not_change_when_hand_and_scene_move_together():
    places = HAND + torch.randn(40, 3) * 0.1
    shift = torch.tensor([0.07, -0.03, 0.02])
    here = render_views(blobs(places), hand=HAND, size=48)
    there = render_views(blobs(places + shift), hand=HAND + shift, size=48)
    assert (here.rgb - there.rgb).abs().max() < 2e-3


def test_batched_rendering_is_each_scene_on_its_own():
    sets = [blobs(HAND + torch.randn(n, 3) * 0.1) for n in (10, 25)]
    hands = torch.stack([HAND, HAND + 0.05])
    both = render_views(Gaussians.stack(sets), hand=hands, size=32)
    assert both.batch_shape == (2, len(VIRTUAL_CAMERAS))
    for i in range(2):
        assert (both[i].rgb - render_views(sets[i], hand=hands[i], size=32).rgb).abs().max() < 1e-5


def test_points_from_views_are_offsets_from_the_hand():
    place = HAND + torch.tensor([[0.03, 0.1, -0.02]])
    views = render_views(blobs(place, radius=0.02), hand=HAND)
    points = points_from_views(views, HAND)
    for i in range(len(VIRTUAL_CAMERAS)):
        best = views.alpha[i].flatten().argmax()
        assert views.alpha[i].flatten()[best] > 0.5
        assert (points[i].flatten(0, 1)[best] - (place[0] - HAND)).norm() < 0.02
    assert (points[views.depth == 0] == 0).all()


def test_aside_is_the_scene_turned_about_the_hand():
    """What another look shows at a pixel is where the turned scene has it; what is wanted turns with it."""
    generator = torch.Generator().manual_seed(0)
    offset = torch.tensor([0.05, 0.04, -0.06])
    look = {"hand": HAND}
    for _ in range(4):
        camera_offset = random_camera_offset(generator)
        views = render_views(blobs((HAND + offset)[None], radius=0.02), camera_offset=camera_offset, **look)
        turned = render_views(
            blobs((HAND + camera_offset.turned(offset))[None], radius=0.02), camera_offset=NO_OFFSET, **look
        )
        for shown in (views, turned):
            points = points_from_views(shown, HAND)
            for i in range(len(VIRTUAL_CAMERAS)):
                best = shown.alpha[i].flatten().argmax()
                assert (points[i].flatten(0, 1)[best] - camera_offset.turned(offset)).norm() < 0.02
    quarter = CameraOffset(turn=torch.pi / 2)
    turned = quarter.turned(torch.tensor([1.0, 0.0, 5.0, 7.0]))
    assert torch.allclose(turned, torch.tensor([0.0, 1.0, 5.0, 7.0]), atol=1e-6)


def test_looks_differ_and_are_repeatable():
    first, again = (random_camera_offset(torch.Generator().manual_seed(7)) for _ in range(2))
    other = random_camera_offset(torch.Generator().manual_seed(8))
    assert first == again != other and first != NO_OFFSET

"""The virtual cameras an action head looks through.

None of them is a camera of the recording rig. A head that only ever sees these views does not care from where the real
cameras looked; and as they follow the hand, they show the same picture wherever hand and object stand in the workspace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.check import check
from scene4d.geometry.camera import intrinsics_from_fov, look_at, unproject
from scene4d.render.render import render
from scene4d.types import Cameras, Frames, Gaussians


@dataclass(frozen=True)
class VirtualCamera:
    """A camera given by where it looks from, as angles about its target."""

    azimuth: float
    """Heading it looks along, rad, 0 = world x, counter-clockwise from above."""
    elevation: float
    """How far it looks down, rad, > 0 = from above."""
    distance: float
    """From the target, m."""
    field: float
    """Height of the image at the target, m."""


HAND_OFFSET = (0.0, 0.03, -0.05)
"""From the hand to the target of the cameras, m: what the fingers close on lies below them."""
VIRTUAL_CAMERAS = (
    VirtualCamera(azimuth=math.radians(38), elevation=math.radians(40), distance=1.5, field=0.4),
    VirtualCamera(azimuth=math.radians(142), elevation=math.radians(40), distance=1.5, field=0.4),
    VirtualCamera(azimuth=math.radians(90), elevation=math.radians(50), distance=1.5, field=0.4),
)
"""All close to the hand, 6 mm a pixel at 64 px. Long lenses: a place in the image means an offset from the hand in
metres. None shows the room: a head that sees where in the room it stands learns a few dozen demonstrations by heart
instead of looking for the object."""


def virtual_cameras(hand: Tensor, *, size: int = 64) -> Cameras:
    """The virtual cameras [*b v] for hands at `hand` [*b 3] m, square images of `size` px."""
    check(hand=(hand, "*b 3"))
    target = hand + hand.new_tensor(HAND_OFFSET)
    viewmats, Ks = [], []
    for camera in VIRTUAL_CAMERAS:
        level = math.cos(camera.elevation)
        forward = (level * math.cos(camera.azimuth), level * math.sin(camera.azimuth), -math.sin(camera.elevation))
        viewmats.append(look_at(target - camera.distance * hand.new_tensor(forward), target))
        K = intrinsics_from_fov(2 * math.atan2(camera.field / 2, camera.distance), width=size, height=size).to(hand)
        Ks.append(K.expand(*hand.shape[:-1], 3, 3))
    return Cameras(viewmats=torch.stack(viewmats, -3), Ks=torch.stack(Ks, -3), width=size, height=size)


@dataclass(frozen=True)
class CameraOffset:
    """A moment seen otherwise: its scene turned about the vertical through the hand, its cameras moved.

    The labels turn with the scene, so that one demonstration becomes many to learn from.
    """

    turn: float = 0.0
    """Of the scene, rad, counter-clockwise from above."""
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of the cameras, m."""

    def turned(self, vectors: Tensor) -> Tensor:
        """Vectors [*b c >= 2], of which the first two numbers lie over the table, turned with the scene."""
        turn = _about_vertical(vectors.new_tensor(self.turn))[:2, :2]
        return torch.cat([vectors[..., :2] @ turn.mT, vectors[..., 2:]], -1)


NO_OFFSET = CameraOffset()
"""The moment as it was."""
MAX_TURN, MAX_SHIFT_M = math.radians(45), 0.03
"""How far a scene is turned and cameras are moved in training, at most."""


def random_camera_offset(generator: torch.Generator) -> CameraOffset:
    """A random turn of the scene and shift of the cameras."""
    draw = 2 * torch.rand(4, generator=generator) - 1
    return CameraOffset(turn=MAX_TURN * float(draw[0]), shift=tuple((MAX_SHIFT_M * draw[1:]).tolist()))


@torch.no_grad()
def render_views(
    gaussians: Gaussians, *, hand: Tensor, size: int = 64, camera_offset: CameraOffset = NO_OFFSET
) -> Frames:
    """Colour, depth and coverage of a scene from the virtual cameras.

    Args:
        gaussians: [*b n] now, or of one predicted instant.
        hand: [*b 3] m, where the hand is now (of a predicted instant too: views must not move with the prediction).
        size: pixels a side.
        camera_offset: how the scene is turned and seen in training.
    Returns:
        Frames [*b v].
    """
    hand = hand.to(gaussians.means)
    cameras = virtual_cameras(hand + hand.new_tensor(camera_offset.shift), size=size)
    moved = torch.eye(4).to(hand).repeat(*hand.shape[:-1], 1, 1)  # x -> R (x - hand) + hand
    moved[..., :3, :3] = turn = _about_vertical(hand.new_tensor(camera_offset.turn))
    moved[..., :3, 3] = hand - hand @ turn.mT
    frames = render(gaussians, cameras.replace(viewmats=cameras.viewmats @ moved[..., None, :, :]))
    return frames.replace(rgb=frames.rgb.clamp(0, 1), cameras=cameras)


def _about_vertical(angle: Tensor) -> Tensor:
    """The rotation matrix [3 3] about world z."""
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rows = [[angle.cos(), -angle.sin(), zero], [angle.sin(), angle.cos(), zero], [zero, zero, one]]
    return torch.stack([torch.stack(row) for row in rows])


def points_from_views(views: Frames, hand: Tensor) -> Tensor:
    """Positions of the surface under each pixel, relative to the hand: [*b v h w 3] m, 0 where nothing was rendered."""
    points = unproject(views.known_depth, views.cameras.viewmats, Ks=views.cameras.Ks) - hand[..., None, None, None, :]
    return torch.where((views.known_depth > 0)[..., None], points, torch.zeros_like(points))

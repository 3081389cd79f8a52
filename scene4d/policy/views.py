"""The virtual cameras an action head looks through: fixed round the workspace, and following the hand.

None of them is a camera of the recording rig. A head that only ever sees these views does not care from where the real
cameras looked, and the two that follow the hand show the same picture wherever hand and object stand in the workspace.
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

WORKSPACE_CENTRE = (0.0, 0.65, 0.12)
"""The point the fixed cameras look at, in m (table top of the arm, which stands at the origin and faces y)."""


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
    """Height of the picture at the target, m."""
    follows_hand: bool = False
    """Whether the target goes with the hand (else it is the centre of the workspace)."""


VIRTUAL_CAMERAS = (
    VirtualCamera(azimuth=math.radians(50), elevation=math.radians(42), distance=1.3, field=1.0),
    VirtualCamera(azimuth=math.radians(130), elevation=math.radians(42), distance=1.3, field=1.0),
    VirtualCamera(azimuth=math.radians(38), elevation=math.radians(22), distance=1.5, field=0.7, follows_hand=True),
    VirtualCamera(azimuth=math.radians(142), elevation=math.radians(22), distance=1.5, field=0.7, follows_hand=True),
)
"""Long lenses where the hand is followed: then a place in the picture means an offset from the hand in metres."""

HAND_OFFSET = (0.0, 0.12, 0.0)
"""From the hand to the target of the cameras that follow it, m: what the arm works on stands in front of it."""

NUM_VIEWS = len(VIRTUAL_CAMERAS)


def virtual_cameras(hand: Tensor, *, size: int = 64) -> Cameras:
    """The virtual cameras [*b v] for hands at `hand` [*b 3] m, square pictures of `size` px."""
    check(hand=(hand, "*b 3"))
    centre = hand.new_tensor(WORKSPACE_CENTRE).expand_as(hand)
    viewmats, Ks = [], []
    for camera in VIRTUAL_CAMERAS:
        target = hand + hand.new_tensor(HAND_OFFSET) if camera.follows_hand else centre
        level = math.cos(camera.elevation)
        forward = (level * math.cos(camera.azimuth), level * math.sin(camera.azimuth), -math.sin(camera.elevation))
        viewmats.append(look_at(target - camera.distance * hand.new_tensor(forward), target))
        K = intrinsics_from_fov(2 * math.atan2(camera.field / 2, camera.distance), size, size).to(hand)
        Ks.append(K.expand(*hand.shape[:-1], 3, 3))
    return Cameras(viewmats=torch.stack(viewmats, -3), Ks=torch.stack(Ks, -3), width=size, height=size)


@torch.no_grad()
def render_views(gaussians: Gaussians, *, hand: Tensor, size: int = 64) -> Frames:
    """Colour, depth and coverage of a scene from the virtual cameras.

    Args:
        gaussians: [*b n] now, or of one predicted instant.
        hand: [*b 3] m, where the hand is now (for a predicted instant too: the views must not move with the guess).
        size: pixels a side.
    Returns:
        Frames [*b v].
    """
    frames = render(gaussians, virtual_cameras(hand.to(gaussians.means), size=size))
    return frames.replace(rgb=frames.rgb.clamp(0, 1))


def points_from_views(views: Frames, hand: Tensor) -> Tensor:
    """Where the matter under each pixel is, relative to the hand: [*b v h w 3] m, 0 where nothing was rendered."""
    points = unproject(views.depth, views.cameras.viewmats, views.cameras.Ks) - hand[..., None, None, None, :]
    return torch.where((views.depth > 0)[..., None], points, torch.zeros_like(points))

"""Camera paths for novel views: a swing round what a recorded camera saw, or a full turn round the whole scene."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scene4d.gaussians.formats.points import robust_bounds
from scene4d.geometry.camera import intrinsics_from_fov, invert_rigid, look_at, orbit
from scene4d.geometry.rotation import quat_from_rotvec, rotate
from scene4d.render.render import render
from scene4d.scene import Scene4D
from scene4d.types import Cameras

SWING = (math.radians(32), math.radians(12))  # to the sides, up and down
ELEVATION = math.radians(35)  # of a full turn


def orbit_of(scene: Scene4D, stored: dict[str, Cameras], *, num_views: int, size: tuple[int, int]) -> Cameras:
    """Cameras [num_views] of `size` (width, height) that show the scene from places where no camera was.

    Where cameras are stored, the one that moves least is swung round the point it looks at, so that what is shown was
    seen by someone; otherwise a full turn round everything there is, from above (world z up).
    """
    width, height = size
    if not stored:
        center, radius = robust_bounds(scene.at(float(scene.times[0])))
        return orbit(center, radius=2.0 * radius, elevation=ELEVATION, num_views=num_views, width=width, height=height)
    camera = stillest(stored)
    focus = focus_of(scene, camera)
    place = invert_rigid(camera.viewmats)[:3, 3]
    right, up = camera.viewmats[0, :3], -camera.viewmats[1, :3]
    phase = torch.linspace(0, 2 * math.pi, num_views + 1)[:-1, None]
    turns = [quat_from_rotvec(SWING[0] * phase.sin() * up), quat_from_rotvec(SWING[1] * (1 - phase.cos()) / 2 * -right)]
    offset = (place - focus).expand(num_views, 3)
    for quat in reversed(turns):
        offset = rotate(quat, offset)
    fov_y = 2 * math.atan(0.5 * camera.height / float(camera.Ks[1, 1].abs()))
    K = intrinsics_from_fov(fov_y, width=width, height=height)
    places = focus + offset
    viewmats = look_at(places, focus.expand_as(places), up=up)
    return Cameras(viewmats=viewmats, Ks=K.expand(num_views, 3, 3), width=width, height=height)


def stillest(stored: dict[str, Cameras]) -> Cameras:
    """The stored camera that travels least, in the middle of its path; batch shape ()."""

    def travel(camera: Cameras) -> float:
        places = invert_rigid(camera.viewmats.reshape(-1, 4, 4))[:, :3, 3]
        return float((places - places.mean(0)).norm(dim=-1).mean())

    chosen = min(stored.values(), key=travel)
    return chosen if chosen.batch_shape == () else chosen[chosen.batch_shape[0] // 2]


def focus_of(scene: Scene4D, camera: Cameras) -> Tensor:
    """The point [3] that the middle of the camera's image shows: its axis at the median depth there."""
    with torch.no_grad():
        depth = render(scene.at(float(scene.times[0])), camera).known_depth
    height, width = depth.shape
    middle = depth[height // 4 : -(height // 4), width // 4 : -(width // 4)]
    seen = middle[middle > 0]
    distance = float(seen.median()) if len(seen) else 1.0
    return invert_rigid(camera.viewmats)[:3] @ torch.tensor([0.0, 0.0, distance, 1.0])

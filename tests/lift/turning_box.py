"""A textured box that slides and turns on a textured table, ray-cast exactly for any cameras: truth for 4D tests."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.geometry.camera import intrinsics_from_fov, invert_rigid, look_at, pixel_centres
from scene4d.geometry.rotation import apply_pose, invert_pose, rotate
from scene4d.types import Cameras, Episode, Frames


@dataclass(frozen=True)
class TurningBox:
    """Box of half sizes `half` m that moves `slide` m and turns `turn` rad a frame."""

    half: tuple[float, float, float] = (0.12, 0.08, 0.1)
    slide: tuple[float, float, float] = (0.012, 0.004, 0.0)
    turn: float = 0.03
    size: int = 64
    start: tuple[float, float, float] = (-0.08, 0.0, 0.1)

    def pose(self, step: float) -> Tensor:
        """World-from-box [7] at a frame (may be fractional)."""
        angle = self.turn * step
        shift = [a + b * step for a, b in zip(self.start, self.slide, strict=True)]
        return torch.tensor([math.cos(angle / 2), 0, 0, math.sin(angle / 2), *shift], dtype=torch.float64)

    def cameras(self, *, azimuths: tuple[float, ...] = (-2.2, -0.9)) -> Cameras:
        """Cameras [v] that look down at the middle of the table."""
        places = torch.tensor([[1.1 * math.cos(a), 1.1 * math.sin(a), 0.8] for a in azimuths], dtype=torch.float64)
        K = intrinsics_from_fov(0.7, width=self.size, height=self.size).double().expand(len(azimuths), 3, 3)
        viewmats = look_at(places, torch.tensor([0.0, 0.0, 0.05], dtype=torch.float64).expand(len(azimuths), 3))
        return Cameras(viewmats=viewmats, Ks=K, width=self.size, height=self.size)

    def frames(self, step: float, cameras: Cameras | None = None) -> Frames:
        """What cameras [v] see: exact depth, extras segments (0 table, 1 box)."""
        cameras = self.cameras() if cameras is None else cameras
        world_from_cam = invert_rigid(cameras.viewmats.double())
        pixels = pixel_centres(cameras.width, cameras.height, like=world_from_cam)
        rays = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1).reshape(-1, 3)
        rays = (rays @ torch.linalg.inv(cameras.Ks.double()).mT) @ world_from_cam[:, :3, :3].mT  # [v p 3], z = 1
        origin = world_from_cam[:, None, :3, 3].expand_as(rays)
        table = -origin[..., 2] / rays[..., 2]
        box_from_world = invert_pose(self.pose(step))
        inside = apply_pose(box_from_world, origin)
        along = rotate(box_from_world[:4], rays)
        half = torch.tensor(self.half, dtype=torch.float64)
        first, second = (-half - inside) / along, (half - inside) / along
        enter, leave = torch.minimum(first, second).amax(-1), torch.maximum(first, second).amin(-1)
        hit = (enter < leave) & (enter > 0) & (enter < table)
        depth = torch.where(hit, enter, table)
        on_box, on_table = inside + along * depth[..., None], origin + rays * depth[..., None]
        box_colour = 0.5 + 0.3 * torch.sin(on_box * 38 + torch.tensor([0.0, 1.0, 2.0]))
        box_colour = box_colour * torch.tensor([1.0, 0.6, 0.4])
        table_colour = 0.55 + 0.2 * torch.sin(17 * (on_table[..., :1] + torch.tensor([0.0, 0.3, 0.6])))
        rgb = torch.where(hit[..., None], box_colour, table_colour * torch.tensor([0.5, 0.9, 1.0]))
        shape = (len(depth), cameras.height, cameras.width)
        return Frames(
            rgb=rgb.reshape(*shape, 3).float(),
            depth=depth.reshape(shape).float(),
            alpha=None,
            cameras=cameras.to(torch.float32),
            extras={"segments": hit.reshape(*shape, 1).long()},
        )

    def truth(self, points: Tensor, start: float, stop: float) -> Tensor:
        """Where box points [n 3] of frame `start` are at `stop`."""
        return apply_pose(self.pose(stop), apply_pose(invert_pose(self.pose(start)), points.double()))

    def clearance(self, points: Tensor, step: float) -> Tensor:
        """Distance in m of points [n 3] from the nearest surface, box or table (0 on it)."""
        local = apply_pose(invert_pose(self.pose(step)), points.double()).abs() - torch.tensor(self.half).double()
        box = local.clamp_min(0).norm(dim=-1) + local.amax(-1).clamp_max(0).abs()
        return torch.minimum(box, points[:, 2].double().abs())

    def episode(self, num_frames: int, *, cameras: Cameras | None = None, moving_camera: bool = False) -> Episode:
        """An episode [t] with views a, b, ...; a moving camera circles a box at rest."""
        frames = []
        for t in range(num_frames):
            views = self.cameras(azimuths=(-2.2 + 0.05 * t,)) if moving_camera else cameras or self.cameras()
            frames.append(self.frames(0 if moving_camera else t, views))
        stacked = Frames.stack(frames)  # [t v]
        names = "abcdefgh"[: stacked.batch_shape[1]]
        times = 0.1 * torch.arange(num_frames, dtype=torch.float64)
        return Episode(
            views={name: stacked[:, v] for v, name in enumerate(names)},
            times=times,
            valid=torch.ones(num_frames, dtype=torch.bool),
            actions=torch.zeros(num_frames, 2),
            proprio=torch.zeros(num_frames, 3),
            info={"task": "slide the box"},
        )

"""Recordings in memory, and how to spoil them, written without the package's own mends."""

from dataclasses import dataclass, field

import torch
from box_scene import cast_boxes

from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.types import Cameras, Episode, Frames

SIZE = (128, 96)


@dataclass
class MemoryRecording:
    """An episode [t] as a `Recording`."""

    episode: Episode
    path: str = "memory"
    fps: float = 10.0
    info: dict = field(default_factory=lambda: {"source": "memory", "task": "look"})

    @property
    def cameras(self):
        return tuple(self.episode.views)

    @property
    def num_frames(self):
        return len(self.episode.times)

    def read(self, start=0, stop=None, *, stride=1, cameras=None, size=None):
        part = self.episode[start : self.num_frames if stop is None else stop : stride]
        views = {n: _resized(part.views[n], size) for n in (cameras or self.cameras)}
        return part.replace(views=views)


def _resized(frames, size):
    if size is None or tuple(size) == (frames.cameras.width, frames.cameras.height):
        return frames
    rows = ((torch.arange(size[1]) + 0.5) * frames.cameras.height / size[1]).long()
    cols = ((torch.arange(size[0]) + 0.5) * frames.cameras.width / size[0]).long()
    pick = lambda x: x[:, rows][:, :, cols]
    depth = None if frames.depth is None else pick(frames.depth)
    return Frames(rgb=pick(frames.rgb), depth=depth, alpha=None, cameras=frames.cameras.resized(*size))


def episode_of(cameras: dict[str, Cameras], *, fps: float = 10.0) -> Episode:
    """What named cameras [t] see of the analytic table scene."""
    views = {}
    for name, c in cameras.items():
        seen = cast_boxes(c)
        far = seen.depth > 4
        views[name] = Frames(rgb=seen.rgb, depth=torch.where(far, 0, seen.depth), alpha=None, cameras=c)
    length = len(next(iter(cameras.values())).viewmats)
    times = torch.arange(length, dtype=torch.float64) / fps
    valid, none = torch.ones(length, dtype=torch.bool), torch.zeros(length, 0)
    return Episode(views=views, times=times, valid=valid, actions=none, proprio=none, info={"task": "look"})


def camera_walk(length: int, *, start: float = 0.0, turn: float = 1.2, fov: float = 0.9) -> Cameras:
    """A hand-held walk [t] round the table: uneven in speed, height and direction, as hands are."""
    t = torch.linspace(0, 1, length, dtype=torch.float64)
    angle = start + turn * (t + 0.12 * (9 * t).sin())
    eye = torch.stack([0.8 * angle.cos(), 0.7 * angle.sin(), 0.5 + 0.12 * (7 * t).sin()], -1)
    target = torch.stack([0.1 * (5 * t).sin(), 0.1 * (8 * t).cos(), 0.05 + 0 * t], -1)
    K = intrinsics_from_fov(fov, width=SIZE[0], height=SIZE[1])
    return Cameras(viewmats=look_at(eye, target).float(), Ks=K.expand(length, 3, 3), width=SIZE[0], height=SIZE[1])


def standing(camera: Cameras, length: int) -> Cameras:
    """The first of cameras [t], standing still."""
    return camera.map(lambda x: x[:1].expand(length, *x.shape[1:]).contiguous())


def changed(episode: Episode, change, *, cameras=None) -> Episode:
    """The episode with `change(frames)` made to the named cameras' frames."""
    chosen = cameras or tuple(episode.views)
    return episode.replace(views={n: change(f) if n in chosen else f for n, f in episode.views.items()})


def posed(frames: Frames, viewmats) -> Frames:
    """Frames with other view matrices."""
    return frames.replace(cameras=frames.cameras.replace(viewmats=viewmats))


def as_opengl(frames: Frames) -> Frames:
    """World-from-camera matrices written with OpenGL axes, read as OpenCV's."""
    world_from_cam = torch.linalg.inv(frames.cameras.viewmats.double())
    world_from_cam[:, :3, 1:3] *= -1
    return posed(frames, torch.linalg.inv(world_from_cam).float())


def as_inverse(frames: Frames) -> Frames:
    """Matrices read as their inverse."""
    return posed(frames, torch.linalg.inv(frames.cameras.viewmats.double()).float())


def as_opengl_inverse(frames: Frames) -> Frames:
    """Camera-from-world matrices with OpenGL axes, read as world-from-camera ones with OpenCV's."""
    rows = frames.cameras.viewmats.double().clone()
    rows[:, 1:3] *= -1
    return posed(frames, torch.linalg.inv(rows).float())


def in_millimetres(frames: Frames) -> Frames:
    """Millimetres read as metres."""
    return frames.replace(depth=frames.depth * 1000)


def in_kilometres(frames: Frames) -> Frames:
    """Metres read as millimetres."""
    return frames.replace(depth=frames.depth / 1000)


def with_codes(frames: Frames) -> Frames:
    """65535 mm where nothing was measured: in every hole, and in a corner."""
    depth = frames.depth.clone()
    depth[:, : depth.shape[1] // 6, : depth.shape[2] // 6] = 0
    return frames.replace(depth=torch.where(depth == 0, 65.535, depth))


def late(frames: Frames) -> Frames:
    """Each picture with the pose of the one before."""
    viewmats = frames.cameras.viewmats
    return posed(frames, torch.cat([viewmats[:1], viewmats[:-1]]))


def with_large_K(frames: Frames) -> Frames:
    """K of pictures twice as large."""
    Ks = frames.cameras.Ks.clone()
    Ks[:, :2] *= 2
    return frames.replace(cameras=frames.cameras.replace(Ks=Ks))


def with_ray_depth(frames: Frames) -> Frames:
    """Distances along the ray for z-depth."""
    height, width = frames.depth.shape[-2:]
    K = frames.cameras.Ks[0]
    x = (torch.arange(width) + 0.5 - K[0, 2]) / K[0, 0]
    y = (torch.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
    return frames.replace(depth=frames.depth * (1 + x[None, :] ** 2 + y[:, None] ** 2).sqrt())


def with_shifted_depth(frames: Frames) -> Frames:
    """Depth a fortieth of the picture too far right."""
    step = round(frames.depth.shape[-1] / 40)
    return frames.replace(depth=torch.nn.functional.pad(frames.depth, (step, 0))[..., :-step])


def exchanged(episode: Episode, first: str, second: str) -> Episode:
    """Two cameras with each other's calibration."""
    views = dict(episode.views)
    views[first] = episode.views[first].replace(cameras=episode.views[second].cameras)
    views[second] = episode.views[second].replace(cameras=episode.views[first].cameras)
    return episode.replace(views=views)

"""A painted floor that any camera can photograph exactly: what reads it back with a wrong convention sees wrong paint.

World z is up, the floor is z = 0; its colour and the depth of every pixel are known in closed form.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from scene4d.data.detect import open_recordings
from scene4d.data.video.video import iterate_frames
from scene4d.geometry.camera import look_at, project
from scene4d.types import Episode, Frames

WIDTH, HEIGHT = 40, 30
K = np.array([[36.0, 0, 19.0], [0, 34.0, 16.0], [0, 0, 1]])


def paint(points: np.ndarray) -> np.ndarray:
    """Colour [... 3] in 0..1 of floor points [... 2 or 3]; slow enough for a pixel, unlike itself under any flip."""
    x, y = points[..., 0], points[..., 1]
    return np.stack([0.5 + 0.4 * np.sin(2 * x + 0.3), 0.5 + 0.4 * np.sin(2 * y + 1.0), 0.5 + 0.4 * np.sin(x - y)], -1)


def pose(index: int) -> np.ndarray:
    """World-from-camera [4 4] (OpenCV) of a camera that walks round the floor and looks at it askew."""
    angle = 0.3 * index
    eye = torch.tensor([1.2 * math.cos(angle), 1.1 * math.sin(angle), 1.0 + 0.05 * index], dtype=torch.float64)
    target = torch.tensor([0.1, -0.1, 0.0], dtype=torch.float64)
    tilted = torch.tensor([0.1, 0.0, 1.0], dtype=torch.float64)
    return torch.linalg.inv(look_at(eye, target, up=tilted / tilted.norm())).numpy()


def photograph(index: int, *, matrix: np.ndarray = K, size=(WIDTH, HEIGHT), bend=None):
    """Colour [h w 3] uint8 and z-depth [h w] m from `pose(index)`; `bend` maps image-plane points to recorded ones."""
    width, height = size
    pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
    recorded = (pixels - matrix[:2, 2]) / matrix[[0, 1], [0, 1]]
    plane = recorded
    for _ in range(40 if bend else 0):
        plane = plane + recorded - bend(plane)
    world_from_cam = pose(index)
    rays = np.concatenate([plane, np.ones_like(plane[..., :1])], -1) @ world_from_cam[:3, :3].T
    eye = world_from_cam[:3, 3]
    depth = -eye[2] / rays[..., 2]
    depth = np.where((depth > 0) & (depth < 6), depth, 0)
    color = np.where(depth[..., None] > 0, paint(eye + rays * depth[..., None]), 0.0)
    return np.round(color * 255).astype(np.uint8), depth.astype(np.float32)


def worst_paint(frames: Frames) -> float:
    """Largest difference between the colours of recorded frames [t] and the paint that their cameras look at."""
    worst = 0.0
    for t in range(frames.rgb.shape[0]):
        one = frames[t]
        inverse = torch.linalg.inv(one.cameras.viewmats.double())
        width, height = one.cameras.width, one.cameras.height
        xs, ys = torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing="xy")
        pixels = torch.stack([xs, ys, torch.ones_like(xs)], -1).double()
        rays = pixels @ torch.linalg.inv(one.cameras.Ks.double()).T @ inverse[:3, :3].T
        depth = -inverse[2, 3] / rays[..., 2]
        seen = (depth > 0.2) & (depth < 3)
        if one.alpha is not None:
            seen &= one.alpha > 0.99
        assert seen.float().mean() > 0.3, "the cameras do not look at the floor"
        expected = paint((inverse[:3, 3] + rays * depth[..., None]).numpy())
        worst = max(worst, float((one.rgb.double() - torch.from_numpy(expected)).abs().amax(-1)[seen].max()))
        if one.depth is not None:
            measured = seen & (one.depth > 0)
            assert measured.float().mean() > 0.3
            worst = max(worst, float((one.depth.double() - depth).abs()[measured].max()))
    return worst


def assert_true_to_the_floor(episode: Episode, *, tolerance: float = 0.02) -> None:
    """Every camera of an episode shows, and measures, what its pose and K say it looks at."""
    for name, frames in episode.views.items():
        assert worst_paint(frames) < tolerance, name
        assert abs(float(torch.linalg.det(frames.cameras.viewmats[0, :3, :3])) - 1) < 1e-5
    points = torch.tensor([[0.1, -0.1, 0.0]])
    pixels, z = project(points, frames.cameras.viewmats[0], Ks=frames.cameras.Ks[0])
    assert z > 0 and (pixels > 0).all(), "the target lies in front"


def decode_frames(path: Path, indices: Sequence[int]) -> np.ndarray:
    """Frames of a video [n h w 3] uint8."""
    return np.stack(list(iterate_frames(path, indices)))


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 and time of change of every file of a tree."""
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
    digest = lambda p: hashlib.sha256(p.read_bytes()).hexdigest() + str(p.stat().st_mtime_ns)
    return {str(p.relative_to(folder)): digest(p) for p in files}


def assert_refused_when_spoiled(folder: Path, fault: tuple, *, codes: tuple[int, ...] = (3,)) -> None:
    """After `fault` = (spoil, kind of error, words) reading must fail so, name the file, and leave the folder alone."""
    spoil, kind, words = fault
    spoil(folder)
    before = fingerprint(folder)
    with pytest.raises(kind, match=words) as caught:
        open_recordings(folder)[0].read()
    error = caught.value
    assert error.exit_code in codes and str(folder) in error.file and fingerprint(folder) == before

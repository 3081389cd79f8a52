"""Small recordings on disk: the analytic table scene as LeRobot data sets, and as images + depth + K + poses."""

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from box_scene import cast_boxes
from PIL import Image

from scene4d.data.formats.lerobot.lerobot import write_lerobot
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.types import Cameras, Episode, Frames

SIZE = (96, 72)


def walk(length: int, *, start: float) -> Frames:
    """What an uneven walk [t] round the table sees; nothing is measured beyond 3 m."""
    t = torch.linspace(0, 1, length, dtype=torch.float64)
    angle = start + 1.2 * (t + 0.12 * (9 * t).sin())
    eye = torch.stack([0.8 * angle.cos(), 0.7 * angle.sin(), 0.5 + 0.12 * (7 * t).sin()], -1)
    target = torch.stack([0.1 * (5 * t).sin(), 0.1 * (8 * t).cos(), 0.05 + 0 * t], -1)
    K = intrinsics_from_fov(0.8, width=SIZE[0], height=SIZE[1]).expand(length, 3, 3)
    cameras = Cameras(viewmats=look_at(eye, target).float(), Ks=K, width=SIZE[0], height=SIZE[1])
    seen = cast_boxes(cameras)
    return Frames(rgb=seen.rgb, depth=torch.where(seen.depth > 3, 0, seen.depth), alpha=None, cameras=cameras)


def episode(length: int = 12, *, start: float = 0.0, task: str = "look") -> Episode:
    """One camera in a hand, with actions."""
    actions = torch.stack([torch.arange(length) * 0.1, -torch.arange(length) * 0.2], -1)
    spec = [{"name": "forward", "unit": "m", "frame": "base"}, {"name": "turn", "unit": "rad", "frame": "base"}]
    return Episode(
        views={"hand": walk(length, start=start)},
        times=torch.arange(length, dtype=torch.float64) / 10,
        valid=torch.ones(length, dtype=torch.bool),
        actions=actions,
        proprio=actions.clone(),
        info={"task": task, "action_spec": spec, "proprio_spec": spec},
    )


def write_set(path: Path, *, episodes: int = 3) -> list[Episode]:
    """A LeRobot data set of short walks."""
    made = [episode(8 + k, start=0.7 * k, task=f"look {k % 2}") for k in range(episodes)]
    write_lerobot(path, made)
    return made


def write_images(folder: Path, *, length: int = 12, opengl: bool = False, unit: float = 0.001) -> Frames:
    """images/, depth/, K.txt and poses.txt, the last with OpenGL axes and depth in another unit where asked."""
    frames = walk(length, start=0.3)
    for name in ("images", "depth"):
        (folder / name).mkdir(parents=True)
    poses = torch.linalg.inv(frames.cameras.viewmats.double()).numpy()
    if opengl:
        poses = poses @ np.diag([1.0, -1, -1, 1])
    for k in range(length):
        Image.fromarray((frames.rgb[k].numpy() * 255).round().astype(np.uint8)).save(folder / "images" / f"{k:03d}.png")
        codes = (frames.depth[k].numpy() / unit).round().astype(np.uint16)
        Image.fromarray(codes).save(folder / "depth" / f"{k:03d}.png")
    np.savetxt(folder / "K.txt", frames.cameras.Ks[0].numpy())
    np.savetxt(folder / "poses.txt", poses.reshape(length, 16))
    return frames


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 and time of change of every file of a tree."""
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() + str(p.stat().st_mtime_ns) for p in files}


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal to noise, dB."""
    return -10 * math.log10(float(((a - b) ** 2).mean()) + 1e-12)

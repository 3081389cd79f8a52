"""Small recordings to damage, and what every refusal must be: of a kind, about a file and a field, nothing touched."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scene4d.data.formats.lerobot.lerobot import write_lerobot
from scene4d.errors import EXIT_INPUT
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.types import Cameras, Episode, Frames

FPS, LENGTH, WIDTH, HEIGHT = 10.0, 6, 24, 16
KEY = "observation.images.front"
VIDEO = f"videos/{KEY}/chunk-000/file-000.mp4"
TABLE = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
K = np.array([[20.0, 0, 12], [0, 20.0, 8], [0, 0, 1]])


def episode(seed: int) -> Episode:
    """A fixed camera over a slope; every frame differs."""
    t = torch.arange(LENGTH, dtype=torch.float32)
    x = torch.linspace(0, 1, WIDTH).expand(LENGTH, HEIGHT, WIDTH)
    cameras = Cameras(
        viewmats=look_at(torch.tensor([1.0, 0, 1]), torch.zeros(3)).expand(LENGTH, 4, 4),
        Ks=intrinsics_from_fov(0.8, width=WIDTH, height=HEIGHT).expand(LENGTH, 3, 3),
        width=WIDTH,
        height=HEIGHT,
    )
    rgb = torch.stack([x, 1 - x, (t / LENGTH)[:, None, None].expand_as(x)], -1)
    frames = Frames(rgb=rgb, depth=0.5 + x + 0.01 * t[:, None, None], alpha=None, cameras=cameras)
    return Episode(
        views={"front": frames},
        times=t.double() / FPS,
        valid=torch.ones(LENGTH, dtype=torch.bool),
        actions=torch.stack([t, t + seed], 1),
        proprio=t[:, None],
        info={"task": f"task {seed}"},
    )


def lerobot_set(path: Path) -> Path:
    """A v3.0 data set of two episodes."""
    write_lerobot(path, [episode(0), episode(1)])
    return path


def rgbd_folder(path: Path) -> Path:
    """images/ + depth/ + K.txt + poses.txt of six frames."""
    for name in ("images", "depth"):
        (path / name).mkdir(parents=True)
    poses = []
    for i in range(LENGTH):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 20 * i, np.uint8)).save(path / f"images/{i:03d}.png")
        Image.fromarray(np.full((HEIGHT, WIDTH), 1000 + i, np.uint16)).save(path / f"depth/{i:03d}.png")
        matrix = np.eye(4)
        matrix[0, 3] = 0.1 * i
        poses.append(matrix.ravel())
    np.savetxt(path / "K.txt", K)
    np.savetxt(path / "poses.txt", np.stack(poses))
    return path


def tree_hash(folder: Path) -> str:
    """One digest of every path, size and byte below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)}|{path.is_symlink()}|".encode(errors="surrogateescape"))
        if path.is_file():
            digest.update(path.read_bytes() + str(path.stat().st_mtime_ns).encode())
    return digest.hexdigest()


def assert_refused(
    folder: Path, act, *, kind: type, file: str, field: str = "", words: str = "", code: int = EXIT_INPUT
):
    """`act` must raise exactly `kind`, name the file and field, carry the exit code, and leave the tree as it was."""
    before = tree_hash(folder)
    with pytest.raises(kind, match=words or None) as caught:
        act()
    error = caught.value
    assert type(error) is kind and error.code == kind.__name__ and error.exit_code == code
    assert error.file is not None and file in error.file, error
    assert field in str(error.field or ""), error
    assert "\n" not in error.line() and set(error.as_dict()) >= {"code", "file", "field", "fix", "problem"}
    assert tree_hash(folder) == before, "reading must leave its input alone"
    return error

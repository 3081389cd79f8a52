"""Splats and points as .ply: INRIA columns, compressed, and plain points."""

from __future__ import annotations

import contextlib
import struct
import tempfile
from pathlib import Path

import numpy as np
import torch

from scene4d.errors import Scene4DError
from scene4d.gaussians.formats.ply import read_ply, write_ply
from scene4d.gaussians.formats.points import read_point_cloud, write_point_cloud
from scene4d.types import Gaussians

SUFFIX = ".ply"
LIMITS = [
    f"{end}_{n}" for n in ("x", "y", "z", "scale_x", "scale_y", "scale_z", "r", "g", "b") for end in ("min", "max")
]


def golden() -> list[bytes]:
    """Degree 0 and 1, compressed with SH, points; ascii, big endian, flat and filtered."""
    splats = Gaussians(
        means=torch.eye(3), quats=torch.eye(4)[:3], scales=torch.full((3, 3), 0.1), opacities=torch.full((3,), 0.5),
        sh=torch.ones(3, 4, 3),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.ply"
        files = []
        for degree in (0, 1):
            write_ply(path, splats, sh_degree=degree)
            files.append(path.read_bytes())
        write_point_cloud(path, torch.eye(3), flow=torch.eye(3))
        files.append(path.read_bytes())
    words = [f"packed_{n}" for n in ("position", "rotation", "scale", "color")]
    lines = ["ply", "format binary_little_endian 1.0", "element chunk 1", *(f"property float {n}" for n in LIMITS)]
    lines += ["element vertex 2", *(f"property uint {n}" for n in words)]
    lines += ["element sh 2", *(f"property uchar f_rest_{i}" for i in range(9)), "end_header", ""]
    body = (
        np.array([0, 1] * 9, "<f4").tobytes()
        + struct.pack("<8I", *[0x12345678, 0xC0FFEE00, 7, 99] * 2)
        + bytes(range(18))
    )
    return [*files, *_other_encodings(files[0]), "\n".join(lines).encode() + body]


def _other_encodings(data: bytes) -> list[bytes]:
    """A little-endian file of floats as text and in the other byte order, there flat and filtered too."""
    head, body = data.split(b"end_header\n")
    rows = np.frombuffer(body, "<f4").reshape(3, -1)
    text = "\n".join(" ".join(f"{x:g}" for x in row) for row in rows.tolist()) + "\n"
    little = b"binary_little_endian"
    flat = head.replace(little, b"binary_big_endian").replace(b"scale_2", b"filter_3D")
    ascii_ = head.replace(little, b"ascii") + b"end_header\n" + text.encode()
    return [ascii_, flat + b"end_header\n" + rows.astype(">f4").tobytes()]


def mended(data: bytes) -> bytes:
    """A .ply has no checksums."""
    return data


def check_finite(splats: Gaussians) -> None:
    """What a reader of splats promises of them."""
    for name in ("means", "quats", "scales", "opacities", "sh"):
        assert bool(getattr(splats, name).isfinite().all()), name
    assert bool((splats.scales > 0).all()) and bool((splats.opacities.clamp(0, 1) == splats.opacities).all())


def read(path: Path) -> None:
    """As points, and as splats that are then finite."""
    with contextlib.suppress(Scene4DError):
        read_point_cloud(path)
    check_finite(read_ply(path))

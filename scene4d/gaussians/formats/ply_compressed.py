"""Compressed splat .ply as SuperSplat and splat-transform write it: 256 splats a chunk, 16 bytes a splat, read here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from scene4d.errors import DataFormatError
from scene4d.geometry.sh import SH_C0
from scene4d.types import Gaussians

CHUNK = 256
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
LIMITS = [f"{end}_{name}" for name in ("x", "y", "z", "scale_x", "scale_y", "scale_z") for end in ("min", "max")]
COLOUR_LIMITS = [f"{end}_{name}" for name in "rgb" for end in ("min", "max")]
# Where the three stored numbers of a quaternion (w x y z) lie; the largest is left out and named by the top two bits.
KEPT = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


def is_compressed(tables: dict[str, np.ndarray]) -> bool:
    """Whether the tables of a .ply are those of compressed splats."""
    return "chunk" in tables and set(PACKED) <= set(tables["vertex"].dtype.names or ())


def unpack_gaussians(tables: dict[str, np.ndarray], *, file: Path) -> Gaussians:
    """Gaussians [n] from the tables `chunk`, `vertex` and, where there is colour that depends on the view, `sh`.

    Positions and log scales are 11, 10, 11 bits between the limits of their chunk; quaternions 3 x 10 bits; colour and
    opacity 8 bits (colour between the limits of the chunk where it has them); SH 8 bits in [-4, 4].

    Raises:
        DataFormatError: a column is missing or of another type, or the row counts do not belong together.
    Source: PlayCanvas engine, gsplat-compressed-data; splat-transform, read-ply.
    """
    vertex, chunk, rest = _checked(tables, file)
    of = np.minimum(np.arange(len(vertex)) // CHUNK, max(len(chunk) - 1, 0))

    def between(share: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        low, high = (np.stack([chunk[f"{end}_{n}"] for n in names], -1)[of] for end in ("min", "max"))
        return low * (1 - share) + high * share

    with np.errstate(invalid="ignore", over="ignore"):  # limits that are not finite are for the caller to count
        means = between(_bits_11_10_11(vertex["packed_position"]), ("x", "y", "z"))
        scales = np.exp(between(_bits_11_10_11(vertex["packed_scale"]), ("scale_x", "scale_y", "scale_z")))
        bytes_ = vertex["packed_color"][:, None] >> np.array([24, 16, 8, 0], np.uint32) & 0xFF
        colour = bytes_.astype(np.float32) / 255
        rgb = colour[:, :3]
        if set(COLOUR_LIMITS) <= set(chunk.dtype.names or ()):
            rgb = between(rgb, ("r", "g", "b"))
    sh = np.concatenate([((rgb - 0.5) / SH_C0)[:, None], rest], 1)
    tensor = lambda values: torch.from_numpy(np.ascontiguousarray(values, np.float32))
    means, scales, sh, opacities = map(tensor, (means, scales, sh, colour[:, 3]))
    quats = tensor(_quats(vertex["packed_rotation"]))
    return Gaussians(means=means, quats=quats, scales=scales, sh=sh, opacities=opacities)


def _checked(tables: dict[str, np.ndarray], file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of vertices and chunks, and SH above degree 0 [n k 3]."""
    vertex, chunk = tables["vertex"], tables["chunk"]
    columns = {"vertex": (PACKED, "<u4"), "chunk": (LIMITS, "<f4")}
    if "min_r" in (chunk.dtype.names or ()):
        columns["chunk"] = ([*LIMITS, *COLOUR_LIMITS], "<f4")
    for name, (needed, dtype) in columns.items():
        have = tables[name].dtype.fields or {}
        wrong = [n for n in needed if n not in have or have[n][0] != np.dtype(dtype)]
        if wrong:
            where = {"file": file, "field": f"element {name}", "fix": "export it again"}
            expected = "property uint" if dtype == "<u4" else "property float"
            raise DataFormatError("compressed splats lack a column", **where, found=wrong[:4], expected=expected)
    if len(chunk) != -(-len(vertex) // CHUNK):
        problem = "chunks and vertices do not belong together"
        expected, fix = f"{-(-len(vertex) // CHUNK)} for {len(vertex)} vertices", "export it again"
        raise DataFormatError(problem, file=file, field="element chunk", found=len(chunk), expected=expected, fix=fix)
    return vertex, chunk, _rest(tables.get("sh"), num=len(vertex), file=file)


def _rest(table: np.ndarray | None, *, num: int, file: Path) -> np.ndarray:
    if table is None:
        return np.zeros((num, 0, 3), np.float32)
    names = table.dtype.names or ()
    good = len(names) in (9, 24, 45) and all(f"f_rest_{i}" in names for i in range(len(names)))
    if not good or any(table.dtype[n] != np.dtype("u1") for n in names) or len(table) != num:
        problem, found = "f_rest columns fit no SH degree", f"{len(table)} x {list(names)[:3]}"
        expected, fix = f"{num} rows of 9, 24 or 45 uchar", "export it again"
        raise DataFormatError(problem, file=file, field="element sh", found=found, expected=expected, fix=fix)
    bytes_ = np.stack([table[f"f_rest_{i}"] for i in range(len(names))], -1)
    # A byte stands for the middle of its range, the two ends for the limits themselves.
    share = np.where(bytes_ == 0, 0.0, np.where(bytes_ == 255, 1.0, (bytes_ + 0.5) / 256)).astype(np.float32)
    return ((share - 0.5) * 8).reshape(num, 3, -1).transpose(0, 2, 1)


def _bits_11_10_11(words: np.ndarray) -> np.ndarray:
    """Three numbers in [0, 1] from each uint32, the first in the top bits."""
    parts = [(words >> 21 & 0x7FF) / 2047, (words >> 11 & 0x3FF) / 1023, (words & 0x7FF) / 2047]
    return np.stack(parts, -1).astype(np.float32)


def _quats(words: np.ndarray) -> np.ndarray:
    """Unit quaternions [n 4]: ten bits a number in [-sqrt 1/2, sqrt 1/2], the missing one from the length."""
    stored = np.stack([words >> shift & 0x3FF for shift in (20, 10, 0)], -1)
    small = (stored.astype(np.float32) / 1023 - 0.5) * np.float32(np.sqrt(2))
    largest = np.sqrt(np.maximum(0, 1 - (small**2).sum(-1)))
    quats = np.empty((len(words), 4), np.float32)
    which = (words >> 30).astype(np.int64)
    np.put_along_axis(quats, KEPT[which], small, 1)
    np.put_along_axis(quats, which[:, None], largest[:, None], 1)
    return quats

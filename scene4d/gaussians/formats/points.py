"""Gaussians seen as points: how big a set is, and what any tool opens (.ply point cloud, .npz scene flow)."""

from __future__ import annotations

import itertools
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from scene4d.check import check
from scene4d.errors import DataFormatError, SecurityError
from scene4d.files import atomic_file, require_regular
from scene4d.gaussians.edit import prune
from scene4d.gaussians.formats.ply_table import read_ply_tables, write_ply_vertices
from scene4d.geometry.neighbours import nearest
from scene4d.geometry.sh import rgb_from_sh, sh_from_rgb
from scene4d.scene import Scene4D, alive_at
from scene4d.types import Gaussians
from scene4d.unreadable import NPY_ERRORS, naming_pointers

# Leading axes (t times, p = t - 1 pairs, n Gaussians) and the rest of the shape.
FLOW_KEYS = {
    **{"times": ("t", ()), "ids": ("n", ()), "positions": ("tn", (3,)), "alive": ("tn", ())},
    **{"flow": ("pn", (3,)), "valid": ("pn", ())},
}


def write_point_cloud(
    path: str | os.PathLike, points: Tensor, *, colors: Tensor | None = None, flow: Tensor | None = None
) -> None:
    """Write points [n 3] m as a binary PLY: x y z float, red green blue uchar, and flow as vx vy vz float if given.

    Args:
        colors: [n 3] in [0, 1]; grey when not given.
        flow: [n 3] displacement in m.
    Raises:
        ShapeError: sizes differ.
        ResourceError: the disk is full or read-only.
    """
    check(points=(points, "n 3"), colors=(colors, "n 3"), flow=(flow, "n 3"))
    columns = [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    columns += [(name, "<f4") for name in ("vx", "vy", "vz")] if flow is not None else []
    rows = np.zeros(len(points), np.dtype(columns))
    grey = torch.full_like(points, 0.5) if colors is None else colors
    bytes_ = (grey.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    for i, (place, color) in enumerate(zip("xyz", ("red", "green", "blue"), strict=True)):
        rows[place] = points[:, i].detach().cpu().numpy()
        rows[color] = bytes_[:, i]
        if flow is not None:
            rows[f"v{place}"] = flow[:, i].detach().cpu().numpy()
    write_ply_vertices(path, rows)


def write_gaussian_points(
    path: str | os.PathLike, gaussians: Gaussians, *, flow: Tensor | None = None, min_opacity: float = 0.05
) -> None:
    """Write the means and colours of an unbatched set, without rows fainter than `min_opacity`; `flow` [n 3]."""
    if flow is not None:
        gaussians = gaussians.replace(extras={"flow": flow})
    seen = prune(gaussians, min_opacity=min_opacity)
    flow = None if flow is None else seen.extras["flow"]
    write_point_cloud(path, seen.means, colors=rgb_from_sh(seen.sh), flow=flow)


@naming_pointers()
def read_point_cloud(path: str | os.PathLike) -> tuple[Tensor, Tensor | None]:
    """Points [n 3] and colours [n 3] in [0, 1] (None where there are none) of a binary .ply, a mesh's vertices too.

    Rows that are not finite are left out.

    Raises:
        DataFormatError: no binary little-endian PLY, or no x, y, z.
    """
    table = read_ply_tables(path)["vertex"]
    names = table.dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise DataFormatError("has no points", file=path, field="element vertex", found=list(names[:12]))
    points = np.stack([table[name].astype(np.float32) for name in "xyz"], -1)
    finite = np.isfinite(points).all(-1)
    colors = None
    if {"red", "green", "blue"} <= set(names):
        # Bytes, or numbers in [0, 1] already.
        scale = 255 if table.dtype["red"].kind in "iu" else 1
        colors = np.stack([table[name].astype(np.float32) / scale for name in ("red", "green", "blue")], -1)
        colors = torch.from_numpy(np.clip(np.nan_to_num(colors[finite]), 0, 1))
    return torch.from_numpy(points[finite]), colors


def gaussians_from_points(points: Tensor, *, colors: Tensor | None = None, opacity: float = 0.98) -> Gaussians:
    """Round Gaussians [n] at points [n 3] m, as wide as they are apart (root mean square of the 3 nearest others).

    Args:
        colors: [n 3] in [0, 1]; grey when not given.
    """
    check(points=(points, "n 3"), colors=(colors, "n 3"))
    num = min(4, len(points))
    spacing = points.new_full((len(points),), 0.01)
    if num >= 2:
        spacing = nearest(points, points, num=num)[0][:, 1:].square().mean(1).sqrt().clamp_min(1e-6)
    return Gaussians(
        means=points,
        quats=points.new_tensor([1.0, 0.0, 0.0, 0.0]).repeat(len(points), 1),
        scales=spacing[:, None].repeat(1, 3),
        opacities=points.new_full((len(points),), opacity),
        sh=sh_from_rgb(torch.full_like(points, 0.5) if colors is None else colors),
    )


def write_flow_npz(path: str | os.PathLike, scene: Scene4D, *, times: Sequence[float] | None = None) -> None:
    """Write the scene flow of an unbatched scene between successive times (by default, its frames).

    Keys of the .npz: `times` [t] float64 s; `ids` [n] int64, persistent identity; `positions` [t n 3] float32 m, world;
    `alive` [t n] bool; `flow` [t-1 n 3] float32 m, from times[i] to times[i + 1]; `valid` [t-1 n] bool, alive at both.
    Empty slots are left out. Read it with numpy.load(path, allow_pickle=False).

    Raises:
        ResourceError: the disk is full or read-only.
    """
    check(times=(scene.times, "t"))
    seconds = np.asarray(scene.times.tolist() if times is None else times, np.float64)
    kept = scene.base.ids >= 0
    pairs = [scene.flow(a, b) for a, b in itertools.pairwise(seconds.tolist())]
    num_kept = int(kept.sum())

    def stacked(items: list[Tensor], *, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        arrays = [x[kept].detach().cpu().numpy().astype(dtype) for x in items]
        return np.stack(arrays) if arrays else np.zeros(shape, dtype)

    states = [scene.at(t) for t in seconds.tolist()]
    lives = [alive_at(scene, t) for t in seconds.tolist()]
    arrays = {
        "times": seconds,
        "ids": scene.base.ids[kept].cpu().numpy(),
        "positions": stacked([s.means for s in states], shape=(0, num_kept, 3), dtype=np.float32),
        "alive": stacked(lives, shape=(0, num_kept), dtype=bool),
        "flow": stacked([f for f, _ in pairs], shape=(0, num_kept, 3), dtype=np.float32),
        "valid": stacked([v for _, v in pairs], shape=(0, num_kept), dtype=bool),
    }
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_flow_npz(path: str | os.PathLike, *, max_bytes: int = 1 << 30) -> dict[str, np.ndarray]:
    """The arrays that `write_flow_npz` wrote, by key; their sizes are checked before anything is unpacked.

    Raises:
        DataFormatError: no such file, keys or shapes, or more than `max_bytes` unpacked.
        SecurityError: an array holds Python objects, which only pickle could read.
    """
    path = Path(path)
    try:
        require_regular(path)
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
            for name in sizes:
                with archive.open(f"{name}.npy") as member:
                    if _npy_dtype(member).hasobject:
                        problem = "holds Python objects, which are never unpickled"
                        raise SecurityError(problem, file=path, field=name, fix="save it as plain numbers")
        if not set(FLOW_KEYS) <= set(sizes) or sum(sizes.values()) > max_bytes:
            problem, size = "is no scene flow of a size that is read", f"{sum(sizes.values())} bytes"
            found, expected = sorted(sizes)[:8], f"{list(FLOW_KEYS)} in {max_bytes} bytes"
            raise DataFormatError(problem, file=path, field=size, found=found, expected=expected)
        with np.load(path, allow_pickle=False) as table:
            arrays = {name: table[name] for name in FLOW_KEYS}
    except OSError as error:
        raise DataFormatError(f"cannot be read: {error.strerror or error}", file=path, fix="check the path") from error
    except (*NPY_ERRORS, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise DataFormatError("is no .npz", file=path, found=str(error)[:80], fix="write it again") from error
    num_times, num = len(arrays["times"]), len(arrays["ids"])
    for name, (lead, rest) in FLOW_KEYS.items():
        expected = {"t": (num_times,), "n": (num,), "tn": (num_times, num), "pn": (max(num_times - 1, 0), num)}[lead]
        if arrays[name].shape != (*expected, *rest):
            found = arrays[name].shape
            raise DataFormatError("does not fit", file=path, field=name, found=found, expected=(*expected, *rest))
    return arrays


def _npy_dtype(member: IO[bytes]) -> np.dtype:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(member)[2]


def robust_bounds(gaussians: Gaussians, *, quantile: float = 0.9, min_opacity: float = 0.05) -> tuple[Tensor, float]:
    """Centre [3] (medians) and radius m (`quantile` of the distances) of an unbatched set, blind to stray Gaussians.

    For cameras that circle a scene. An empty set has the origin and radius 1.
    """
    means = prune(gaussians, min_opacity=min_opacity).means
    means = means[means.isfinite().all(-1)]
    if len(means) == 0:
        return gaussians.means.new_zeros(3), 1.0
    center = means.median(0).values
    # kthvalue, for torch.quantile refuses more than 16 million numbers.
    distances = (means - center).norm(dim=-1)
    rank = min(max(1, round(quantile * len(distances))), len(distances))
    return center, max(float(distances.kthvalue(rank).values), 1e-3)

"""Gaussian splat .ply files: the INRIA layout written exactly and read in any order; compressed ones read too."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch

from scene4d.errors import DataFormatError, GaussianError, ShapeError
from scene4d.gaussians.edit import prune, sanitize, with_sh_bases
from scene4d.gaussians.formats.ply_compressed import is_compressed, unpack_gaussians
from scene4d.gaussians.formats.ply_table import read_ply_tables, write_ply_vertices
from scene4d.geometry.sh import sh_from_rgb
from scene4d.types import Gaussians

REST_BY_DEGREE = (0, 9, 24, 45)
DC, RGB = ("f_dc_0", "f_dc_1", "f_dc_2"), ("red", "green", "blue")
NEEDED = ("x", "y", "z", *DC, "opacity")
NEEDED += tuple(f"scale_{i}" for i in range(3)) + tuple(f"rot_{i}" for i in range(4))


def write_ply(path: str | os.PathLike, gaussians: Gaussians, *, sh_degree: int = 3) -> None:
    """Write an unbatched set (empty slots left out) as the INRIA .ply that every splat viewer reads.

    float32 little endian: xyz, normals (0), f_dc 3, f_rest channel-major, logit opacity, log scales, wxyz. `sh_degree`
    is that of the file: 3 (45 f_rest, filled up with zeros) is what the INRIA loader insists on.

    Raises:
        ShapeError: the set has batch axes, or `sh_degree` is not 0 to 3.
        ResourceError: the disk is full or read-only.
    """
    if sh_degree not in range(4):
        raise ShapeError("no such SH degree", field="sh_degree", found=sh_degree, expected="0, 1, 2 or 3")
    g = prune(gaussians.detach().to("cpu"))
    sh = with_sh_bases(g.sh, (sh_degree + 1) ** 2)
    opacities = g.opacities.double().clamp(2.0**-24, 1 - 2.0**-24)
    columns = [
        g.means,
        torch.zeros_like(g.means),
        sh[:, 0],
        sh[:, 1:].transpose(1, 2).flatten(1),  # channel-major
        torch.logit(opacities)[:, None].float(),
        g.scales.double().clamp_min(1e-30).log().float(),
        g.quats,
    ]
    rows = torch.cat([c.float() for c in columns], 1).numpy().astype("<f4")
    names = [*"xyz", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3))]
    names += [f"f_rest_{i}" for i in range(REST_BY_DEGREE[sh_degree])]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    write_ply_vertices(path, rows.view([(name, "<f4") for name in names])[:, 0])


def read_ply(path: str | os.PathLike, *, strict: bool = False) -> Gaussians:
    """Read a splat .ply: INRIA columns in any order (red green blue for f_dc where nerfstudio wrote them), with or
    without normals and f_rest, or compressed by SuperSplat.

    Impossible values are mended or their rows dropped with a warning that counts them (`gaussians.edit.sanitize`).

    Raises:
        DataFormatError: not a binary little-endian splat PLY, or shorter than it claims (checked before allocating).
        GaussianError: `strict` and a value is impossible.
    """
    gaussians, counts = read_ply_counted(path, strict=strict)
    if counts:
        warnings.warn(f"{path}: mended or dropped impossible values: {counts}", stacklevel=2)
    return gaussians


def read_ply_counted(path: str | os.PathLike, *, strict: bool = False) -> tuple[Gaussians, dict[str, int]]:
    """`read_ply` without its warning, and how many rows each rule of `sanitize` touched."""
    path = Path(path)
    tables = read_ply_tables(path, names=("chunk", "vertex", "sh"))
    if is_compressed(tables):
        return sanitize(unpack_gaussians(tables, file=path), strict=strict, file=path)
    table = tables["vertex"]
    names = table.dtype.names or ()
    plain = not set(DC) & set(names) and set(RGB) <= set(names)  # `ns-export --ply-color-mode rgb`
    missing = [n for n in NEEDED if n not in names and not (plain and n in DC)]
    if missing:
        problem = "is no Gaussian splat: no " + "/".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        fix = "a mesh or plain point cloud? did you mean --as-points"
        raise DataFormatError(problem, file=path, field="element vertex", found=list(names[:12]), fix=fix)
    rest = [n for n in names if n.startswith("f_rest_")]
    if len(rest) not in REST_BY_DEGREE or set(rest) != {f"f_rest_{i}" for i in range(len(rest))}:
        problem = "f_rest columns fit no SH degree"
        expected, fix = "0, 9, 24 or 45, numbered from 0", "export the splats again with SH degree 0 to 3"
        raise DataFormatError(problem, file=path, field="f_rest", found=len(rest), expected=expected, fix=fix)
    infinite = np.flatnonzero(np.isinf(table["opacity"]))
    if len(infinite) and strict:
        found = {"opacity_logits_infinite": len(infinite)}
        raise GaussianError("impossible values", file=path, field="opacity", frame=int(infinite[0]), found=found)
    gaussians, counts = sanitize(_gaussians_from_table(table, num_rest=len(rest)), strict=strict, file=path)
    return gaussians, counts | ({"opacity_logits_infinite": len(infinite)} if len(infinite) else {})


def _gaussians_from_table(table: np.ndarray, *, num_rest: int) -> Gaussians:
    def columns(*names: str) -> torch.Tensor:
        picked = np.empty((len(table), len(names)), np.float32)
        for i, name in enumerate(names):
            picked[:, i] = table[name]
        return torch.from_numpy(picked)

    if DC[0] in (table.dtype.names or ()):
        dc = columns(*DC)[:, None]
    else:
        dc = sh_from_rgb(columns(*RGB) / (255 if table.dtype["red"].kind == "u" else 1))
    rest = columns(*(f"f_rest_{i}" for i in range(num_rest))).unflatten(1, (3, num_rest // 3)).transpose(1, 2)
    return Gaussians(
        means=columns("x", "y", "z"),
        quats=columns(*(f"rot_{i}" for i in range(4))),
        scales=columns(*(f"scale_{i}" for i in range(3))).double().exp().float(),
        opacities=torch.sigmoid(columns("opacity")[:, 0]),
        sh=torch.cat([dc, rest], 1),
    )

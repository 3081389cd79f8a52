"""Gaussian splat .ply files: the INRIA layout written exactly and read in any order; compressed ones read too."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch

from scene4d.errors import ShapeError
from scene4d.gaussians.edit import prune, with_sh_bases
from scene4d.gaussians.formats.ply_columns import REST_BY_DEGREE, splats_of_vertices
from scene4d.gaussians.formats.ply_compressed import is_compressed, unpack_gaussians
from scene4d.gaussians.formats.ply_table import PlyFile, read_ply_file, write_ply_vertices
from scene4d.gaussians.formats.splat_notes import Splats, antialiased_note, checked_splats
from scene4d.ledger import LeftOut
from scene4d.types import Gaussians
from scene4d.unreadable import naming_pointers

ANTIALIASED = ("splatrendermode: mip", "antialiased 1")
"""Comments of Brush and Postshot, in small letters."""


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
    """`read_ply_splats` without its notes.

    What was mended, and findings, are a warning.
    """
    splats = read_ply_splats(path, strict=strict)
    if splats.mended:
        warnings.warn(f"{path}: mended or dropped impossible values: {splats.mended}", stacklevel=2)
    for note in splats.notes:
        if note.lost:
            warnings.warn(f"{path}: {note}", stacklevel=2)
    return splats.gaussians


@naming_pointers()
def read_ply_splats(path: str | os.PathLike, *, strict: bool = False) -> Splats:
    """Read a splat .ply of any encoding: INRIA columns in any order (red green blue for f_dc where nerfstudio wrote
    them), with or without normals and f_rest, flat or with a 3D filter (`splats_of_vertices`), or compressed by
    SuperSplat. Axes are as in the file.

    Impossible values are mended or their rows dropped, and counted (`gaussians.edit.sanitize`).

    Raises:
        DataFormatError: no splat PLY, or shorter than it claims (checked before allocating).
        GaussianError: `strict` and a value is impossible, or was activated already.
    """
    path = Path(path)
    file = read_ply_file(path, names=("chunk", "vertex", "sh"))
    notes = _notes(file)
    if is_compressed(file.tables):
        gaussians = unpack_gaussians(file.tables, file=path)
        return checked_splats(gaussians, form="compressed PLY", file=path, strict=strict, notes=notes)
    return splats_of_vertices(file.tables["vertex"], file=path, strict=strict, notes=notes)


def _notes(file: PlyFile) -> tuple[LeftOut, ...]:
    comments = tuple(c for c in file.comments if c.lower() in ANTIALIASED)
    elements = LeftOut("elements", "elements", file.others, "no splats: not read", lost=False)
    return (antialiased_note(comments), elements)

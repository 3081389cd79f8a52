"""The columns of a splat .ply as Gaussians: INRIA's, flat ones of 2DGS, and those with the filter of Mip-Splatting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from scene4d.errors import DataFormatError, GaussianError
from scene4d.gaussians.formats.ply_activated import find_activated
from scene4d.gaussians.formats.splat_notes import Splats, checked_splats
from scene4d.geometry.sh import sh_from_rgb
from scene4d.ledger import LeftOut
from scene4d.types import Gaussians

REST_BY_DEGREE = (0, 9, 24, 45)
MEANS, NORMALS, SCALES = ("x", "y", "z"), ("nx", "ny", "nz"), ("scale_0", "scale_1", "scale_2")
DC, RGB = ("f_dc_0", "f_dc_1", "f_dc_2"), ("red", "green", "blue")
QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
FILTER = "filter_3D"
NEEDED = (*MEANS, *DC, "opacity", *SCALES, *QUATS)
FLATNESS = 1e-4
"""Third scale of a flat splat, in its smaller other one."""
ROUNDED = 1e-3
"""Metres by which positions in double precision may differ from what float32 holds."""


def splats_of_vertices(table: np.ndarray, *, file: Path, strict: bool, notes: tuple[LeftOut, ...] = ()) -> Splats:
    """Splats [n] from the vertices of a .ply; columns in any order and of any number type.

    Two scales are flat splats (2DGS): the third is 1e-4 of the smaller one, along the third axis of the rotation. A
    column filter_3D (Mip-Splatting) is fused into scales and opacities, exactly as its authors do. Values that were
    activated already are read as they are where that is certain (`ply_activated`).

    Raises:
        DataFormatError: columns are missing, or f_rest fits no degree. GaussianError: `strict` and a value is
        impossible or was activated already.
    """
    names = table.dtype.names or ()
    plain = not set(DC) & set(names) and set(RGB) <= set(names)  # `ns-export --ply-color-mode rgb`
    flat = SCALES[2] not in names and set(SCALES[:2]) <= set(names)
    num_rest = _checked_columns(table, file=file, unneeded=(*(DC if plain else ()), *(SCALES[2:] if flat else ())))
    means, opacities = _columns(table, MEANS), _columns(table, ("opacity",))[:, 0]
    scales = _columns(table, SCALES[:2] if flat else SCALES)
    activated = find_activated(means, scales=scales, opacities=opacities)
    if strict and (activated.scales or activated.opacities):
        field, found = activated.notes[0].names[0], str(activated.notes[0])
        raise GaussianError("holds activated values", file=file, field=field, found=found, fix=activated.notes[0].fix)
    infinite = np.flatnonzero(np.isinf(opacities)) if not activated.opacities else np.zeros(0, np.int64)
    if len(infinite) and strict:
        found = {"opacity_logits_infinite": len(infinite)}
        raise GaussianError("impossible values", file=file, field="opacity", frame=int(infinite[0]), found=found)
    sizes = torch.from_numpy(scales).double()
    alphas = torch.from_numpy(opacities).double()
    sizes = sizes if activated.scales else sizes.exp()
    alphas = alphas if activated.opacities else torch.sigmoid(alphas)
    if FILTER in names:
        sizes, alphas = _fused(sizes, alphas, filters=torch.from_numpy(_columns(table, (FILTER,))).double())
    if flat:
        sizes = torch.cat([sizes, FLATNESS * sizes.amin(1, keepdim=True)], 1)
    gaussians = Gaussians(
        means=torch.from_numpy(means), quats=torch.from_numpy(_columns(table, QUATS)), scales=sizes.float(),
        opacities=alphas.float(), sh=_sh(table, num_rest=num_rest, plain=plain),
    )  # fmt: skip
    found = (*activated.notes, *_notes(table, num_rest=num_rest, plain=plain, flat=flat), *notes)
    splats = checked_splats(gaussians, form="PLY", file=file, strict=strict, notes=found)
    if len(infinite):
        splats.mended["opacity_logits_infinite"] = len(infinite)
    return splats


def _checked_columns(table: np.ndarray, *, file: Path, unneeded: tuple[str, ...]) -> int:
    """The number of f_rest columns; all others that are needed are there, and none holds counts."""
    names = table.dtype.names or ()
    missing = [n for n in NEEDED if n not in names and n not in unneeded]
    if missing:
        problem = "is no Gaussian splat: no " + "/".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        fix = "a mesh or plain point cloud? did you mean --as-points"
        raise DataFormatError(problem, file=file, field="element vertex", found=list(names[:12]), fix=fix)
    rest = [n for n in names if n.startswith("f_rest_")]
    if len(rest) not in REST_BY_DEGREE or set(rest) != {f"f_rest_{i}" for i in range(len(rest))}:
        problem = "f_rest columns fit no SH degree"
        expected, fix = "0, 9, 24 or 45, numbered from 0", "export the splats again with SH degree 0 to 3"
        raise DataFormatError(problem, file=file, field="f_rest", found=len(rest), expected=expected, fix=fix)
    whole = [n for n in (*DC, *rest, "opacity", *SCALES, *QUATS, FILTER) if n in names and table.dtype[n].kind != "f"]
    if whole:
        found, fix = f"{whole[0]} as {table.dtype[whole[0]].name}", "export the splats again as float"
        expected = "float or double"
        raise DataFormatError("holds integers", file=file, field=whole[0], found=found, expected=expected, fix=fix)
    return len(rest)


def _columns(table: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Columns [n c] as float32."""
    picked = np.empty((len(table), len(names)), np.float32)
    with np.errstate(over="ignore"):  # doubles beyond float32 are infinite, which `sanitize` counts
        for i, name in enumerate(names):
            picked[:, i] = table[name]
    return picked


def _sh(table: np.ndarray, *, num_rest: int, plain: bool) -> torch.Tensor:
    if plain:
        dc = sh_from_rgb(torch.from_numpy(_columns(table, RGB)) / (255 if table.dtype["red"].kind == "u" else 1))
    else:
        dc = torch.from_numpy(_columns(table, DC))[:, None]
    rest = torch.from_numpy(_columns(table, tuple(f"f_rest_{i}" for i in range(num_rest))))
    return torch.cat([dc, rest.unflatten(1, (3, num_rest // 3)).transpose(1, 2)], 1)


def _fused(
    scales: torch.Tensor, opacities: torch.Tensor, *, filters: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales [n c] and opacities [n] under a 3D low-pass of standard deviation `filters` [n 1].

    Source: Yu et al., Mip-Splatting: Alias-free 3D Gaussian Splatting, 2024, equation 9; its `save_fused_ply`.
    """
    wider = torch.sqrt(scales.square() + filters.square())
    return wider, opacities * (scales / wider.clamp_min(1e-300)).prod(1)


def _notes(table: np.ndarray, *, num_rest: int, plain: bool, flat: bool) -> list[LeftOut]:
    """What was read otherwise than INRIA's layout has it, or not read."""
    names = table.dtype.names or ()
    known = {*NEEDED, *NORMALS, FILTER, *(f"f_rest_{i}" for i in range(num_rest)), *(RGB if plain else ())}
    colours = tuple(n for n in RGB if n in names) if not plain else ()
    normals = tuple(n for n in NORMALS if n in names and bool((table[n] != 0).any()))
    unknown = tuple(n for n in names if n not in known and n not in colours)
    reason = "two scales, as 2DGS writes them: flat splats, the third scale is 1e-4 of the smaller"
    notes = [
        LeftOut("flat", "scales", SCALES[:2] if flat else (), reason, lost=False),
        LeftOut("columns", "columns", unknown, "unknown columns: not read", "rename them if they are splats' own"),
        LeftOut("columns", "columns", normals, "normals: not read, for the splats have axes", lost=False),
        LeftOut("columns", "columns", colours, "colours beside f_dc: not read", lost=False),
    ]
    if FILTER in names:
        reason = "the 3D filter of Mip-Splatting: fused into scales and opacities"
        notes.append(LeftOut("filter_fused", "scales", (FILTER,), reason, lost=False))
    wide = [n for n in MEANS if table.dtype[n].itemsize > 4]
    off = [float(np.nanmax(np.abs(table[n] - table[n].astype(np.float32)), initial=0)) for n in wide]
    if off and max(off) > ROUNDED:
        reason = f"double precision, of which float32 keeps all but {max(off):.3g} m: move the scene to the origin"
        notes.append(LeftOut("rounded", "means", tuple(wide), reason, "subtract an offset before exporting"))
    return notes

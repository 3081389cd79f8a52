""".splat files, as antimatter15's viewer has them: 32 bytes a splat, no header, colour without SH."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from scene4d.errors import DataFormatError
from scene4d.gaussians.edit import MAX_SCALE
from scene4d.gaussians.formats.splat_notes import Splats, checked_splats, read_whole
from scene4d.geometry.sh import sh_from_rgb
from scene4d.types import Gaussians

ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])
MOST_IMPOSSIBLE = 0.1
"""Share of impossible rows above which a file, for the format has no mark of its own, is taken for something else."""


def read_splat(path: str | os.PathLike, *, strict: bool = False) -> Splats:
    """Splats [n] of a .splat: positions and sizes in float32, colour, opacity and quaternion (w x y z) in bytes.

    Axes are as in the file, which its writers take from the .ply it was made of.

    Raises:
        DataFormatError: empty, larger than 2 GiB, or no whole number of splats.
        GaussianError: `strict` and a value is impossible.
    Source: antimatter15/splat, convert.py and main.js.
    """
    path = Path(path)
    data = read_whole(path, what="a .splat")
    if not data or len(data) % ROW.itemsize:
        found, expected = f"{len(data)} bytes", f"a multiple of {ROW.itemsize} bytes"
        fix = "copy or export it again"
        raise DataFormatError("is no whole .splat", file=path, field="size", found=found, expected=expected, fix=fix)
    rows = np.frombuffer(data, ROW)
    impossible = ~(np.isfinite(rows["mean"]).all(1) & ((rows["scale"] >= 0) & (rows["scale"] <= MAX_SCALE)).all(1))
    if impossible.mean() > MOST_IMPOSSIBLE:
        found = f"{int(impossible.sum())} of {len(rows)} splats without a finite place or a size in 0 .. {MAX_SCALE:g}"
        raise DataFormatError("is no .splat", file=path, field="scales", found=found, fix="check the path")
    rgba = torch.from_numpy(rows["rgba"].astype(np.float32) / 255)
    gaussians = Gaussians(
        means=torch.from_numpy(rows["mean"].copy()),
        quats=torch.from_numpy((rows["quat"].astype(np.float32) - 128) / 128),
        scales=torch.from_numpy(rows["scale"].copy()),
        opacities=rgba[:, 3],
        sh=sh_from_rgb(rgba[:, :3]),
    )
    return checked_splats(gaussians, form=".splat", file=path, strict=strict)

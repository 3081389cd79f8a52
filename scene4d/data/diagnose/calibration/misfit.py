"""Calibration that fits nowhere, though no single mistake explains it: a finding of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.data.diagnose.calibration.reprojection import Agreement, agreement
from scene4d.data.diagnose.calibration.sample import Rows, Sample, views_of
from scene4d.data.diagnose.finding import Finding

KIND = "does_not_fit"
MISFIT = 0.05  # of the depth: the median that two views may differ by
SEEN_THROUGH = 0.15  # of the pixels seen twice: surfaces hide each other, but nobody looks through one
SHARED = 0.15  # of them, at least, show one surface to both
MIN_PIXELS = 200  # seen twice
FIX = "calibrate again, or find out which cameras, frames and units this calibration belongs to"


def check_fit(sample: Sample, rows: Rows, *, pairs: Tensor, mended: bool) -> list[Finding]:
    """A finding for the cameras whose depth fits no other view, one for all where it cannot be known which.

    Args:
        sample: as the mends that were found make it.
        mended: whether there were any.
    """
    result, left = agreement(views_of(sample), pairs), torch.arange(len(pairs))
    wrong: dict[int, float] = {}
    while bad := _misfits(result, left, rows=rows, pairs=pairs):
        worst = max(bad, key=bad.__getitem__)
        wrong[worst] = bad[worst]
        left = left[(rows.camera[pairs[left]] != worst).all(1)]
    if not wrong:
        return []
    # Where no other pair is left, each camera may be the one that is wrong.
    names = tuple(rows.cameras[k] for k in wrong) if len(left) else ()
    off, covered = max(wrong.values()), result.covered
    even = "even mended as above, " if mended else ""
    agreed = 100 * (1 - float(result.cost[covered].mean()))
    found = f"{even}views differ by {100 * off:.0f} % of the depth (median), and agree on {agreed:.0f} %"
    expected = f"under {100 * MISFIT:.0f} % of the depth; no single mistake explains it"
    return [Finding(KIND, ",".join(names) or None, "pose", found, expected, FIX)]


def _misfits(result: Agreement, left: Tensor, *, rows: Rows, pairs: Tensor) -> dict[int, float]:
    """By which share of the depth cameras are off, in time or beside other cameras, of those that are."""
    cameras = rows.camera[pairs[left]]
    alike = cameras[:, 0] == cameras[:, 1]
    found: dict[int, float] = {}
    for k in cameras.flatten().unique().tolist():
        for group in (alike, ~alike):
            chosen = result.at(left[group & (cameras == k).any(1)])
            relative = chosen.relative[chosen.covered]
            if len(relative) < MIN_PIXELS:
                continue
            off, through = float(relative.abs().median()), float((relative < -MISFIT).float().mean())
            shared = float((relative.abs() < MISFIT).float().mean())
            if off > MISFIT and (through > SEEN_THROUGH or shared < SHARED):
                found[k] = max(off, found.get(k, 0.0))
    return found

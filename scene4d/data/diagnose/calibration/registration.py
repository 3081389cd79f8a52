"""Does depth lie on colour? Where depth jumps, colour tends to change: the shift that makes most of that is right.

Needs neither poses nor a second view, but pictures with outlines; where there are too few, it finds nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from scene4d.data.diagnose.calibration.sample import Sample
from scene4d.data.diagnose.finding import Finding
from scene4d.data.diagnose.repair.mend import Mend

JUMP = 0.06  # relative: neighbours further apart than this belong to two surfaces
SLOPE = 0.05  # of grey a pixel, where the answer to an edge is half
REACH = 6  # px of the sample
MIN_PEAK = 2.5  # standard deviations over all shifts: below it, the outlines mean nothing
MIN_LOST = 0.3  # of the peak's height must be lost where depth is now
MIN_SHIFT = 2  # px of the sample: one is the grid's own uncertainty
MIN_OUTLINE = 200  # px of outline over all pictures


def check_registration(sample: Sample) -> list[Finding]:
    """A finding for each camera whose depth lies beside its colour, one for all where all agree."""
    shifts = {n: s for n in sample.depth_cameras if (s := _shift_of(sample, n)) is not None}
    if not shifts:
        return []
    first = next(iter(shifts.values()))
    alike = all(max(abs(a - b) for a, b in zip(s[0], first[0], strict=True)) <= 1 for s in shifts.values())
    if alike and len(shifts) == len(sample.depth_cameras):
        return [_finding(sample, first, camera=None)]
    return [_finding(sample, s, camera=n) for n, s in shifts.items()]


def outline_of(depth: Tensor) -> Tensor:
    """1 at the nearer side of jumps between measured neighbours of depth [n h w], else 0."""
    outline = torch.zeros_like(depth)
    for axis in (-1, -2):
        length = depth.shape[axis] - 1
        first, second = depth.narrow(axis, 0, length), depth.narrow(axis, 1, length)
        jump = (first > 0) & (second > 0) & ((first - second).abs() > JUMP * torch.minimum(first, second))
        outline.narrow(axis, 0, length)[jump & (first < second)] = 1
        outline.narrow(axis, 1, length)[jump & (second < first)] = 1
    return outline


def _slope_of(rgb: Tensor) -> Tensor:
    """How much grey [n h w] changes from pixel to pixel, 0..1 so that one hard edge does not outvote many."""
    grey = rgb.mean(-1)
    across = pad(grey[..., 2:] - grey[..., :-2], (1, 1))
    down = pad(grey[:, 2:] - grey[:, :-2], (0, 0, 1, 1))
    slope = (across**2 + down**2).sqrt()
    return slope / (slope + SLOPE)


def _shift_of(sample: Sample, name: str) -> tuple[tuple[int, int], float, float] | None:
    """(right, down) px that depth must move by, and the mean slope under the outline before and after."""
    frames = [w.views[name] for w in sample.windows]
    outline = torch.cat([outline_of(f.depth) for f in frames if f.depth is not None])
    slope = torch.cat([_slope_of(f.rgb) for f in frames])
    height, width = slope.shape[-2:]
    if outline.sum() < MIN_OUTLINE or min(height, width) < 5 * REACH:
        return None
    steps = range(-REACH, REACH + 1)
    padded, inner = pad(outline, (REACH,) * 4), (slice(None), slice(REACH, -REACH), slice(REACH, -REACH))
    under = {}
    for dy in steps:
        for dx in steps:
            moved = padded[:, REACH - dy : REACH - dy + height, REACH - dx : REACH - dx + width][inner]
            under[dx, dy] = float((moved * slope[inner]).sum() / moved.sum().clamp_min(1))
    values = torch.tensor(list(under.values()))
    best = max(under, key=under.__getitem__)
    mean, deviation = float(values.mean()), float(values.std())
    peak, here = under[best], under[0, 0]
    stands_out = peak - mean > MIN_PEAK * deviation and peak - here > MIN_LOST * (peak - mean)
    on_the_border = max(abs(best[0]), abs(best[1])) == REACH  # the true peak may lie beyond
    return (best, here, peak) if stands_out and not on_the_border and max(map(abs, best)) >= MIN_SHIFT else None


def _finding(sample: Sample, shift: tuple[tuple[int, int], float, float], *, camera: str | None) -> Finding:
    (right, down), before, after = shift
    cameras = sample.windows[0].views[camera or sample.depth_cameras[0]].cameras
    across, along = 100 * abs(right) / cameras.width, 100 * abs(down) / cameras.height
    sides = [f"{across:.1f} % {'left' if right > 0 else 'right'} of"] if right else []
    sides += [f"{along:.1f} % {'above' if down > 0 else 'below'}"] if down else []
    mend = Mend("depth_shift", (right / cameras.width, down / cameras.height), (camera,) if camera else ())
    return Finding(
        kind="depth_not_registered",
        camera=camera,
        field="depth",
        found=f"outlines of depth lie {' and '.join(sides)} those of colour",
        expected="depth registered to the colour camera",
        fix=f"{mend}; where depth comes from a camera of its own, register it with both calibrations instead",
        mends=(mend,),
        score=(before, after),
    )

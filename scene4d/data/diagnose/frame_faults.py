"""What frames themselves show to be wrong: codes read as depth, black pictures, pictures that stand still."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scene4d.data.diagnose.calibration.sample import MOVED
from scene4d.data.diagnose.finding import Finding
from scene4d.data.diagnose.repair.mend import HOLE_TOLERANCE, Mend
from scene4d.types import Episode, Frames

MIN_SHARE = 0.005  # of the measured pixels have one and the same depth
MIN_OTHERS = 0.02  # of the pixels must have other depths, to compare with
FAR, NEAR = 1.5, 0.5  # times the last (first) hundredth of the others
BLACK = 2 / 255
FROZEN = 3  # pictures in a row


def check_holes(windows: list[Episode] | tuple[Episode, ...]) -> list[Finding]:
    """Depths far beyond (or short of) all others that many pixels share: a code that was read as a distance."""
    found: dict[float, list[str]] = {}
    shares: dict[str, float] = {}
    names = [n for n, f in windows[0].views.items() if f.depth is not None]
    for name in names:
        depth = torch.cat([w.views[name].known_depth.flatten() for w in windows])
        for value, share in _codes_in(depth):
            known = next((v for v in found if math.isclose(v, value, rel_tol=HOLE_TOLERANCE)), value)
            found.setdefault(known, []).append(name)
            shares[f"{name} {known}"] = share
    findings = []
    for value, where in found.items():
        cameras = () if len(where) == len(names) else tuple(where)
        share = max(shares[f"{n} {value}"] for n in where)
        mend = Mend("depth_hole", (float(f"{value:.6g}"),), cameras)
        seen = f"{100 * share:.1f} % of the depth is {value:.6g} m, apart from all the rest"
        camera, expected, score = ",".join(cameras) or None, "0 where nothing was measured", (1 - share, 1.0)
        findings.append(Finding("depth_hole", camera, "depth", seen, expected, str(mend), (mend,), score))
    return findings


def _codes_in(depth: Tensor) -> list[tuple[float, float]]:
    """(value, share of the measured pixels) of the largest and the smallest depth, where they are codes."""
    measured = depth[depth > 0]
    codes = []
    for extreme, beyond in ((measured.max, True), (measured.min, False)) if len(measured) else ():
        value = float(extreme())
        same = (measured - value).abs() <= HOLE_TOLERANCE * value
        others = measured[~same]
        share = float(same.float().mean())
        if share < MIN_SHARE or len(others) < MIN_OTHERS * len(depth):
            continue
        ordered = others[:: max(1, len(others) // 100_000)].sort().values
        last = float(ordered[int((0.99 if beyond else 0.01) * (len(ordered) - 1))])
        if (value > FAR * last) if beyond else (value < NEAR * last):
            codes.append((value, share))
    return codes


def check_pictures(window: Episode, *, start: int) -> list[Finding]:
    """Black pictures, and pictures that stay the same while their camera moves, in a stretch [t] from frame `start`."""
    findings = []
    for name, frames in window.views.items():
        for kind, bad, expected in (
            ("black_frames", frames.rgb.flatten(1).amax(1) < BLACK, "pictures"),
            ("frozen_frames", _frozen(frames), "a new picture for each pose"),
        ):
            index = [start + int(i) for i in bad.nonzero()[:, 0]]
            if index:
                listed = ", ".join(map(str, index[:5])) + (" ..." if len(index) > 5 else "")
                fix = "leave these frames out, or copy the video again"
                findings.append(Finding(kind, name, "rgb", f"{len(index)} frames: {listed}", expected, fix))
    return findings


def _frozen(frames: Frames) -> Tensor:
    """Frames [t] that end a run of at least `FROZEN` equal pictures of a camera that moves."""
    if len(frames.rgb) < FROZEN:
        return torch.zeros(len(frames.rgb), dtype=torch.bool)
    viewmats = frames.cameras.viewmats
    moved = (viewmats[1:] - viewmats[:-1]).abs().flatten(1).amax(1) > MOVED
    still = (frames.rgb[1:] == frames.rgb[:-1]).flatten(1).all(1) & moved
    runs = torch.stack([still[k : len(still) - FROZEN + 2 + k] for k in range(FROZEN - 1)]).all(0)
    return torch.cat([torch.zeros(FROZEN - 1, dtype=torch.bool), runs])

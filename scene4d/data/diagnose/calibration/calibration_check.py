"""Is the calibration right? Views are carried into each other as read, and as each likely mistake would have it.

A mistake is reported only where mending it makes views agree clearly better, on most pairs of views that it concerns;
several are found one after the other, the worst first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.data.diagnose.calibration.hypotheses import Hypothesis, compound_hypotheses, hypotheses_of
from scene4d.data.diagnose.calibration.registration import check_registration
from scene4d.data.diagnose.calibration.reprojection import Agreement, agreement
from scene4d.data.diagnose.calibration.sample import Rows, Sample, rows_of, shades_of, views_of
from scene4d.data.diagnose.calibration.world_axis import check_world_axis
from scene4d.data.diagnose.finding import Finding
from scene4d.data.diagnose.frame_faults import check_holes
from scene4d.data.diagnose.repair.mend import Mend
from scene4d.data.timeline.stretches import full_sizes

ANCHORS = 6
GAPS = (1, 3, 8, 20)
MAX_PAIRS = 48
MAX_RATIO = 0.85  # of the disagreement that must remain, at most
MIN_GAIN = 0.03
MIN_BETTER = 0.7  # of the pairs concerned must agree better
MIN_PAIRS, MIN_PIXELS = 3, 30
MAX_MISTAKES = 4
GLANCE, HOPEFUL = 10, 10  # pairs that tell whether a hypothesis is worth all pairs, and how many are
POOR = 0.5
PLAUSIBLE_DEPTH = (0.05, 30.0)


@dataclass(frozen=True)
class CalibrationReport:
    """What carrying views into each other shows."""

    findings: tuple[Finding, ...]
    num_pairs: int
    """Pairs of views compared; 0: nothing could be tested, `untested` holds why."""
    agreement: float | None = None
    """Share of the pixels seen twice that agree, as recorded."""
    median_mm: float | None = None
    """Median distance in depth between what two views measured, mm."""
    untested: str = ""


@dataclass(frozen=True)
class _Gain:
    """How a hypothesis compares with what is: cost sums over pixels that either of the two covers, pair by pair."""

    before: float
    after: float
    better: float
    num_pairs: int
    total: float

    @property
    def clear(self) -> bool:
        enough = self.num_pairs >= MIN_PAIRS and self.better >= MIN_BETTER
        return enough and self.after <= MAX_RATIO * self.before and self.before - self.after >= MIN_GAIN


def check_calibration(sample: Sample) -> CalibrationReport:
    """Compare views of a sample, and look for the mistakes that explain where they differ."""
    findings = [*check_holes(sample.windows), *check_registration(sample)] if sample.depth_cameras else []
    pairs = pairs_of(rows_of(sample), moving=sample.moving()) if sample.depth_cameras else torch.zeros(0, 2)
    if not len(pairs):
        findings += check_world_axis(sample, tested=False)
        reason = "one camera that stands still: there are no two views" if sample.depth_cameras else "no depth"
        return CalibrationReport(tuple(findings), 0, untested=reason)
    mends = [m for f in findings for m in f.mends]
    rows, shades = rows_of(sample), shades_of(sample)
    before = agreement(views_of(sample, shades), pairs)
    for _ in range(MAX_MISTAKES):
        mended = sample.mended(mends)
        found = _worst_mistake(mended, rows, shades=shades, pairs=pairs)
        if found is None:
            break
        findings.append(_finding(mended, found[0], gain=found[1]))
        mends += findings[-1].mends
    findings += check_world_axis(sample.mended(mends), tested=True)
    covered, share, median_mm = before.covered, 0.0, None
    if covered.any():
        share, median_mm = 1 - float(before.cost[covered].mean()), 1e3 * float(before.metres[covered].median())
    return CalibrationReport(tuple(findings), len(pairs), agreement=share, median_mm=median_mm)


def pairs_of(rows: Rows, *, moving: Sequence[str]) -> Tensor:
    """Pairs of rows [p 2]: a moving camera at two instants near and far, and two cameras at one instant."""
    pairs: list[tuple[int, int]] = []
    count = len(rows.cameras)
    place = {(int(c), int(f)): i for i, (c, f) in enumerate(zip(rows.camera, rows.frame, strict=True))}
    for k, name in enumerate(rows.cameras):
        mine = ((rows.camera == k) & rows.inner).nonzero()[:, 0]
        if name not in moving or len(mine) < 2:
            continue
        frames = rows.frame[mine]
        for i in torch.linspace(0, len(mine) - 1, ANCHORS).round().long().unique().tolist():
            for gap in GAPS:
                for sign in (1, -1):
                    j = int((frames - (frames[i] + sign * gap)).abs().argmin())
                    if j != i and abs(int(frames[j] - frames[i])) <= 2 * gap:
                        pairs.append((int(mine[i]), int(mine[j])))
    temporal = _thinned(sorted(set(pairs)), MAX_PAIRS if count == 1 else MAX_PAIRS // 2)
    shared = sorted({int(f) for f, inner in zip(rows.frame, rows.inner, strict=True) if inner})
    instants = [shared[i] for i in torch.linspace(0, len(shared) - 1, 3).round().long().unique()] if shared else []
    across = [(place[a, f], place[b, f]) for f in instants for a in range(count) for b in range(count) if a != b]
    chosen = temporal + _thinned(across, MAX_PAIRS)
    return torch.tensor(chosen, dtype=torch.long).reshape(-1, 2)


def _thinned(pairs: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    if len(pairs) <= count:
        return pairs
    return [pairs[i] for i in torch.linspace(0, len(pairs) - 1, count).round().long().tolist()]


def _worst_mistake(sample: Sample, rows: Rows, *, shades: Tensor, pairs: Tensor) -> tuple[Hypothesis, _Gain] | None:
    """The hypothesis that explains most of what differs, if any does so clearly."""
    base = agreement(views_of(sample, shades), pairs)

    def tried(hypothesis: Hypothesis, *, most: int) -> _Gain:
        concerned = _concerned(hypothesis, rows, pairs=pairs).nonzero()[:, 0]
        few = concerned[torch.linspace(0, len(concerned) - 1, min(most, len(concerned))).round().long()]
        views = views_of(sample.mended(hypothesis.mends), shades)
        gain = _gain(_pairs_at(base, few), agreement(views, pairs[few]))
        return dataclasses.replace(gain, total=gain.total * len(concerned) / max(1, len(few)))

    def clear_among(hypotheses: Sequence[Hypothesis]) -> list[tuple[Hypothesis, _Gain]]:
        glances = [(h, tried(h, most=GLANCE).total) for h in hypotheses]
        hopeful = sorted((g for g in glances if g[1] > 0), key=lambda g: -g[1])[:HOPEFUL]
        gains = [(h, tried(h, most=len(pairs))) for h, _ in hopeful]
        return [(h, g) for h, g in gains if g.clear]

    clear = clear_among(hypotheses_of(sample))
    if max((1 - g.after for _, g in clear), default=0) < POOR and float(base.cost[base.known].mean()) > POOR:
        clear += clear_among(compound_hypotheses())
    return max(clear, key=lambda item: item[1].total * item[0].likely) if clear else None


def _concerned(hypothesis: Hypothesis, rows: Rows, *, pairs: Tensor) -> Tensor:
    """Which pairs [p] a hypothesis can change."""
    if not hypothesis.cameras:
        return torch.ones(len(pairs), dtype=torch.bool)
    index = torch.tensor([k for k, n in enumerate(rows.cameras) if n in hypothesis.cameras])
    return torch.isin(rows.camera[pairs], index).any(1)


def _pairs_at(result: Agreement, index: Tensor) -> Agreement:
    return Agreement(*(getattr(result, n)[index] for n in ("cost", "covered", "known", "metres")))


def _gain(base: Agreement, changed: Agreement) -> _Gain:
    shared = base.known & changed.known & (base.covered | changed.covered)
    before, after, pixels = (base.cost * shared).sum(1), (changed.cost * shared).sum(1), shared.sum(1)
    differ = (pixels >= MIN_PIXELS) & ((before - after).abs() > 1e-3 * pixels)
    if not differ.any():
        return _Gain(0, 0, 0, 0, 0)
    before, after, count = before[differ], after[differ], float(pixels[differ].sum())
    return _Gain(
        before=float(before.sum()) / count,
        after=float(after.sum()) / count,
        better=float((after < before).float().mean()),
        num_pairs=int(differ.sum()),
        total=float((before - after).sum()),
    )


def _finding(sample: Sample, hypothesis: Hypothesis, *, gain: _Gain) -> Finding:
    found, expected, mends = _in_words(sample, hypothesis)
    cameras = hypothesis.cameras
    return Finding(
        kind=hypothesis.kind,
        camera=",".join(cameras) if cameras else None,
        field="pose" if mends[-1].name == "position_scale" else hypothesis.field,
        found=found,
        expected=expected,
        fix=" ".join(str(m) for m in mends),
        mends=mends,
        score=(1 - gain.before, 1 - gain.after),
    )


def _in_words(sample: Sample, hypothesis: Hypothesis) -> tuple[str, str, tuple[Mend, ...]]:
    """Found, expected, and the mends (of two that explain the same, the likelier)."""
    mends, value = hypothesis.mends, hypothesis.mends[-1].value
    match hypothesis.kind:
        case "camera_axes":
            return _axes_in_words(mends), "OpenCV axes, poses as the format defines them", mends
        case "depth_unit":
            return _unit_in_words(sample, mends[0])
        case "camera_axes_and_depth_unit":
            found, expected, scaled = _unit_in_words(sample, mends[-1])
            return f"{_axes_in_words(mends[:-1])}, and {found}", f"OpenCV axes, and {expected}", (*mends[:-1], *scaled)
        case "ray_depth":
            return "depth is the distance along the ray", "z-depth, along the optical axis", mends
        case "K_size":
            camera = mends[0].cameras[0] if mends[0].cameras else sample.depth_cameras[0]
            width, height = full_sizes(sample.recording)[camera]
            across, down = float(value[0]), float(value[-1])
            return f"K for {width / across:.0f}x{height / down:.0f} pictures", f"K for {width}x{height}", mends
        case "lag":
            late = int(value[0])
            moved = f"{abs(late)} frame{'s' if abs(late) > 1 else ''} {'late' if late > 0 else 'early'}"
            return f"poses come {moved}", "each picture with its own pose", mends
        case "swapped_cameras":
            return f"{value[0]} has the calibration of {value[1]} and the reverse", "each camera its own", mends
    raise KeyError(hypothesis.kind)


def _axes_in_words(mends: Sequence[Mend]) -> str:
    words = {
        "opengl": "OpenGL axes (y up, z back)",
        "inverted": "poses inverted (camera-from-world for world-from-camera, or the reverse)",
    }
    return " and ".join(words[m.name] for m in mends)


def _unit_in_words(sample: Sample, mend: Mend) -> tuple[str, str, tuple[Mend, ...]]:
    factor, names = float(mend.value[0]), mend.cameras or sample.depth_cameras
    depth = torch.cat([w.views[n].known_depth.flatten() for w in sample.windows for n in names])
    median = float(depth[depth > 0].median())
    # Depth and positions in different units agree whichever of the two is changed.
    if not mend.cameras and PLAUSIBLE_DEPTH[0] < median < PLAUSIBLE_DEPTH[1]:
        times = f"{factor:g} times too small" if factor > 1 else f"{1 / factor:g} times too large"
        return f"camera positions {times} for the depth", "one unit, metres", (Mend("position_scale", (1 / factor,)),)
    return f"depth with a median of {median:.4g} m", f"{median * factor:.4g} m", (mend,)

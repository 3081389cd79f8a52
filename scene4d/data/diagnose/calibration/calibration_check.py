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

from scene4d.data.diagnose.calibration.finding_words import finding_in_words
from scene4d.data.diagnose.calibration.hypotheses import Hypothesis, hypotheses_of
from scene4d.data.diagnose.calibration.misfit import check_fit
from scene4d.data.diagnose.calibration.registration import check_registration
from scene4d.data.diagnose.calibration.reprojection import Agreement, agreement
from scene4d.data.diagnose.calibration.sample import Rows, Sample, rows_of, views_of
from scene4d.data.diagnose.calibration.scale_search import axes_and_scale_hypotheses, is_sound, scale_hypotheses
from scene4d.data.diagnose.colour.colour_check import ColourReport, check_colour
from scene4d.data.diagnose.finding import Finding
from scene4d.data.diagnose.frame_faults import check_holes
from scene4d.data.diagnose.world_axis import check_world_axis

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
GOOD_SHARE, POOR_SHARE = 0.45, 0.25  # of the pixels seen twice: most well calibrated recordings, most spoiled ones


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
    relative: float | None = None
    """The same as a share of the depth."""
    untested: str = ""
    colour: ColourReport | None = None
    """What points found in several pictures show, where depth does not show all."""


@dataclass(frozen=True)
class _Gain:
    """How a hypothesis compares with what is, over the pixels that either of the two covers, pair by pair."""

    before: float  # blame of a pixel
    after: float
    shares: tuple[float, float]  # of the pixels that agree, before and after
    better: float
    num_pairs: int
    total: float

    @property
    def clear(self) -> bool:
        enough = self.num_pairs >= MIN_PAIRS and self.better >= MIN_BETTER
        # Less to blame is not enough: cameras that look away from each other have nothing to blame.
        enough = enough and self.shares[1] - self.shares[0] >= MIN_GAIN
        return enough and self.after <= MAX_RATIO * self.before and self.before - self.after >= MIN_GAIN


def check_calibration(sample: Sample) -> CalibrationReport:
    """Compare views of a sample, and look for the mistakes that explain where they differ."""
    findings = [*check_holes(sample.windows), *check_registration(sample)] if sample.depth_cameras else []
    pairs = pairs_of(rows_of(sample), moving=sample.moving()) if sample.depth_cameras else torch.zeros(0, 2)
    if not len(pairs):
        findings += check_world_axis(sample, tested=False)
        reason = "one camera that stands still: there are no two views" if sample.depth_cameras else "no depth"
        colour = check_colour(sample.recording, moving=sample.moving())
        return CalibrationReport((*findings, *colour.findings), 0, untested=reason, colour=colour)
    mends, rows = [m for f in findings for m in f.mends], rows_of(sample)
    before = agreement(views_of(sample), pairs)
    for _ in range(MAX_MISTAKES):
        mended = sample.mended(mends)
        found = _worst_mistake(mended, rows, pairs=pairs)
        if found is None:
            break
        findings.append(finding_in_words(mended, found[0], score=found[1].shares))
        mends += findings[-1].mends
    findings += check_fit(sample.mended(mends), rows, pairs=pairs, mended=bool(mends))
    findings += check_world_axis(sample.mended(mends), tested=True)
    covered, share, median_mm, relative = before.covered, 0.0, None, None
    if covered.any():
        share, median_mm = 1 - float(before.cost[covered].mean()), 1e3 * float(before.metres[covered].median())
        relative = float(before.relative[covered].abs().median())
    colour = None
    if len(sample.depth_cameras) < len(sample.cameras) or not covered.any():
        colour = check_colour(sample.recording, moving=sample.moving())
        known = {(f.kind, f.camera) for f in findings}
        findings += [f for f in colour.findings if (f.kind, f.camera) not in known]
    figures = {"agreement": share, "median_mm": median_mm, "relative": relative}
    return CalibrationReport(tuple(findings), len(pairs), **figures, colour=colour)


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


def _worst_mistake(sample: Sample, rows: Rows, *, pairs: Tensor) -> tuple[Hypothesis, _Gain] | None:
    """The hypothesis that explains most of what differs, if any does so clearly."""
    base = agreement(views_of(sample), pairs)

    def tried(hypothesis: Hypothesis, *, most: int) -> _Gain:
        concerned = _concerned(hypothesis, rows, pairs=pairs).nonzero()[:, 0]
        few = concerned[torch.linspace(0, len(concerned) - 1, min(most, len(concerned))).round().long()]
        gain = _gain(base.at(few), agreement(views_of(sample.mended(hypothesis.mends)), pairs[few]))
        return dataclasses.replace(gain, total=gain.total * len(concerned) / max(1, len(few)))

    def clear_among(hypotheses: Sequence[Hypothesis]) -> list[tuple[Hypothesis, _Gain]]:
        glances = [(h, tried(h, most=GLANCE).total) for h in hypotheses]
        hopeful = sorted((g for g in glances if g[1] > 0), key=lambda g: -g[1])[:HOPEFUL]
        gains = [(h, tried(h, most=len(pairs))) for h, _ in hopeful]
        return [(h, g) for h, g in gains if g.clear]

    clear = clear_among(hypotheses_of(sample) + scale_hypotheses(sample, rows, pairs=pairs))
    if max((g.shares[1] for _, g in clear), default=0) < POOR and not is_sound(base):
        clear += clear_among(axes_and_scale_hypotheses(sample, pairs=pairs))
    return max(clear, key=lambda item: item[1].total * item[0].likely) if clear else None


def _concerned(hypothesis: Hypothesis, rows: Rows, *, pairs: Tensor) -> Tensor:
    """Which pairs [p] a hypothesis can change."""
    if not hypothesis.cameras:
        return torch.ones(len(pairs), dtype=torch.bool)
    index = torch.tensor([k for k, n in enumerate(rows.cameras) if n in hypothesis.cameras])
    return torch.isin(rows.camera[pairs], index).any(1)


def _gain(base: Agreement, changed: Agreement) -> _Gain:
    shared = base.known & changed.known & (base.covered | changed.covered)
    before, after, pixels = (base.blame * shared).sum(1), (changed.blame * shared).sum(1), shared.sum(1)
    differ = (pixels >= MIN_PIXELS) & ((before - after).abs() > 1e-3 * pixels)
    if not differ.any():
        return _Gain(0, 0, (0, 0), 0, 0, 0)
    count, compared = float(pixels[differ].sum()), shared & differ[:, None]
    agreed = lambda result: 1 - float((result.cost * compared).sum()) / count
    return _Gain(
        before=float(before[differ].sum()) / count,
        after=float(after[differ].sum()) / count,
        shares=(agreed(base), agreed(changed)),
        better=float((after < before)[differ].float().mean()),
        num_pairs=int(differ.sum()),
        total=float((before - after)[differ].sum()),
    )

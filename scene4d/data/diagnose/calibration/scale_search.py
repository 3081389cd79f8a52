"""How large camera positions and depth are beside each other: any factor, searched where views agree best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from scene4d.data.diagnose.calibration.hypotheses import AXES, Hypothesis
from scene4d.data.diagnose.calibration.reprojection import DEPTH_TOLERANCE, Agreement, Views, agreement
from scene4d.data.diagnose.calibration.sample import Rows, Sample, views_of
from scene4d.data.diagnose.repair.mend import Mend

PLAIN = (10.0, 100.0, 1000.0, 10_000.0, 2.0, 4.0, 5.0)  # and their inverses: what units and formats differ by
NEAR_PLAIN, AS_GOOD = 0.02, 0.985  # a plain factor is meant where it is this near, and views agree as well on it
WHOLE, NEARBY = (1e-4, 1e4), (0.5, 2.0)
STEPS = (1.09, 1.02, 1.004)  # between factors: a glance, a look, the answer
FINE = ((1.008, 1.001), (1.001, 1.0001))  # how far to both sides, and in what steps, the answer is made finer
PEAKS = 3
SHARED, EDGES = 0.25, 0.04  # of the pixels seen twice
GLANCE = 12  # pairs
SOUND = 0.01  # of the depth: where views differ by less, mostly, no other scale is far away

Scaling = Callable[[Views, float], Views]


def scale_hypotheses(sample: Sample, rows: Rows, *, pairs: Tensor) -> list[Hypothesis]:
    """The factor between positions and depth on which most of a sample agrees, for all cameras and for each."""
    views = views_of(sample)
    # Of all depth and of all positions together, only the ratio can be seen.
    span = NEARBY if is_sound(agreement(views, pairs)) else WHOLE
    factor = best_factor(views, pairs, scaled=_positions_of(None), span=span)
    found = [Hypothesis("position_scale", "pose", (Mend("position_scale", (factor,)),))]
    names = sample.depth_cameras
    for k, name in enumerate(names if len(names) > 1 else ()):
        mine, concerned = rows.camera == k, (rows.camera[pairs] == k).any(1)
        if not concerned.any() or _fits_mostly(agreement(views, pairs[concerned])):
            continue
        for mend, scaling in (("depth_scale", _depth_of(mine)), ("position_scale", _positions_of(mine))):
            factor = best_factor(views, pairs[concerned], scaled=scaling)
            kind, field = ("depth_unit", "depth") if mend == "depth_scale" else ("position_scale", "pose")
            found.append(Hypothesis(kind, field, (Mend(mend, (factor,), (name,)),)))
    return [h for h in found if abs(float(h.mends[0].value[0]) - 1) > NEAR_PLAIN]


def axes_and_scale_hypotheses(sample: Sample, *, pairs: Tensor) -> list[Hypothesis]:
    """Axes and scale wrong at once: neither alone makes views agree."""
    found = []
    for words in AXES:
        mends = tuple(Mend(w) for w in words)
        factor = best_factor(views_of(sample.mended(mends)), pairs, scaled=_positions_of(None))
        scale = Mend("position_scale", (factor,))
        found.append(Hypothesis("camera_axes_and_position_scale", "pose, depth", (*mends, scale)))
    return found


def best_factor(views: Views, pairs: Tensor, *, scaled: Scaling, span: tuple[float, float] = WHOLE) -> float:
    """The factor within `span` with which most of the views' surface agrees; what is no plain one to about 0.1 %."""
    agreed = lambda factors, *, views, pairs: [_agreed(scaled(views, f), pairs) for f in factors]
    few = pairs[torch.linspace(0, len(pairs) - 1, min(GLANCE, len(pairs))).round().long()]
    half, glances = _half(views), _between(*span, step=STEPS[0])
    shares = agreed(glances, views=half, pairs=few)
    rising = [k for k in range(len(glances)) if shares[k] >= max(shares[max(0, k - 1) : k + 2])]
    peaks = [glances[k] for k in sorted(rising, key=lambda k: -shares[k])[:PEAKS]]
    looks = [f for peak in peaks for f in _between(peak / STEPS[0], peak * STEPS[0], step=STEPS[1])]
    shares = agreed(looks, views=half, pairs=few)
    peak = looks[shares.index(max(shares))]
    factors = _between(peak / STEPS[1] ** 1.5, peak * STEPS[1] ** 1.5, step=STEPS[2])
    shares = agreed(factors, views=views, pairs=pairs)
    best = factors[shares.index(max(shares))]
    for plain in (1.0, *PLAIN, *(1 / p for p in PLAIN)):
        if abs(best / plain - 1) < NEAR_PLAIN and agreed([plain], views=views, pairs=pairs)[0] >= AS_GOOD * max(shares):
            return plain
    return _finest(views, pairs, scaled=scaled, factor=best)


def _finest(views: Views, pairs: Tensor, *, scaled: Scaling, factor: float) -> float:
    """The factor beside one known to 0.4 % at which depth of two views differs least, mostly."""

    def off(factor: float) -> float:
        result = agreement(scaled(views, factor), pairs)
        return float(result.relative[result.covered].abs().median()) if result.covered.any() else math.inf

    for reach, step in FINE:
        factor = min(_between(factor / reach, factor * reach, step=step), key=off)
    return factor


def is_sound(result: Agreement) -> bool:
    """Whether depth of two views differs by little, mostly."""
    return bool(result.covered.any()) and float(result.relative[result.covered].abs().median()) < SOUND


def _fits_mostly(result: Agreement) -> bool:
    """Whether a good part of the views agrees, and no more pixels look through a surface than its edges make."""
    relative = result.relative[result.covered]
    near = float((relative.abs() < SOUND).float().mean()) if len(relative) else 0.0
    return near > SHARED and float((relative < -DEPTH_TOLERANCE).float().mean()) < EDGES


def _between(low: float, high: float, *, step: float) -> list[float]:
    count = max(1, round(math.log(high / low) / math.log(step)))
    return [low * (high / low) ** (k / count) for k in range(count + 1)]


def _half(views: Views) -> Views:
    """Views of half the width and height."""
    rows = views.Ks.new_tensor([[0.5], [0.5], [1.0]])
    return Views(views.viewmats, views.Ks * rows, views.depth[:, ::2, ::2], views.shade[:, ::2, ::2])


def _agreed(views: Views, pairs: Tensor) -> float:
    """How many pixels agree: a sum, so that a factor does not win by leaving most of them out."""
    result = agreement(views, pairs)
    return float(((1 - result.blame) * result.known).sum())


def _positions_of(rows: Tensor | None) -> Scaling:
    def scaled(views: Views, factor: float) -> Views:
        viewmats = views.viewmats.clone()
        viewmats[slice(None) if rows is None else rows, :3, 3] *= factor
        return replace(views, viewmats=viewmats)

    return scaled


def _depth_of(rows: Tensor) -> Scaling:
    mine = rows[:, None, None]
    return lambda views, factor: replace(views, depth=torch.where(mine, views.depth * factor, views.depth))

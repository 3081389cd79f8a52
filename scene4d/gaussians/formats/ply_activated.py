"""Whether a splat .ply holds sizes and opacities themselves where logarithms and logits belong.

The layout has no word for it, so the numbers must tell. Two signs: no log scale is below 0, which says that no splat is
thinner than a unit, and every logit lies in [0, 1], which says that every splat is about half transparent. Both of them
are certain. One alone is believed where reading by the layout gives an absurd scene, and is else only named.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scene4d.ledger import LeftOut

LEAST = 4
"""Splats below which chance can give both signs."""
ENOUGH = 8
"""The same for one sign."""
LARGE = 0.2
"""Median size of a splat over the radius of the scene; splats above it are no parts of a scene."""
SPREAD = 0.5
"""Range in [0, 1] that opacities have and logits have not."""
FIX = "export it again with log scales and logit opacities: other viewers read it wrongly too"


@dataclass(frozen=True)
class Activated:
    """Which columns hold values that need no exp or sigmoid any more, and the notes on that."""

    scales: bool
    opacities: bool
    notes: tuple[LeftOut, ...] = ()


def find_activated(means: np.ndarray, *, scales: np.ndarray, opacities: np.ndarray) -> Activated:
    """Judge the columns as they lie in the file: means [n 3], scales [n 2] or [n 3], opacities [n]."""
    finite = np.isfinite(means).all(1) & np.isfinite(scales).all(1) & np.isfinite(opacities)
    means, scales, opacities = means[finite], scales[finite], opacities[finite]
    num = len(means)
    if num < LEAST:
        return Activated(False, False)
    no_log = bool((scales >= 0).all() and scales.max() > 0)
    no_logit = bool((opacities >= 0).all() and 0 < opacities.max() <= 1)
    large_as_log, large_as_it_is = _too_large(means, scales)
    as_sizes = no_log and (no_logit or (num >= ENOUGH and large_as_log and not large_as_it_is))
    as_opacities = no_logit and (as_sizes or (num >= ENOUGH and bool(np.ptp(opacities) > SPREAD)))
    notes = []
    if as_sizes or (no_log and large_as_log and num >= ENOUGH):
        names = tuple(f"scale_{i}" for i in range(scales.shape[1]))
        notes.append(_note("scales", names, values=scales, believed=as_sizes))
    if as_opacities or (no_logit and num >= ENOUGH):
        notes.append(_note("opacities", ("opacity",), values=opacities, believed=as_opacities))
    return Activated(as_sizes, as_opacities, tuple(notes))


def _too_large(means: np.ndarray, scales: np.ndarray) -> tuple[bool, bool]:
    """Whether splats are too large for their scene when the columns are logarithms, and when they are sizes."""
    distances = np.linalg.norm(means - np.median(means, 0), axis=1)
    limit = LARGE * float(np.quantile(distances, 0.9))
    size = float(np.median(scales))
    return bool(np.exp(min(size, 700.0)) > limit), size > limit


def _note(field: str, names: tuple[str, ...], *, values: np.ndarray, believed: bool) -> LeftOut:
    what, plain = ("logarithms", "sizes") if field == "scales" else ("logits", "opacities")
    span = f"{values.min():.4g} .. {values.max():.4g}"
    if believed:
        reason = f"hold {plain} ({span}) where {what} belong: activated values, read as they are"
        return LeftOut("activated_values", field, names, reason, FIX)
    reason = f"may hold {plain} ({span}) where {what} belong: activated values? read as {what}, as the layout says"
    return LeftOut("activated_values", field, names, reason, FIX)

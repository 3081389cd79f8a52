"""How sure a figure is that episodes give: drawn again from them, with replacement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DRAWS = 2000
NAN = float("nan")


def resampled_means(values: Sequence[Sequence[float]], *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Means [draws] over all values of as many episodes as there are, drawn with replacement; NaN where there are none.

    Args:
        values: of each episode any number of values, those that are no number left out. seed: of the drawing; figures
            that are compared are drawn with the same one.
    Source: Efron and Tibshirani 1993, chapter 6; episodes are drawn, not windows, which resemble one another.
    """
    sums = np.array([np.nansum(np.asarray(each, float)) for each in values])
    counts = np.array([np.isfinite(np.asarray(each, float)).sum() for each in values], float)
    chosen = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[chosen].sum(1) / counts[chosen].sum(1)


def interval(draws: np.ndarray, *, level: float = 0.95) -> tuple[float, float] | None:
    """The central interval of drawn figures that holds `level` of those that are numbers; None where none is."""
    found = draws[np.isfinite(draws)]
    if len(found) == 0:
        return None
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of one number an episode."""
    found = interval(resampled_means([[value] for value in values]))
    return (NAN, NAN) if found is None else found

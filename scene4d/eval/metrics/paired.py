"""Two methods on the same views: the mean difference, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

ViewTable = Mapping[str, Mapping[str, float | None]]


def paired_difference(ours: Sequence[float | None], theirs: Sequence[float | None]) -> dict[str, Any] | None:
    """{mean, se, num} of ours minus theirs, pair by pair; se = standard error of the mean (None for one pair).

    Pairs of which one is missing are left out; None if none is left.
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    if not differences:
        return None
    num, mean = len(differences), sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / (num - 1) if num > 1 else math.nan
    return {"mean": mean, "se": math.sqrt(variance / num) if num > 1 else None, "num": num}


def paired_tables(tables: Mapping[str, ViewTable], *, first: str, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{method: {key: paired difference}} of the method `first` against every other, over the views that both have."""
    ours = tables[first]
    out: dict[str, dict[str, Any]] = {}
    for method, views in tables.items():
        if method == first:
            continue
        names = [name for name in ours if name in views]
        out[method] = {
            key: paired_difference([ours[n].get(key) for n in names], [views[n].get(key) for n in names])
            for key in keys
        }
    return out


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those that are there, None if none is."""
    numbers = [v for v in values if v is not None]
    return sum(numbers) / len(numbers) if numbers else None


def mean_scores(views: ViewTable, *, keys: Sequence[str]) -> dict[str, float | None]:
    """{key: mean over the views that have it}."""
    return {key: mean_of([view.get(key) for view in views.values()]) for key in keys}

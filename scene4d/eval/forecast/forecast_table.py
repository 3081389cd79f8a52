"""The forecast table: means over windows, and what only a comparison of rows shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scene4d.eval.metrics.bootstrap import interval, resampled_means

CONTROL = "controllability"
MEASURED = (
    "psnr", "psnr_moving", "ssim", "flow_epe_moving", "flow_epe_static", "depth_absrel", "chamfer", "chamfer_moving",
    "psnr_novel", "psnr_unseen", CONTROL,
)  # fmt: skip
"""Measured on every row. PSNR in dB: mean over images of the inputs, over their moving pixels, over the other cameras,
over what these show that no input had ever seen; flow errors and Chamfer distances (mean distance, both ways, summed)
of what the inputs see, all of it or its moving pixels, in m; controllability: dB on moving pixels of the true actions
over others of the same task."""
DERIVED = ("gain", "gain_moving", "gain_novel", "gain_unseen", "gap_closed", "gap_closed_moving")
"""Made from the means: dB over copying the last frame, or the last observed scene rendered in the other cameras, or the
better of that and one median colour; share of the gap from copying to exact motion with memory that is closed."""
KEYS = (*MEASURED, *DERIVED)
COPY, ORACLE, MEDIAN_FILL = "copy_last", "exact_flow_memory", "median_fill"
IN_DB = ("psnr", "psnr_moving", "psnr_novel", "psnr_unseen", CONTROL)
SHARE_OF = {"gap_closed": "psnr", "gap_closed_moving": "psnr_moving"}
GAIN_OF = {"gain": "psnr", "gain_moving": "psnr_moving", "gain_novel": "psnr_novel", "gain_unseen": "psnr_unseen"}
MIN_GAP_DB = 0.1
"""A gap smaller than this is not shared out."""


Scores = Mapping[tuple[str, int], Mapping[str, float]]
"""{(name, horizon): {metric: value, NaN where there was nothing to measure}} of a window."""
INTERVAL = "interval"


def forecast_table(
    episodes: Sequence[Sequence[Scores]], names: Sequence[str], *, horizons: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """{"1": {metric: of names[0], other name: {metric: value}, ..., median_fill: {psnr_unseen}}, ...} over windows.

    Args:
        episodes: of each the scores of its windows.
    Returns:
        Every row has all of KEYS; None where nothing was measured. Rows of several episodes have `interval`: {metric:
        [low, high]}, which holds 95 % of what the figure comes out as for episodes drawn again from these.
    """
    table: dict[str, dict[str, Any]] = {}
    scores = [score for windows in episodes for score in windows]
    for horizon in horizons:
        drawn = _drawn_means(episodes, [*names, MEDIAN_FILL], horizon=horizon) if len(episodes) > 1 else {}
        means = {
            name: {k: mean_of_numbers([s[name, horizon].get(k, NAN) for s in scores]) for k in MEASURED}
            for name in (*names, MEDIAN_FILL)
        }
        rows: dict[str, dict[str, Any]] = {
            name: _rounded({**means[name], **compared(means[name], means)}) for name in names
        }
        for name in names if drawn else ():
            rows[name][INTERVAL] = _intervals(name, drawn)
        first = names[0]
        table[str(horizon)] = {
            **rows[first],
            **{name: rows[name] for name in names if name != first},
            MEDIAN_FILL: {"psnr_unseen": _rounded(means[MEDIAN_FILL])["psnr_unseen"]},
        }
    return table


def _drawn_means(
    episodes: Sequence[Sequence[Scores]], names: Sequence[str], *, horizon: int
) -> dict[str, dict[str, np.ndarray]]:
    """{name: {metric: means [draws]}} over the windows of episodes that are drawn again, the same for all of them."""
    values = lambda name, key: [[s[name, horizon].get(key, NAN) for s in windows] for windows in episodes]
    return {name: {key: resampled_means(values(name, key)) for key in MEASURED} for name in names}


def _intervals(name: str, drawn: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, list[float]]:
    """95 % intervals of a row's figures, of those that were measured."""
    row, copy, oracle = drawn[name], drawn.get(COPY), drawn.get(ORACLE)
    figures = {key: row[key] for key in MEASURED}
    if copy is not None:
        figures |= {key: row[metric] - copy[metric] for key, metric in GAIN_OF.items() if metric != "psnr_unseen"}
    if copy is not None and oracle is not None:
        for key, metric in SHARE_OF.items():
            gap = oracle[metric] - copy[metric]
            figures[key] = (row[metric] - copy[metric]) / np.where(gap > MIN_GAP_DB, gap, NAN)
    found = {key: interval(draws) for key, draws in figures.items()}
    digits = lambda key: 3 if key in IN_DB or key in DERIVED else 5
    return {key: [round(x, digits(key)) for x in ends] for key, ends in found.items() if ends is not None}


def compared(row: Mapping[str, float], means: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """DERIVED of one row of means {name: {metric: value}}; NaN where what it is compared with is missing."""
    copy, oracle = means.get(COPY, {}), means.get(ORACLE, {})
    fill = means.get(MEDIAN_FILL, {}).get("psnr_unseen", NAN)
    out = {}
    for key, metric in GAIN_OF.items():
        baseline = copy.get(metric, NAN)
        if metric == "psnr_unseen" and fill > baseline:
            baseline = fill
        out[key] = row.get(metric, NAN) - baseline
    for key, metric in SHARE_OF.items():
        gap = oracle.get(metric, NAN) - copy.get(metric, NAN)
        out[key] = (row.get(metric, NAN) - copy.get(metric, NAN)) / gap if gap > MIN_GAP_DB else NAN
    return out


NAN = float("nan")


def mean_of_numbers(values: Sequence[float]) -> float:
    """The mean of what is a number; NaN if nothing is."""
    numbers = [v for v in values if v == v]
    return sum(numbers) / len(numbers) if numbers else NAN


def _rounded(row: Mapping[str, float]) -> dict[str, Any]:
    digits = lambda key: 3 if key in IN_DB or key in DERIVED else 5
    return {key: round(value, digits(key)) if value == value else None for key, value in row.items()}


def printed_table(table: Mapping[str, Mapping[str, Any]], *, keys: Sequence[str], first: str = "ours") -> str:
    """The rows of `forecast_table` as text, one line a horizon and name, the columns `keys`."""
    lines = [f"{'steps':>5}  {'':<18}" + "".join(f"{key:>18}" for key in keys)]
    for steps, row in table.items():
        named = {first: row, **{name: value for name, value in row.items() if isinstance(value, Mapping)}}
        for name, values in named.items():
            cells = (f"{values[k]:>18.4f}" if values.get(k) is not None else f"{'-':>18}" for k in keys)
            lines.append(f"{steps:>5}  {name:<18}" + "".join(cells))
    return "\n".join(lines)

"""Whether statistics and data belong together: same columns, same rate, same units, not normalised before."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scene4d.data.load.normalise import FAR, STILL, ColumnStats, Statistics
from scene4d.errors import ConfigError
from scene4d.robot.columns import Column

MIN_ROWS = 30  # fewer say nothing about a spread


def check_columns(
    statistics: Statistics, *, actions: tuple[Column, ...], proprio: tuple[Column, ...], rate: float, file: Path | None
) -> None:
    """Refuse statistics of other columns or of another rate.

    Raises:
        ConfigError: naming the columns that differ, or both rates.
    """
    for field, stats, columns in (("actions", statistics.actions, actions), ("proprio", statistics.proprio, proprio)):
        if stats.columns == columns:
            continue
        more = [str(c) for c in columns if c not in stats.columns]
        less = [str(c) for c in stats.columns if c not in columns]
        named = [f"without statistics: {', '.join(more[:8])}"] * bool(more)
        named += [f"not in the recordings: {', '.join(less[:8])}"] * bool(less)
        raise ConfigError(
            "the statistics are of other columns",
            file=file,
            field=field,
            found=f"{len(stats.columns)} columns; {'; '.join(named) or 'another order'}",
            expected=f"{len(columns)} columns",
            fix="use the statistics that were saved with these weights, or compute them again",
        )
    if abs(statistics.rate - rate) > 0.01 * rate:
        fix = f"set rate = {statistics.rate:g}, or compute the statistics again: a step's action grows with its length"
        raise ConfigError(
            "the statistics are of another rate", file=file, field="rate", found=statistics.rate, expected=rate, fix=fix
        )


def check_recorded(stats: ColumnStats, *, field: str) -> None:
    """Refuse data that claim units but are spread like normalised ones.

    Raises:
        ConfigError: all columns in metres, radians, ... have mean 0 and deviation 1, or span exactly -1..1.
    """
    physical = np.array([c.physical for c in stats.columns], bool)
    how = _looks_normalised(stats, physical)
    if how is not None:
        units = sorted({str(c.unit) for c, p in zip(stats.columns, physical, strict=True) if p})
        raise ConfigError(
            f"the recorded numbers look normalised already ({how})",
            field=field,
            found=f"mean {_short(stats.mean[physical])}, std {_short(stats.std[physical])}",
            expected=f"values in {', '.join(units)}",
            fix='record raw numbers, or set scaling = "none"',
        )


def check_fits(stats: ColumnStats, seen: ColumnStats, *, field: str, file: Path | None) -> None:
    """Refuse to apply statistics to data that they cannot be of.

    Args:
        stats: what would be applied. seen: of a sample of the data at hand.
    Raises:
        ConfigError: the data are normalised already (then they would be a second time), stand still, or lie far off.
    """
    if seen.count.min(initial=np.inf) < MIN_ROWS:
        return
    moving = stats.std > STILL * np.maximum(1, np.abs(stats.mean))
    how = _looks_normalised(seen, moving)
    if how is not None and _looks_normalised(stats, moving) is None and _apart(stats, seen)[moving].any():
        raise ConfigError(
            f"the data look normalised already ({how}); they would be a second time",
            file=file,
            field=field,
            found=f"mean {_short(seen.mean[moving])}, std {_short(seen.std[moving])}",
            expected=f"mean {_short(stats.mean[moving])}, std {_short(stats.std[moving])}",
            fix='give the recorded numbers, or set scaling = "none"',
        )
    scale = np.where(moving, stats.std, 1.0)
    shift, spread = np.abs(seen.mean - stats.mean) / scale, seen.std / scale
    off = moving & ((shift > FAR) | (spread > FAR))
    if off.any():
        i = int(np.argmax(np.where(off, np.maximum(shift, spread), 0)))
        raise ConfigError(
            "the statistics are of other data, or of another unit",
            file=file,
            field=f"{field}: {stats.columns[i]}",
            found=f"mean {seen.mean[i]:.4g}, std {seen.std[i]:.4g}",
            expected=f"near mean {stats.mean[i]:.4g}, std {stats.std[i]:.4g}",
            fix="compute the statistics from recordings of this kind",
        )


def _looks_normalised(stats: ColumnStats, which: np.ndarray) -> str | None:
    """How all of these columns are spread, if as normalised ones are; one column alone proves nothing."""
    if which.sum() < 2:
        return None
    mean, std = stats.mean[which], stats.std[which]
    if (np.abs(mean) < 0.2).all() and (np.abs(std - 1) < 0.2).all():
        return "mean 0, deviation 1"
    if (np.abs(stats.min[which] + 1) < 1e-3).all() and (np.abs(stats.max[which] - 1) < 1e-3).all():
        return "spanning -1 to 1"
    return None


def _apart(stats: ColumnStats, seen: ColumnStats) -> np.ndarray:
    """Columns [a] whose spread is not that of the data."""
    ratio = seen.std / np.maximum(stats.std, 1e-12)
    return (ratio > 2) | (ratio < 0.5) | (np.abs(seen.mean - stats.mean) > stats.std)


def _short(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{v:.3g}" for v in values[:6]) + (", ..." if len(values) > 6 else "") + "]"

"""Actions and proprio brought to one scale, by statistics of the training recordings kept beside the weights."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scene4d.data.json_files import read_json
from scene4d.data.load.clip import Clip
from scene4d.errors import ConfigError, DataFormatError, VersionError
from scene4d.files import atomic_file
from scene4d.robot.columns import Column

VERSION = 1
SCALINGS = ("gauss", "range", "quantile", "none")
MOMENTS = ("mean", "std", "min", "max", "q01", "q99")
MAX_ROWS = 2_000_000
MAX_NAMED = 8
STILL = 1e-6  # of a column's size: what moves less is inert
FAR = 8.0  # standard deviations: data whose mean or spread is that far off are other data


@dataclass(frozen=True)
class ColumnStats:
    """How the numbers of some columns are spread; arrays [a] float64 in the columns' units."""

    columns: tuple[Column, ...]
    count: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    q01: np.ndarray
    q99: np.ndarray

    def affine(self, scaling: str, *, inert: Sequence[str], field: str) -> tuple[Tensor, Tensor]:
        """(offset, scale) [a] float32 of value -> (value - offset) / scale.

        gauss: mean 0, standard deviation 1; range: least and largest value to -1 and 1; quantile: so the 1st and 99th
        percentile. Columns that `inert` names (patterns such as "gripper_*") may stand still: such are shifted.

        Raises:
            ConfigError: another column does not move: its scale would be nothing, or noise blown up.
        """
        match scaling:
            case "gauss":
                offset, scale = self.mean, self.std
            case "range":
                offset, scale = (self.min + self.max) / 2, (self.max - self.min) / 2
            case "quantile":
                offset, scale = (self.q01 + self.q99) / 2, (self.q99 - self.q01) / 2
            case "none":
                offset, scale = np.zeros_like(self.mean), np.ones_like(self.mean)
            case _:
                raise ConfigError("is no scaling", field="scaling", found=scaling, expected=list(SCALINGS))
        still = ~(scale > STILL * np.maximum(1, np.abs(self.mean)))
        names = [c.name for c in self.columns]
        expected = lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in inert)
        wrong = [n for n, s in zip(names, still, strict=True) if s and not expected(n)]
        if wrong:
            known = ", ".join(f'"{name}"' for name in wrong[:MAX_NAMED]) + ", ..." * (len(wrong) > MAX_NAMED)
            fix = f'if they really stand still, set inert = [{known}] ("*" stands for any letters)'
            if scaling == "quantile" and not (self.std[still] <= STILL).any():
                fix = f'they move in less than 2 % of the steps: set scaling = "gauss", or inert = [{known}]'
            raise ConfigError(
                f"{len(wrong)} columns do not move: they cannot be normalised", field=field,
                found=", ".join(wrong[:MAX_NAMED]) + ", ..." * (len(wrong) > MAX_NAMED),
                expected="a spread above 0", fix=fix,
            )  # fmt: skip
        scale = np.where(still, 1.0, scale)
        return torch.from_numpy(offset).float(), torch.from_numpy(scale).float()

    def as_list(self) -> list[dict[str, Any]]:
        """JSON-ready, a row a column."""
        return [
            {**c.as_dict(), "count": int(self.count[i]), **{m: float(getattr(self, m)[i]) for m in MOMENTS}}
            for i, c in enumerate(self.columns)
        ]


def column_stats(parts: Iterable[tuple[np.ndarray, np.ndarray]], columns: Sequence[Column]) -> ColumnStats:
    """Statistics of (values [k a], valid [k a]) parts; percentiles from at most two million rows, evenly thinned.

    Raises:
        ConfigError: a column has fewer than two values, or one that is not finite.
    """
    width = len(columns)
    count, mean, square = np.zeros(width), np.zeros(width), np.zeros(width)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    kept: list[np.ndarray] = []
    rows, thin = 0, 1
    for values, valid in parts:
        for i in np.flatnonzero((~np.isfinite(values) & valid).any(0)):
            raise ConfigError("holds numbers that are not finite", field=str(columns[i]), fix="mend or leave out")
        shown = np.where(valid, values, 0.0)
        n = valid.sum(0)
        new = np.divide(shown.sum(0), n, out=np.zeros(width), where=n > 0)
        spread = (np.where(valid, values - new, 0.0) ** 2).sum(0)
        total = np.maximum(count + n, 1)
        square += spread + (new - mean) ** 2 * count * n / total  # Chan et al. 1979: moments of two parts joined
        mean += (new - mean) * n / total
        count += n
        low = np.minimum(low, np.where(valid, values, np.inf).min(0, initial=np.inf))
        high = np.maximum(high, np.where(valid, values, -np.inf).max(0, initial=-np.inf))
        kept.append(np.where(valid, values, np.nan)[::thin].astype(np.float32))
        rows += len(kept[-1])
        if rows > MAX_ROWS:
            kept, thin = [np.concatenate(kept)[::2]], 2 * thin
            rows = len(kept[0])
    few = [str(c) for c, n in zip(columns, count, strict=True) if n < 2]
    if few:
        raise ConfigError("columns have fewer than two values", found=", ".join(few), fix="give more recordings")
    quantiles = np.nanquantile(np.concatenate(kept), [0.01, 0.99], axis=0) if width else np.zeros((2, 0))
    q01, q99 = quantiles.astype(np.float64).clip(low, high)
    return ColumnStats(tuple(columns), count, mean, np.sqrt(square / np.maximum(count, 1)), low, high, q01, q99)


@dataclass(frozen=True)
class Statistics:
    """What normalises a loader's actions and proprio; made of training recordings only, saved as JSON."""

    actions: ColumnStats
    proprio: ColumnStats
    rate: float
    """Steps a second that the actions were combined to: a step's size depends on it."""
    recordings: tuple[str, ...]
    """Names of the recordings they were made of."""

    def save(self, path: str | os.PathLike) -> Path:
        """Write JSON, whole or not at all."""
        value = {
            "version": VERSION,
            "rate": self.rate,
            "actions": self.actions.as_list(),
            "proprio": self.proprio.as_list(),
            "recordings": list(self.recordings),
        }
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return Path(path)


def load_statistics(path: str | os.PathLike) -> Statistics:
    """Read what `Statistics.save` wrote.

    Raises:
        DataFormatError: missing, damaged, or with impossible numbers. VersionError: written by a later version.
    """
    file = Path(path)
    value = read_json(file, fix="compute the statistics again from the training recordings")
    if value.get("version") != VERSION:
        raise VersionError("is of another version", file=file, found=value.get("version"), expected=VERSION)
    rate, recordings = value.get("rate"), value.get("recordings")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1e9:
        raise DataFormatError("is no rate", file=file, field="rate", found=rate)
    names = tuple(map(str, recordings)) if isinstance(recordings, list) else ()
    parts = [_stats_from(value.get(key), file=file, field=key) for key in ("actions", "proprio")]
    return Statistics(parts[0], parts[1], float(rate), names)


def _stats_from(rows: Any, *, file: Path, field: str) -> ColumnStats:
    numbers = {key: [] for key in ("count", *MOMENTS)}
    columns = []
    text = lambda v: None if v is None else str(v)
    for i, row in enumerate(rows if isinstance(rows, list) else [None]):
        for key, found in numbers.items():
            value = row.get(key) if isinstance(row, dict) else None
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
                where = f"{field}[{i}].{key}"
                raise DataFormatError("is no number", file=file, field=where, found=value, fix="compute them again")
            found.append(float(value))
        columns.append(Column(str(row.get("name")), *(text(row.get(k)) for k in ("unit", "frame", "owner"))))
    stats = ColumnStats(tuple(columns), **{key: np.array(found, np.float64) for key, found in numbers.items()})
    ordered = (stats.std >= 0) & (stats.min <= stats.q01) & (stats.q01 <= stats.q99) & (stats.q99 <= stats.max)
    if not ordered.all():
        at = f"{field}[{int((~ordered).argmax())}]"
        raise DataFormatError("contradicts itself", file=file, field=at, expected="min <= q01 <= q99 <= max, std >= 0")
    return stats


@dataclass(frozen=True)
class Normaliser:
    """Offset and scale of each column, applied to clips and taken back."""

    action_offset: Tensor
    action_scale: Tensor
    proprio_offset: Tensor
    proprio_scale: Tensor

    @classmethod
    def of(cls, statistics: Statistics, *, scaling: str = "gauss", inert: Sequence[str] = ()) -> Normaliser:
        """The normaliser of some statistics.

        Raises:
            ConfigError: a column does not move, see `ColumnStats.affine`.
        """
        actions = statistics.actions.affine(scaling, inert=inert, field="actions")
        return cls(*actions, *statistics.proprio.affine(scaling, inert=inert, field="proprio"))

    def normalised(self, clip: Clip) -> Clip:
        """A clip with actions and proprio to scale; what is not valid stays 0.

        Raises:
            ConfigError: it has been normalised already.
        """
        _once(clip, expected=False)
        actions, proprio = self.actions(clip.actions), (clip.proprio - self.proprio_offset) / self.proprio_scale
        return clip.replace(
            actions=torch.where(clip.action_valid, actions, torch.zeros_like(actions)),
            proprio=torch.where(clip.proprio_valid, proprio, torch.zeros_like(proprio)),
            scaled=True,
        )

    def recorded(self, clip: Clip) -> Clip:
        """The clip as it was recorded.

        Raises:
            ConfigError: it is not normalised.
        """
        _once(clip, expected=True)
        actions, proprio = self.recorded_actions(clip.actions), clip.proprio * self.proprio_scale + self.proprio_offset
        return clip.replace(
            actions=torch.where(clip.action_valid, actions, torch.zeros_like(actions)),
            proprio=torch.where(clip.proprio_valid, proprio, torch.zeros_like(proprio)),
            scaled=False,
        )

    def actions(self, values: Tensor) -> Tensor:
        """Actions [... a] in their units to scale."""
        return (values - self.action_offset.to(values)) / self.action_scale.to(values)

    def recorded_actions(self, values: Tensor) -> Tensor:
        """Actions [... a] as a model gives them, in their units again."""
        return values * self.action_scale.to(values) + self.action_offset.to(values)


def _once(clip: Clip, *, expected: bool) -> None:
    if clip.scaled != expected:
        found, problem = ("normalised", "normalised twice") if clip.scaled else ("as recorded", "never normalised")
        fix = "leave it to the loader (statistics=...) or do it yourself, not both"
        raise ConfigError(f"actions would be {problem}", field="actions", found=found, fix=fix)

"""How the actions and states of recordings are spread: kept as JSON beside weights, used to bring them to one scale."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scene4d.data.json_files import read_json
from scene4d.data.load.window_set import WindowSet
from scene4d.data.timeline.frame_table import TableReader
from scene4d.errors import ConfigError, DataFormatError
from scene4d.files import atomic_file
from scene4d.robot.columns import Column, columns_of
from scene4d.types import Recording

MOMENTS = ("mean", "std", "min", "max", "q01", "q99")
STILL = 1e-6
"""Of a column's size: what moves less is only shifted, for its scale would be noise blown up."""


@dataclass(frozen=True)
class ColumnStatistics:
    """Spread of some columns; tensors [a] float64 in the columns' units; q01, q99 are percentiles."""

    columns: tuple[Column, ...]
    mean: Tensor
    std: Tensor
    min: Tensor
    max: Tensor
    q01: Tensor
    q99: Tensor

    @property
    def scale(self) -> Tensor:
        """[a] what `normalised` divides by: the deviation, or 1 where a column stands still."""
        moves = self.std > STILL * self.mean.abs().clamp_min(1)
        return torch.where(moves, self.std, torch.ones_like(self.std))

    def normalised(self, values: Tensor) -> Tensor:
        """Values [*b a] with mean 0 and deviation 1."""
        return (values - self.mean.to(values)) / self.scale.to(values)

    def restored(self, values: Tensor) -> Tensor:
        """Normalised values [*b a] in their units again."""
        return values * self.scale.to(values) + self.mean.to(values)


def window_statistics(windows: WindowSet, numbers: Sequence[int]) -> dict[str, ColumnStatistics]:
    """Statistics of "actions" and "proprio" in the recordings that these windows are of; pictures are not decoded.

    Raises:
        ConfigError: a column has no finite value.
    """
    recordings = list({id(r): r for r in (windows.moment(n)[0] for n in numbers)}.values())
    return {
        "actions": _spread_of(recordings, "actions", columns=windows.actions),
        "proprio": _spread_of(recordings, "proprio", columns=windows.proprio),
    }


def save_statistics(path: str | os.PathLike, statistics: Mapping[str, ColumnStatistics]) -> None:
    """Write statistics as JSON, a row a column, whole or not at all."""
    rows = {
        name: [
            {**column.as_dict(), **{moment: float(getattr(stats, moment)[i]) for moment in MOMENTS}}
            for i, column in enumerate(stats.columns)
        ]
        for name, stats in statistics.items()
    }
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def load_statistics(path: str | os.PathLike) -> dict[str, ColumnStatistics]:
    """Read what `save_statistics` wrote.

    Raises:
        DataFormatError: missing or damaged.
    """
    file = Path(path)
    found = read_json(file, fix="compute the statistics again from the training recordings")
    try:
        return {
            name: ColumnStatistics(
                tuple(Column(*(row[key] for key in ("name", "unit", "frame", "owner"))) for row in rows),
                *(torch.tensor([float(row[moment]) for row in rows], dtype=torch.float64) for moment in MOMENTS),
            )
            for name, rows in found.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        fix = "compute the statistics again from the training recordings"
        raise DataFormatError("holds no statistics", file=file, found=repr(error)[:80], fix=fix) from error


def _spread_of(recordings: Sequence[Recording], name: str, *, columns: tuple[Column, ...]) -> ColumnStatistics:
    spec = "action_spec" if name == "actions" else "proprio_spec"
    values: list[list[Tensor]] = [[] for _ in columns]
    for recording in recordings:
        numbers = _numbers(recording, name)
        for i, column in enumerate(columns_of(recording.info, spec)):
            values[columns.index(column)].append(numbers[:, i])
    rows = []
    for column, parts in zip(columns, values, strict=True):
        found = torch.cat(parts)
        found = found[found.isfinite()]
        if not len(found):
            raise ConfigError("holds no finite number", field=str(column), fix="leave the column or recording out")
        quantiles = torch.from_numpy(np.quantile(found.numpy(), [0.01, 0.99]))
        rows.append([found.mean(), found.std(correction=0), found.min(), found.max(), *quantiles])
    return ColumnStatistics(columns, *torch.tensor(rows, dtype=torch.float64).reshape(len(columns), len(MOMENTS)).T)


def _numbers(recording: Recording, name: str) -> Tensor:
    """Actions or proprio [t a] float64 of a whole recording."""
    if isinstance(recording, TableReader):
        found = getattr(recording.table(()), name)
        return torch.zeros(recording.num_frames, 0) if found is None else torch.as_tensor(np.asarray(found, np.float64))
    episode = recording.read(cameras=recording.cameras[:1], size=(8, 8))
    return getattr(episode, name).double()

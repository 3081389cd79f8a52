"""Recordings whose times are uneven, doubled or out of order, on an even grid: each instant shows the nearest frame."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scene4d.data.cameras.lens import Lens
from scene4d.data.timeline.frame_table import FrameTable, Pictures, TableReader, View
from scene4d.errors import DataFormatError, TimestampError

RESYNC_FIX = "place frames by their times: scene4d convert SRC -o DST --resync nearest"
MAX_GROWTH = 10  # instants a recorded frame: beyond that a stamp is wrong, not late


class ResyncedRecording(TableReader):
    """A recording at an even rate; frames too many are left out, frames that are missing repeat their neighbour.

    Actions and states go with their frame.
    """

    def __init__(self, recording: TableReader, fps: float):
        """Of a recording as it is on disk, whose times may come in any order; `fps` frames a second of the grid."""
        self.recording, self.fps = recording, fps
        self.path, self.cameras = recording.path, recording.cameras
        self.sizes: Mapping[str, tuple[int, int]] = getattr(recording, "sizes", {})
        self.depth_cameras: tuple[str, ...] = getattr(recording, "depth_cameras", ())

    @property
    def num_frames(self) -> int:
        """Instants of the grid."""
        return len(self.index)

    @property
    def info(self) -> dict[str, Any]:
        """The recording's own, and resync: how frames were moved."""
        return {**self.recording.info, "resync": self._placed[1]}

    @property
    def index(self) -> np.ndarray:
        """[k] the recorded frame that each instant shows."""
        return self._placed[0]

    @functools.cached_property
    def _placed(self) -> tuple[np.ndarray, dict[str, Any]]:
        times = np.asarray(self.recording.table(()).times, np.float64)
        index, apart = place_frames(times, fps=self.fps, path=self.path)
        shown = len(np.unique(index))
        notes = {"rule": "nearest", "left_out": len(times) - shown, "repeated": len(index) - shown}
        return index, notes | {"farthest_ms": round(1000 * float(apart.max()), 3)}

    def table(self, cameras: Sequence[str]) -> FrameTable:
        """The table on the grid."""
        table, index = self.recording.table(cameras), self.index
        moved = lambda values: None if values is None else np.asarray(values)[index]
        return replace(
            table,
            views={name: _view(view, index) for name, view in table.views.items()},
            times=np.arange(len(index)) / self.fps,
            actions=moved(table.actions),
            proprio=moved(table.proprio),
            rewards=moved(table.rewards),
            success=moved(table.success),
            segment_poses=moved(table.segment_poses),
            names=[table.names[i] for i in index] if table.names else (),
        )


def place_frames(times: np.ndarray, *, fps: float, path: str) -> tuple[np.ndarray, np.ndarray]:
    """The frame nearest to each instant of an even grid over `times` [t] s, and how far it is [k] s.

    The grid begins with the earliest frame. Of frames with one and the same time the first counts.

    Raises:
        DataFormatError: there is no frame.
        TimestampError: a time is not finite, or so far from the others that hardly any instant has a frame of its own.
    """
    where = {"file": path, "field": "times"}
    if not np.isfinite(times).all():
        raise TimestampError("is not finite", **where, frame=int((~np.isfinite(times)).argmax()))
    if not len(times):
        raise DataFormatError("holds no frame", **where, fix="leave the recording out")
    stamps, order = np.unique(times, return_index=True)
    count = np.floor((stamps[-1] - stamps[0]) * fps + 0.5) + 1
    if not count <= MAX_GROWTH * len(times):
        jump = int(np.diff(stamps).argmax())
        found = f"{stamps[jump + 1] - stamps[jump]:.3f} s after the one before"
        fix = "cut the recording there, or leave the frame out"
        raise TimestampError("a time is far from all others", **where, frame=int(order[jump + 1]), found=found, fix=fix)
    ticks = stamps[0] + np.arange(int(count)) / fps
    nearest, apart = nearest_stamps(stamps, ticks)
    return order[nearest], apart


def nearest_stamps(stamps: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest of the sorted `stamps` [n >= 1] s to each wanted time [k] s, and how far it is [k] s.

    Of several that are equally near the first counts.
    """
    right = np.searchsorted(stamps, wanted).clip(0, len(stamps) - 1)
    left = (right - 1).clip(0)
    index = np.where(np.abs(stamps[left] - wanted) <= np.abs(stamps[right] - wanted), left, right)
    index = np.searchsorted(stamps, stamps[index])  # the first of equal ones
    return index, np.abs(stamps[index] - wanted)


def _view(view: View, index: np.ndarray) -> View:
    lens = view.lens
    if lens is not None and lens.coefficients.ndim == 2:
        lens = Lens(lens.model, lens.coefficients[index])
    return replace(
        view,
        Ks=view.Ks if view.Ks.ndim == 2 else view.Ks[index],
        viewmats=view.viewmats if view.viewmats.ndim == 2 else view.viewmats[index],
        color=_Placed(view.color, index),
        depth=None if view.depth is None else _Placed(view.depth, index),
        segments=None if view.segments is None else _Placed(view.segments, index),
        lens=lens,
        usable=None if view.usable is None else view.usable[index],
    )


@dataclass(frozen=True)
class _Placed:
    """Pictures of the frames that instants show."""

    pictures: Pictures
    index: np.ndarray

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        wanted = self.index[list(frames)]
        each, times = np.unique(wanted, return_counts=True)
        if (np.diff(wanted) >= 0).all():
            for picture, count in zip(self.pictures(each.tolist()), times, strict=True):
                yield from [picture] * int(count)
            return
        # Readers go forwards only: what comes out of order waits for its turn.
        kept = dict(zip(each.tolist(), self.pictures(each.tolist()), strict=True))
        yield from (kept[i] for i in wanted.tolist())

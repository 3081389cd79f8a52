"""Windows over recordings of any format: enumerated from metadata alone, read when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from scene4d.data.load.retry import read_with_retries
from scene4d.data.timeline.frame_table import TableReader, recording_of
from scene4d.errors import ConfigError, DataFormatError
from scene4d.robot.columns import Column, columns_of, shared_layout
from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.types import Frames, Recording

R = TypeVar("R", bound=Recording)
RATE_TOLERANCE = 0.01
KEPT_OPEN = 4  # recordings whose tables stay in memory; pictures never do


@dataclass(frozen=True)
class WindowConfig:
    """How recordings are cut into windows."""

    context: int = 1
    """Frames up to now, now included."""
    horizon: int = 8
    """Frames after now."""
    stride: int = 1
    """Frames from one window's now to the next."""
    cameras: tuple[str, ...] = ()
    """Cameras, in the order of the views; none: those of the first recording."""
    size: tuple[int, int] | None = None
    """(width, height) px of the pictures; None: as recorded."""
    union: bool = False
    """Recordings with other action or proprio columns are refused, or every window has the columns of all of them."""

    def __post_init__(self) -> None:
        for name, least in (("context", 1), ("horizon", 0), ("stride", 1)):
            if getattr(self, name) < least:
                raise ConfigError("is out of range", field=name, found=getattr(self, name), expected=f">= {least}")


@dataclass(frozen=True)
class RecordedWindow(TensorStruct):
    """`context` frames up to now and `horizon` frames after it (batch axes `*b`; a batch is a stack).

    frames: Frames [*b t v]; depth is 0 where a camera has none. times [*b t] s; valid [*b t] bool (False = a pose was
        lost). actions [*b t a] (actions[t] leads from t to t + 1); proprio [*b t p]; NaN where this recording lacks a
        column. rewards, success [*b t]: NaN where unknown.
    task, recording [*b] int64: indices into `WindowSet.tasks` and `WindowSet.recordings`.
    """

    frames: Frames
    times: Tensor
    valid: Tensor
    actions: Tensor
    proprio: Tensor
    rewards: Tensor
    success: Tensor
    task: Tensor
    recording: Tensor

    SHAPES = shapes(
        times="*b t",
        valid="*b t",
        actions="*b t a",
        proprio="*b t p",
        rewards="*b t",
        success="*b t",
        task="*b",
        recording="*b",
        **{"frames.rgb": "*b t v y x 3"},
    )


class WindowSet(Generic[R]):
    """Windows by number: `read(number)` gives one, `batch(numbers)` a stack of them.

    recordings, config; cameras (names in the order of the views); actions, proprio (`Column`s); tasks (texts that
    `RecordedWindow.task` counts in).
    """

    def __init__(self, recordings: Sequence[R], config: WindowConfig = WindowConfig()):
        """Enumerate the windows that lie wholly inside a recording; no picture is read.

        Raises:
            DataFormatError: there is no recording, or one is shorter than a window or lacks a camera.
            ConfigError: recordings of different rates or, unless `config.union`, of different columns.
        """
        if not recordings:
            raise DataFormatError("there are no recordings", field="recordings", fix="give at least one")
        self.recordings, self.config = list(recordings), config
        self.cameras = tuple(config.cameras or recordings[0].cameras)
        _check_cameras(self.recordings, self.cameras)
        _check_rates(self.recordings)
        for recording in self.recordings:
            self._check_length(recording)
        self.actions = shared_columns(self.recordings, "action_spec", union=config.union)
        self.proprio = shared_columns(self.recordings, "proprio_spec", union=config.union)
        self._moments: list[tuple[int, int]] = []
        for k, recording in enumerate(self.recordings):
            self._moments += [(k, now) for now in self.nows(recording)]
        self.tasks = list(dict.fromkeys(task_of(recording) for recording in self.recordings))
        self._opened: dict[int, Recording] = {}

    def __len__(self) -> int:
        return len(self._moments)

    def nows(self, recording: R) -> range:
        """The frames of a recording that are some window's now."""
        return range(self.config.context - 1, recording.num_frames - self.config.horizon, self.config.stride)

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: tables are opened again there."""
        return {**self.__dict__, "_opened": {}}

    def moment(self, number: int) -> tuple[R, int]:
        """The recording of a window, and the frame of it that is the window's now."""
        k, now = self._moments[number]
        return self.recordings[k], now

    def groups(self) -> list[list[int]]:
        """The numbers of the windows of each recording."""
        groups: dict[int, list[int]] = {}
        for number, (k, _) in enumerate(self._moments):
            groups.setdefault(k, []).append(number)
        return list(groups.values())

    def split(self, *, every: int) -> tuple[list[int], list[int]]:
        """Window numbers to train on, and to judge by: those of every `every`-th recording of each task."""
        by_task: dict[str, list[list[int]]] = {}
        for group in self.groups():
            by_task.setdefault(task_of(self.moment(group[0])[0]), []).append(group)
        held = {n for groups in by_task.values() for group in groups[every - 1 :: every] for n in group}
        return [n for n in range(len(self)) if n not in held], sorted(held)

    def read(self, number: int, *, context: int | None = None, cameras: Sequence[str] | None = None) -> RecordedWindow:
        """One window without batch axes.

        Args:
            context: frames up to now, instead of those of the configuration. cameras: instead of all.
        Raises:
            What the recording raises.
        """
        k, now = self._moments[number]
        recording, config = self.recordings[k], self.config
        self.check_pictured(number, horizon=config.horizon)
        names, first = list(cameras or self.cameras), now + 1 - (context or config.context)
        read = lambda: self._open(k).read(first, now + 1 + config.horizon, cameras=names, size=config.size)
        episode = read_with_retries(read, file=recording.path)
        unknown = torch.full((len(episode.times),), torch.nan)
        return RecordedWindow(
            frames=Frames.stack([_complete(episode.views[name]) for name in names], dim=1),
            times=episode.times,
            valid=episode.valid,
            actions=_spread(episode.actions, recording, spec="action_spec", columns=self.actions),
            proprio=_spread(episode.proprio, recording, spec="proprio_spec", columns=self.proprio),
            rewards=unknown if episode.rewards is None else episode.rewards,
            success=unknown if episode.success is None else episode.success.float(),
            task=torch.tensor(self.tasks.index(task_of(recording))),
            recording=torch.tensor(k),
        )

    def check_pictured(self, number: int, *, horizon: int) -> None:
        """DataFormatError: the recording of a window has no pictures any more `horizon` frames after its now."""
        recording, now = self.moment(number)
        if now + horizon >= recording.num_frames:
            found, expected = f"{recording.num_frames} frames with pictures", f"> {now + horizon}"
            raise DataFormatError("ends before the window", file=recording.path, found=found, expected=expected)

    def batch(self, numbers: Sequence[int] | Tensor) -> RecordedWindow:
        """Windows [b]."""
        return RecordedWindow.stack([self.read(int(number)) for number in numbers])

    def _check_length(self, recording: R) -> None:
        if not self.nows(recording):
            where = {"file": recording.path, "field": "horizon", "found": f"{recording.num_frames} frames"}
            expected = f">= {self.config.context + self.config.horizon} (context + horizon)"
            fix = "lower context or horizon, or leave this recording out"
            raise DataFormatError("is shorter than a window", **where, expected=expected, fix=fix)

    def _open(self, k: int) -> Recording:
        """The recording with its table in memory, where it has one."""
        if k not in self._opened:
            recording = self.recordings[k]
            if len(self._opened) >= KEPT_OPEN:
                del self._opened[next(iter(self._opened))]
            if isinstance(recording, TableReader):
                table = recording.table(self.cameras)
                recording = recording_of(table, path=recording.path, info={}, fps=recording.fps)
            self._opened[k] = recording
        return self._opened[k]


def task_of(recording: Recording) -> str:
    """The text of what is done in a recording; empty where there is none."""
    return str(recording.info.get("task") or "")


def shared_columns(recordings: Sequence[Recording], spec: str, *, union: bool = False) -> tuple[Column, ...]:
    """The columns of all recordings, by `info[spec]` (action_spec or proprio_spec).

    Raises:
        ConfigError: they differ, unless `union`.
    """
    layouts = [columns_of(recording.info, spec) for recording in recordings]
    return shared_layout(layouts, union=union, field=spec, paths=[str(r.path) for r in recordings])


def _check_cameras(recordings: Sequence[Recording], cameras: Sequence[str]) -> None:
    for recording in recordings:
        missing = [name for name in cameras if name not in recording.cameras]
        if missing:
            problem, fix = f"lacks {', '.join(missing)}", "name only cameras that all recordings have"
            found, expected = ", ".join(recording.cameras), ", ".join(cameras)
            raise DataFormatError(
                problem, file=recording.path, field="cameras", found=found, expected=expected, fix=fix
            )


def _check_rates(recordings: Sequence[Recording]) -> None:
    """A frame is a step of the models, so frames of different length must not be mixed."""
    moving = [r for r in recordings if r.num_frames > 1]
    for recording in moving:
        if abs(recording.fps - moving[0].fps) > RATE_TOLERANCE * moving[0].fps:
            problem = f"has another rate than {moving[0].path}"
            found, expected = f"{recording.fps:g}", f"{moving[0].fps:g} frames a second"
            fix = 'put them on one grid: scene4d convert --resync nearest, or open_recordings(..., resync="nearest")'
            raise ConfigError(problem, file=recording.path, field="fps", found=found, expected=expected, fix=fix)


def _complete(view: Frames) -> Frames:
    """A view with depth and alpha, so that all can be stacked; extras are left out."""
    blank = torch.zeros_like(view.rgb[..., 0])
    depth, alpha = (blank if view.depth is None else view.depth), (blank + 1 if view.alpha is None else view.alpha)
    return view.replace(depth=depth, alpha=alpha, extras={})


def _spread(values: Tensor, recording: Recording, *, spec: str, columns: tuple[Column, ...]) -> Tensor:
    """Values [t a] of a recording's own columns at the places of `columns`; NaN where it lacks one."""
    own = columns_of(recording.info, spec)
    if len(own) != values.shape[-1]:
        problem = "has another number of columns than its metadata"
        fix = "name every column in the recording's metadata"
        raise ConfigError(problem, file=recording.path, field=spec, found=values.shape[-1], expected=len(own), fix=fix)
    spread = values.new_full((len(values), len(columns)), torch.nan)
    spread[:, [columns.index(column) for column in own]] = values
    return spread

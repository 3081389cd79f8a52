"""Windows over many recordings: enumerated from metadata alone, read when asked for, the same for the same number."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scene4d.config import config_hash
from scene4d.data.load.augment import recoloured
from scene4d.data.load.camera_slots import fill_slots
from scene4d.data.load.clip import Clip, stack_clips
from scene4d.data.load.lifted_cache import LiftedScenes
from scene4d.data.load.normalise import Normaliser, Statistics, column_stats, load_statistics
from scene4d.data.load.normalise_checks import check_columns, check_fits, check_recorded
from scene4d.data.load.patience import read_patiently
from scene4d.data.load.resample import Steps, common_rate, num_steps, numbers_of, resampled, rules_for
from scene4d.data.load.shards import mixed_seed, names_of
from scene4d.data.load.views_read import ViewsWanted, read_views
from scene4d.data.load.window_config import WindowConfig
from scene4d.data.timeline.frame_table import TableReader, recording_of
from scene4d.errors import ConfigError, DataFormatError
from scene4d.robot.columns import columns_of, shared_layout
from scene4d.types import Frames, Recording

FIT_SAMPLE = 8
DEFAULTS = WindowConfig()


@dataclass(frozen=True)
class _Opened:
    """A recording whose table is in memory, and its numbers on the grid."""

    recording: Recording
    steps: Steps


class WindowSet(torch.utils.data.Dataset):
    """Windows by number: `windows[i]` is a `Clip` without batch axes, `clip(i, epoch=e)` one augmented for epoch e.

    recordings, config; rate (steps a second); slots (camera slots); actions, proprio (columns); tasks (texts that
    `Clip.task` counts in); statistics and normaliser, or None.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        config: WindowConfig = DEFAULTS,
        *,
        statistics: Statistics | None = None,
        statistics_file: Path | None = None,
        lifted: LiftedScenes | None = None,
    ):
        """Enumerate the windows; no picture is read.

        Args:
            statistics: normalise actions and proprio with these; see `normalised` for the usual way.
            statistics_file: where they were read, for messages.
            lifted: adds the scene at now to every clip, from a cache.
        Raises:
            DataFormatError: no recordings or windows, cameras differ, a recording is too short (where config says so).
            ConfigError: rates, columns or statistics do not go together.
        """
        if not recordings:
            raise DataFormatError("there are no recordings", field="recordings", fix="give at least one")
        self.recordings, self.config, self.lifted = list(recordings), config, lifted
        self.rate = common_rate(self.recordings, config.rate)
        self._filled = fill_slots(self.recordings, config.cameras, missing=config.missing_cameras)
        self.slots = tuple(config.cameras) or tuple(self.recordings[0].cameras)
        infos = [r.info for r in self.recordings]
        paths, union = [str(r.path) for r in self.recordings], config.layout == "union"
        self._columns = [{k: columns_of(info, f"{k}_spec") for k in ("action", "proprio")} for info in infos]
        self.actions = shared_layout([c["action"] for c in self._columns], union=union, field="actions", paths=paths)
        self.proprio = shared_layout([c["proprio"] for c in self._columns], union=union, field="proprio", paths=paths)
        texts = [str(info.get("task") or "") for info in infos]
        self.tasks = list(dict.fromkeys(texts))
        self._task = [self.tasks.index(text) for text in texts]
        for recording, columns in zip(self.recordings, self._columns, strict=True):
            ratio = recording.fps / self.rate
            rules_for(columns["action"], asked=config.combine, ratio=ratio, file=str(recording.path))
        self._num_steps = np.array([num_steps(r, rate=self.rate) for r in self.recordings])
        self._bounds = np.concatenate([[0], np.cumsum([self._num_windows(k) for k in range(len(self.recordings))])])
        if not len(self):
            fix = 'lower context and horizon, or set short = "pad"'
            raise DataFormatError(
                "there are no windows", field="horizon", found=f"{len(recordings)} recordings", fix=fix
            )
        self._opened: OrderedDict[int, _Opened] = OrderedDict()
        self.statistics, self.normaliser = statistics, None
        if statistics is not None:
            check_columns(statistics, actions=self.actions, proprio=self.proprio, rate=self.rate, file=statistics_file)
            self._check_fit(statistics, file=statistics_file)
            self.normaliser = Normaliser.of(statistics, scaling=config.scaling, inert=config.inert)

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def __getitem__(self, index: int) -> Clip:
        return self.clip(index)

    def __getstate__(self) -> dict[str, Any]:
        """For workers: tables are opened again there."""
        return {**self.__dict__, "_opened": OrderedDict()}

    def normalised(self, path: str | os.PathLike, *, progress: Callable[[int, int], None] | None = None) -> WindowSet:
        """The same windows with actions and proprio normalised by the statistics in `path`.

        Where there is no such file, they are computed from these recordings and saved there: call it on the training
        recordings first, on held-out ones after.

        Raises:
            ConfigError: statistics and data do not go together, or a column does not move.
            DataFormatError: the file is damaged.
        """
        file = Path(path)
        made = None if file.exists() else self.compute_statistics(progress=progress)
        if made is not None:
            Normaliser.of(made, scaling=self.config.scaling, inert=self.config.inert)
            made.save(file)
        statistics = made or load_statistics(file)
        return WindowSet(self.recordings, self.config, statistics=statistics, statistics_file=file, lifted=self.lifted)

    def compute_statistics(self, *, progress: Callable[[int, int], None] | None = None) -> Statistics:
        """Statistics of the actions and proprio of all recordings, at this rate; pictures are not read.

        Raises:
            ConfigError: numbers in metres or radians that look normalised already, or are not finite.
        """
        chosen = range(len(self.recordings))
        stats = {
            k: column_stats(self._parts(k, chosen, progress=progress), getattr(self, k)) for k in ("actions", "proprio")
        }
        for field, found in stats.items():
            check_recorded(found, field=field)
        return Statistics(**stats, rate=self.rate, recordings=tuple(names_of(self.recordings)))

    def place(self, index: int) -> tuple[int, int]:
        """(recording, step of its first row) of a window; the step is negative before the recording's start."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        k = int(np.searchsorted(self._bounds, index, side="right")) - 1
        step = (index - int(self._bounds[k])) * self.config.stride
        return k, step - (self.config.context - 1 if self.config.edges == "over" else 0)

    def clip(self, index: int, *, epoch: int = 0) -> Clip:
        """One window; a function of the set, the number and the epoch.

        Raises:
            DataFormatError: a file is gone or damaged, or its numbers are not as its metadata says. What readers raise.
        """
        k, first = self.place(index)
        file = str(self.recordings[k].path)
        patience = {"file": file, "retries": self.config.retries, "wait": self.config.retry_wait}
        return read_patiently(lambda: self._clip(k, first, epoch=epoch, index=index), **patience)

    def batch(self, indices: Sequence[int], *, epoch: int = 0) -> Clip:
        """Windows [b]."""
        return stack_clips([self.clip(i, epoch=epoch) for i in indices])

    def fingerprint(self) -> str:
        """Changes when the windows, what they hold or how they are varied do."""
        names = names_of(self.recordings)
        numbers = (
            [] if self.statistics is None else [self.statistics.actions.as_list(), self.statistics.proprio.as_list()]
        )
        return config_hash(self.config, self.rate, names, self._num_steps.tolist(), numbers)

    @property
    def clip_bytes(self) -> int:
        """Memory of one clip's pictures."""
        width, height = self.config.size
        return self.config.num_pictures * len(self.slots) * width * height * 5 * 4

    def _num_windows(self, k: int) -> int:
        config, steps = self.config, int(self._num_steps[k])
        if steps < config.length and config.short == "error":
            raise DataFormatError(
                f"recording {k} is shorter than a window",
                file=self.recordings[k].path,
                field="horizon",
                found=f"{steps} steps at {self.rate:g} a second",
                expected=f">= {config.length} (context {config.context} + horizon {config.horizon})",
                fix='set short = "pad" (masked) or "skip"',
            )
        if config.edges == "over":
            last = steps - 1 if config.horizon else steps
            return 0 if steps < config.length and config.short == "skip" else -(-max(1, last) // config.stride)
        if steps < config.length:
            return int(config.short == "pad")
        return (steps - config.length) // config.stride + 1

    def _open(self, k: int) -> _Opened:
        if k in self._opened:
            self._opened.move_to_end(k)
            return self._opened[k]
        recording = self.recordings[k]
        names = [name for name in self._filled[k] if name is not None]
        if isinstance(recording, TableReader):
            facts = {"path": recording.path, "info": {}, "fps": recording.fps}
            recording = recording_of(recording.table(names), **facts)
        self._opened[k] = _Opened(recording, self._steps(k, recording))
        if len(self._opened) > self.config.kept_open:
            self._opened.popitem(last=False)
        return self._opened[k]

    def _steps(self, k: int, recording: Recording) -> Steps:
        numbers, columns = numbers_of(recording), self._columns[k]
        for key, values in (("action", numbers.actions), ("proprio", numbers.proprio)):
            if values.shape[1] != len(columns[key]):
                raise ConfigError(
                    "has another number of columns than it says",
                    file=self.recordings[k].path,
                    field=f"{key}_spec",
                    found=values.shape[1],
                    expected=len(columns[key]),
                    fix="name every column in the recording's metadata",
                )
        ratio = self.recordings[k].fps / self.rate
        rules = rules_for(columns["action"], asked=self.config.combine, ratio=ratio, file=str(recording.path))
        return resampled(numbers, rate=self.rate, count=int(self._num_steps[k]), combining=rules)

    def _parts(
        self, what: str, chosen: Sequence[int], *, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(values, valid) [k a] in the shared layout, of each of these recordings."""
        patience = {"retries": self.config.retries, "wait": self.config.retry_wait}
        for done, k in enumerate(chosen):
            recording = self.recordings[k]
            steps = read_patiently(lambda k=k, r=recording: self._steps(k, r), file=str(recording.path), **patience)
            yield self._laid_out(what, k, steps, rows=np.arange(len(steps.frame)))
            if progress is not None:
                progress(done + 1, len(chosen))

    def _laid_out(self, what: str, k: int, steps: Steps, *, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(values, valid) [k a] of these steps, each column at its place."""
        shared, own = getattr(self, what), self._columns[k]["action" if what == "actions" else "proprio"]
        values, valid = np.zeros((len(rows), len(shared))), np.zeros((len(rows), len(shared)), bool)
        at = [shared.index(c) for c in own]
        known = steps.led & steps.seen if what == "actions" else steps.seen
        values[:, at] = getattr(steps, what)[rows]
        valid[:, at] = known[rows][:, None]
        return np.where(valid, values, 0.0), valid

    def _check_fit(self, statistics: Statistics, *, file: Path | None) -> None:
        if self.config.scaling == "none":
            return
        chosen = np.unique(np.linspace(0, len(self.recordings) - 1, FIT_SAMPLE).round().astype(int)).tolist()
        for field in ("actions", "proprio"):
            parts = list(self._parts(field, chosen))
            if min(int(valid.sum(0).min(initial=1 << 30)) for _, valid in [_joined(parts)]) < 2:
                continue  # columns that few of the recordings have
            seen = column_stats(parts, getattr(self, field))
            check_fits(getattr(statistics, field), seen, field=field, file=file)

    def _clip(self, k: int, first: int, *, epoch: int, index: int) -> Clip:
        config, opened = self.config, self._open(k)
        steps, count = opened.steps, len(opened.steps.frame)
        asked = np.arange(first, first + config.length)
        inside = (asked >= 0) & (asked < count)
        rows = asked.clip(0, count - 1)
        generator = torch.Generator().manual_seed(mixed_seed("augment", config.seed, epoch, index))
        wanted = ViewsWanted(self._filled[k], config.size, fit=config.fit, augment=config.augment)
        pictures = slice(0, config.num_pictures)
        frames, found = read_views(opened.recording, steps.frame[rows[pictures]], wanted=wanted, generator=generator)
        if config.augment.recolours:
            frames = frames.replace(rgb=recoloured(frames.rgb, config.augment, generator))
        valid = inside & steps.seen[rows]
        valid[pictures] &= found.usable
        actions, action_valid = self._laid_out("actions", k, steps, rows=rows)
        proprio, proprio_valid = self._laid_out("proprio", k, steps, rows=rows)
        masked = lambda values, mask: torch.from_numpy(np.where(mask, values, 0.0)).float()
        inner = inside[:, None]
        clip = Clip(
            frames=frames,
            has_view=torch.from_numpy(found.has_view),
            has_depth=torch.from_numpy(found.has_depth),
            times=torch.from_numpy(asked / self.rate),
            valid=torch.from_numpy(valid),
            actions=masked(actions, inner),
            action_valid=torch.from_numpy(action_valid & inner),
            proprio=masked(proprio, inner),
            proprio_valid=torch.from_numpy(proprio_valid & inner),
            rewards=masked(steps.rewards[rows], inside),
            success=masked(steps.success[rows], inside),
            task=torch.tensor(self._task[k]),
            recording=torch.tensor(k),
            step=torch.tensor(first),
        )
        if self.lifted is not None:
            clip = clip.replace(scene=self._scene(k, opened, frame=int(steps.frame[rows[config.context - 1]])))
        return clip if self.normaliser is None else self.normaliser.normalised(clip)

    def _scene(self, k: int, opened: _Opened, *, frame: int) -> Any:
        """Lifted from the pictures as recorded: one scene serves all epochs."""
        names = [name for name in self._filled[k] if name is not None]

        def views() -> Frames:
            wanted = ViewsWanted(tuple(names), self.config.size, fit=self.config.fit)
            return read_views(opened.recording, np.array([frame]), wanted=wanted, generator=torch.Generator())[0][0]

        place = (str(self.recordings[k].path), k, frame, *names, *self.config.size, self.config.fit)
        return self.lifted(place, views)  # type: ignore[misc]


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([v for v, _ in parts]), np.concatenate([m for _, m in parts])

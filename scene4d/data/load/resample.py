"""Recordings of any rate on one time grid: which frame shows each step, and what action leads from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scene4d.data.timeline.frame_table import KeptTable, TableReader
from scene4d.errors import ConfigError
from scene4d.robot.columns import Column
from scene4d.types import Recording

SLACK = 1e-3  # of a step: what rounded time stamps may be off
COMBINED = ("auto", "last", "sum", "mean")
CHUNK = 64


@dataclass(frozen=True)
class Numbers:
    """What a recording holds besides pictures, by frame; float64.

    times [n] s; actions [n a] (row i leads from frame i to the next); proprio [n p]; rewards, success [n] or None;
    goals: actions are the states to come, so the last frame has none.
    """

    times: np.ndarray
    actions: np.ndarray
    proprio: np.ndarray
    rewards: np.ndarray | None = None
    success: np.ndarray | None = None
    goals: bool = False


@dataclass(frozen=True)
class Steps:
    """The same on the grid of one rate.

    frame [k] index of the recorded frame; seen [k] bool: that frame lies within half a step; times [k] s;
    actions [k a]; led [k] bool: the recording covers the way to the next step; proprio [k p]; rewards, success [k].
    """

    frame: np.ndarray
    seen: np.ndarray
    times: np.ndarray
    actions: np.ndarray
    led: np.ndarray
    proprio: np.ndarray
    rewards: np.ndarray
    success: np.ndarray


def numbers_of(recording: Recording) -> Numbers:
    """Times, actions and proprio of a whole recording, without decoding pictures where its reader allows that."""
    if isinstance(recording, TableReader):
        table = recording.table(())
        rows = np.arange(recording.num_frames)
        following = np.minimum(rows + 1, rows[-1]) if table.goals else rows
        wide = lambda values, chosen: np.zeros((len(rows), 0)) if values is None else np.asarray(values, float)[chosen]
        flat = lambda values: None if values is None else np.asarray(values, float)[rows]
        return Numbers(
            times=np.asarray(table.times, np.float64)[rows],
            actions=wide(table.actions, following),
            proprio=wide(table.proprio, rows),
            rewards=flat(table.rewards),
            success=flat(table.success),
            goals=table.goals,
        )
    parts = []
    for start in range(
        0, recording.num_frames, CHUNK
    ):  # a tiny picture is the least that every reader can be asked for
        stop = min(start + CHUNK, recording.num_frames)
        parts.append(recording.read(start, stop, cameras=list(recording.cameras)[:1], size=(8, 8)))
    join = lambda name: np.concatenate([getattr(part, name).double().numpy() for part in parts])
    optional = lambda name: None if getattr(parts[0], name) is None else join(name)
    return Numbers(join("times"), join("actions"), join("proprio"), optional("rewards"), optional("success"))


def num_steps(recording: Recording, *, rate: float) -> int:
    """Steps of a recording at `rate` a second, from its metadata (and its times, where they are in memory)."""
    load = getattr(recording, "load", None)
    seconds = (recording.num_frames - 1) / recording.fps
    if isinstance(load, KeptTable) and len(load.kept.times):
        seconds = float(load.kept.times[recording.num_frames - 1] - load.kept.times[0])
    return int(seconds * rate + SLACK) + 1


def resampled(numbers: Numbers, *, rate: float, count: int, combining: Sequence[str]) -> Steps:
    """The first `count` steps at `rate` a second; each shows the frame nearest in time.

    An action joins those of the frames from its step up to the next by its column's rule: the last of them, their
    sum, or their mean. Rewards add up, success is kept.
    """
    start, last = numbers.times[0], len(numbers.times) - 1
    grid = np.arange(count) / rate
    after = np.clip(np.searchsorted(numbers.times - start, np.arange(count + 1) / rate), 1, max(1, last))
    nearest = np.minimum(after, last)
    earlier = np.maximum(after - 1, 0)
    instants = start + np.arange(count + 1) / rate
    nearer = instants - numbers.times[earlier] <= numbers.times[nearest] - instants + SLACK / rate
    place = np.where(nearer, earlier, nearest)
    frame, stop = place[:-1], np.maximum(place[1:], place[:-1] + 1)
    pause = float(np.median(np.diff(numbers.times))) if last else 1 / rate
    # The last frame's own action leads one recorded pause on; a goal that nobody reached leads nowhere.
    covered = numbers.times[-1] + (0 if numbers.goals else pause)
    # A step that reaches past the last frame still has that frame's action.
    stop = np.where(instants[1:] > numbers.times[-1] + SLACK / rate, last + 1, stop)
    return Steps(
        frame=frame,
        seen=np.abs(numbers.times[frame] - instants[:-1]) <= (0.5 + SLACK) / rate,
        times=grid,
        actions=_joined(numbers.actions, frame, stop, rules=combining),
        led=covered >= instants[1:] - SLACK / rate,
        proprio=numbers.proprio[frame],
        rewards=_or_zero(numbers.rewards, frame, stop, rule="sum"),
        success=_or_zero(numbers.success, frame, stop, rule="max"),
    )


def rules_for(columns: Sequence[Column], *, asked: str, ratio: float, file: str) -> list[str]:
    """How to combine each action column when `ratio` recorded frames make one step.

    Raises:
        ConfigError: several frames make one step, and nothing says what these numbers mean.
    """
    if asked not in COMBINED:
        raise ConfigError("is no way to combine actions", field="combine", found=asked, expected=list(COMBINED))
    if asked != "auto" or ratio < 1.5:
        return ["last" if asked == "auto" else asked] * len(columns)
    rules = [c.combining for c in columns]
    unclear = [str(c) for c, rule in zip(columns, rules, strict=True) if rule is None]
    if unclear:
        raise ConfigError(
            f"{ratio:g} recorded actions make one step, and these columns do not say what they are",
            file=file,
            field="combine",
            found=", ".join(unclear[:8]),
            expected=list(COMBINED[1:]),
            fix='set combine = "sum" for steps, "last" for targets, "mean" for velocities; or keep the recorded rate',
        )
    return [rule or "last" for rule in rules]


def common_rate(recordings: Sequence[Recording], asked: float | None) -> float:
    """The rate asked for, or that of the slowest recording.

    Raises:
        ConfigError: a recording is slower than what is asked for: frames would have to be made up.
    """
    if asked is None:
        return float(min(r.fps for r in recordings if r.num_frames > 1) if any(r.num_frames > 1 for r in recordings)
                     else recordings[0].fps)  # fmt: skip
    if not (np.isfinite(asked) and asked > 0):
        raise ConfigError("is no rate", field="rate", found=asked, expected="> 0 frames a second")
    slow = [r for r in recordings if r.num_frames > 1 and r.fps < 0.99 * asked]
    if slow:
        slowest = min(slow, key=lambda r: r.fps)
        raise ConfigError(
            f"{len(slow)} recordings are slower than the rate asked for",
            file=slowest.path,
            field="rate",
            found=f"{slowest.fps:g} a second",
            expected=f">= {asked:g}",
            fix=f"set rate = {slowest.fps:g}, or leave these recordings out",
        )
    return float(asked)


def _joined(values: np.ndarray, start: np.ndarray, stop: np.ndarray, *, rules: Sequence[str]) -> np.ndarray:
    """Rows start..stop - 1 of values [n a] made one, column by column: [k a]."""
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, 0)])
    total = sums[stop] - sums[start]
    made = {"last": values[stop - 1], "sum": total, "mean": total / (stop - start)[:, None]}
    # A single row is taken as it is: differences of running sums would round it.
    alone = (stop - start == 1)[:, None]
    columns = [np.where(alone, values[start], made[rule])[:, i] for i, rule in enumerate(rules)]
    return np.stack(columns, 1) if columns else np.zeros((len(start), 0))


def _or_zero(values: np.ndarray | None, start: np.ndarray, stop: np.ndarray, *, rule: str) -> np.ndarray:
    if values is None:
        return np.zeros(len(start))
    if rule == "sum":
        return _joined(values[:, None], start, stop, rules=["sum"])[:, 0]
    return np.array([values[a:b].max() for a, b in zip(start, stop, strict=True)])

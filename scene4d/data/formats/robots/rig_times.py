"""Which frames of several videos, and which rows of states, belong to one and the same instant.

Where there are as many frames as rows, frames are counted: recorders write a row and a frame together, and their time
stamps are the weaker witness. Where there are not, time stamps tell which instants have no frame. No frame is ever
doubled, and none is moved to another instant to fill a gap.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scene4d.data.video.video import VideoFacts, frame_times
from scene4d.errors import DataFormatError, VideoError
from scene4d.ledger import LeftOut, frame_counts

RATE_TOLERANCE = 0.01
STATES = "states"


@dataclass(frozen=True)
class RigTimes:
    """What is read of a rig, instant by instant."""

    frames: Mapping[str, np.ndarray]  # [t] index within each video
    rows: np.ndarray  # [t] row of the states
    times: np.ndarray  # [t] s
    fps: float
    entries: tuple[LeftOut, ...]


def rig_times(
    folder: Path, facts: Mapping[str, VideoFacts], *, videos: Mapping[str, Path], num_rows: int | None
) -> RigTimes:
    """Match the frames of `videos` with each other and with `num_rows` rows of states (None: there are none).

    Raises:
        VideoError: the videos run at different rates. DataFormatError: numbers of frames differ by more than one, and
            no time stamps explain it.
    """
    fps = _common_rate(folder, facts)
    stamps = {name: times for name in facts if (times := frame_times(videos[name])) is not None}
    counts = {name: f.num_frames for name, f in facts.items()} | ({} if num_rows is None else {STATES: num_rows})
    shortest, longest = min(counts.values()), max(counts.values())
    if stamps and longest != shortest:
        matched = _by_times(counts, stamps=stamps, fps=fps)
        if matched is not None:
            return matched
    if longest - shortest > 1 or shortest < 1:
        problem, found = "the numbers of frames differ", ", ".join(f"{name} {count}" for name, count in counts.items())
        expected, fix = "the same, give or take one", "copy the shorter one again, or cut the others"
        raise DataFormatError(problem, file=folder, field="frames", found=found, expected=expected, fix=fix)
    entries = [frame_counts(counts, used=shortest)] if longest != shortest else []
    index = np.arange(shortest)
    times = index / fps
    if stamps:
        agree = len(stamps) == len(facts) and all(
            np.abs(t - next(iter(stamps.values()))).max() * fps < 0.5 for t in stamps.values()
        )
        if num_rows is None and agree:
            times = next(iter(stamps.values()))[:shortest]
        entries.append(_uneven(tuple(stamps), counted=num_rows is not None, agree=agree))
    return RigTimes({name: index for name in facts}, rows=index, times=times, fps=fps, entries=tuple(entries))


def _uneven(names: tuple[str, ...], *, counted: bool, agree: bool) -> LeftOut:
    """What became of uneven time stamps."""
    entry = functools.partial(LeftOut, "uneven_times", "times", names)
    if counted:
        return entry("uneven time stamps are not used: there are as many frames as rows, which are counted", lost=False)
    if agree:
        return entry("time stamps are uneven, and read as they are", lost=False)
    fix = "was every camera started at the same time? cut the videos to the stretches that belong together"
    return entry("the cameras' time stamps disagree, so frames are counted; which belong together is in doubt", fix=fix)


def _by_times(counts: Mapping[str, int], *, stamps: Mapping[str, np.ndarray], fps: float) -> RigTimes | None:
    """Instants at which every video has a frame; None where the time stamps do not explain the counts."""
    places = {name: np.arange(count) for name, count in counts.items()}
    places |= {name: np.rint(times * fps).astype(np.int64) for name, times in stamps.items()}
    lengths = [int(place[-1]) + 1 for place in places.values() if len(place)]
    explained = len(lengths) == len(places) and max(lengths) - min(lengths) <= 1
    if not explained or any((np.diff(place) < 1).any() for place in places.values()):
        return None
    shared = functools.reduce(np.intersect1d, places.values())
    if not len(shared):
        return None
    lacking = sorted(set(range(max(lengths))) - set(shared.tolist()))
    reason = "not every camera has a picture then (by their time stamps): these instants are left out with their states"
    entry = LeftOut("missing_frames", "frames", tuple(f"frame {i}" for i in lacking), reason, "record it again")
    frames = {name: np.searchsorted(place, shared) for name, place in places.items() if name != STATES}
    return RigTimes(frames, rows=shared, times=shared / fps, fps=fps, entries=(entry,))


def _common_rate(folder: Path, facts: Mapping[str, VideoFacts]) -> float:
    rates = {name: f.fps for name, f in facts.items()}
    slowest, fastest = min(rates.values()), max(rates.values())
    if fastest > slowest * (1 + RATE_TOLERANCE):
        fix = "give the videos of each rate a folder and a cameras.json of their own"
        raise VideoError("the videos run at different rates", file=folder, field="fps", found=rates, fix=fix)
    return slowest

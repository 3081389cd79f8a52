"""Logs of ROS messages, whatever file they lie in: topics, messages by the time of logging, stamps of their headers.

A message is found again by its place in the order of logging: several of one topic may have been logged at one time.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scene4d.data.timeline.resync import RESYNC_FIX
from scene4d.errors import DataFormatError, Scene4DError, TimestampError

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO, TF, JOINTS = "sensor_msgs/msg/CameraInfo", "tf2_msgs/msg/TFMessage", "sensor_msgs/msg/JointState"
MAX_LATE = 0.5  # s: a message that was logged later than a newer one was late; by more, its clock was set back
_HEADER = {"header.stamp.sec": int, "header.stamp.nanosec": int, "header.frame_id": str}
_SIZE = {"width": int, "height": int}
FIELDS: dict[str, dict[str, type]] = {
    IMAGE: {**_HEADER, **_SIZE, "encoding": str, "is_bigendian": int, "step": int, "data": list},
    COMPRESSED: {**_HEADER, "format": str, "data": list},
    INFO: {**_HEADER, **_SIZE, "distortion_model": str, "d": list, "k": list, "p": list},
    TF: {"transforms": list},
    JOINTS: {**_HEADER, "name": list, "position": list},
}
_LINK: dict[str, type] = {**_HEADER, "child_frame_id": str}
_LINK |= {f"transform.translation.{axis}": float for axis in "xyz"}
_LINK |= {f"transform.rotation.{axis}": float for axis in "xyzw"}


@dataclass(frozen=True)
class Topic:
    """One topic of a log."""

    kind: str
    """Type of its messages, as ROS 2 spells it: "sensor_msgs/msg/Image"."""
    count: int
    """Messages."""
    refused: str = ""
    """Why its messages cannot be decoded; empty where they can."""


@dataclass(frozen=True)
class Message:
    """One message as it was logged."""

    topic: str
    logged: int
    """Time of logging, ns."""
    data: bytes
    """As it was sent."""
    kind: str
    """Type."""
    decode: Callable[[bytes], Any]
    """What makes an object with the fields of its type of it."""


class Log(Protocol):
    """A file of messages, or several that follow each other; picklable and hashable."""

    @property
    def path(self) -> Path:
        """The file or folder."""
        ...

    @property
    def source(self) -> str:
        """Name of the format."""
        ...

    def topics(self) -> Mapping[str, Topic]:
        """All topics.

        Raises:
            DataFormatError: damaged, or of another format. EnvError: a library is not installed.
        """
        ...

    def messages(self, topics: Sequence[str], *, start: int | None, stop: int | None) -> Iterator[Message]:
        """Messages of these topics that were logged from `start` to before `stop` (ns), in the order of logging."""
        ...


@dataclass(frozen=True)
class Stamps:
    """When the messages of a topic are from, in the order of these times."""

    times: np.ndarray
    """[n] s: header stamps, or times of logging where the headers have none."""
    logged: np.ndarray
    """[n] ns."""
    place: np.ndarray
    """[n] place in the order of logging."""
    rank: np.ndarray
    """[n] place among the messages with the same time of logging."""
    late: int = 0
    """Messages that were logged after a newer one."""
    unset: int = 0
    """Messages whose headers have no time."""


def decoded(message: Message, *, file: Path) -> Any:
    """A message as an object with the fields of its type.

    Raises:
        DataFormatError: it cannot be decoded, or its type has other fields than the one of that name.
    """
    where = {"file": file, "field": message.topic}
    try:
        found = message.decode(message.data)
    except (Scene4DError, MemoryError):
        raise
    except Exception as error:  # decoders raise what the bytes make them raise
        problem, fix = "a message is damaged: it cannot be decoded", "leave the topic out, or record it again"
        raise DataFormatError(problem, **where, found=f"{type(error).__name__}: {error}"[:100], fix=fix) from error
    _check_fields(found, FIELDS.get(message.kind, {}), kind=message.kind, where=where)
    for link in found.transforms if message.kind == TF else ():
        _check_fields(link, _LINK, kind=message.kind, where=where)
    return found


def _check_fields(found: Any, fields: Mapping[str, type], *, kind: str, where: Mapping[str, Any]) -> None:
    accepted = {int: (int, np.integer), float: (int, float, np.number), str: (str,), list: (Sequence, np.ndarray)}
    for name, wanted in fields.items():
        value = _at(found, name)
        good = isinstance(value, accepted[wanted]) and (wanted is not list or not isinstance(value, str))
        negative = isinstance(value, int | np.integer) and value < 0 and not name.startswith("header")
        if not good or negative:
            problem = f"its messages are no {kind}: the field {name} is missing or of another type"
            fix = "record it with the standard type, or leave the topic out"
            raise DataFormatError(problem, **where, found=type(value).__name__, expected=wanted.__name__, fix=fix)


def _at(found: Any, name: str) -> Any:
    """The field of a dotted name, None where there is none."""
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def first_message(log: Log, topic: str) -> Any:
    """The first message of a topic that has some, decoded.

    Raises:
        DataFormatError: damaged.
    """
    found = next(iter(log.messages((topic,), start=None, stop=None)), None)
    if found is None:
        fix = "copy it again"
        raise DataFormatError("is damaged: no message is where it should be", file=log.path, field=topic, fix=fix)
    return decoded(found, file=log.path)


def seconds(stamp: Any, *, logged: int = 0) -> float:
    """Seconds of a ROS time, float64 (a tenth of a microsecond of the wall clock); `logged` ns where it is not set."""
    return stamp.sec + 1e-9 * stamp.nanosec or 1e-9 * logged


def stamps_of(log: Log, topic: str, *, loose: bool = False) -> Stamps:
    """When the messages of a topic are from: by their headers where those are set and differ, else by their logging.

    Args:
        loose: times may be equal, or of a clock that was set back.
    Raises:
        TimestampError: times do not increase. DataFormatError: a damaged file.
    """
    return _stamps_of(log, topic, changed=log.path.stat().st_mtime_ns, loose=loose)


@functools.lru_cache(maxsize=32)
def _stamps_of(log: Log, topic: str, *, changed: int, loose: bool) -> Stamps:
    stamps, logged = [], []
    read = _stamp_at_start
    for found in log.messages((topic,), start=None, stop=None):
        if not logged and read(found, log) != _stamp_decoded(found, log):
            read = _stamp_decoded  # its header is not what it begins with
        stamps.append(read(found, log))
        logged.append(found.logged)
    written = np.array(logged, np.int64)
    times, unset = _set_times(np.array(stamps, np.float64), written)
    order = np.argsort(times, kind="stable")
    # Of messages that were logged at one time none is late.
    newest = np.maximum.accumulate(times[np.lexsort((times, written))]) if len(times) else times
    late = newest - times[np.lexsort((times, written))]
    increasing = bool((np.diff(times[order]) > 0).all())
    if not loose and (not len(times) or not increasing or late.max() > MAX_LATE):
        steps = np.diff(times)
        frame = int((~(steps > 0)).argmax()) + 1 if len(steps) else 0
        fix = f"was the clock set back? {RESYNC_FIX}"
        raise TimestampError("times do not increase", file=log.path, field=topic, frame=frame, fix=fix)
    rank = np.arange(len(written)) - np.searchsorted(written, written)
    return Stamps(times[order], written[order], order, rank[order], late=int((late > 0).sum()), unset=unset)


def _stamp_at_start(message: Message, log: Log) -> float:
    """The stamp of a header that begins a message: CDR has four bytes of its own first, ROS 1 the number."""
    order = "<" if log.source == "ROS 1 bag" or message.data[1:2] == b"\x01" else ">"
    try:
        sec, nanosec = struct.unpack_from(f"{order}iI", message.data, 4)
    except struct.error as error:
        raise DataFormatError("a message is cut short", file=log.path, field=message.topic) from error
    return sec + 1e-9 * nanosec


def _stamp_decoded(message: Message, log: Log) -> float:
    return seconds(decoded(message, file=log.path).header.stamp)


def _set_times(stamps: np.ndarray, logged: np.ndarray) -> tuple[np.ndarray, int]:
    """Times [n] s, and how many headers have none: zero, or one and the same time in most messages."""
    good = np.isfinite(stamps) & (stamps > 0)
    if len(stamps) > 2 and len(np.unique(stamps[good])) < 0.4 * len(stamps):
        good[:] = False
    written = logged * 1e-9
    behind = float(np.median((written - stamps)[good])) if good.any() else 0.0
    return np.where(good, stamps, written - behind), int((~good).sum())


@dataclass(frozen=True)
class Messages:
    """Chosen messages of one topic as arrays, in the order of `stamps`."""

    log: Log
    topic: str
    stamps: Stamps
    index: np.ndarray
    """[t] which of them each frame shows."""
    arrays: Callable[..., np.ndarray]
    """What makes an array of a decoded message."""

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        """One array a frame."""
        for stretch in _stretches(frames, self.stamps.place[self.index]):
            yield from self._in_one_go(stretch)

    def _in_one_go(self, frames: Sequence[int]) -> Iterator[np.ndarray]:
        chosen = self.index[frames[0]]
        pending = [(int(self.stamps.place[self.index[i]]), i) for i in frames]
        at = int(self.stamps.place[chosen] - self.stamps.rank[chosen])
        for message in self.log.messages((self.topic,), start=int(self.stamps.logged[chosen]), stop=None):
            while pending and pending[0][0] == at:
                found = decoded(message, file=self.log.path)
                yield self.arrays(found, file=self.log.path, topic=self.topic, frame=pending.pop(0)[1])
            if not pending:
                return
            at += 1
        raise DataFormatError("a message is gone", file=self.log.path, field=self.topic, frame=pending[0][1])


def _stretches(frames: Iterable[int], places: np.ndarray, *, gap: int = 16) -> Iterator[list[int]]:
    """Frames in the given order, as long as their messages follow each other closely."""
    stretch: list[int] = []
    for i in frames:
        if stretch and not 0 <= places[i] - places[stretch[-1]] <= gap:
            yield stretch
            stretch = []
        stretch.append(i)
    if stretch:
        yield stretch

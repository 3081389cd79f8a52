"""The state of a robot from ROS: every joint of every message and topic of joint states, one column each."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scene4d.data.formats.ros.ros_log import Log, decoded, seconds
from scene4d.data.timeline.resync import nearest_stamps
from scene4d.ledger import LeftOut

MAX_AGE = 1.0  # s that a reading may be from its frame


@dataclass(frozen=True)
class JointTable:
    """Readings of all joints, each with times of its own."""

    names: tuple[str, ...]
    """Of the columns: the joint's, with what tells its topic apart where several topics have a joint of that name."""
    times: tuple[np.ndarray, ...]
    """[n] s of each joint's readings, increasing."""
    positions: tuple[np.ndarray, ...]
    """[n] of each joint."""

    def at(self, ticks: np.ndarray) -> np.ndarray:
        """Positions [t j]: of each joint the reading nearest to each time [t] s."""
        columns = zip(self.times, self.positions, strict=True)
        return np.stack([values[nearest_stamps(times, ticks)[0]] for times, values in columns], 1)

    def stale(self, ticks: np.ndarray) -> LeftOut:
        """Joints whose nearest reading is more than `MAX_AGE` away from a frame."""
        far = [float(nearest_stamps(times, ticks)[1].max()) for times in self.times]
        names = tuple(f"{n} {age:.1f} s" for n, age in zip(self.names, far, strict=True) if age > MAX_AGE)
        reason = "no reading near some frames: the nearest in time is shown"
        return LeftOut("stale_joints", "proprio", names, reason, "record the joints for the whole time")


def joints_of(log: Log, topics: Sequence[str]) -> JointTable | None:
    """All joints of these topics, None where none has a position."""
    return _joints_of(log, tuple(topics), changed=log.path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _joints_of(log: Log, topics: tuple[str, ...], *, changed: int) -> JointTable | None:
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for message in log.messages(topics, start=None, stop=None) if topics else ():
        found = decoded(message, file=log.path)
        time = seconds(found.header.stamp, logged=message.logged)
        for name, position in zip(found.name, found.position, strict=False):
            rows.setdefault((message.topic, str(name)), []).append((time, float(position)))
    tables = {key: np.array(values) for key, values in rows.items()}
    tables = {key: table[np.isfinite(table).all(1)] for key, table in tables.items()}
    tables = {key: table[np.argsort(table[:, 0], kind="stable")] for key, table in tables.items() if len(table)}
    if not tables:
        return None
    ordered = sorted(tables, key=lambda key: topics.index(key[0]))  # else in the order in which they came first
    times, positions = (tuple(tables[key][:, column] for key in ordered) for column in (0, 1))
    return JointTable(names=_names(ordered), times=times, positions=positions)


def _names(keys: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Names of the columns by (topic, joint)."""
    topics = list(dict.fromkeys(topic for topic, _ in keys))
    parts = {topic: [p for p in topic.split("/") if p] for topic in topics}
    while all(parts.values()) and len({p[-1] for p in parts.values()}) == 1 and len(topics) > 1:
        parts = {topic: p[:-1] for topic, p in parts.items()}
    common = Counter(joint for _, joint in keys)
    words = {topic: ".".join(p) for topic, p in parts.items()}
    named = [j if common[j] == 1 or not words[topic] else f"{words[topic]}.{j}" for topic, j in keys]
    return tuple(named if len(set(named)) == len(named) else [f"{topic}:{joint}" for topic, joint in keys])

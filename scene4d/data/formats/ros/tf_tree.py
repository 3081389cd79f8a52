"""A tree of coordinate frames as ROS publishes it (tf): where a frame was at some times, seen from the root."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scene4d.data.formats.ros.ros_log import seconds
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.geometry.rotation import matrices_from_xyzw, normalize_quat, slerp

MAX_GAP = 0.25  # s between two readings that are still joined by a line
ROOTS = ("world", "map", "base_link", "base")


@dataclass(frozen=True)
class _Link:
    """parent_from_child over time: times [n] s, positions [n 3], quaternions [n 4] xyzw; a fixed one has no times."""

    parent: str
    times: np.ndarray
    positions: np.ndarray
    quats: np.ndarray


@dataclass(frozen=True)
class FrameTree:
    """All links by their child."""

    links: Mapping[str, _Link]

    def root_of(self, frame: str, *, file: Any) -> str:
        """The frame that counts as world: a known name above `frame`, else the top.

        Raises:
            DataFormatError: the links form a ring.
        """
        above = [frame]
        while above[-1] in self.links:
            parent = self.links[above[-1]].parent
            if parent in above:
                found = [*above, parent]
                raise DataFormatError("the coordinate frames form a ring", file=file, field="tf", found=found)
            above.append(parent)
        return next((name for name in ROOTS if name in above), above[-1])

    def unconnected(self, root: str) -> list[str]:
        """Frames whose links do not lead to `root`, nor down from it."""
        top = self._top(root)
        return sorted(frame for frame in self.links if self._top(frame) != top)

    def _top(self, frame: str) -> str:
        seen = {frame}
        while frame in self.links and self.links[frame].parent not in seen:
            frame = self.links[frame].parent
            seen.add(frame)
        return frame

    def knows(self, frame: str) -> bool:
        """Whether any link names a frame."""
        return frame in self.links or any(link.parent == frame for link in self.links.values())

    def world_from(self, frame: str, times: np.ndarray, *, root: str, file: Any) -> tuple[np.ndarray, np.ndarray]:
        """World-from-frame [t 4 4] at times [t] s, and where it is known [t]: near enough to readings of every link.

        Raises:
            CalibrationError: the frame is not joined to the root.
        """
        matrices, known, child = np.tile(np.eye(4), (len(times), 1, 1)), np.ones(len(times), bool), frame
        while child != root:
            if child not in self.links:
                found = f"{child} has no parent"
                fix = "record /tf and /tf_static too"
                raise CalibrationError("no pose", file=file, field=f"tf {root} -> {frame}", found=found, fix=fix)
            link = self.links[child]
            step, near = _at(link, times)
            matrices, known, child = step @ matrices, known & near, link.parent
        return matrices, known


def tree_of(transforms: Iterable[tuple[Any, bool, int]], *, file: Any) -> FrameTree:
    """The tree of (TransformStamped, fixed, time of logging in ns) messages.

    Raises:
        CalibrationError: a quaternion is zero or not finite.
    """
    rows: dict[str, list[tuple[float, ...]]] = {}
    parents: dict[str, tuple[str, bool]] = {}
    for message, fixed, logged in transforms:
        child, parent = message.child_frame_id.lstrip("/"), message.header.frame_id.lstrip("/")
        shift, turn = message.transform.translation, message.transform.rotation
        row = (seconds(message.header.stamp, logged=logged), shift.x, shift.y, shift.z, turn.x, turn.y, turn.z, turn.w)
        if not np.isfinite(row).all() or not np.linalg.norm(row[4:]) > 1e-6:
            where = {"file": file, "field": f"tf {parent} -> {child}"}
            raise CalibrationError("a transform is not finite, or its quaternion is zero", **where, found=row[1:])
        rows.setdefault(child, []).append(row)
        parents[child] = (parent, fixed or parents.get(child, ("", False))[1])
    links = {}
    for child, values in rows.items():
        parent, fixed = parents[child]
        table = np.array(values[-1:] if fixed else values, np.float64)
        _, first = np.unique(table[:, 0], return_index=True)
        table = table[first]
        times = np.empty(0) if fixed else table[:, 0]
        links[child] = _Link(parent=parent, times=times, positions=table[:, 1:4], quats=table[:, 4:])
    return FrameTree(links)


def _at(link: _Link, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parent-from-child [t 4 4] on the line between its readings, and whether readings are near."""
    matrices = np.tile(np.eye(4), (len(times), 1, 1))
    if not len(link.times):
        matrices[:, :3, :3], matrices[:, :3, 3] = matrices_from_xyzw(link.quats[0]), link.positions[0]
        return matrices, np.ones(len(times), bool)
    inside = times.clip(link.times[0], link.times[-1])
    right = np.searchsorted(link.times, inside).clip(min(1, len(link.times) - 1), len(link.times) - 1)
    left = (right - 1).clip(0)
    gap = link.times[right] - link.times[left]
    hit = np.minimum(np.abs(inside - link.times[left]), np.abs(inside - link.times[right])) < 1e-4
    near = (np.abs(times - inside) <= 0.5 * MAX_GAP) & ((gap <= MAX_GAP) | hit)
    if len(link.times) > 1:
        quats, weight = normalize_quat(torch.from_numpy(link.quats)), (inside - link.times[left]) / gap
        between = slerp(quats[left], quats[right], weight=torch.from_numpy(weight))
        matrices[:, :3, :3] = matrices_from_xyzw(between.numpy())
    else:
        matrices[:, :3, :3] = matrices_from_xyzw(link.quats[0])
    for axis in range(3):
        matrices[:, axis, 3] = np.interp(inside, link.times, link.positions[:, axis])
    return matrices, near

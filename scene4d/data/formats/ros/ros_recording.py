"""Recordings in logs of ROS: image, camera_info, tf and joint_states topics brought onto one clock.

A camera's optical frame is OpenCV's; 16UC1 depth is in millimetres, 32FC1 in metres; K counts pixels by their index, so
half a pixel is added. Depth counts as registered when it has colour's frame of reference. Times are the stamps in the
messages' headers, kept in float64; where tf has a gap the frame is marked, not guessed.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import checked_intrinsics, inverse_poses
from scene4d.data.cameras.lens import Lens, checked_lens
from scene4d.data.formats.ros.mcap_log import McapLog
from scene4d.data.formats.ros.ros_images import camera_of, color_of, depth_of, is_depth, size_of
from scene4d.data.formats.ros.ros_joints import joints_of
from scene4d.data.formats.ros.ros_log import (
    COMPRESSED,
    IMAGE,
    INFO,
    TF,
    Log,
    Messages,
    Stamps,
    Topic,
    decoded,
    first_message,
    stamps_of,
)
from scene4d.data.formats.ros.ros_topics import image_topics, joint_topics, unused_topics
from scene4d.data.formats.ros.rosbag_log import BagLog, Db3Log, folder_log
from scene4d.data.formats.ros.tf_tree import FrameTree, tree_of
from scene4d.data.timeline.frame_table import FrameTable, TableRecording, View
from scene4d.data.timeline.resync import nearest_stamps
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.ledger import LeftOut, uncalibrated, with_left_out
from scene4d.robot.columns import joint_unit

MAX_BAD = 0.2


@dataclass(frozen=True)
class _Camera:
    """What is known of a camera before its images are looked at."""

    color: str
    depth: str | None
    info: str
    frame_id: str
    size: tuple[int, int]
    K: np.ndarray
    lens: Lens | None


@dataclass(frozen=True)
class Bag:
    """A log with the topics that are read; callable as a table's `load`."""

    log: Log
    cameras: Mapping[str, _Camera]
    transforms: tuple[str, ...]
    joints: tuple[str, ...]
    clock: str  # the topic whose messages are the frames
    loose_times: bool = False  # stamps may come in any order

    def __call__(self, cameras: Sequence[str]) -> FrameTable:
        """The table; images stay in the file."""
        ticks = self.stamps(self.clock).times
        tree = _tree(self.log, self.transforms)
        views = {name: self._view(self.cameras[name], ticks, tree=tree) for name in cameras}
        joints = joints_of(self.log, self.joints)
        return FrameTable(views=views, times=ticks - ticks[0], proprio=None if joints is None else joints.at(ticks))

    def stamps(self, topic: str) -> Stamps:
        """When the messages of a topic are from."""
        return stamps_of(self.log, topic, loose=self.loose_times)

    def _view(self, camera: _Camera, ticks: np.ndarray, *, tree: FrameTree) -> View:
        color, near = self._matched(camera.color, ticks, arrays=color_of)
        depth = None
        if camera.depth is not None:
            depth, together = self._matched(camera.depth, ticks, arrays=depth_of)
            near &= together
        file = self.log.path
        root = tree.root_of(camera.frame_id, file=file)
        poses, known = tree.world_from(camera.frame_id, ticks, root=root, file=file)
        if not known.mean() >= 1 - MAX_BAD:
            bad = np.flatnonzero(~known)
            where = {"file": file, "field": f"tf {root} -> {camera.frame_id}", "frame": int(bad[0])}
            problem, found = f"tf has gaps at {len(bad)} of {len(ticks)} frames", ticks[bad[0]] - ticks[0]
            fix = "record tf for the whole time, or cut the recording"
            raise CalibrationError(problem, **where, found=f"first at {found:.3f} s", fix=fix)
        usable = near & known
        still = bool((poses == poses[:1]).all())
        return View(
            size=camera.size,
            Ks=camera.K,
            viewmats=inverse_poses(poses[0] if still else poses),
            color=color,
            depth=depth,
            lens=camera.lens,
            usable=None if usable.all() else usable,
        )

    def _matched(self, topic: str, ticks: np.ndarray, *, arrays: Any) -> tuple[Messages, np.ndarray]:
        """The messages nearest to each frame, and whether they are within half a frame [t]."""
        stamps = self.stamps(topic)
        index, apart = nearest_stamps(stamps.times, ticks)
        near = apart <= 0.5 * (_pause(ticks) or 0.1)
        return Messages(self.log, topic, stamps=stamps, index=index, arrays=arrays), near


def open_mcap(path: Path, *, loose_times: bool = False) -> list[TableRecording]:
    """The one recording of an MCAP file; see `open_log`."""
    return open_log(McapLog(path), loose_times=loose_times)


def open_bag(path: Path, *, loose_times: bool = False) -> list[TableRecording]:
    """The one recording of a .bag, a .db3 or the folder of a ROS 2 bag; see `open_log`."""
    if path.is_dir():
        log, lost = folder_log(path)
        return open_log(log, loose_times=loose_times, notes=[lost])
    return open_log(BagLog(path) if path.suffix.lower() == ".bag" else Db3Log(path), loose_times=loose_times)


def open_log(log: Log, *, loose_times: bool = False, notes: Sequence[LeftOut] = ()) -> list[TableRecording]:
    """The one recording of a log: every camera with images, CameraInfo and tf.

    Args:
        notes: what of the log itself is not there.

    Raises:
        DataFormatError: damaged (names the last topic and time that can be read), or no ROS images.
        CalibrationError: no CameraInfo or no tf for any camera. EnvError: a library is not installed.
    """
    topics, path = log.topics(), log.path
    images = image_topics(topics)
    if not images:
        found = ", ".join(f"{n} ({t.kind}{', ' + t.refused if t.refused else ''})" for n, t in sorted(topics.items()))
        expected = [IMAGE, COMPRESSED]
        raise DataFormatError("holds no ROS images", file=path, found=found[:400] or "no topics", expected=expected)
    transforms = tuple(sorted(n for n, t in topics.items() if t.kind == TF and t.count and not t.refused))
    if not transforms:
        fix = "record /tf and /tf_static too"
        raise CalibrationError("no poses", file=path, field="tf", found=f"images of {images}", fix=fix)
    cameras, unread, used = _cameras(log, topics, images=images)
    tree = _tree(log, transforms)
    cameras, root, lost = _placed(cameras, tree, file=path)
    clock = max((c.color for c in cameras.values()), key=lambda topic: (topics[topic].count, topic))
    bag = Bag(log, cameras, transforms, joints=tuple(joint_topics(topics)), clock=clock, loose_times=loose_times)
    ticks, joints = bag.stamps(clock).times, joints_of(log, bag.joints)
    info: dict[str, Any] = {"source": log.source, "task": "", "units": "m", "started": float(ticks[0])}
    names = () if joints is None else joints.names
    info["action_spec"] = []
    info["proprio_spec"] = [{"name": name, "unit": joint_unit(name), "frame": "joint"} for name in names]
    info["topics"] = {name: [c.color, *([c.depth] if c.depth else [])] for name, c in cameras.items()}
    used |= {*transforms, *bag.joints, *(name for name, topic in topics.items() if topic.kind == INFO)}
    unread += [*notes, lost, *unused_topics(topics, used=used), *_odd_times(bag)]
    apart = "their links do not lead to the cameras' world"
    unread.append(LeftOut("frames", "tf", tuple(tree.unconnected(root)), apart, lost=False))
    if joints is not None:
        unread.append(joints.stale(ticks))
    recording = TableRecording(
        path=str(path),
        num_frames=len(ticks),
        fps=1 / (_pause(ticks) or 1.0),
        sizes={name: c.size for name, c in cameras.items()},
        depth_cameras=tuple(name for name, c in cameras.items() if c.depth),
        info=with_left_out(info, *unread),
        load=bag,
    )
    return [recording]


def _cameras(
    log: Log, topics: Mapping[str, Topic], *, images: Sequence[str]
) -> tuple[dict[str, _Camera], list[LeftOut], set[str]]:
    """Cameras by the name of their topic's folder, the image topics that cannot be used, and all of them.

    Raises:
        CalibrationError, DataFormatError: there is no camera.
    """
    first: dict[str, Any] = {}
    refused: dict[str, DataFormatError] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for topic in images:
        message = first_message(log, topic)
        try:
            sizes[topic] = size_of(message, file=log.path, topic=topic)
            first[topic] = message
        except DataFormatError as error:
            refused[topic] = error
    depths = {t: m for t, m in first.items() if is_depth(m)}
    cameras: dict[str, _Camera] = {}
    without: list[str] = []
    for topic in (t for t in first if t not in depths):
        info = f"{_folder(topic)}/camera_info"
        listed = topics.get(info, Topic("", 0))
        calibration = first_message(log, info) if listed.kind == INFO and listed.count else None
        name = _folder(topic).strip("/").replace("/", ".") or "camera"
        if calibration is None:
            without.append(topic)
        elif name in cameras:
            refused[topic] = DataFormatError(f"the same pictures as {cameras[name].color}")
        else:
            taken = {c.depth for c in cameras.values()}
            free = {t: (m, sizes[t]) for t, m in depths.items() if t not in taken}
            cameras[name] = _camera(log.path, topic, info=info, message=calibration, size=sizes[topic], depths=free)
    if not cameras and without:
        found, fix = f"images of {images}", "record the camera_info topic beside each image topic"
        where = {"file": log.path, "field": "camera_info"}
        raise CalibrationError("no CameraInfo for any image", **where, found=found, fix=fix)
    if not cameras:
        raise next(iter(refused.values()), DataFormatError("holds no colour images", file=log.path, found=images))
    loose = tuple(sorted(set(depths) - {c.depth for c in cameras.values()}))
    reason, fix = "depth of another frame or size than any colour: left out", "record depth registered to colour"
    notes = [uncalibrated(without), LeftOut("depth_not_registered", "depth", loose, reason, fix)]
    for topic, error in refused.items():
        same = error.file is None
        words = error.problem if same else f"pictures that cannot be read: {error.problem} ({error.found})"
        notes.append(LeftOut("topics", "images", (topic,), words, lost=not same))
    return cameras, notes, set(images)


def _camera(
    path: Path, topic: str, *, info: str, message: Any, size: tuple[int, int],
    depths: Mapping[str, tuple[Any, tuple[int, int]]],
) -> _Camera:  # fmt: skip
    """The camera of a colour topic; its depth is that of `depths` with its frame and size."""
    actual = (message.width, message.height)
    if actual != size:
        problem = "the calibration is for another image size"
        fix = "record images and camera_info of one mode of the camera"
        raise CalibrationError(problem, file=path, field=info, found=actual, expected=size, fix=fix)
    K, lens = camera_of(message, rectified="rect" in topic.rsplit("/", 1)[-1], file=path, topic=info)
    K = checked_intrinsics(K, width=size[0], height=size[1], file=path, camera=info)
    frame_id = message.header.frame_id.lstrip("/")
    same = (t for t, (m, s) in depths.items() if m.header.frame_id.lstrip("/") == frame_id and s == size)
    lens = checked_lens(lens, K, size=size, file=path, camera=info)
    return _Camera(topic, depth=next(same, None), info=info, frame_id=frame_id, size=size, K=K, lens=lens)


def _placed(cameras: Mapping[str, _Camera], tree: FrameTree, *, file: Path) -> tuple[dict[str, _Camera], str, LeftOut]:
    """Cameras that tf joins to one world, the name of that world, and the cameras that it does not join."""
    roots = {n: tree.root_of(c.frame_id, file=file) for n, c in cameras.items() if tree.knows(c.frame_id)}
    if not roots:
        frames = sorted({c.frame_id for c in cameras.values()})
        fix = "record /tf and /tf_static too"
        problem = "no pose: tf knows none of the cameras' frames"
        raise CalibrationError(problem, file=file, field="tf", found=frames, fix=fix)
    root = Counter(roots.values()).most_common(1)[0][0]
    apart = tuple(f"{n} ({c.frame_id})" for n, c in cameras.items() if roots.get(n) != root)
    reason = f"tf does not join these cameras to {root}: they are left out"
    lost = LeftOut("no_pose", "pose", apart, reason, "record /tf and /tf_static too")
    return {n: c for n, c in cameras.items() if roots.get(n) == root}, root, lost


def _odd_times(bag: Bag) -> list[LeftOut]:
    """Topics whose messages came late, or have no times of their own."""
    used = [t for c in bag.cameras.values() for t in (c.color, c.depth) if t is not None]
    stamps = {topic: bag.stamps(topic) for topic in used}
    late = tuple(f"{t} {s.late}" for t, s in stamps.items() if s.late)
    unset = tuple(f"{t} {s.unset}" for t, s in stamps.items() if s.unset)
    ordered, by_log = "logged after newer messages: ordered by their stamps", "no time in the header: that of logging"
    return [
        LeftOut("late_messages", "times", late, ordered, lost=False),
        LeftOut("unset_stamps", "times", unset, by_log, lost=False),
    ]


def _folder(topic: str) -> str:
    """The namespace of an image topic, without image_transport's ending."""
    parts = topic.split("/")
    parts = parts[:-1] if parts[-1] in ("compressed", "compressedDepth") else parts
    return "/".join(parts[:-1])


def _pause(ticks: np.ndarray) -> float:
    """Median time in s from one instant to the next; 0 where there is only one."""
    steps = np.diff(np.unique(ticks))
    return float(np.median(steps)) if len(steps) else 0.0


def _tree(log: Log, topics: tuple[str, ...]) -> FrameTree:
    return _tree_of(log, topics, changed=log.path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _tree_of(log: Log, topics: tuple[str, ...], *, changed: int) -> FrameTree:
    found = ((m, decoded(m, file=log.path)) for m in log.messages(topics, start=None, stop=None))
    links = ((link, "static" in m.topic, m.logged) for m, tf in found for link in tf.transforms)
    return tree_of(links, file=log.path)

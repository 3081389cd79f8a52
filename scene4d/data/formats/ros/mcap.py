"""MCAP recordings of ROS 2: image, camera_info, tf and joint_states topics brought onto one clock.

A camera's optical frame is OpenCV's; 16UC1 depth is in millimetres, 32FC1 in metres; K counts pixels by their index, so
half a pixel is added. Depth counts as registered when it has colour's frame of reference. Times are the stamps in the
messages' headers, kept in float64; where tf has a gap the frame is marked, not guessed.
"""

from __future__ import annotations

import contextlib
import functools
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import checked_intrinsics, inverse_poses
from scene4d.data.cameras.lens import Lens, checked_lens
from scene4d.data.formats.ros.ros_images import camera_of, color_of, depth_of, is_depth, size_of
from scene4d.data.formats.ros.tf_tree import FrameTree, seconds, tree_of
from scene4d.data.ledger import uncalibrated, with_left_out
from scene4d.data.timeline.frame_table import FrameTable, TableRecording, View
from scene4d.data.timeline.resync import RESYNC_FIX, nearest_stamps
from scene4d.errors import CalibrationError, DataFormatError, Scene4DError, TimestampError
from scene4d.extras import optional
from scene4d.robot.columns import joint_unit

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
INFO, TF, JOINTS = "sensor_msgs/msg/CameraInfo", "tf2_msgs/msg/TFMessage", "sensor_msgs/msg/JointState"
MAX_BAD = 0.2


@dataclass(frozen=True)
class _Camera:
    """What is known of a camera before its images are looked at."""

    color: str
    depth: str | None
    frame_id: str
    size: tuple[int, int]
    K: np.ndarray
    lens: Lens | None


@dataclass(frozen=True)
class Bag:
    """A file with the topics that are read; callable as a table's `load`."""

    path: Path
    cameras: Mapping[str, _Camera]
    transforms: Sequence[str]
    joints: str | None
    clock: str  # the topic whose messages are the frames
    loose_times: bool = False  # stamps may come in any order

    def __call__(self, cameras: Sequence[str]) -> FrameTable:
        """The table; images stay in the file."""
        ticks, _ = _stamps(self.path, self.clock, loose=self.loose_times)
        tree = _tree_of(self.path, tuple(self.transforms), changed=self.path.stat().st_mtime_ns)
        views = {name: self._view(self.cameras[name], ticks, tree=tree) for name in cameras}
        proprio = None if self.joints is None else _joint_positions(self.path, self.joints, ticks=ticks)
        return FrameTable(views=views, times=ticks - ticks[0], proprio=proprio)

    def _view(self, camera: _Camera, ticks: np.ndarray, *, tree: FrameTree) -> View:
        color, near = self._matched(camera.color, ticks)
        depth = None
        if camera.depth is not None:
            times, together = self._matched(camera.depth, ticks)
            depth = _Messages(self.path, camera.depth, times, depth=True)
            near &= together
        root = tree.root_of(camera.frame_id, file=self.path)
        poses, known = tree.world_from(camera.frame_id, ticks, root=root, file=self.path)
        if not known.mean() >= 1 - MAX_BAD:
            bad = np.flatnonzero(~known)
            where = {"file": self.path, "field": f"tf {root} -> {camera.frame_id}", "frame": int(bad[0])}
            problem, found = f"tf has gaps at {len(bad)} of {len(ticks)} frames", ticks[bad[0]] - ticks[0]
            fix = "record tf for the whole time, or cut the recording"
            raise CalibrationError(problem, **where, found=f"first at {found:.3f} s", fix=fix)
        usable = near & known
        still = bool((poses == poses[:1]).all())
        return View(
            size=camera.size,
            Ks=camera.K,
            viewmats=inverse_poses(poses[0] if still else poses),
            color=_Messages(self.path, camera.color, color, depth=False),
            depth=depth,
            lens=camera.lens,
            usable=None if usable.all() else usable,
        )

    def _matched(self, topic: str, ticks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logging time [t] of the message nearest to each frame, and whether it is within half a frame."""
        stamps, logged = _stamps(self.path, topic, loose=self.loose_times)
        index, apart = nearest_stamps(stamps, ticks)
        return logged[index], apart <= 0.5 * (_pause(ticks) or 0.1)


@dataclass(frozen=True)
class _Messages:
    """Images of one topic, by the time each was logged."""

    path: Path
    topic: str
    logged: np.ndarray
    depth: bool

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        decode = depth_of if self.depth else color_of
        for i in frames:
            at = int(self.logged[i])
            for message, _, _ in _messages(self.path, (self.topic,), start=at, stop=at + 1):
                yield decode(message, file=self.path, topic=self.topic, frame=i)
                break
            else:
                raise DataFormatError("a message is gone", file=self.path, field=self.topic, frame=i)


def open_mcap(path: Path, *, loose_times: bool = False) -> list[TableRecording]:
    """The one recording of an MCAP file: every camera with images, CameraInfo and tf.

    Raises:
        DataFormatError: damaged (names the last topic and time that can be read), or no ROS 2 images.
        CalibrationError: no CameraInfo or no tf for any camera. EnvError: mcap or mcap-ros2-support is not installed.
    """
    kinds, statistics = _topics(path)
    images = sorted(t for t, kind in kinds.items() if kind in IMAGES)
    if not images:
        found = ", ".join(f"{t} ({k})" for t, k in sorted(kinds.items())[:12]) or "no topics"
        raise DataFormatError("holds no ROS 2 images", file=path, found=found, expected=list(IMAGES))
    transforms = tuple(sorted(t for t, kind in kinds.items() if kind == TF))
    if not transforms:
        fix = "record /tf and /tf_static too"
        raise CalibrationError("no poses", file=path, field="tf", found=f"images of {images}", fix=fix)
    cameras, left_out = _cameras(path, kinds, images=images)
    if not cameras:
        found = f"images of {images}"
        fix = "record the camera_info topic beside each image topic"
        raise CalibrationError("no CameraInfo for any image", file=path, field="camera_info", found=found, fix=fix)
    clock = max((c.color for c in cameras.values()), key=lambda topic: (statistics[topic], topic))
    joints = next((t for t, kind in sorted(kinds.items()) if kind == JOINTS), None)
    ticks, _ = _stamps(path, clock, loose=loose_times)
    names = _joint_names(path, joints) if joints else []
    bag = Bag(path, cameras, transforms=transforms, joints=joints, clock=clock, loose_times=loose_times)
    info: dict[str, Any] = {"source": "MCAP", "task": "", "units": "m", "started": float(ticks[0]), "action_spec": []}
    info["proprio_spec"] = [{"name": name, "unit": joint_unit(name), "frame": "joint"} for name in names]
    info["topics"] = {name: [c.color, *([c.depth] if c.depth else [])] for name, c in cameras.items()}
    recording = TableRecording(
        path=str(path),
        num_frames=len(ticks),
        fps=1 / (_pause(ticks) or 1.0),
        sizes={name: c.size for name, c in cameras.items()},
        depth_cameras=tuple(name for name, c in cameras.items() if c.depth),
        info=with_left_out(info, uncalibrated(left_out)),
        load=bag,
    )
    return [recording]


def _cameras(path: Path, kinds: Mapping[str, str], *, images: Sequence[str]) -> tuple[dict[str, _Camera], list[str]]:
    """Cameras by the name of their topic's folder, and the topics that cannot be used."""
    first = {topic: _first(path, topic) for topic in images}
    depths = {t: m for t, m in first.items() if m is not None and is_depth(m)}
    cameras: dict[str, _Camera] = {}
    left_out, used = [], set()
    for topic, message in first.items():
        if message is None or topic in depths:
            continue
        folder = _folder(topic)
        info = f"{folder}/camera_info"
        calibration = _first(path, info) if kinds.get(info) == INFO else None
        name = folder.strip("/").replace("/", ".") or "camera"
        if calibration is None or name in cameras:
            left_out.append(topic)
            continue
        size = size_of(message, file=path, topic=topic)
        actual = (calibration.width, calibration.height)
        if actual != size:
            problem = "the calibration is for another image size"
            fix = "record images and camera_info of one mode of the camera"
            raise CalibrationError(problem, file=path, field=info, found=actual, expected=size, fix=fix)
        K, lens = camera_of(calibration, rectified="rect" in topic.rsplit("/", 1)[-1], file=path, topic=info)
        K = checked_intrinsics(K, width=size[0], height=size[1], file=path, camera=info)
        frame_id = calibration.header.frame_id.lstrip("/")
        beside = [t for t, m in depths.items() if m.header.frame_id.lstrip("/") == frame_id and t not in used]
        registered = [t for t in beside if size_of(depths[t], file=path, topic=t) == size]
        depth = registered[0] if registered else None
        used.add(depth)
        lens = checked_lens(lens, K, size=size, file=path, camera=info)
        cameras[name] = _Camera(color=topic, depth=depth, frame_id=frame_id, size=size, K=K, lens=lens)
    return cameras, [*left_out, *sorted(set(depths) - used)]


def _folder(topic: str) -> str:
    """The namespace of an image topic, without image_transport's ending."""
    parts = topic.split("/")
    parts = parts[:-1] if parts[-1] in ("compressed", "compressedDepth") else parts
    return "/".join(parts[:-1])


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[Any]:
    reader = optional("mcap.reader", extra="mcap", what="reading MCAP")
    decoder = optional("mcap_ros2.decoder", extra="mcap", what="reading ROS 2 messages from MCAP")
    with path.open("rb") as stream:
        try:
            yield reader.make_reader(stream, decoder_factories=[decoder.DecoderFactory()])
        except Scene4DError:
            raise
        except Exception as error:  # the library and its decoders raise what the bytes make them raise
            at = _last_readable(path)
            fix = "keep what is whole: scene4d repair IN.mcap -o OUT.mcap (or mcap recover IN.mcap -o OUT.mcap)"
            found = str(error)[:100]
            raise DataFormatError("is damaged or cut short", file=path, field=at, found=found, fix=fix) from error


def _last_readable(path: Path) -> str:
    """Topic and time of the last message before the damage."""
    streams = optional("mcap.stream_reader", extra="mcap", what="reading MCAP")
    channels: dict[int, str] = {}
    last = "no message"
    with path.open("rb") as stream, contextlib.suppress(Exception):
        for record in streams.StreamReader(stream).records:
            kind = type(record).__name__
            if kind == "Channel":
                channels[record.id] = record.topic
            elif kind == "Message":
                last = f"{channels.get(record.channel_id)} at {record.log_time / 1e9:.3f} s"
    return f"after {last}"


def _messages(
    path: Path, topics: Sequence[str], *, start: int | None = None, stop: int | None = None
) -> Iterator[tuple[Any, str, int]]:
    """Decoded messages with their topic and logging time in ns."""
    with _reader(path) as reader:
        for found in reader.iter_decoded_messages(topics=list(topics), starting_at=start, ending_before=stop):
            yield found.decoded_message, found.channel.topic, found.message.log_time


def _topics(path: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Schema and number of messages of each ROS 2 topic."""
    with _reader(path) as reader:
        summary = reader.get_summary()
        if summary is None or summary.statistics is None:
            raise ValueError("it has no summary")
        channels, schemas = summary.channels.values(), summary.schemas
        channels = [c for c in channels if c.message_encoding == "cdr" and c.schema_id in schemas]
        counts = summary.statistics.channel_message_counts
        return {c.topic: schemas[c.schema_id].name for c in channels}, {c.topic: counts.get(c.id, 0) for c in channels}


def _first(path: Path, topic: str) -> Any:
    return next((message for message, _, _ in _messages(path, (topic,))), None)


def _stamps(path: Path, topic: str, *, loose: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Header stamps in s (increasing; where `loose`, sorted with doubles kept) and logging times in ns of messages."""
    return _stamps_of(path, topic, changed=path.stat().st_mtime_ns, loose=loose)


@functools.lru_cache(maxsize=32)
def _stamps_of(path: Path, topic: str, *, changed: int, loose: bool) -> tuple[np.ndarray, np.ndarray]:
    stamps, logged = [], []
    with _reader(path) as reader:
        for _, _, message in reader.iter_messages(topics=[topic]):
            # CDR: four bytes give the byte order, then the header's stamp.
            order = "<" if message.data[1] & 1 else ">"
            sec, nanosec = struct.unpack_from(f"{order}iI", message.data, 4)
            stamps.append(sec + 1e-9 * nanosec)
            logged.append(message.log_time)
    times = np.array(stamps)
    if loose:
        order = np.argsort(times, kind="stable")
        times, logged = times[order], [logged[i] for i in order]
    if not len(times) or not (loose or (np.diff(times) > 0).all()):
        frame = int((~(np.diff(times) > 0)).argmax()) + 1 if len(times) else 0
        fix = f"was the clock set back? {RESYNC_FIX}"
        raise TimestampError("times do not increase", file=path, field=topic, frame=frame, fix=fix)
    return times, np.array(logged, np.int64)


def _pause(ticks: np.ndarray) -> float:
    """Median time in s from one instant to the next; 0 where there is only one."""
    steps = np.diff(np.unique(ticks))
    return float(np.median(steps)) if len(steps) else 0.0


@functools.lru_cache(maxsize=8)
def _tree_of(path: Path, topics: tuple[str, ...], *, changed: int) -> FrameTree:
    found = _messages(path, topics)
    return tree_of(((t, "static" in topic) for m, topic, _ in found for t in m.transforms), file=path)


def _joint_names(path: Path, topic: str) -> list[str]:
    message = _first(path, topic)
    return [] if message is None else list(message.name)


def _joint_positions(path: Path, topic: str, *, ticks: np.ndarray) -> np.ndarray:
    """Positions [t j] of the reading nearest to each frame, in the order of the first message's names."""
    names, rows, times = _joint_names(path, topic), [], []
    for message, _, _ in _messages(path, (topic,)):
        known = dict(zip(message.name, message.position, strict=False))
        if all(name in known for name in names):
            rows.append([known[name] for name in names])
            times.append(seconds(message.header.stamp))
    if not rows:
        raise DataFormatError("holds no joint positions", file=path, field=topic)
    index = np.abs(np.array(times)[None] - ticks[:, None]).argmin(1)
    return np.array(rows, np.float64)[index]

"""RLDS data sets (Open X-Embodiment and others) from their TFRecord files, without TensorFlow.

One record is an episode; features are flat, steps/... with a value a step. The format has no calibration and no rate:
cameras.json beside the file supplies both ("fields": {"fps": 5}).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.sidecar import CameraEntry, Supplied, find_cameras
from scene4d.data.files.json_files import number_in, read_json
from scene4d.data.formats.robots.tfrecord import Feature, parse_example, read_record, record_places, values_of
from scene4d.data.timeline.frame_table import FrameTable, TableRecording, View
from scene4d.data.video.images import checked_depth, image_from_bytes
from scene4d.data.video.pictures import depth_of_codes, picture_from_bytes, size_from_bytes
from scene4d.errors import DataFormatError, DepthError
from scene4d.ledger import LeftOut, joined_info, with_left_out

NAME = re.compile(r"\.tfrecords?(-\d+-of-\d+)?$")
NOMINAL_FPS = 10.0
ACTION, OBSERVATION = "steps/action", "steps/observation/"
TEXTS = ("steps/language_instruction", f"{OBSERVATION}natural_language_instruction")
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n")
MAX_STATE = 128  # numbers a step: what is longer is an embedding or an image, not a robot's state


@dataclass(frozen=True)
class RldsEpisode:
    """One record of a file; callable as a table's `load`."""

    path: Path
    place: tuple[int, int]
    length: int
    fps: float
    cameras: Mapping[str, CameraEntry]
    actions: Sequence[str]
    proprio: Sequence[str]

    def __call__(self, cameras: Sequence[str]) -> FrameTable:
        """The episode's table: the record is read and its checksum verified."""
        data = read_record(self.path, self.place)
        features = parse_example(data, file=self.path)
        rewards = self._columns(data, features, names=["steps/reward"]) if "steps/reward" in features else None
        return FrameTable(
            views={name: self._view(data, features, entry=self.cameras[name]) for name in cameras},
            times=np.arange(self.length) / self.fps,
            actions=self._columns(data, features, names=self.actions),
            proprio=self._columns(data, features, names=self.proprio),
            rewards=None if rewards is None else rewards[:, 0],
        )

    def _view(self, data: bytes, features: Mapping[str, Feature], *, entry: CameraEntry) -> View:
        viewmats = entry.viewmat
        if viewmats is None:
            viewmats = _numbers(data, features, name=entry.viewmats, length=self.length, path=self.path)
            viewmats = viewmats.reshape(-1, 4, 4)
        depth = None
        if entry.depth is not None:
            size = (entry.height, entry.width)
            depth = _Images(self.path, data, features[entry.depth], depth_unit=entry.depth_unit, size=size)
        return View(
            size=(entry.width, entry.height),
            Ks=entry.K,
            viewmats=viewmats,
            color=_Images(self.path, data, features[entry.rgb]),
            depth=depth,
            lens=entry.lens,
        )

    def _columns(self, data: bytes, features: Mapping[str, Feature], *, names: Sequence[str]) -> np.ndarray | None:
        parts = [_numbers(data, features, name=name, length=self.length, path=self.path) for name in names]
        return np.concatenate(parts, 1) if parts else None


@dataclass(frozen=True)
class _Images:
    """Encoded images (or, for depth, runs of floats in metres) of one feature of a record in memory."""

    path: Path
    data: bytes
    feature: Feature
    depth_unit: float | None = None
    size: tuple[int, int] | None = None

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        floats = None
        if self.depth_unit is not None and self.feature.kind == "float":
            floats = np.asarray(values_of(self.data, self.feature, file=self.path)).reshape(-1, *(self.size or ()))
        for i in frames:
            if floats is not None:
                yield checked_depth(floats[i], file=self.path, frame=str(i))
                continue
            start, stop = self.feature.parts[i]
            if self.depth_unit is None:
                yield picture_from_bytes(self.data[start:stop], file=self.path, frame=i)
            else:
                codes = _codes(self.data[start:stop], file=self.path, frame=i)
                yield depth_of_codes(codes, unit=self.depth_unit, file=self.path, frame=str(i))


def is_tfrecord(path: Path) -> bool:
    """Whether a file is called as TFRecord files are."""
    return NAME.search(path.name) is not None


def open_rlds(path: Path, *, supplied: Supplied) -> list[TableRecording]:
    """The episodes of one TFRecord file; images are not decoded.

    Raises:
        DataFormatError: damaged, or no RLDS episodes. CalibrationError: no calibration (with how to supply it).
    """
    places = record_places(path)
    beside = [path.with_name(f"{path.name}.cameras.json"), path.with_name("cameras.json")]
    file = supplied.cameras or next((p for p in beside if p.is_file()), None)
    fields = (read_json(file, fix="write it as JSON").get("fields") or {}) if file is not None else {}
    fps = number_in(fields, "fps", file=file, default=0.0) if file is not None else 0.0
    recording = functools.partial(_recording, path, beside=beside, fps=fps, supplied=supplied)
    return [recording(place, row=row) for row, place in enumerate(places)]


def _recording(
    path: Path, place: tuple[int, int], *, row: int, beside: list[Path], fps: float, supplied: Supplied
) -> TableRecording:
    data = read_record(path, place, verified=False)  # its checksum is looked at when its images are
    features = parse_example(data, file=path)
    sizes, depths = _image_sizes(path, data, features=features)
    length = _length(path, features, sizes=sizes, row=row)
    texts = [values_of(data, features[name], file=path) for name in TEXTS if name in features]
    cameras, known = find_cameras(beside, sizes=sizes, columns=features, supplied=supplied, what="RLDS")
    numeric = {n: f for n, f in features.items() if f.kind != "bytes"}
    widths = {n: w for n, f in numeric.items() if (w := _width(data, f, length=length, path=path))}
    actions = sorted(n for n in widths if n == ACTION or n.startswith(f"{ACTION}/"))
    proprio = sorted(n for n in widths if n.startswith(OBSERVATION) and widths[n] <= MAX_STATE and n not in depths)
    spec = lambda names: [
        {"name": f"{name.removeprefix('steps/').removeprefix('observation/')}.{i}", "unit": None, "frame": None}
        for name in names
        for i in range(widths[name])
    ]
    used = {*sizes, *actions, *proprio, *(e.depth for e in cameras.values()), *(e.viewmats for e in cameras.values())}
    used |= {"steps/reward", *[n for n in TEXTS if n in features][:1]}
    info = {
        "source": "RLDS",
        "task": texts[0][0].decode("utf-8", "replace") if texts and texts[0] else "",
        "times": f"{fps or NOMINAL_FPS:g} a second, {'as given' if fps else 'nominal: the format has no rate'}",
        "action_spec": spec(actions),
        "proprio_spec": spec(proprio),
        "depth_features": sorted(depths),
    }
    fps = fps or NOMINAL_FPS
    episode = RldsEpisode(path, place, length, fps, cameras, actions=actions, proprio=proprio)
    return TableRecording(
        path=f"{path}#{row}",
        num_frames=length,
        fps=fps,
        sizes={name: (e.width, e.height) for name, e in cameras.items()},
        depth_cameras=tuple(name for name, e in cameras.items() if e.depth),
        info=with_left_out(joined_info(info, known), *_unused(features, used, depths=depths), _other_texts(texts)),
        load=episode,
    )


def _unused(features: Mapping[str, Feature], used: Collection[str | None], *, depths: set[str]) -> list[LeftOut]:
    """Features that are not read; an action that is not read is lost."""
    unused = [name for name in sorted(features) if name not in used and features[name].parts]
    actions = [name for name in unused if name == ACTION or name.startswith(f"{ACTION}/")]
    depth = [name for name in unused if name in depths]
    listed = [name for name in unused if name not in actions + depth]
    fix = 'name it as "depth" of its camera in cameras.json'
    reason = "no whole number of values a step: these actions are not read"
    return [
        LeftOut("unused_actions", "actions", tuple(actions), reason, "write the record again"),
        LeftOut("unused_depth", "depth", tuple(depth), "depth that no camera names is not read", fix),
        LeftOut("unused_columns", "columns", tuple(listed), "not read", lost=False),
    ]


def _other_texts(texts: Sequence[Any]) -> LeftOut:
    """Texts beside the one that is the task: of later steps, and of other features."""
    found = dict.fromkeys(t.decode("utf-8", "replace") for values in texts for t in values if isinstance(t, bytes))
    others = tuple(text for text in list(found)[1:] if text)
    return LeftOut("other_texts", "task", others, "the first text is the task", lost=False)


def _image_sizes(
    path: Path, data: bytes, *, features: Mapping[str, Feature]
) -> tuple[dict[str, tuple[int, int]], set[str]]:
    """(width, height) of each feature of encoded colour images, and the features of depth."""
    sizes, depths = {}, set()
    for name, feature in sorted(features.items()):
        if not name.startswith(OBSERVATION) or not feature.parts:
            continue
        first = data[slice(*feature.parts[0])]
        if "depth" in name and (feature.kind == "float" or first.startswith(MAGIC)):
            depths.add(name)
        elif feature.kind == "bytes" and first.startswith(MAGIC):
            sizes[name] = size_from_bytes(first, file=path)
    return sizes, depths


def _length(path: Path, features: Mapping[str, Feature], *, sizes: Mapping[str, Any], row: int) -> int:
    """Steps of an episode, which all its images must have."""
    counts = {name: len(features[name].parts) for name in sizes}
    if not counts:
        problem, found = "holds no images that can be read", ", ".join(sorted(features)[:12]) or "nothing"
        where = {"file": path, "frame": row, "field": f"{OBSERVATION}..."}
        raise DataFormatError(problem, **where, found=found, expected="JPEG, PNG")
    if len(set(counts.values())) != 1:
        raise DataFormatError("the numbers of images differ", file=path, frame=row, field="steps", found=counts)
    return next(iter(counts.values()))


def _width(data: bytes, feature: Feature, *, length: int, path: Path) -> int:
    """Numbers a step of a numeric feature, 0 where it has no whole number a step."""
    count = sum(b - a for a, b in feature.parts) // 4
    count = len(values_of(data, feature, file=path)) if feature.kind == "int64" else count
    return count // length if count % length == 0 else 0


def _numbers(data: bytes, features: Mapping[str, Feature], *, name: str, length: int, path: Path) -> np.ndarray:
    """A numeric feature as [t n]."""
    feature = features.get(name)
    where = {"file": path, "field": name}
    if feature is None or feature.kind == "bytes":
        raise DataFormatError("is no feature of numbers", **where, found=sorted(features)[:12])
    values = np.asarray(values_of(data, feature, file=path))
    if len(values) % length or not len(values):
        raise DataFormatError("the numbers of steps differ", **where, found=len(values), expected=f"{length} x n")
    if not np.isfinite(values).all():
        frame = int((~np.isfinite(values)).argmax() // (len(values) // length))
        raise DataFormatError("is not finite", **where, frame=frame, fix="leave out the broken steps")
    return values.reshape(length, -1)


def _codes(data: bytes, *, file: Path, frame: int) -> np.ndarray:
    """Integer depth codes [h w] of a 16-bit PNG."""
    with image_from_bytes(data, file=file, frame=frame) as image:
        if not image.mode.startswith("I"):
            found = f"mode {image.mode}"
            raise DepthError("is no depth image", file=file, frame=frame, found=found, expected="16-bit")
        return np.asarray(image).astype(np.int64)

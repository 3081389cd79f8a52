"""What the HDF5 layouts share: what a cameras.json beside a file says of it, and the recording that an episode becomes.

"fields" of cameras.json describes a whole layout (a field map: episodes, actions, proprio, rewards, success), or only
corrects a known one: fps, task, upside_down, and color_order: "rgb", "bgr", or either for each camera by its name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.sidecar import CameraEntry, Supplied, find_cameras
from scene4d.data.files.json_files import number_in, read_json
from scene4d.data.formats.hdf5.hdf5 import H5Episode, array, first_row, frame_size
from scene4d.data.formats.hdf5.hdf5_guard import H5Array, H5Group
from scene4d.data.ledger import LeftOut, frame_counts, with_left_out
from scene4d.data.timeline.frame_table import TableRecording
from scene4d.errors import DataFormatError

LAYOUT_KEYS = ("episodes", "actions", "proprio", "rewards", "success")
CORRECTIONS = ("fps", "task", "upside_down", "color_order")
ORDERS = ("rgb", "bgr")
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"RIFF")  # JPEG, PNG, BMP, WEBP
QUESTION = (
    "encoded pictures are read as red, green, blue; recorders that encode with OpenCV often store blue, green, red"
)


@dataclass(frozen=True)
class Said:
    """What the user says of a file in a cameras.json."""

    places: Sequence[Path]
    """Where cameras.json may lie, first the one to name when there is none."""
    supplied: Supplied
    file: Path | None = None
    """The one there is."""
    fields: Mapping[str, Any] | None = None
    pictures: frozenset[str] = frozenset()
    """Names of arrays of colour pictures in it."""
    has_cameras: bool = False

    @property
    def is_map(self) -> bool:
        """Whether it describes a layout."""
        return any(key in (self.fields or {}) for key in LAYOUT_KEYS)

    @property
    def calibrates(self) -> bool:
        """Whether a calibration comes from the user."""
        return self.has_cameras or any(p.is_file() for p in self._other_places())

    def cameras(
        self, sizes: Mapping[str, tuple[int, int]], *, columns: Collection[str], what: str
    ) -> tuple[dict[str, CameraEntry], dict[str, Any]]:
        """Cameras by name and notes on them, as `find_cameras` gives them."""
        places, supplied = self.places, self.supplied
        if not self.has_cameras:  # the file, if there is one, speaks of other fields only
            places, supplied = self._other_places(), replace(supplied, cameras=None)
        return find_cameras(places, sizes=sizes, columns=columns, supplied=supplied, what=what)

    def _other_places(self) -> list[Path]:
        return [place for place in self.places if place != self.file]

    def number(self, key: str, *, default: float | None = None) -> float:
        """A number of the fields."""
        return number_in(self.fields or {}, key, file=self.file or self.places[0], default=default)

    def flag(self, key: str, *, default: bool) -> bool:
        """A yes or no of the fields."""
        value = (self.fields or {}).get(key, default)
        if not isinstance(value, bool):
            raise self.fault(key, value, expected="true or false")
        return value

    def bgr(self, cameras: Collection[str]) -> tuple[str, ...]:
        """The cameras whose pictures have blue where red belongs."""
        order = (self.fields or {}).get("color_order", "rgb")
        orders = order if isinstance(order, dict) else dict.fromkeys(cameras, order)
        unknown = [name for name, value in orders.items() if name not in cameras or value not in ORDERS]
        if unknown:
            raise self.fault("color_order", order, expected=f"rgb or bgr, or one of them for each of {list(cameras)}")
        return tuple(name for name, value in orders.items() if value == "bgr")

    def fault(self, key: str, found: Any, *, expected: Any) -> DataFormatError:
        """The error of a field."""
        where = {"file": self.file, "field": f"fields.{key}"}
        return DataFormatError("is not what this field can be", **where, found=found, expected=expected)


def said_beside(path: Path, supplied: Supplied) -> Said:
    """What is said of a file, beside it or in what the caller supplies.

    Raises:
        DataFormatError: it is no JSON, or has fields that nobody reads.
    """
    places = (path.with_name(f"{path.stem}.cameras.json"), path.with_name("cameras.json"))
    file = supplied.cameras or next((p for p in places if p.is_file()), None)
    if file is None:
        return Said(places, supplied)
    table = read_json(file, fix="write it as JSON")
    fields, cameras = table.get("fields"), table.get("cameras")
    if fields is not None and not isinstance(fields, dict):
        raise DataFormatError("is no field map", file=file, field="fields", found=type(fields).__name__)
    unknown = sorted(set(fields or {}) - {*LAYOUT_KEYS, *CORRECTIONS})
    if unknown:
        expected = [*LAYOUT_KEYS, *CORRECTIONS]
        raise DataFormatError(
            "are no fields of a field map", file=file, field="fields", found=unknown, expected=expected
        )
    entries = cameras.values() if isinstance(cameras, dict) else ()
    named = (entry.get("rgb") for entry in entries if isinstance(entry, dict))
    pictures = frozenset(name for name in named if isinstance(name, str))
    return Said(places, supplied, file, fields, pictures=pictures, has_cameras="cameras" in table or fields is None)


def picture_sizes(
    group: H5Group, arrays: Mapping[str, H5Array], *, path: Path, named: Collection[str] = ()
) -> dict[str, tuple[int, int]]:
    """(width, height) of every array of colour pictures; encoded ones are known by how they begin, or are `named`."""
    found = {}
    for name, item in arrays.items():
        color = item.dtype == np.uint8 and item.ndim == 4 and item.shape[-1] in (3, 4)
        if color or name in named or (item.encoded and len(item) and _is_picture(group, name, path=path)):
            found[name] = frame_size(group, name, path=path)
    return found


def _is_picture(group: H5Group, name: str, *, path: Path) -> bool:
    return first_row(group, name, path=path)[:8].tobytes().startswith(MAGIC)


def group_of(file: H5Group, name: str, *, path: Path) -> H5Group:
    """The group of that name.

    Raises:
        DataFormatError: there is none.
    """
    group = file.group(name)
    if group is None:
        raise DataFormatError("is no group", file=path, field=name)
    return group


def contents(file: H5Group) -> str:
    """The first arrays of a file with their shapes."""
    return ", ".join(f"{name} {item.shape}" for name, item in file.arrays(most=12).items())


def specs(
    group: H5Group, path: Path, *, actions: str | None, proprio: Sequence[str], frame: Any = None
) -> dict[str, Any]:
    """Names of action and proprio columns, by the arrays that they come from."""

    def rows(name: str, frame: Any) -> list[dict[str, Any]]:
        width = math.prod(array(group, name, path=path).shape[1:])
        return [{"name": f"{name.split('/')[-1]}{i}", "unit": None, "frame": frame} for i in range(width)]

    action_spec = [] if actions is None else rows(actions, frame)
    return {"action_spec": action_spec, "proprio_spec": [row for name in proprio for row in rows(name, None)]}


def shared_length(counts: Mapping[str, int]) -> tuple[int, tuple[LeftOut, ...]]:
    """Frames that all parts have, and what that leaves out."""
    shortest = min(counts.values())
    differ = len(set(counts.values())) > 1
    return shortest, ((frame_counts(counts, used=shortest),) if differ else ())


def recording_of_episode(
    episode: H5Episode, group: H5Group, *, info: Mapping[str, Any], said: Said, entries: Iterable[LeftOut] = (),
    used: Iterable[str] = (),
) -> TableRecording:  # fmt: skip
    """The recording of an episode; its ledger names every array of the group that is not read, nor `used`."""
    arrays = group.arrays()
    info = {"task": "", "units": "m", "action_spec": [], "proprio_spec": [], **info}
    task = (said.fields or {}).get("task")
    info |= {} if task is None else {"task": str(task)}
    asked = [name for name, e in episode.cameras.items() if e.rgb in arrays and arrays[e.rgb].encoded]
    fix = 'where red and blue are exchanged, write {"fields": {"color_order": "bgr"}} into cameras.json'
    question = LeftOut("color_order", "images", tuple(asked), QUESTION, fix, lost=False)
    answered = "color_order" in (said.fields or {})
    info = with_left_out(info, *entries, *(() if answered else (question,)), *_unused(episode, arrays, used))
    return TableRecording(
        path=f"{episode.path}#{episode.group}",
        num_frames=episode.length,
        fps=episode.fps,
        sizes={name: (e.width, e.height) for name, e in episode.cameras.items()},
        depth_cameras=tuple(name for name, e in episode.cameras.items() if e.depth),
        info=info,
        load=episode,
    )


def _unused(episode: H5Episode, arrays: Mapping[str, H5Array], used: Iterable[str]) -> list[LeftOut]:
    """Arrays that are not read: depth by itself, groups of which nothing is read as one, others by name."""
    entries = list(episode.cameras.values())
    read = {episode.actions, episode.rewards, episode.success, *episode.proprio, *used}
    read |= {part for e in entries for part in (e.rgb, e.depth, e.segments, e.viewmats)}
    unused = [name for name in arrays if name not in read]
    depth = [name for name in unused if name.endswith("_depth") and name.removesuffix("_depth") in _stems(entries)]
    fix = 'name it as "depth" of its camera in cameras.json'
    whole = [top for top, names in itertools.groupby(sorted(arrays), _top) if not read.intersection(names)]
    listed = dict.fromkeys(f"{_top(n)}/*" if _top(n) in whole and "/" in n else n for n in unused if n not in depth)
    return [
        LeftOut("unused_depth", "depth", tuple(depth), "depth that no camera names is not read", fix),
        LeftOut("unused_columns", "columns", tuple(listed), "not read", lost=False),
    ]


def _stems(entries: Iterable[CameraEntry]) -> set[str]:
    """Names of pictures without what tells their kind."""
    return {e.rgb.removesuffix("_image").removesuffix("_rgb") for e in entries}


def _top(name: str) -> str:
    return name.split("/")[0]

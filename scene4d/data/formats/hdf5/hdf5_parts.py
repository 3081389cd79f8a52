"""What the HDF5 layouts share: arrays of pictures, names of columns, and the recording that an episode becomes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.sidecar import CameraEntry
from scene4d.data.cameras.stated import Stated
from scene4d.data.formats.hdf5.hdf5 import H5Episode, array, first_row, frame_size
from scene4d.data.formats.hdf5.hdf5_guard import H5Array, H5Group
from scene4d.data.timeline.frame_table import TableRecording
from scene4d.errors import DataFormatError
from scene4d.ledger import LeftOut, frame_counts, with_left_out

MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"RIFF")  # JPEG, PNG, BMP, WEBP
QUESTION = (
    "encoded pictures are read as red, green, blue; recorders that encode with OpenCV often store blue, green, red"
)


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
    episode: H5Episode, group: H5Group, *, info: Mapping[str, Any], stated: Stated, entries: Iterable[LeftOut] = (),
    used: Iterable[str] = (),
) -> TableRecording:  # fmt: skip
    """The recording of an episode; its ledger names every array of the group that is not read, nor `used`."""
    arrays = group.arrays()
    info = {"task": "", "units": "m", "action_spec": [], "proprio_spec": [], **info}
    task = (stated.fields or {}).get("task")
    info |= {} if task is None else {"task": str(task)}
    asked = [name for name, e in episode.cameras.items() if e.rgb in arrays and arrays[e.rgb].encoded]
    fix = 'where red and blue are exchanged, write {"fields": {"color_order": "bgr"}} into cameras.json'
    question = LeftOut("color_order", "images", tuple(asked), QUESTION, fix, lost=False)
    answered = "color_order" in (stated.fields or {})
    info = with_left_out(info, *entries, *(() if answered else (question,)), *_unused(episode, arrays, used=used))
    return TableRecording(
        path=f"{episode.path}#{episode.group}",
        num_frames=episode.length,
        fps=episode.fps,
        sizes={name: (e.width, e.height) for name, e in episode.cameras.items()},
        depth_cameras=tuple(name for name, e in episode.cameras.items() if e.depth),
        info=info,
        load=episode,
    )


def _unused(episode: H5Episode, arrays: Mapping[str, H5Array], *, used: Iterable[str]) -> list[LeftOut]:
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

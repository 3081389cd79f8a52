"""HDF5 files of any layout, as a field map describes them: "fields" of cameras.json (see `hdf5_parts`)."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

from scene4d.data.cameras.stated import Stated
from scene4d.data.files.paths import natural_order
from scene4d.data.formats.hdf5.hdf5 import H5Episode, array
from scene4d.data.formats.hdf5.hdf5_guard import H5Group
from scene4d.data.formats.hdf5.hdf5_parts import (
    contents,
    group_of,
    picture_sizes,
    recording_of_episode,
    shared_length,
    specs,
)
from scene4d.data.timeline.frame_table import TableRecording
from scene4d.errors import DataFormatError


def open_mapped(file: H5Group, path: Path, *, stated: Stated) -> list[TableRecording]:
    """The episodes that a field map names.

    Raises:
        DataFormatError: no group, or an array of a group, matches. CalibrationError: no calibration, or impossible.
    """
    pattern = str((stated.fields or {}).get("episodes", ""))
    recordings = [_episode(file, name, path=path, stated=stated) for name in _matching(file, pattern)]
    if not recordings:
        where = {"file": path, "field": "fields.episodes"}
        raise DataFormatError("no group matches", **where, found=contents(file), expected=pattern)
    return recordings


def _episode(file: H5Group, name: str, *, path: Path, stated: Stated) -> TableRecording:
    group, fields = group_of(file, name, path=path), stated.fields or {}
    proprio: Any = fields.get("proprio") or []
    proprio = [proprio] if isinstance(proprio, str) else list(proprio)
    arrays = group.arrays()
    sizes = picture_sizes(group, arrays, path=path, named=stated.pictures & set(arrays))
    cameras, known = stated.cameras(sizes, columns=arrays, what="HDF5")
    actions = fields.get("actions")
    counted = [*([actions] if actions else []), *(e.rgb for e in cameras.values())]
    length, entries = shared_length({n: len(array(group, n, path=path)) for n in counted})
    episode = H5Episode(
        path=path,
        group=name or "/",
        length=length,
        fps=stated.number("fps"),
        cameras=cameras,
        actions=actions,
        proprio=proprio,
        rewards=fields.get("rewards"),
        success=fields.get("success"),
        upside_down=stated.flag("upside_down", default=False),
        bgr=stated.bgr(cameras),
    )
    info = {"source": "HDF5", **specs(group, path, actions=actions, proprio=proprio), **known}
    return recording_of_episode(episode, group, info=info, stated=stated, entries=entries)


def _matching(file: H5Group, pattern: str) -> list[str]:
    """Groups that a pattern such as data/demo_* names, in natural order; "" is the whole file."""
    found = [""]
    for step in [s for s in pattern.split("/") if s]:
        deeper = []
        for name in found:
            group = file.group(name)
            keys = sorted((k for k in group or () if fnmatch.fnmatchcase(k, step)), key=natural_order)
            deeper += [whole for k in keys if file.group(whole := f"{name}/{k}".lstrip("/")) is not None]
        found = deeper
    return found

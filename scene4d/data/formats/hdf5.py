"""HDF5 files as robot data sets use them: one group an episode, arrays with a row a frame, read row by row.

The layouts (ManiSkill, robomimic / LIBERO, a field map) are in `hdf5_layouts`; here is what they share. Links to other
files are refused, arrays of objects too, and no size that a file claims is believed before it is checked.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.calibration import checked_poses
from scene4d.data.frame_table import FrameTable, View
from scene4d.data.images import checked_depth
from scene4d.data.pictures import depth_of_codes, picture_from_bytes, size_from_bytes
from scene4d.data.sidecar import CameraEntry
from scene4d.errors import CalibrationError, DataFormatError, DepthError, ResourceError, SecurityError
from scene4d.extras import optional

SUFFIXES = (".h5", ".hdf5")
MAX_TABLE_BYTES, MAX_FRAME_BYTES = 1 << 30, 1 << 28


@contextlib.contextmanager
def open_h5(path: Path) -> Iterator[Any]:
    """The opened file (an h5py.File).

    Raises:
        DataFormatError: no HDF5, or cut short. EnvError: h5py is not installed.
    """
    h5py = optional("h5py", extra="hdf5", what="reading HDF5")
    try:
        opened = h5py.File(path, "r")
    except (OSError, RuntimeError, ValueError) as error:
        fix = "was it copied whole, and closed after recording?"
        raise DataFormatError("cannot be opened as HDF5", file=path, found=str(error)[:100], fix=fix) from error
    with opened:
        try:
            yield opened
        except (OSError, RuntimeError, KeyError) as error:
            raise DataFormatError("is damaged", file=path, found=str(error)[:100], fix="copy it again") from error


def member(group: Any, name: str, *, path: Path) -> Any:
    """The group or array of that name, each step of the way inside this file; None where there is none.

    Raises:
        SecurityError: it leads into another file.
    """
    h5py = optional("h5py", extra="hdf5", what="reading HDF5")
    item = group
    for step in [part for part in name.split("/") if part]:
        if not isinstance(item, h5py.Group):
            return None
        link = item.get(step, getlink=True)
        if link is None:
            return None
        if isinstance(link, h5py.ExternalLink):
            raise SecurityError(
                "a link leads into another file; it was not opened", file=path, field=name, found=link.filename,
                fix="copy the data into one file (h5repack)",
            )  # fmt: skip
        item = item.get(step)
        if item is None:
            raise DataFormatError("a link leads nowhere", file=path, field=name)
    if isinstance(item, h5py.Dataset) and (item.is_virtual or item.external):
        found = "a virtual array" if item.is_virtual else "data in another file"
        raise SecurityError("an array's data lies in other files; it was not read", file=path, field=name, found=found)
    return item


def array(group: Any, name: str, *, path: Path, width: Sequence[int | None] | None = None) -> Any:
    """The array (an h5py.Dataset) of numbers of that name; `width` is the shape of a row, None = any size.

    Raises:
        DataFormatError: there is none, or of another kind or shape. ResourceError: a row is impossibly large.
    """
    item = member(group, name, path=path)
    where = {"file": path, "field": f"{group.name.rstrip('/')}/{name}"}
    if item is None or not hasattr(item, "dtype"):
        raise DataFormatError("is missing", **where, found=sorted(group.keys())[:12])
    if item.dtype.kind not in "fiub" or item.ndim < 1:
        fix = "save plain numbers: arrays of objects are not read"
        raise DataFormatError("is no array of numbers", **where, found=f"{item.dtype} {item.shape}", fix=fix)
    fits = width is None or (
        item.ndim == len(width) + 1 and all(b is None or a == b for a, b in zip(item.shape[1:], width, strict=True))
    )
    if not fits:
        raise DataFormatError("has another shape", **where, found=item.shape, expected=["t", *(width or [])])
    chunk = math.prod(item.chunks) if item.chunks else 0
    if max(math.prod(item.shape[1:]), chunk) * item.dtype.itemsize > MAX_FRAME_BYTES:
        found = f"{item.shape} in chunks of {item.chunks}"
        raise ResourceError(
            "claims impossibly large frames", **where, found=found, expected=f"<= {MAX_FRAME_BYTES} bytes"
        )
    return item


def numbers(group: Any, name: str, *, path: Path, count: int, width: Sequence[int | None] | None = None) -> np.ndarray:
    """The first `count` rows of an array, flattened to [count n] unless `width` is given, finite.

    Raises:
        DataFormatError: fewer rows, or not finite.
    """
    item = array(group, name, path=path, width=width)
    where = {"file": path, "field": f"{group.name.rstrip('/')}/{name}"}
    if len(item) < count:
        raise DataFormatError("the numbers of frames differ", **where, found=len(item), expected=count)
    if item.size * item.dtype.itemsize > MAX_TABLE_BYTES:
        raise ResourceError("is too large", **where, found=item.shape, expected=f"<= {MAX_TABLE_BYTES} bytes")
    values = np.asarray(item[:count])
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int((~np.isfinite(values.reshape(count, -1)).all(1)).argmax())
        raise DataFormatError("is not finite", **where, frame=bad, fix="leave out the broken frames")
    return values if width is not None else values.reshape(count, -1)


@dataclass(frozen=True)
class H5Pictures:
    """Colour [t h w 3] uint8, encoded images [t n] uint8, depth [t h w 1] or segments of an array."""

    path: Path
    """The file."""
    name: str
    """The array, from the root."""
    kind: str = "color"
    """color, depth or segments."""
    upside_down: bool = False
    """Rows run from the bottom up."""
    unit: float = 0.001
    """Metres a step of integer depth."""
    near_far: tuple[float, float] | None = None
    """Depth is an OpenGL z-buffer in [0, 1] between these planes in m; metres where None."""

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        """One array a frame."""
        with open_h5(self.path) as file:
            item = array(file, self.name, path=self.path)
            for i in frames:
                values = np.asarray(item[i])
                if self.kind == "color" and values.ndim == 1:
                    values = picture_from_bytes(values.tobytes(), file=self.path, frame=i)
                values = values[::-1] if self.upside_down else values
                match self.kind:
                    case "color":
                        yield self._color(values, i)
                    case "depth":
                        yield self._depth(values[..., 0] if values.ndim == 3 else values, i)
                    case _:
                        yield (values[..., 0] if values.ndim == 3 else values).astype(np.int64)

    def _color(self, values: np.ndarray, frame: int) -> np.ndarray:
        if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] not in (3, 4):
            found = f"{values.dtype} {values.shape}"
            raise DataFormatError(
                "is no colour", file=self.path, field=self.name, frame=frame, found=found, expected="uint8 [h w 3]"
            )
        return np.ascontiguousarray(values[..., :3])

    def _depth(self, values: np.ndarray, frame: int) -> np.ndarray:
        where = {"file": self.path, "frame": str(frame)}
        if values.dtype.kind != "f":
            return depth_of_codes(values.astype(np.int64), unit=self.unit, **where)
        if self.near_far is not None:
            near, far = self.near_far
            metres = near / (1 - values.astype(np.float64) * (1 - near / far))
            return checked_depth(np.where(values >= 1, 0, metres), **where)
        if looks_like_z_buffer(values):
            raise DepthError(
                "depth is a z-buffer, not metres", **where, field=self.name, found=f"median {np.median(values):.4f}",
                fix='give "near_far": [near, far] in m (robosuite: znear and zfar times the extent of the model)',
            )  # fmt: skip
        return checked_depth(values, **where)


def looks_like_z_buffer(values: np.ndarray) -> bool:
    """Whether depths are OpenGL's, which crowd just below 1, and not metres."""
    valid = values[np.isfinite(values) & (values > 0)]
    return bool(valid.size and valid.max() <= 1 and np.median(valid) > 0.9)


@dataclass(frozen=True)
class H5Episode:
    """Where the parts of one episode are in a file: names of arrays within its group; callable as a table's `load`."""

    path: Path
    group: str
    length: int
    fps: float
    cameras: Mapping[str, CameraEntry]
    actions: str | None = None
    proprio: Sequence[str] = ()
    rewards: str | None = None
    success: str | None = None
    upside_down: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, cameras: Sequence[str]) -> FrameTable:
        """The episode's table; images stay in the file."""
        with open_h5(self.path) as file:
            group = member(file, self.group, path=self.path)
            if group is None:
                raise DataFormatError("is missing", file=self.path, field=self.group)
            rows = {"path": self.path, "count": self.length}
            proprio = [numbers(group, name, **rows) for name in self.proprio]
            return FrameTable(
                views={name: self._view(group, name, entry=self.cameras[name]) for name in cameras},
                times=np.arange(self.length) / self.fps,
                actions=None if self.actions is None else numbers(group, self.actions, **rows),
                proprio=np.concatenate(proprio, 1) if proprio else None,
                rewards=None if self.rewards is None else numbers(group, self.rewards, **rows)[:, 0],
                success=None if self.success is None else numbers(group, self.success, **rows)[:, 0] > 0,
                notes=self.notes,
            )

    def _view(self, group: Any, name: str, *, entry: CameraEntry) -> View:
        viewmats, usable = entry.viewmat, None
        if viewmats is None:
            viewmats, usable = self._poses(group, entry.viewmats, camera=name)
        source = lambda part, kind: H5Pictures(
            self.path,
            f"{self.group}/{part}",
            kind=kind,
            upside_down=self.upside_down,
            unit=entry.depth_unit,
            near_far=entry.near_far,
        )
        return View(
            size=(entry.width, entry.height),
            Ks=entry.K,
            viewmats=viewmats,
            color=source(entry.rgb, "color"),
            depth=None if entry.depth is None else source(entry.depth, "depth"),
            segments=None if entry.segments is None else source(entry.segments, "segments"),
            lens=entry.lens,
            usable=usable,
        )

    def _poses(self, group: Any, name: str, *, camera: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Camera-from-world [t 4 4] (or [4 4] where it stands still), and which are usable."""
        item = array(group, name, path=self.path)
        if len(item) < self.length or item.shape[1:] not in ((4, 4), (3, 4)):
            where = {"file": self.path, "field": f"{self.group}/{name}"}
            raise CalibrationError("is no pose a frame", **where, found=item.shape, expected=(self.length, 4, 4))
        matrices = np.asarray(item[: self.length], np.float64)
        if matrices.shape[1] == 3:
            bottom = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (self.length, 1, 4))
            matrices = np.concatenate([matrices, bottom], 1)
        names = [f"{camera} {i}" for i in range(self.length)]
        rigid, usable = checked_poses(matrices, names=names, file=self.path)
        # checked_poses speaks of any rigid matrices; both directions of a pose are rigid.
        still = usable.all() and (rigid == rigid[:1]).all()
        return (rigid[0] if still else rigid), (None if usable.all() else usable)


def frame_size(group: Any, name: str, *, path: Path) -> tuple[int, int]:
    """(width, height) of a colour array's pictures; of encoded ones from the first one's header."""
    item = array(group, name, path=path)
    if item.ndim == 2:
        return size_from_bytes(np.asarray(item[0]).tobytes(), file=path)
    return int(item.shape[2]), int(item.shape[1])

"""HDF5 files as robot data sets use them: one group an episode, arrays with a row a frame, read row by row.

The layouts (ManiSkill, robomimic / LIBERO, a field map) are in `hdf5_layouts`; here is what they share. Files are read
in a guarded process (`hdf5_guard`); links to other files are refused, arrays of objects too, and no size that a file
claims is believed before it is checked.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import checked_poses
from scene4d.data.cameras.sidecar import CameraEntry
from scene4d.data.formats.hdf5.hdf5_guard import H5Array, H5Group, guarded_root
from scene4d.data.timeline.frame_table import FrameTable, View
from scene4d.data.video.images import checked_depth
from scene4d.data.video.pictures import depth_of_codes, picture_from_bytes, size_from_bytes
from scene4d.errors import CalibrationError, DataFormatError, DepthError, ResourceError
from scene4d.extras import optional

MAX_TABLE_BYTES, MAX_FRAME_BYTES, BLOCK_BYTES = 1 << 30, 1 << 28, 1 << 24


def open_h5(path: Path) -> H5Group:
    """The root of a file.

    Raises:
        DataFormatError: no HDF5, damaged, or cut short. EnvError: h5py is not installed. What the guard raises.
    """
    optional("h5py", extra="hdf5", what="reading HDF5")
    return guarded_root(path)


def array(group: H5Group, name: str, *, path: Path, width: Sequence[int | None] | None = None) -> H5Array:
    """The array of numbers of that name; `width` is the shape of a row, None = any size.

    Raises:
        DataFormatError: there is none, or of another kind or shape. ResourceError: a row is impossibly large.
    """
    item = group.get(name)
    where = {"file": path, "field": f"{group.name}/{name}"}
    if not isinstance(item, H5Array):
        raise DataFormatError("is missing", **where, found=sorted(group)[:12])
    if item.runs and width is None:
        return item
    if item.dtype.kind not in "fiub" or item.ndim < 1 or item.runs:
        fix = "save plain numbers: arrays of objects are not read"
        raise DataFormatError("is no array of numbers", **where, found=f"{item.dtype} {item.shape}", fix=fix)
    wanted = item.shape[1:] if width is None else width
    if len(wanted) != item.ndim - 1 or any(b not in (None, a) for a, b in zip(item.shape[1:], wanted, strict=True)):
        raise DataFormatError("has another shape", **where, found=item.shape, expected=["t", *wanted])
    chunk = math.prod(item.chunks) if item.chunks else 0
    if max(math.prod(item.shape[1:]), chunk) * item.dtype.itemsize > MAX_FRAME_BYTES:
        found = f"{item.shape} in chunks of {item.chunks}"
        expected = f"<= {MAX_FRAME_BYTES} bytes"
        raise ResourceError("claims impossibly large frames", **where, found=found, expected=expected)
    return item


def first_row(group: H5Group, name: str, *, path: Path, width: Sequence[int | None] | None = None) -> np.ndarray:
    """The first row of an array.

    Raises:
        DataFormatError: it has none.
    """
    item = array(group, name, path=path, width=width)
    if not len(item):
        raise DataFormatError("is empty", file=path, field=f"{group.name}/{name}")
    return item.rows(0, 1)[0]


def numbers(group: H5Group, name: str, *, path: Path, count: int) -> np.ndarray:
    """The first `count` rows of an array, flattened to [count n], finite.

    Raises:
        DataFormatError: fewer rows, or not finite.
    """
    item = array(group, name, path=path)
    where = {"file": path, "field": f"{group.name}/{name}"}
    if item.runs:
        raise DataFormatError("is no array of numbers", **where, found="runs of bytes")
    if len(item) < count:
        raise DataFormatError("the numbers of frames differ", **where, found=len(item), expected=count)
    if item.size * item.dtype.itemsize > MAX_TABLE_BYTES:
        raise ResourceError("is too large", **where, found=item.shape, expected=f"<= {MAX_TABLE_BYTES} bytes")
    values = np.asarray(item.rows(0, count)).reshape(count, -1)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int((~np.isfinite(values).all(1)).argmax())
        raise DataFormatError("is not finite", **where, frame=bad, fix="leave out the broken frames")
    return values


def rows_of(item: H5Array, frames: Sequence[int]) -> Iterator[np.ndarray]:
    """The rows of an array that `frames` name, fetched in blocks where they follow each other."""
    each = max(1, math.prod(item.shape[1:]) * item.dtype.itemsize)
    block = 1 if item.runs else max(1, BLOCK_BYTES // each)
    done = 0
    while done < len(frames):
        first, count = frames[done], 1
        while count < block and done + count < len(frames) and frames[done + count] == first + count:
            count += 1
        yield from item.rows(first, first + count)
        done += count


@dataclass(frozen=True)
class H5Pictures:
    """Colour [t h w 3] uint8, encoded images [t n] uint8, depth [t h w 1] or segments of an array."""

    path: Path  # the file
    name: str  # the array, from the root
    kind: str = "color"  # color, depth or segments
    upside_down: bool = False  # rows run from the bottom up
    bgr: bool = False  # blue is stored where red belongs
    unit: float = 0.001  # metres a step of integer depth
    near_far: tuple[float, float] | None = None  # m, of depth as OpenGL's z-buffer in [0, 1]; it is metres where None
    far: float | None = None  # m, the far plane of depth in metres: what lies there was not hit

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        """One array a frame."""
        item = array(open_h5(self.path), self.name, path=self.path)
        if max(frames, default=0) >= len(item):
            found, expected = len(item), f"frame {max(frames)}"
            raise DataFormatError("ends early", file=self.path, field=self.name, found=found, expected=expected)
        for i, values in zip(frames, rows_of(item, frames), strict=True):
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
            problem, expected = "is no colour", "uint8 [h w 3]"
            raise DataFormatError(problem, file=self.path, field=self.name, frame=frame, found=found, expected=expected)
        return np.ascontiguousarray(values[..., 2::-1] if self.bgr else values[..., :3])

    def _depth(self, values: np.ndarray, frame: int) -> np.ndarray:
        where = {"file": self.path, "frame": str(frame)}
        if values.dtype.kind != "f":
            return depth_of_codes(values.astype(np.int64), unit=self.unit, **where)
        if self.near_far is not None:
            near, far = self.near_far
            metres = near / (1 - values.astype(np.float64) * (1 - near / far))
            return checked_depth(np.where(values >= 1, 0, metres), **where)
        if looks_like_z_buffer(values):
            found = f"median {np.median(values):.4f}"
            fix = 'give "near_far": [near, far] in m (robosuite: znear and zfar times the extent of the model)'
            raise DepthError("depth is a z-buffer, not metres", **where, field=self.name, found=found, fix=fix)
        return checked_depth(values if self.far is None else np.where(values > 0.999 * self.far, 0, values), **where)


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
    bgr: Collection[str] = ()
    """Cameras whose pictures have blue where red belongs."""
    far: Mapping[str, float] = field(default_factory=dict)
    """Far planes, m, of cameras whose depth is in metres."""
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, cameras: Sequence[str]) -> FrameTable:
        """The episode's table; images stay in the file."""
        group = open_h5(self.path).get(self.group)
        if not isinstance(group, H5Group):
            raise DataFormatError("is missing", file=self.path, field=self.group)
        rows = lambda name: numbers(group, name, path=self.path, count=self.length)
        proprio = [rows(name) for name in self.proprio]
        return FrameTable(
            views={name: self._view(group, name, entry=self.cameras[name]) for name in cameras},
            times=np.arange(self.length) / self.fps,
            actions=None if self.actions is None else rows(self.actions),
            proprio=np.concatenate(proprio, 1) if proprio else None,
            rewards=None if self.rewards is None else rows(self.rewards)[:, 0],
            success=None if self.success is None else rows(self.success)[:, 0] > 0,
            notes=self.notes,
        )

    def _view(self, group: H5Group, name: str, *, entry: CameraEntry) -> View:
        viewmats, usable = entry.viewmat, None
        if viewmats is None:
            viewmats, usable = self._poses(group, entry.viewmats, camera=name)
        stored = functools.partial(H5Pictures, self.path, upside_down=self.upside_down, unit=entry.depth_unit)
        source = lambda part, kind: stored(
            f"{self.group}/{part}", kind=kind, near_far=entry.near_far, bgr=name in self.bgr, far=self.far.get(name)
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

    def _poses(self, group: H5Group, name: str, *, camera: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Camera-from-world [t 4 4] (or [4 4] where it stands still), and which are usable."""
        item = array(group, name, path=self.path)
        if len(item) < self.length or item.shape[1:] not in ((4, 4), (3, 4)):
            where = {"file": self.path, "field": f"{self.group}/{name}"}
            raise CalibrationError("is no pose a frame", **where, found=item.shape, expected=(self.length, 4, 4))
        matrices = np.asarray(item.rows(0, self.length), np.float64)
        if matrices.shape[1] == 3:
            bottom = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (self.length, 1, 4))
            matrices = np.concatenate([matrices, bottom], 1)
        names = [f"{camera} {i}" for i in range(self.length)]
        rigid, usable = checked_poses(matrices, names=names, file=self.path)
        # checked_poses speaks of any rigid matrices; both directions of a pose are rigid.
        still = usable.all() and (rigid == rigid[:1]).all()
        return (rigid[0] if still else rigid), (None if usable.all() else usable)


def frame_size(group: H5Group, name: str, *, path: Path) -> tuple[int, int]:
    """(width, height) of a colour array's pictures; of encoded ones from the first one's header."""
    item = array(group, name, path=path)
    if item.encoded:
        return size_from_bytes(first_row(group, name, path=path).tobytes(), file=path)
    return int(item.shape[2]), int(item.shape[1])

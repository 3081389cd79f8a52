"""What every reader builds: a table of frames (pictures, poses, K, times, actions), and the one loop that reads it.

A reader finds out where everything is and converts foreign conventions; how frames become an `Episode` is written here
and nowhere else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from scene4d.data.cameras.lens import Lens, undistort_depth, undistort_picture
from scene4d.data.video.images import chosen_cameras, chosen_frames, sample_nearest
from scene4d.disk_errors import reading
from scene4d.errors import CalibrationError
from scene4d.ledger import joined_info
from scene4d.types import Cameras, Episode, Frames
from scene4d.unreadable import naming_pointers

NOMINAL_FPS = 30.0


class Pictures(Protocol):
    """The pictures of one camera by frame index, lazily."""

    def __call__(self, frames: Sequence[int], /) -> Iterable[np.ndarray]:
        """One array a frame: colour [h w 3 or 4] uint8 (4: alpha), depth [h w] float32 m, or segments [h w] int64."""
        ...


@dataclass(frozen=True)
class View:
    """One camera's column of a table: how to get its pictures, and where it stood."""

    size: tuple[int, int]
    """(width, height) px of the recorded pictures."""
    Ks: np.ndarray
    """[3 3], or [t 3 3] where it changes, px, positive focal lengths."""
    viewmats: np.ndarray
    """[4 4] where it stands still, else [t 4 4]: camera-from-world, rigid, OpenCV, metres."""
    color: Pictures
    """Colour."""
    depth: Pictures | None = None
    """z-depth registered to colour, 0 = not measured."""
    segments: Pictures | None = None
    """Segment ids."""
    lens: Lens | None = None
    """Distortion that reading removes."""
    usable: np.ndarray | None = None
    """[t] bool: False where the pose was lost; such frames come with depth and alpha 0, and are not valid."""


@dataclass(frozen=True)
class FrameTable:
    """All frames of a recording; numbers are in memory, pictures are not."""

    views: Mapping[str, View]
    times: np.ndarray
    """[t] s float64 from the recording's start."""
    actions: np.ndarray | None = None
    """[t a]; see `goals`."""
    proprio: np.ndarray | None = None
    """[t p]."""
    rewards: np.ndarray | None = None
    """[t]."""
    success: np.ndarray | None = None
    """[t]."""
    segment_poses: np.ndarray | None = None
    """[t g 7]."""
    names: Sequence[str] = ()
    """Name of each frame, where it has one."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What reading the table found out, added to `info`."""
    goals: bool = False
    """Row t of `actions` is the state at t: what leads from one frame read to the next is the next one's row."""


class RecordingReader:
    """`read` for recordings that know how to give chosen frames of chosen cameras."""

    path: str
    cameras: tuple[str, ...]
    num_frames: int
    fps: float
    info: Mapping[str, Any]

    def read_chosen(self, frames: range, cameras: Sequence[str], *, size: tuple[int, int] | None) -> Episode:
        """Existing frames (at least one) of existing cameras."""
        raise TypeError(f"{type(self).__name__} must give its frames")

    @naming_pointers()
    def read(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        stride: int = 1,
        cameras: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Episode:
        """Frames start, start + stride, ... below stop, of the named cameras, resized to `size` = (width, height) px.

        Colour is averaged when resized; depth and segments are taken at the nearest pixel centre. Distorted pictures
        are undistorted, and alpha is 0 where there is nothing under them.

        Raises:
            DataFormatError: no such frames or camera, or a damaged file. DepthError: depth of another kind or unit.
            CalibrationError: pictures of another size. TimestampError, VideoError, SecurityError: as the file deserves.
            ResourceError: memory, threads or descriptors ran out; the file may be whole.
        """
        frames = chosen_frames(self.num_frames, start=start, stop=stop, stride=stride, path=self.path)
        with reading(self.path):
            return self.read_chosen(frames, chosen_cameras(self.cameras, cameras, path=self.path), size=size)


class TableReader(RecordingReader):
    """A recording that has a `table(cameras)`."""

    def table(self, cameras: Sequence[str]) -> FrameTable:
        """The table with the columns of these cameras."""
        raise TypeError(f"{type(self).__name__} must give its table")

    def read_chosen(self, frames: range, cameras: Sequence[str], *, size: tuple[int, int] | None) -> Episode:
        """Existing frames (at least one) of existing cameras."""
        chosen, names, table = list(frames), list(cameras), self.table(cameras)
        following = [*chosen[1:], min(chosen[-1] + frames.step, self.num_frames - 1)]
        named = {"frames": [table.names[i] for i in chosen]} if table.names else {}
        lost = [view.usable[chosen] for n in names if (view := table.views[n]).usable is not None]
        return Episode(
            views={name: _frames(table.views[name], chosen, size=size, where=(self.path, name)) for name in names},
            times=torch.from_numpy(np.asarray(table.times, np.float64)[chosen]),
            valid=torch.from_numpy(np.logical_and.reduce([np.ones(len(chosen), bool), *lost])),
            actions=_rows(table.actions, following if table.goals else chosen),
            proprio=_rows(table.proprio, chosen),
            rewards=None if table.rewards is None else _rows(table.rewards, chosen),
            success=None if table.success is None else torch.from_numpy(np.asarray(table.success)[chosen]),
            segment_poses=None if table.segment_poses is None else _rows(table.segment_poses, chosen),
            info={**joined_info(self.info, table.notes), **named},
        )


@dataclass(frozen=True)
class TableRecording(TableReader):
    """A `Recording` on disk: metadata at once, its table and pictures when they are read."""

    path: str
    """The folder or file."""
    num_frames: int
    """Usable frames."""
    fps: float
    """Frames a second (nominal where info["times"] notes it)."""
    sizes: Mapping[str, tuple[int, int]]
    """(width, height) px of each camera."""
    info: Mapping[str, Any]
    """JSON-ready: source, task, robot, action_spec, proprio_spec, units, what was skipped."""
    load: Callable[[Sequence[str]], FrameTable] = field(repr=False)
    """The table with the columns of the named cameras."""
    cameras: tuple[str, ...] = field(init=False)
    """Their names."""
    depth_cameras: tuple[str, ...] = ()
    """Cameras with depth."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "cameras", tuple(self.sizes))

    def table(self, cameras: Sequence[str]) -> FrameTable:
        """The table with the columns of these cameras."""
        return self.load(cameras)


def recording_of(table: FrameTable, *, path: Any, info: Mapping[str, Any], fps: float | None = None) -> TableRecording:
    """A recording of a table that is already there; the rate is that of the median step unless given."""
    return TableRecording(
        path=str(path),
        num_frames=len(table.times),
        fps=median_fps(table.times) if fps is None else fps,
        sizes={name: view.size for name, view in table.views.items()},
        depth_cameras=tuple(name for name, view in table.views.items() if view.depth is not None),
        info={"task": "", "action_spec": [], "proprio_spec": [], **info},
        load=functools.partial(_whole_table, table),
    )


def _whole_table(table: FrameTable, cameras: Sequence[str]) -> FrameTable:
    return table


def median_fps(times: np.ndarray) -> float:
    """Frames a second of the median step; nominal for a single frame."""
    return float(1 / np.median(np.diff(times))) if len(times) > 1 else NOMINAL_FPS


def _rows(values: np.ndarray | None, chosen: Sequence[int]) -> torch.Tensor:
    if values is None:
        return torch.zeros(len(chosen), 0)
    return torch.from_numpy(np.ascontiguousarray(np.asarray(values)[list(chosen)], np.float32))


def _frames(view: View, chosen: list[int], *, size: tuple[int, int] | None, where: tuple[str, str]) -> Frames:
    width, height = size or view.size
    Ks = np.broadcast_to(view.Ks, (len(chosen), 3, 3)) if view.Ks.ndim == 2 else view.Ks[chosen]
    viewmats = np.broadcast_to(view.viewmats, (len(chosen), 4, 4)) if view.viewmats.ndim == 2 else view.viewmats[chosen]
    scale = np.array([[width / view.size[0]], [height / view.size[1]], [1.0]])
    rgb = np.empty((len(chosen), height, width, 3), np.uint8)
    alpha = None
    for k, picture in enumerate(view.color(chosen)):
        fix = "all pictures of a camera must have one size"
        _check_size(picture, view.size, where=where, what="a picture", fix=fix)
        if size is not None and tuple(size) != view.size:
            picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
        if view.lens is not None:
            picture = undistort_picture(picture, view.lens.at(chosen[k]), K=scale * Ks[k])
        if picture.shape[2] == 4:
            alpha = np.ones(rgb.shape[:3], np.float32) if alpha is None else alpha
            alpha[k] = picture[..., 3] / np.float32(255)
        rgb[k] = picture[..., :3]
    fix = "register depth to the colour camera first"
    mapped = {}
    for what, pictures in (("depth", view.depth), ("segments", view.segments)):
        parts = []
        for k, values in enumerate(() if pictures is None else pictures(chosen)):
            _check_size(values, view.size, where=where, what=f"{what} and colour differ in size: it", fix=fix)
            if view.lens is None:
                parts.append(sample_nearest(values, size))
            else:
                parts.append(undistort_depth(values, view.lens.at(chosen[k]), K=scale * Ks[k], size=(width, height)))
        mapped[what] = torch.from_numpy(np.stack(parts)) if parts else None
    if view.usable is not None and not view.usable[chosen].all():
        seen = torch.from_numpy(view.usable[chosen])[:, None, None]
        alpha = np.ones(rgb.shape[:3], np.float32) if alpha is None else alpha
        alpha = alpha * seen.numpy()
        mapped["depth"] = None if mapped["depth"] is None else mapped["depth"] * seen
    viewmats, Ks = (torch.tensor(matrices, dtype=torch.float32) for matrices in (viewmats, Ks))
    cameras = Cameras(viewmats=viewmats, Ks=Ks, width=view.size[0], height=view.size[1])
    return Frames(
        rgb=torch.from_numpy(rgb).float() / 255,
        depth=mapped["depth"],
        alpha=None if alpha is None else torch.from_numpy(alpha),
        cameras=cameras if size is None else cameras.resized(*size),
        extras={} if mapped["segments"] is None else {"segments": mapped["segments"][..., None]},
    )


def _check_size(picture: np.ndarray, size: tuple[int, int], *, where: tuple[str, str], what: str, fix: str) -> None:
    if picture.shape[1::-1] != tuple(size):
        problem, found = f"{what} has another size", picture.shape[1::-1]
        raise CalibrationError(problem, file=where[0], field=where[1], found=found, expected=tuple(size), fix=fix)

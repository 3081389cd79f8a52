"""Replay buffers of diffusion policy and UMI: a zarr store with data/ARRAY, a row a frame, and meta/episode_ends.

Pictures are arrays [t h w 3] (uint8, or floats of 0..255 or 0..1), depth [t h w]. The format has no calibration and no
rate: a cameras.json in the store or beside it supplies both ("fields": {"fps": 10}). Where there is no action, as in
UMI, the state at the next frame stands for it.
"""

from __future__ import annotations

import itertools
import math
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from scene4d.data.cameras.calibration import checked_poses
from scene4d.data.cameras.sidecar import CameraEntry, Supplied
from scene4d.data.cameras.stated import stated_beside
from scene4d.data.formats.robots.zarr_store import NO_NUMBERS_IN_IT, ZarrArray, open_array, open_store
from scene4d.data.timeline.frame_table import FrameTable, TableRecording, View
from scene4d.data.video.images import checked_depth
from scene4d.data.video.pictures import depth_of_codes
from scene4d.errors import CalibrationError, DataFormatError, ResourceError, SecurityError
from scene4d.ledger import LeftOut, with_left_out

ENDS, ACTION, TIMES = "meta/episode_ends", "action", "timestamp"
NOMINAL_FPS, UMI_FPS = 10.0, 59.94
MAX_WIDTH, MAX_EPISODES, MAX_LENGTH, MAX_EMPTY = 128, 1_000_000, 1 << 20, 1000
ONCE_AN_EPISODE = ("demo_start_pose", "demo_end_pose")  # UMI repeats them with every frame: they are no state


@dataclass(frozen=True)
class ZarrPictures:
    """Colour or depth of some rows of an array."""

    path: Path
    name: str
    first: int
    kind: str = "color"
    bgr: bool = False
    upside_down: bool = False
    unit: float = 0.001

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        """One array a frame."""
        item = open_array(self.path, self.name)
        held, block = -1, np.empty(0)
        for i in frames:
            k, row = divmod(self.first + i, item.chunks[0])
            if k != held:
                held, block = k, item.block(k)
            values = block[row][::-1] if self.upside_down else block[row]
            yield self._color(values) if self.kind == "color" else self._depth(values, i)

    def _color(self, values: np.ndarray) -> np.ndarray:
        if values.dtype.kind == "f":
            if not np.isfinite(values).all():
                raise DataFormatError("is not finite", file=self.path, field=self.name)
            values = np.rint(values * (255 if values.max(initial=0) <= 1 else 1)).clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(values[..., 2::-1] if self.bgr else values[..., :3])

    def _depth(self, values: np.ndarray, frame: int) -> np.ndarray:
        values = values[..., 0] if values.ndim == 3 else values
        where = {"file": self.path, "frame": str(frame)}
        if values.dtype.kind == "f":
            return checked_depth(values, **where)
        return depth_of_codes(values.astype(np.int64), unit=self.unit, **where)


@dataclass(frozen=True)
class ZarrEpisode:
    """One episode of a store; callable as a table's `load`."""

    path: Path
    first: int
    length: int
    fps: float
    cameras: Mapping[str, CameraEntry]
    actions: Sequence[str]
    proprio: Sequence[str]
    timed: bool
    upside_down: bool
    bgr: Sequence[str]

    def __call__(self, cameras: Sequence[str]) -> FrameTable:
        """The episode's table; pictures stay in the store."""
        columns = lambda names: [self._rows(name) for name in names]
        goals = not self.actions
        proprio = columns(self.proprio)
        actions = proprio if goals else columns(self.actions)
        times = np.arange(self.length) / self.fps
        if self.timed:
            times = self._rows(f"data/{TIMES}")[:, 0].astype(np.float64)
        return FrameTable(
            views={name: self._view(name, self.cameras[name]) for name in cameras},
            times=times - times[0],
            actions=np.concatenate(actions, 1) if actions else None,
            goals=goals,
            proprio=np.concatenate(proprio, 1) if proprio else None,
        )

    def _rows(self, name: str) -> np.ndarray:
        """Rows [t n] of the episode, finite."""
        item = open_array(self.path, name)
        values = item.rows(self.first, self.first + self.length).reshape(self.length, -1)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int((~np.isfinite(values).all(1)).argmax())
            raise DataFormatError("is not finite", file=self.path, field=name, frame=bad, fix="leave the episode out")
        return values

    def _view(self, name: str, entry: CameraEntry) -> View:
        viewmats, usable = entry.viewmat, None
        if viewmats is None:
            values = self._rows(entry.viewmats)
            if values.shape[1] != 16:
                where = {"file": self.path, "field": entry.viewmats}
                raise CalibrationError("is no pose a frame", **where, found=values.shape, expected="[t 4 4]")
            names = [f"{name} {i}" for i in range(self.length)]
            viewmats, usable = checked_poses(values.reshape(-1, 4, 4).astype(np.float64), names=names, file=self.path)
        given = {"first": self.first, "upside_down": self.upside_down}
        depth = None
        if entry.depth is not None:
            depth = ZarrPictures(self.path, entry.depth, kind="depth", unit=entry.depth_unit, **given)
        return View(
            size=(entry.width, entry.height),
            Ks=entry.K,
            viewmats=viewmats,
            color=ZarrPictures(self.path, entry.rgb, bgr=name in self.bgr, **given),
            depth=depth,
            lens=entry.lens,
            usable=usable if usable is None or not usable.all() else None,
        )


def is_zarr_file(path: Path) -> bool:
    """Whether a file is a packed store: by its name, or a .zip with a group of zarr in it."""
    name = path.name.lower()
    if not name.endswith(".zip") or name.endswith(".zarr.zip"):
        return name.endswith(".zarr.zip")
    try:
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(member).name in (".zgroup", "zarr.json") for member in archive.namelist())
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile):
        return False


def open_zarr(path: Path, *, supplied: Supplied) -> list[TableRecording]:
    """The episodes of a replay buffer; pictures are not decoded.

    Raises:
        DataFormatError: no store, damaged, or no replay buffer. CalibrationError: no calibration, or impossible.
        SecurityError: it holds pickles, or links lead out of it. ResourceError: it claims impossible sizes.
    """
    found = open_store(path)
    refused = {name: why for name, why in found.items() if isinstance(why, str)}
    _refuse_objects(path, refused)
    data = {n: item for n, item in found.items() if isinstance(item, ZarrArray) and n.startswith("data/")}
    ends = _ends(path, found.get(ENDS))
    fit = {name: item for name, item in data.items() if len(item) == ends[-1]}
    for name, item in fit.items():
        _believable(path, name, item=item)
    sizes = {n: (item.shape[2], item.shape[1]) for n, item in fit.items() if item.ndim == 4 and item.shape[3] in (3, 4)}
    if not sizes:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        where = {"file": path, "field": "data", "found": f"{sorted(data)[:12]} {reasons}".strip()}
        raise DataFormatError("holds no images", **where, expected=f"an array [{ends[-1]} h w 3]")
    stated = stated_beside(path, supplied, more=(path / "cameras.json",) if path.is_dir() else ())
    cameras, known = stated.cameras(sizes, columns=fit, what="a replay buffer")
    actions, proprio = _columns(fit, cameras)
    timed = f"data/{TIMES}" in fit
    fps = stated.number("fps", default=0.0) or _stored_rate(fit, ends)
    spec = lambda names: [
        {"name": f"{name.removeprefix('data/')}{i}", "unit": None, "frame": None}
        for name in names
        for i in range(math.prod(fit[name].shape[1:]))
    ]
    goals = {} if actions else {"action_meaning": "state at the next frame, absolute"}
    info = {
        "source": "zarr replay buffer",
        "task": str((stated.fields or {}).get("task", "")),
        "units": "m",
        "action_spec": spec(actions or proprio),
        "proprio_spec": spec(proprio),
        **goals,
        **known,
    }
    if not timed and "fps" not in (stated.fields or {}):
        info["times"] = f"{fps:g} a second, nominal: the format has no rate"
    used = {*actions, *proprio, *([f"data/{TIMES}"] if timed else [])}
    used |= {part for e in cameras.values() for part in (e.rgb, e.depth, e.viewmats)} | set(sizes)
    info = with_left_out(info, *_left_out(fit, used, others=set(data) - set(fit), refused=refused))
    recordings = []
    for k, (first, stop) in enumerate(itertools.pairwise([0, *ends])):
        episode = ZarrEpisode(
            path=path,
            first=first,
            length=stop - first,
            fps=fps,
            cameras=cameras,
            actions=actions,
            proprio=proprio,
            timed=timed,
            upside_down=stated.flag("upside_down", default=False),
            bgr=stated.bgr(cameras),
        )
        recordings.append(
            TableRecording(
                path=f"{path}#episode_{k}",
                num_frames=episode.length,
                fps=fps,
                sizes={name: (e.width, e.height) for name, e in cameras.items()},
                depth_cameras=tuple(name for name, e in cameras.items() if e.depth),
                info=info,
                load=episode,
            )
        )
    return recordings


def _refuse_objects(path: Path, refused: Mapping[str, str]) -> None:
    """Refuse a store whose actions, pictures or ends of episodes are objects; texts beside them are left out."""
    needed = (ENDS, f"data/{ACTION}")
    for name, reason in refused.items():
        if reason.startswith(NO_NUMBERS_IN_IT) and (name in needed or re.search(r"img|image|rgb", name)):
            where = {"file": path, "field": name, "found": reason, "fix": "write it as plain numbers"}
            raise SecurityError("holds objects; nothing of it was decoded", **where)


def _ends(path: Path, item: ZarrArray | str | None) -> list[int]:
    """Where each episode ends, increasing."""
    where = {"file": path, "field": ENDS}
    if not isinstance(item, ZarrArray):
        fix = "is it a replay buffer, with data/ and meta/episode_ends?"
        raise DataFormatError("is missing", **where, found=item, fix=fix)
    if item.ndim != 1 or item.dtype.kind not in "iu" or not 0 < len(item) <= MAX_EPISODES:
        raise DataFormatError("is no list of episodes", **where, found=f"{item.dtype} {item.shape}")
    _believable(path, ENDS, item=item)
    ends = [int(end) for end in item.rows(0, len(item))]
    lengths = [b - a for a, b in itertools.pairwise([0, *ends])]
    if min(lengths) < 1 or max(lengths) > MAX_LENGTH:
        k = next(k for k, n in enumerate(lengths) if not 1 <= n <= MAX_LENGTH)
        expected = f"increasing, by at most {MAX_LENGTH}"
        raise DataFormatError(
            "episodes do not end one after the other", **where, frame=k, found=lengths[k], expected=expected
        )
    return ends


def _believable(path: Path, name: str, *, item: ZarrArray) -> None:
    """Refuse arrays that claim rows of which hardly any is stored: nothing is written of what holds one value only."""
    count = -(-len(item) // item.chunks[0])
    if count > MAX_EMPTY and not any(item.is_stored(k) for k in range(0, count, count // MAX_EMPTY)):
        found = f"{item.shape} in chunks of {item.chunks}, of which none was found"
        raise ResourceError("claims rows that are not stored", file=path, field=name, found=found)


def _columns(fit: Mapping[str, ZarrArray], cameras: Mapping[str, CameraEntry]) -> tuple[list[str], list[str]]:
    """Names of the actions and of the states."""
    taken = {e.viewmats for e in cameras.values()} | {f"data/{TIMES}"}
    numbers = [
        name
        for name, item in fit.items()
        if item.ndim <= 2 and item.dtype.kind == "f" and math.prod(item.shape[1:]) <= MAX_WIDTH and name not in taken
    ]
    actions = [name for name in numbers if name == f"data/{ACTION}"]
    return actions, [name for name in numbers if name not in actions and not name.endswith(ONCE_AN_EPISODE)]


def _stored_rate(fit: Mapping[str, ZarrArray], ends: Sequence[int]) -> float:
    """Frames a second by the times of the first episode; nominal where there are none."""
    if f"data/{TIMES}" in fit and ends[0] > 1:
        steps = np.diff(fit[f"data/{TIMES}"].rows(0, ends[0]).reshape(-1).astype(np.float64))
        if np.median(steps) > 0:
            return float(1 / np.median(steps))
    return UMI_FPS if any(name.startswith("data/robot0_eef") for name in fit) else NOMINAL_FPS


def _left_out(
    fit: Mapping[str, ZarrArray], used: Collection[str | None], *, others: Collection[str], refused: Mapping[str, str]
) -> list[LeftOut]:
    """Arrays that are not read, by the reason for it."""
    unused = tuple(sorted(set(fit) - set(used)))
    depth = tuple(name for name in unused if "depth" in name and fit[name].ndim >= 3)
    fix = 'name it as "depth" of its camera in cameras.json'
    return [
        LeftOut("unused_depth", "depth", depth, "depth that no camera names is not read", fix),
        LeftOut("unused_columns", "columns", tuple(n for n in unused if n not in depth), "not read", lost=False),
        LeftOut(
            "other_lengths",
            "columns",
            tuple(sorted(others)),
            "not as many rows as meta/episode_ends says",
            "write it again",
        ),
        *(
            LeftOut("unread_arrays", "columns", (name,), reason, lost=not reason.startswith(NO_NUMBERS_IN_IT))
            for name, reason in refused.items()
        ),
    ]

"""An episode as one compact file: small columns in memory, pictures read from disk when they are needed."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from scene4d.data.load.retry import read_with_retries
from scene4d.data.load.window_set import WindowSet
from scene4d.data.timeline.frame_table import FrameTable, TableReader, View, median_fps
from scene4d.errors import DataFormatError, DepthError
from scene4d.files import save_safetensors
from scene4d.types import Episode, Recording

PICTURES = ("rgb", "depth", "segments")  # columns that are read from disk when they are needed
DEPTH_STEP_M = 1e-4  # depth is kept as uint16 in steps of 0.1 mm, up to 6.5 m; farther counts as not measured
PIECE = 64  # frames that are read at once: full-size pictures of a whole recording may not fit in memory


def save_episode(path: Path, episode: Episode, *, tail: Episode | None = None) -> None:
    """Write an episode of cameras of one size: colour as uint8, depth in 0.1 mm, poses, actions, and what is known.

    Segments and their exact motion are there in simulation only, and segments perhaps of some cameras alone; rewards
    and success may be unknown. `tail` is how the episode went on without pictures: everything else that the episode
    knows is known of it too.
    """
    frames, whole = episode.stacked(), episode.replace(views={})
    whole = whole if tail is None else Episode.cat([whole, tail.replace(info=whole.info)])
    depth = (frames.known_depth / DEPTH_STEP_M).round()
    depth = torch.where(depth < 65535, depth, torch.zeros_like(depth))
    tensors = {
        "rgb": (frames.rgb * 255).round().to(torch.uint8),
        "depth": depth.to(torch.int32).to(torch.uint16),
        "viewmats": frames.cameras.viewmats,
        "Ks": frames.cameras.Ks,
        "times": whole.times,
        "actions": whole.actions,
        "proprio": whole.proprio,
    }
    labelled = [name for name, view in episode.views.items() if "segments" in view.extras]
    if whole.segment_poses is not None:
        tensors["segment_poses"] = whole.segment_poses
        if labelled:
            tensors["segments"] = episode.stacked(labelled).extras["segments"].to(torch.int16)
    tensors |= {k: v for k in ("rewards", "success") if (v := getattr(whole, k)) is not None}
    solved = whole.success is not None and bool(whole.success.any())
    state = {"cameras": list(episode.views), "labelled": labelled, "info": dict(episode.info), "success": solved}
    header = {"format": "scene4d", "version": "1", "state": json.dumps(state, sort_keys=True)}
    save_safetensors(path, {name: values.contiguous() for name, values in tensors.items()}, metadata=header)


def import_episode(path: Path, recording: Recording, *, cameras: Sequence[str], size: tuple[int, int]) -> None:
    """Write a recording of any format as an episode of these cameras, resized to `size` (width, height) px.

    Raises:
        DataFormatError: it has no such camera, or no actions or proprio. DepthError: a camera has no depth.
    """
    pieces = []
    for start in range(0, recording.num_frames, PIECE):
        stop = min(start + PIECE, recording.num_frames)
        read = functools.partial(recording.read, start, stop, cameras=cameras, size=size)
        pieces.append(read_with_retries(read, file=recording.path))
    episode = Episode.cat(pieces)
    for name in ("actions", "proprio"):
        if getattr(episode, name).shape[-1] == 0:
            raise DataFormatError("are not recorded", file=recording.path, field=name)
    for name, frames in episode.views.items():
        if frames.depth is None:
            fix = "name only cameras with depth in record.cameras"
            raise DepthError("is not recorded", file=recording.path, field=f"{name}.depth", fix=fix)
    save_episode(path, episode.replace(segment_poses=None))


class StoredEpisode(TableReader):
    """An episode on disk, as a `Recording` of the frames that have pictures.

    times [t]; actions [t a]; proprio [t p]; rewards, success [t] float, NaN where unknown; segment_poses [t g 7], or
    None where exact motion is unknown. t counts all instants; the first `num_frames` of them have pictures.
    """

    def __init__(self, path: Path):
        self.path = str(path)
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            columns = {name: file.get_tensor(name) for name in set(file.keys()) - set(PICTURES)}
            self.num_frames, _, height, width, _ = file.get_slice("rgb").get_shape()
        self.cameras = tuple(state["cameras"])
        self._labelled = state.get("labelled", state["cameras"])  # older files have segments of all cameras
        self.info = state["info"]
        self.times, self.actions, self.proprio = columns["times"], columns["actions"], columns["proprio"]
        self.fps = median_fps(self.times.numpy())
        unknown = torch.full((len(self.times),), torch.nan)
        self.rewards = columns.get("rewards", unknown)
        self.success = columns.get("success", unknown).float()
        self.segment_poses: Tensor | None = columns.get("segment_poses")
        self.sizes = dict.fromkeys(self.cameras, (width, height))
        self._viewmats, self._Ks = columns["viewmats"].numpy(), columns["Ks"].numpy()

    def table(self, cameras: Sequence[str]) -> FrameTable:
        """The table with the columns of these cameras."""
        num = self.num_frames
        return FrameTable(
            views={name: self._view(name) for name in cameras},
            times=self.times[:num].numpy(),
            actions=self.actions[:num].numpy(),
            proprio=self.proprio[:num].numpy(),
            rewards=self.rewards[:num].numpy(),
            success=self.success[:num].numpy(),
            segment_poses=None if self.segment_poses is None else self.segment_poses[:num].numpy(),
        )

    def _view(self, name: str) -> View:
        k = self.cameras.index(name)
        pictures = lambda column: _StoredPictures(self.path, column, k)
        segments = None
        if self.segment_poses is not None and name in self._labelled:
            segments = _StoredPictures(self.path, "segments", self._labelled.index(name))
        return View(
            size=self.sizes[name],
            Ks=self._Ks[:, k],
            viewmats=self._viewmats[:, k],
            color=pictures("rgb"),
            depth=pictures("depth"),
            segments=segments,
        )


class StoredWindows(WindowSet[StoredEpisode]):
    """Windows of stored episodes, whose futures may reach beyond the last pictures."""

    def nows(self, recording: StoredEpisode) -> range:
        """Frames with pictures, the future after them recorded."""
        stop = min(recording.num_frames, len(recording.times) - self.config.horizon)
        return range(self.config.context - 1, stop, self.config.stride)


@dataclass(frozen=True)
class _StoredPictures:
    """One of `PICTURES` of one camera, all frames read at once."""

    path: str
    column: str
    camera: int

    def __call__(self, frames: Sequence[int], /) -> Iterable[np.ndarray]:
        first = min(frames)
        with safe_open(self.path, framework="pt") as file:
            values = file.get_slice(self.column)[first : max(frames) + 1, self.camera]
        if self.column == "depth":
            values = values.to(torch.float32) * DEPTH_STEP_M
        elif self.column == "segments":
            values = values.long()[..., 0]
        return values.numpy()[[frame - first for frame in frames]]

"""The pictures of a window: only the frames it shows, each camera in its slot, all of one size, intrinsics true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scene4d.data.load.augment import AugmentConfig, cut, draw_offset
from scene4d.errors import ConfigError
from scene4d.types import Cameras, Frames, Recording

PLAIN = AugmentConfig()


@dataclass(frozen=True)
class ViewsWanted:
    """Cameras of one recording (None: an empty slot) and how their pictures should be."""

    cameras: tuple[str | None, ...]
    size: tuple[int, int]
    fit: str = "stretch"
    augment: AugmentConfig = PLAIN


@dataclass(frozen=True)
class ViewsFound:
    """What was there: usable [s] bool (no pose was lost), has_view [v], has_depth [v] bool."""

    usable: np.ndarray
    has_view: np.ndarray
    has_depth: np.ndarray


def read_views(
    recording: Recording, frames: np.ndarray, *, wanted: ViewsWanted, generator: torch.Generator
) -> tuple[Frames, ViewsFound]:
    """Frames [s v] of these increasing (or repeating) frame indices, one cut drawn a camera.

    Empty slots are black with alpha and depth 0; depth is 0 where a camera has none.
    """
    margin = wanted.augment.margin(wanted.size)
    larger = (wanted.size[0] + 2 * margin[0], wanted.size[1] + 2 * margin[1])
    places = {name: _read_size(recording, name, larger, fit=wanted.fit) for name in wanted.cameras if name is not None}
    usable = np.ones(len(frames), bool)
    parts: dict[str, Frames] = {}
    for size in dict.fromkeys(places.values()):
        names = [name for name, asked in places.items() if asked == size]
        episode, rows = _read(recording, frames, cameras=names, size=size)
        usable &= episode.valid.numpy()[rows]
        for name in names:
            parts[name] = episode.views[name][torch.from_numpy(rows)]
    views = []
    for name in wanted.cameras:
        offset = draw_offset(margin, generator)  # drawn for empty slots too: one camera's cut is not another's business
        if name is None:
            views.append(None)
            continue
        read = places[name]
        start = (offset[0] + (read[0] - larger[0]) // 2, offset[1] + (read[1] - larger[1]) // 2)
        views.append(cut(parts[name].replace(extras={}), offset=start, size=wanted.size))
    found = ViewsFound(
        usable=usable,
        has_view=np.array([v is not None for v in views], bool),
        has_depth=np.array([v is not None and v.depth is not None for v in views], bool),
    )
    return Frames.stack([_filled(view, len(frames), size=wanted.size) for view in views], dim=1), found


def _read(recording: Recording, frames: np.ndarray, *, cameras: Sequence[str], size: tuple[int, int]):
    """The fewest evenly spaced frames that hold all asked for, and the rows [s] of those."""
    first, last = int(frames[0]), int(frames[-1])
    stride = math.gcd(*np.diff(np.unique(frames)).tolist()) if last > first else 1
    episode = recording.read(first, last + 1, stride=max(1, stride), cameras=list(cameras), size=size)
    return episode, (frames - first) // max(1, stride)


def _read_size(recording: Recording, name: str, size: tuple[int, int], *, fit: str) -> tuple[int, int]:
    if fit == "stretch":
        return size
    sizes = getattr(recording, "sizes", None)
    if sizes is None:
        fix = 'set fit = "stretch"'
        raise ConfigError("does not say how large its pictures are", file=recording.path, field="fit", fix=fix)
    width, height = sizes[name]
    scale = max(size[0] / width, size[1] / height)
    return max(size[0], round(width * scale)), max(size[1], round(height * scale))


def _filled(view: Frames | None, count: int, *, size: tuple[int, int]) -> Frames:
    """A view with depth and alpha, or an empty one."""
    width, height = size
    if view is None:
        eye = lambda n: torch.eye(n).expand(count, n, n).clone()
        blank = torch.zeros(count, height, width)
        cameras = Cameras(viewmats=eye(4), Ks=eye(3), width=width, height=height)
        return Frames(rgb=blank[..., None].repeat(1, 1, 1, 3), depth=blank, alpha=blank.clone(), cameras=cameras)
    return Frames(
        rgb=view.rgb,
        depth=torch.zeros_like(view.rgb[..., 0]) if view.depth is None else view.depth,
        alpha=torch.ones_like(view.rgb[..., 0]) if view.alpha is None else view.alpha,
        cameras=view.cameras,
    )

"""The scene memory that all forecasters of a table share: one stream of the input cameras of a past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scene4d.lift.stream.stream import SceneStream, StreamConfig
from scene4d.lift.stream.visibility import sky_mask
from scene4d.scene import Scene4D
from scene4d.types import Episode, Frames, Gaussians

INPUTS = ("left", "right")
"""Cameras of the simulator's rig that forecasters see by default."""


@dataclass(frozen=True)
class PastMemory:
    """What a stream knows at the end of a past: memory Gaussians [n] now, the scene so far, the colour behind it.

    segments [n] int64: the exact segment of each row, -1 = none; for scores and oracles alone, None where the stream
    got no labels.
    """

    memory: Gaussians
    scene: Scene4D
    background: Tensor
    segments: Tensor | None = None


class PastStream:
    """Streams the input cameras of a past, once: a longer past of an episode goes on where the shorter one stopped.

    Nothing after the past's last frame is ever seen, and what is known does not depend on when it is asked.
    """

    def __init__(self, inputs: Sequence[str] = INPUTS, *, config: StreamConfig | None = None):
        self.inputs, self.config = tuple(inputs), config
        self._source: Any = None
        self._count = 0
        self._known: dict[int, PastMemory] = {}

    def remember(self, past: Episode, *, labels: Tensor | None = None) -> PastMemory:
        """What is known after the last frame of `past` [t]; only the cameras in `inputs` are looked at.

        `labels` [t v h w 1]: the exact segment of every pixel of the inputs. They stay with the rows spawned there and
        come back as `segments`; they change nothing else, and no forecaster gets them.
        """
        source = (past.info.get("task"), past.info.get("seed"), past.info.get("source"), past.proprio[0].tolist())
        count = past.times.shape[0]
        known = self._known.get(count) if source == self._source else None
        if known is not None and (labels is None or known.segments is not None):
            return known
        labelled = labels is not None
        if source != self._source or count < self._count or labelled != self._labelled:
            self._source, self._stream, self._count, self._known = source, SceneStream(self.config), 0, {}
            self._labelled = labelled
        frames = past.stacked(self.inputs)
        for t in range(self._count, count):
            now = frames[t] if labels is None else _labelled(frames[t], labels[t])
            self._stream.update(now, time=float(past.times[t]))
        self._count = count
        memory, scene, segments = self._stream.gaussians(), self._stream.scene(), None
        if labelled:
            segments = memory.extras["segments"][:, 0].long()
            memory, scene = _without_segments(memory), scene.replace(base=_without_segments(scene.base))
        self._known[count] = PastMemory(memory, scene, background_of(frames[count - 1]), segments)
        return self._known[count]


def _labelled(frames: Frames, labels: Tensor) -> Frames:
    """Frames [v h w] with labels as segments, where a hole is called sky (-1) only if it looks like sky."""
    hole = (frames.known_depth <= 0)[..., None] & ~sky_mask(frames)[..., None]
    return frames.replace(extras={"segments": torch.where(hole, -2, labels.long())})


def _without_segments(gaussians: Gaussians) -> Gaussians:
    return gaussians.replace(extras={k: v for k, v in gaussians.extras.items() if k != "segments"})


def background_of(frames: Frames) -> Tensor:
    """The colour [3] behind everything: the median of the pixels of [v h w] where no depth was measured, else black."""
    if frames.depth is None:
        return frames.rgb.new_zeros(3)
    empty = frames.rgb[frames.depth <= 0]
    return empty.median(0).values if len(empty) else frames.rgb.new_zeros(3)

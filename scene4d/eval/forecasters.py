"""What is compared in a forecast table: ours, copying the last frame, constant velocity; each sees only the past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.lift.stream import SceneStream, StreamConfig
from scene4d.render.render import render
from scene4d.types import Cameras, Episode, Frames, Gaussians, Motion, Scene4D
from scene4d.worldmodel import WorldModel

INPUTS = ("left", "right")


@dataclass(frozen=True)
class Remembered:
    """What a stream knows at the end of a past: memory Gaussians [n] now, the scene so far, the colour behind it."""

    memory: Gaussians
    scene: Scene4D
    background: Tensor


class PastStream:
    """Streams the input cameras of a past, once: a longer past of an episode goes on where the shorter one stopped.

    Nothing after the past's last frame is ever seen. Tracks do not depend on when the stream is asked; the sharpened
    rows do a little (polishing goes on from the last time), so figures are comparable at equal starts.
    """

    def __init__(self, inputs: Sequence[str] = INPUTS, *, config: StreamConfig | None = None):
        self.inputs, self.config = tuple(inputs), config
        self._source: Any = None
        self._count = 0
        self._known: dict[int, Remembered] = {}

    def remember(self, past: Episode) -> Remembered:
        """What is known after the last frame of `past` [t]; only the cameras in `inputs` are looked at."""
        source = (past.info.get("task"), past.info.get("seed"), past.info.get("source"), past.proprio[0].tolist())
        count = past.times.shape[0]
        if source != self._source or (count not in self._known and count < self._count):
            self._source, self._stream, self._count, self._known = source, SceneStream(self.config), 0, {}
        frames = past.stacked(self.inputs)
        for t in range(self._count, count):
            self._stream.update(frames[t], time=float(past.times[t]))
        if count > self._count or count not in self._known:
            self._count = count
            known = Remembered(self._stream.gaussians(), self._stream.scene(), background_of(frames[count - 1]))
            self._known[count] = known
        return self._known[count]


def background_of(frames: Frames) -> Tensor:
    """The colour [3] behind everything: the median of the pixels of [v h w] where no depth was measured, else black."""
    if frames.depth is None:
        return frames.rgb.new_zeros(3)
    empty = frames.rgb[frames.depth <= 0]
    return empty.median(0).values if len(empty) else frames.rgb.new_zeros(3)


def drawn(
    scene: Scene4D, cameras: Mapping[str, Cameras], *, background: Tensor, steps: Sequence[int] | None = None
) -> dict[str, Frames]:
    """Frames [h] of a forecast for each camera [h]: `steps` ahead of its first time, by default 1, 2, ..., h."""
    out = {}
    for name, track in cameras.items():
        ahead = range(1, track.viewmats.shape[0] + 1) if steps is None else steps
        images = [
            render(scene.at(float(scene.times[step])), track[i], background=background) for i, step in enumerate(ahead)
        ]
        out[name] = Frames.stack(images)
    return out


class CopyLast:
    """The last recorded frame of an input camera; elsewhere the last observed scene drawn there. Nothing ever moves."""

    name = "copy_last"

    def __init__(self, past_stream: PastStream):
        self.past_stream = past_stream

    def forecast(
        self,
        past: Episode,
        *,
        actions: Tensor,
        cameras: Mapping[str, Cameras],
        seed: int = 0,
        steps: Sequence[int] | None = None,
    ) -> tuple[dict[str, Frames], Scene4D]:
        """Implements `Forecaster`; with `steps`, frames for these steps ahead only."""
        known = self.past_stream.remember(past)
        scene = carried_by_rows(known.memory, torch.zeros_like(known.memory.means), past=past, num_steps=len(actions))
        inputs = [name for name in cameras if name in self.past_stream.inputs]
        out = {}
        for name in inputs:
            last = past.views[name][-1].replace(extras={})
            out[name] = Frames.stack([last] * cameras[name].viewmats.shape[0])
        others = {name: track for name, track in cameras.items() if name not in inputs}
        for name, track in others.items():
            image = render(known.memory, track[0], background=known.background)
            out[name] = Frames.stack([image] * track.viewmats.shape[0])
        return out, scene


class ConstantVelocity:
    """Every memory row goes on as it was tracked over the last step."""

    name = "constant_velocity"

    def __init__(self, past_stream: PastStream):
        self.past_stream = past_stream

    def forecast(
        self,
        past: Episode,
        *,
        actions: Tensor,
        cameras: Mapping[str, Cameras],
        seed: int = 0,
        steps: Sequence[int] | None = None,
    ) -> tuple[dict[str, Frames], Scene4D]:
        """Implements `Forecaster`; with `steps`, frames for these steps ahead only."""
        known = self.past_stream.remember(past)
        velocity = torch.zeros_like(known.memory.means)
        if past.times.shape[0] > 1:
            velocity = last_flow(known.scene, known.memory)
        scene = carried_by_rows(known.memory, velocity, past=past, num_steps=len(actions))
        return drawn(scene, cameras, background=known.background, steps=steps), scene


class ModelForecaster:
    """A world model on the streamed memory.

    Args:
        steps: of the sampler. name: its row in the table.
    """

    def __init__(self, model: WorldModel, past_stream: PastStream, *, steps: int = 4, name: str = "ours"):
        self.model, self.past_stream, self.sampler_steps, self.name = model, past_stream, steps, name

    def forecast(
        self,
        past: Episode,
        *,
        actions: Tensor,
        cameras: Mapping[str, Cameras],
        seed: int = 0,
        steps: Sequence[int] | None = None,
    ) -> tuple[dict[str, Frames], Scene4D]:
        """Implements `Forecaster`; with `steps`, frames for these steps ahead only."""
        known = self.past_stream.remember(past)
        context = {
            "task": past.info.get("task", ""),
            "action_spec": past.info.get("action_spec"),
            "proprio_spec": past.info.get("proprio_spec"),
            "cameras": {name: past.views[name].cameras[-1] for name in self.past_stream.inputs},
        }
        state = self.model.observe(
            known.scene, actions=past.actions[:-1], proprio=past.proprio, context=context, memory=known.memory
        )
        forecast = self.model.predict(state, actions=actions, steps=self.sampler_steps, seeds=(seed,))
        scene = self.model.scene(state, forecast)
        return drawn(scene, cameras, background=known.background, steps=steps), scene


def last_flow(scene: Scene4D, memory: Gaussians) -> Tensor:
    """Displacement [n 3] of memory rows over the last step of the scene, by ids; 0 for those that are new."""
    flow, valid = scene.flow(float(scene.times[-2]), float(scene.times[-1]))
    return by_id(flow * valid[:, None], scene.base.ids, wanted=memory.ids)[0]


def by_id(values: Tensor, ids: Tensor, *, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of values [m c] with the wanted ids [n], zero where there is no such id, and found [n] bool."""
    if len(ids) == 0:
        return values.new_zeros(len(wanted), *values.shape[1:]), torch.zeros_like(wanted, dtype=torch.bool)
    order = ids.argsort()
    place = torch.searchsorted(ids[order].contiguous(), wanted.contiguous()).clamp_max(len(ids) - 1)
    rows = order[place]
    found = (ids[rows] == wanted) & (wanted >= 0)
    return values[rows] * found.reshape(-1, *[1] * (values.dim() - 1)), found


def carried_by_rows(memory: Gaussians, velocity: Tensor, *, past: Episode, num_steps: int) -> Scene4D:
    """A scene in which each memory row [n] moves by its own velocity [n 3] m a step (rows are their own anchors)."""
    if past.times.shape[0] < 1:
        raise ConfigError("the past is empty", field="past")
    step = float(past.times[-1] - past.times[-2]) if past.times.shape[0] > 1 else 0.025
    times = past.times[-1] + step * torch.arange(num_steps + 1, dtype=torch.float64)
    moving = velocity.norm(dim=-1) > 0
    anchors = memory.means[moving]
    shift = velocity[moving] * torch.arange(num_steps + 1.0)[:, None, None]  # [t m 3]
    turn = shift.new_tensor([1.0, 0, 0, 0]).expand(*shift.shape[:-1], 4)
    index = (moving.cumsum(0) - 1).clamp_min(0)[:, None]
    forever = torch.stack([times[0], times[-1]]).expand(memory.num_gaussians, 2)
    observed = torch.arange(num_steps + 1) == 0
    motion = Motion(
        anchors=anchors,
        world_from_rest=torch.cat([turn, shift], -1),
        skin_index=index,
        skin_weights=moving[:, None].to(velocity),
    )
    return Scene4D(base=memory, motion=motion, alive=forever, times=times, observed=observed)

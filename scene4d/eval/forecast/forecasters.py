"""What is compared in a forecast table: a model, copying, constant velocity, exact motion; each sees only the past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.eval.forecast.ground_truth import exact_scene
from scene4d.gaussians.edit import by_id
from scene4d.lift.rgbd.unproject import lift_frames
from scene4d.lift.stream.stream import SceneStream, StreamConfig
from scene4d.lift.stream.visibility import sky_mask
from scene4d.render.render import render
from scene4d.scene import Motion, Scene4D
from scene4d.types import Cameras, Episode, Frames, Gaussians
from scene4d.world.contract import Forecast, State, WorldModel
from scene4d.world.rollout import forecast_long

INPUTS = ("left", "right")


@dataclass(frozen=True)
class PastMemory:
    """What a stream knows at the end of a past: memory Gaussians [n] now, the scene so far, the colour behind it.

    segments [n] int64: the exact segment of each row, -1 = none; for the judge and the oracles alone, None where the
    stream was not told.
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

        `labels` [t v h w 1]: the exact segment of every pixel of the inputs. They ride on the rows born there and come
        back as `segments`; they change nothing else, and no forecaster gets them.
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
    hole = (frames.depth <= 0)[..., None] & ~sky_mask(frames)[..., None]
    return frames.replace(extras={"segments": torch.where(hole, -2, labels.long())})


def _without_segments(gaussians: Gaussians) -> Gaussians:
    return gaussians.replace(extras={k: v for k, v in gaussians.extras.items() if k != "segments"})


def background_of(frames: Frames) -> Tensor:
    """The colour [3] behind everything: the median of the pixels of [v h w] where no depth was measured, else black."""
    if frames.depth is None:
        return frames.rgb.new_zeros(3)
    empty = frames.rgb[frames.depth <= 0]
    return empty.median(0).values if len(empty) else frames.rgb.new_zeros(3)


def drawn(
    scene: Scene4D, cameras: Mapping[str, Cameras], *, background: Tensor, steps: Sequence[int] | None = None
) -> dict[str, Frames]:
    """Frames [h] of a forecast for each camera [h]: `steps` ahead of its first time, by default 1, 2, ..., h.

    Their depth is that of the splat that half of the light stops at.
    """
    images: dict[str, list[Frames]] = {name: [] for name in cameras}
    num = max((track.viewmats.shape[0] for track in cameras.values()), default=0)
    for i, step in enumerate(range(1, num + 1) if steps is None else steps):
        gaussians = scene.at(float(scene.times[step]))
        for name, track in cameras.items():
            images[name].append(render_surface_depth(gaussians, track[i], background=background))
    return {name: Frames.stack(each) for name, each in images.items()}


def render_surface_depth(gaussians: Gaussians, cameras: Cameras, *, background: Tensor) -> Frames:
    """Frames [h w] of Gaussians [n] from one camera; their depth is where half of the light has been stopped."""
    image = render(gaussians, cameras, background=background, extras=("depth_median",))
    # At the rim of something near, the mean depth lies in the air between it and what is far behind.
    return image.replace(depth=image.extras["depth_median"][..., 0], extras={})


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


class ExactFlow:
    """Moves what was seen by the truth: what perfect motion alone is worth.

    With memory, every row of the memory rides on its exact segment; without, only what the last frames show does, and
    what it laid bare stays empty.

    Args:
        episode: the whole recording, future included; past_stream must have been told its labels.
    """

    def __init__(self, past_stream: PastStream, *, episode: Episode, memory: bool):
        self.past_stream, self.episode, self.memory = past_stream, episode, memory
        self.name = "exact_flow_memory" if memory else "exact_flow"

    def forecast(
        self,
        past: Episode,
        *,
        actions: Tensor,
        cameras: Mapping[str, Cameras],
        seed: int = 0,
        steps: Sequence[int] | None = None,
    ) -> tuple[dict[str, Frames], Scene4D | None]:
        """Implements `Forecaster`; with `steps`, frames for these steps ahead only.

        Raises:
            ConfigError: the stream was not told which segment each pixel belongs to.
        """
        known, now = self.past_stream.remember(past), past.times.shape[0] - 1
        if known.segments is None:
            raise ConfigError("exact motion needs labels", field="past_stream", fix="call remember(past, labels=...)")
        rows, segments = known.memory, known.segments
        if not self.memory:
            rows = lift_frames(self.episode.stacked(self.past_stream.inputs)[now], config=StreamConfig().lift)
            segments = rows.extras["segments"][:, 0].long()
        scene = exact_scene(rows, segments, episode=self.episode, start=now, num_steps=len(actions))
        # Rows of one frame have ids of their own: there is no flow of the memory to score.
        return drawn(scene, cameras, background=known.background, steps=steps), scene if self.memory else None


class ModelForecaster:
    """A world model on the streamed memory; beyond its horizon it goes on from its own forecast, chunk by chunk.

    Args:
        steps: of the sampler. name: its row in the table.
    """

    uses_actions = True

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
        scene = self.scene(past, actions=actions, seed=seed)
        return drawn(scene, cameras, background=self.past_stream.remember(past).background, steps=steps), scene

    def scene(self, past: Episode, *, actions: Tensor, seed: int = 0) -> Scene4D:
        """The forecast scene: now and one time for each of `actions` [h a]."""
        state = self.state(past)
        horizon = self.model.config.horizon
        forecast = forecast_long(
            self.model, state, actions=actions, horizon=horizon, steps=self.sampler_steps, seeds=(seed,)
        )
        return self.decoded(state, forecast)

    def decoded(self, state: State, forecast: Forecast) -> Scene4D:
        """The scene of a forecast."""
        return self.model.scene(state, forecast)

    def state(self, past: Episode) -> State:
        """What the model knows at the end of `past`."""
        known = self.past_stream.remember(past)
        context = {
            "task": past.info.get("task", ""),
            "action_spec": past.info.get("action_spec"),
            "proprio_spec": past.info.get("proprio_spec"),
            "action_meaning": past.info.get("action_meaning"),
            "cameras": {name: past.views[name].cameras[-1] for name in self.past_stream.inputs},
        }
        return self.model.observe(
            known.scene, actions=past.actions[:-1], proprio=past.proprio, context=context, memory=known.memory
        )


def last_flow(scene: Scene4D, memory: Gaussians) -> Tensor:
    """Displacement [n 3] of memory rows over the last step of the scene, by ids; 0 for those that are new."""
    flow, valid = scene.flow(float(scene.times[-2]), float(scene.times[-1]))
    return by_id(flow * valid[:, None], scene.base.ids, wanted=memory.ids)[0]


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

"""Forecasts without learning: copying, constant velocity, and exact motion, which is what perfect motion is worth."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.eval.forecast.forecasters.model_forecaster import render_forecast
from scene4d.eval.forecast.forecasters.past_stream import PastStream
from scene4d.eval.forecast.ground_truth import exact_scene
from scene4d.gaussians.edit import by_id
from scene4d.lift.rgbd.unproject import lift_frames
from scene4d.lift.stream.stream import StreamConfig
from scene4d.render.render import render
from scene4d.scene import Motion, Scene4D
from scene4d.types import Episode, Frames, Gaussians
from scene4d.world.evaluated import ForecastQuestion


class CopyLast:
    """The last recorded frame of an input camera; elsewhere the last observed scene rendered there. Nothing moves."""

    name = "copy_last"

    def __init__(self, past_stream: PastStream):
        self.past_stream = past_stream

    def forecast(self, question: ForecastQuestion) -> tuple[dict[str, Frames], Scene4D]:
        """Implements `Forecaster`."""
        past, known, out = question.past, self.past_stream.remember(question.past), {}
        for name, track in question.cameras.items():
            if name in self.past_stream.inputs:
                image = past.views[name][-1].replace(extras={})
            else:
                image = render(known.memory, track[0], background=known.background)
            out[name] = Frames.stack([image] * track.viewmats.shape[0])
        still = torch.zeros_like(known.memory.means)
        return out, scene_of_velocities(known.memory, still, past=past, num_steps=len(question.actions))


class ConstantVelocity:
    """Every memory row goes on as it was tracked over the last step."""

    name = "constant_velocity"

    def __init__(self, past_stream: PastStream):
        self.past_stream = past_stream

    def forecast(self, question: ForecastQuestion) -> tuple[dict[str, Frames], Scene4D]:
        """Implements `Forecaster`."""
        past, known = question.past, self.past_stream.remember(question.past)
        velocity = torch.zeros_like(known.memory.means)
        if past.times.shape[0] > 1:  # those that are new in the last step stay
            flow, valid = known.scene.flow(float(known.scene.times[-2]), float(known.scene.times[-1]))
            velocity, _ = by_id(flow * valid[:, None], known.scene.base.ids, wanted=known.memory.ids)
        scene = scene_of_velocities(known.memory, velocity, past=past, num_steps=len(question.actions))
        return render_forecast(scene, question, background=known.background), scene


class ExactFlow:
    """Moves what was seen by its true motion: what perfect motion alone is worth.

    With memory, every row of the memory moves with its exact segment; without, only what the last frames show does, and
    what it uncovers stays empty.

    Args:
        episode: the whole recording, future included; past_stream must have been given its labels.
    """

    def __init__(self, past_stream: PastStream, *, episode: Episode, memory: bool):
        self.past_stream, self.episode, self.memory = past_stream, episode, memory
        self.name = "exact_flow_memory" if memory else "exact_flow"

    def forecast(self, question: ForecastQuestion) -> tuple[dict[str, Frames], Scene4D | None]:
        """Implements `Forecaster`.

        Raises:
            ConfigError: the stream got no labels, which say to what segment each pixel belongs.
        """
        known, now = self.past_stream.remember(question.past), question.past.times.shape[0] - 1
        if known.segments is None:
            raise ConfigError("exact motion needs labels", field="past_stream", fix="call remember(past, labels=...)")
        rows, segments = known.memory, known.segments
        if not self.memory:
            rows = lift_frames(self.episode.stacked(self.past_stream.inputs)[now], config=StreamConfig().lift)
            segments = rows.extras["segments"][:, 0].long()
        scene = exact_scene(rows, segments, episode=self.episode, start=now, num_steps=len(question.actions))
        # Rows of one frame have ids of their own: there is no flow of the memory to score.
        return render_forecast(scene, question, background=known.background), scene if self.memory else None


def scene_of_velocities(memory: Gaussians, velocity: Tensor, *, past: Episode, num_steps: int) -> Scene4D:
    """A scene in which each memory row [n] moves by its own velocity [n 3] m a step (rows are their own anchors)."""
    if past.times.shape[0] < 1:
        raise ConfigError("the past is empty", field="past")
    step = float(past.times[-1] - past.times[-2]) if past.times.shape[0] > 1 else 0.025
    times = past.times[-1] + step * torch.arange(num_steps + 1, dtype=torch.float64)
    moving = velocity.norm(dim=-1) > 0
    shift = velocity[moving] * torch.arange(num_steps + 1.0)[:, None, None]  # [t m 3]
    turn = shift.new_tensor([1.0, 0, 0, 0]).expand(*shift.shape[:-1], 4)
    index, weights = (moving.cumsum(0) - 1).clamp_min(0)[:, None], moving[:, None].to(velocity)
    motion = Motion(memory.means[moving], torch.cat([turn, shift], -1), skin_index=index, skin_weights=weights)
    forever = torch.stack([times[0], times[-1]]).expand(memory.num_gaussians, 2)
    return Scene4D(base=memory, motion=motion, alive=forever, times=times, observed=torch.arange(num_steps + 1) == 0)

"""What each part of the forecaster is worth: the same weights with one part taken out at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from scene4d.eval.forecast.forecasters import (
    ModelForecaster,
    PastMemory,
    PastStream,
    background_of,
    render_surface_depth,
)
from scene4d.geometry.rotation import identity_pose
from scene4d.lift.stream.stream import SceneStream
from scene4d.scene import Scene4D
from scene4d.types import Cameras, Episode, Frames
from scene4d.world.contract import Forecast, State, WorldModel
from scene4d.world.rollout import forecast_long

LAST_FRAMES = 3
"""Frames that a model without memory is left with: enough for the two past steps of motion that it looks at."""


class LastFrames(PastStream):
    """A stream that begins anew a few frames before now: what has been hidden since is not known."""

    def remember(self, past: Episode, *, labels: Tensor | None = None) -> PastMemory:
        """What the last frames of `past` alone show."""
        if past is not self._source:
            frames, first = past.stacked(self.inputs), max(0, past.times.shape[0] - LAST_FRAMES)
            stream = SceneStream(self.config)
            for t in range(first, past.times.shape[0]):
                stream.update(frames[t], time=float(past.times[t]))
            self._source = past
            self._last = PastMemory(stream.gaussians(), stream.scene(), background_of(frames[-1]))
        return self._last


class WithoutMemory(ModelForecaster):
    """The model on the last frames alone."""

    def __init__(self, model: WorldModel, past_stream: PastStream, *, steps: int = 4):
        super().__init__(model, LastFrames(past_stream.inputs, config=past_stream.config), steps=steps)
        self.name = "no_memory"

    def forecast(
        self,
        past: Episode,
        *,
        actions: Tensor,
        cameras: Mapping[str, Cameras],
        seed: int = 0,
        steps: Sequence[int] | None = None,
    ) -> tuple[dict[str, Frames], None]:
        """Implements `Forecaster`; its rows are not those of the common memory, so there is no flow to score."""
        return super().forecast(past, actions=actions, cameras=cameras, seed=seed, steps=steps)[0], None


class WithoutTransport(ModelForecaster):
    """Known matter stays where it is; only what was never seen is added."""

    def __init__(self, model: WorldModel, past_stream: PastStream, *, steps: int = 4):
        super().__init__(model, past_stream, steps=steps, name="no_transport")

    def decoded(self, state: State, forecast: Forecast) -> Scene4D:
        """The scene of a forecast."""
        poses = forecast.world_from_now
        still = identity_pose(*poses.shape[:-1], like=poses).contiguous()
        return super().decoded(state, forecast.replace(world_from_now=still))


class WithoutDecoding(ModelForecaster):
    """Known matter moves; what was never seen stays empty."""

    def __init__(self, model: WorldModel, past_stream: PastStream, *, steps: int = 4):
        super().__init__(model, past_stream, steps=steps, name="no_vae_decode")

    def decoded(self, state: State, forecast: Forecast) -> Scene4D:
        """The scene of a forecast without the rows that stand behind those of the memory."""
        scene, known = super().decoded(state, forecast), state.memory.num_gaussians
        motion = scene.motion
        return scene.replace(
            base=scene.base.pick(torch.arange(known)),
            motion=motion.replace(skin_index=motion.skin_index[:known], skin_weights=motion.skin_weights[:known]),
            alive=scene.alive[:known],
        )


class Regenerated(ModelForecaster):
    """Every step is a new set of Gaussians, decoded from that step's tokens; nothing is carried or keeps its id."""

    def __init__(self, model: WorldModel, past_stream: PastStream, *, steps: int = 4):
        super().__init__(model, past_stream, steps=steps, name="regenerated")

    @torch.no_grad()
    def forecast(
        self,
        past: Episode,
        *,
        actions: Tensor,
        cameras: Mapping[str, Cameras],
        seed: int = 0,
        steps: Sequence[int] | None = None,
    ) -> tuple[dict[str, Frames], None]:
        """Implements `Forecaster`; there is no scene, for no row outlives its step."""
        state, background = self.state(past), self.past_stream.remember(past).background
        forecast = forecast_long(
            self.model,
            state,
            actions=actions,
            horizon=self.model.config.horizon,
            steps=self.sampler_steps,
            seeds=(seed,),
        )
        ahead = range(1, len(actions) + 1) if steps is None else steps
        images: dict[str, list[Frames]] = {name: [] for name in cameras}
        for i, step in enumerate(ahead):
            gaussians = self.model.codec.decode(forecast.latent[step - 1])
            for name, track in cameras.items():
                images[name].append(render_surface_depth(gaussians, track[i], background=background))
        return {name: Frames.stack(each) for name, each in images.items()}, None


ABLATIONS = (WithoutMemory, WithoutTransport, WithoutDecoding, Regenerated)

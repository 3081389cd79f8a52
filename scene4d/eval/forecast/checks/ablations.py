"""What each part of the forecaster is worth: the same weights with one part taken out at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.eval.forecast.forecasters.model_forecaster import ModelForecaster
from scene4d.eval.forecast.forecasters.past_stream import PastMemory, PastStream, background_of
from scene4d.eval.surface_render import render_instants
from scene4d.geometry.rotation import apply_pose, identity_pose
from scene4d.lift.stream.stream import SceneStream
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.models.gaussian_flow.state import GaussianState
from scene4d.models.tokens.anchored_state import AnchorPrediction
from scene4d.scene import Scene4D
from scene4d.types import Episode, Frames
from scene4d.world.capabilities import Decodes
from scene4d.world.evaluated import ForecastQuestion

LAST_FRAMES = 3
"""Frames that a model without memory is left with: enough for the two past steps of motion that it uses."""


class LastFrames(PastStream):
    """A stream that starts anew a few frames before now: what has been hidden since is not known."""

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

    def __init__(self, model: Decodes, past_stream: PastStream, *, steps: int = 4):
        super().__init__(model, LastFrames(past_stream.inputs, config=past_stream.config), steps=steps)
        self.name = "no_memory"

    def forecast(self, question: ForecastQuestion) -> tuple[dict[str, Frames], None]:
        """Implements `Forecaster`; its rows are not those of the common memory, so there is no flow to score."""
        return super().forecast(question)[0], None


class WithoutTransport(ModelForecaster):
    """Known Gaussians stay where they are; only what was never seen is added."""

    def __init__(self, model: Decodes, past_stream: PastStream, *, steps: int = 4):
        super().__init__(model, past_stream, steps=steps, name="no_transport")

    def decoded(self, state: GaussianState, prediction: AnchorPrediction) -> Scene4D:
        """The scene of a prediction."""
        poses = prediction.world_from_now
        still = identity_pose(*poses.shape[:-1], like=poses).contiguous()
        return super().decoded(state, prediction.replace(motion=prediction.motion.replace(world_from_now=still)))


class WithoutDecoding(ModelForecaster):
    """Known Gaussians move; what was never seen stays empty."""

    def __init__(self, model: Decodes, past_stream: PastStream, *, steps: int = 4):
        super().__init__(model, past_stream, steps=steps, name="no_vae_decode")

    def decoded(self, state: GaussianState, prediction: AnchorPrediction) -> Scene4D:
        """The scene of a prediction without the rows that come after those of the memory."""
        scene, known = super().decoded(state, prediction), state.gaussians.num_gaussians
        motion = scene.motion
        return scene.replace(
            base=scene.base.pick(torch.arange(known)),
            motion=motion.replace(skin_index=motion.skin_index[:known], skin_weights=motion.skin_weights[:known]),
            alive=scene.alive[:known],
        )


class Regenerated(ModelForecaster):
    """Every step is a new set of Gaussians, decoded from that step's tokens; nothing is carried or keeps its id."""

    def __init__(self, model: GaussianWorldModel, past_stream: PastStream, *, steps: int = 4):
        super().__init__(model, past_stream, steps=steps, name="regenerated")
        self.codec = model.codec

    @torch.no_grad()
    def forecast(self, question: ForecastQuestion) -> tuple[dict[str, Frames], None]:
        """Implements `Forecaster`; there is no scene, for no row outlives its step."""
        state, background = self.state(question.past), self.past_stream.remember(question.past).background
        prediction = self.predicted(state, actions=question.actions, seed=question.seed)
        places = [apply_pose(prediction.world_from_now[step - 1], state.anchors) for step in question.ahead]
        instants = (self.codec.decode(state.latent.replace(anchors=anchors)) for anchors in places)
        return render_instants(instants, question.cameras, background=background), None


ABLATIONS = (WithoutMemory, WithoutTransport, WithoutDecoding, Regenerated)

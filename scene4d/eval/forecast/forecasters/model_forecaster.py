"""World models as forecasters: of a scene, whose images are rendered, or of images themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scene4d.eval.forecast.forecasters.past_stream import PastStream
from scene4d.eval.surface_render import render_instants
from scene4d.scene import Scene4D
from scene4d.types import Episode, Frames
from scene4d.world.capabilities import Decodes, Renders, reaching, sampled
from scene4d.world.evaluated import ForecastQuestion
from scene4d.world.observation import Observation
from scene4d.world.rollout import predict_long

NUM_FRAMES = 4
"""Last frames of a past that a model without a scene gets to see."""


class ModelForecaster:
    """A world model on the streamed memory; beyond its horizon it goes on from its own forecast, chunk by chunk.

    Args:
        steps: of the sampler. name: its row in the table.
    """

    uses_actions = True

    def __init__(self, model: Decodes, past_stream: PastStream, *, steps: int = 4, name: str = "ours"):
        self.model: Decodes = sampled(model, steps)
        self.past_stream, self.name = past_stream, name

    def forecast(self, question: ForecastQuestion) -> tuple[dict[str, Frames], Scene4D | None]:
        """Implements `Forecaster`."""
        scene = self.scene(question.past, actions=question.actions, seed=question.seed)
        background = self.past_stream.remember(question.past).background
        return render_forecast(scene, question, background=background), scene

    def scene(self, past: Episode, *, actions: Tensor, seed: int = 0) -> Scene4D:
        """The forecast scene: now and one time for each of `actions` [h a]."""
        state = self.state(past)
        return self.decoded(state, self.predicted(state, actions=actions, seed=seed))

    def predicted(self, state: Any, *, actions: Tensor, seed: int) -> Any:
        """The prediction of all `actions` [h a], in steps and chunks as long as these ask for."""
        return predict_long(reaching(self.model, len(actions)), state, actions=actions, seeds=(seed,))

    def decoded(self, state: Any, prediction: Any) -> Scene4D:
        """The scene of a prediction."""
        return self.model.scene(state, prediction)

    def state(self, past: Episode) -> Any:
        """What the model knows at the end of `past`."""
        known = self.past_stream.remember(past)
        inputs = self.past_stream.inputs
        return self.model.observe(Observation.from_episode(past, scene=known.scene, memory=known.memory, inputs=inputs))


class ImageForecaster:
    """Predicts the images of the cameras that the model was trained on, chunk after chunk, as the 2D baseline does.

    Args:
        steps: of the sampler. name: its row in the table.
    """

    uses_actions = True

    def __init__(self, model: Renders, *, steps: int = 4, name: str = "pixels_2d"):
        self.model: Renders = sampled(model, steps)
        self.name = name

    @torch.no_grad()
    def forecast(self, question: ForecastQuestion) -> tuple[dict[str, Frames], Scene4D | None]:
        """Implements `Forecaster`: no scene; cameras that the model was not trained on are left out."""
        past = question.past
        frames = {name: view[-NUM_FRAMES:] for name, view in past.views.items()}
        state = self.model.observe(Observation.from_episode(past, scene=None, frames=frames))
        prediction = predict_long(self.model, state, actions=question.actions, seeds=(question.seed,))
        index = torch.tensor([step - 1 for step in question.ahead])
        images = {k: v[index] for k, v in self.model.images(state, prediction).items() if k in question.cameras}
        return {k: Frames(v, depth=None, alpha=None, cameras=question.cameras[k]) for k, v in images.items()}, None


def render_forecast(scene: Scene4D, question: ForecastQuestion, *, background: Tensor) -> dict[str, Frames]:
    """Frames [k] of a forecast scene for each camera of a question, at the steps that it asks for."""
    instants = (scene.at(float(scene.times[step])) for step in question.ahead)
    return render_instants(instants, question.cameras, background=background)

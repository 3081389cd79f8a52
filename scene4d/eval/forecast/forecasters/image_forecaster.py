"""A world model that predicts images themselves, such as the 2D baseline, as a `Forecaster`: no scene."""

from __future__ import annotations

import torch

from scene4d.scene import Scene4D
from scene4d.types import Frames
from scene4d.world.capabilities import Renders, sampled
from scene4d.world.evaluated import ForecastQuestion
from scene4d.world.observation import Observation
from scene4d.world.rollout import predict_long

NUM_FRAMES = 4
"""Last frames of a past that such a model gets to see."""


class ImageForecaster:
    """Predicts the images of the cameras that the model was trained on, chunk after chunk.

    Args:
        steps: of the sampler. name: its row in the table.
    """

    uses_actions = True

    def __init__(self, model: Renders, *, steps: int = 4, name: str = "pixels_2d"):
        self.model: Renders = sampled(model, steps)
        self.name = name

    @torch.no_grad()
    def forecast(self, question: ForecastQuestion) -> tuple[dict[str, Frames], Scene4D | None]:
        """Implements `Forecaster`; cameras that the model was not trained on are left out."""
        past = question.past
        frames = {name: view[-NUM_FRAMES:] for name, view in past.views.items()}
        state = self.model.observe(Observation.from_episode(past, scene=None, frames=frames))
        prediction = predict_long(self.model, state, actions=question.actions, seeds=(question.seed,))
        index = torch.tensor([step - 1 for step in question.ahead])
        out = {}
        for name, images in self.model.images(state, prediction).items():
            if name in question.cameras:
                out[name] = Frames(rgb=images[index], depth=None, alpha=None, cameras=question.cameras[name])
        return out, None

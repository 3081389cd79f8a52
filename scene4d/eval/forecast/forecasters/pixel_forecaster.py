"""The 2D baseline as a `Forecaster`: images of the input cameras only, no scene."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from scene4d.models.gaussian_flow.motion.flow import sample, seeded_noise
from scene4d.models.gaussian_flow.networks.proprio import track_of
from scene4d.models.pixel_transformer.model import Clip, PixelModel, continued
from scene4d.types import Episode, Frames
from scene4d.world.evaluated import ForecastQuestion
from scene4d.world.rollout import chunk_seeds


class PixelForecaster:
    """Forecasts the images of the input cameras by what is added to the last ones, chunk after chunk.

    Images of another size than the model's are shrunk for it, and what it adds is enlarged.

    Args:
        inputs: the cameras it was trained on, in that order. steps: of the sampler.
    """

    name = "pixels_2d"
    uses_actions = True

    def __init__(self, model: PixelModel, inputs: Sequence[str], *, steps: int = 4):
        self.model, self.inputs, self.sampler_steps = model, tuple(inputs), steps

    @torch.no_grad()
    def forecast(self, question: ForecastQuestion) -> tuple[dict[str, Frames], None]:
        """Implements `Forecaster`; cameras that it was not trained on are left out."""
        past, actions, cameras = question.past, question.actions, question.cameras
        now = torch.stack([past.views[name].rgb[-1] for name in self.inputs])  # [v h w 3]
        clip = self.clip_of(past, actions)
        added = resized(self.added(clip, actions, seed=question.seed), (now.shape[-3], now.shape[-2]))  # [h v h w 3]
        index = torch.tensor([step - 1 for step in question.ahead])
        images = (now + added[index]).clamp(0, 1)
        out = {}
        for view, name in enumerate(self.inputs):
            if name in cameras:
                out[name] = Frames(rgb=images[:, view], depth=None, alpha=None, cameras=cameras[name])
        return out, None

    def clip_of(self, past: Episode, actions: Tensor) -> Clip:
        """The model's input from a past [t]: its last images at the model's size, the first chunk of actions."""
        c = self.model.config
        times = [max(0, past.times.shape[0] - c.num_past + i) for i in range(c.num_past)]
        images = torch.stack([past.views[name].rgb[times] for name in self.inputs], 1)  # [p v h w 3]
        # The last action of a past leads out of now.
        track = track_of(past.actions[:-1], past.proprio, num_past=c.num_past_actions)
        return Clip(
            pictures=resized(images, (c.size, c.size))[None],
            past_actions=track.actions[None],
            actions=actions[None, : c.horizon],
            past_proprio=track.proprio[None],
            told=torch.ones(1),
            task=torch.tensor([self.model.task_number(str(past.info.get("task", "")))]),
        )

    def added(self, clip: Clip, actions: Tensor, *, seed: int) -> Tensor:
        """What `actions` [h a] add to the last images of a clip [1]: [h v y x 3] at the model's size."""
        c, now = self.model.config, clip.pictures[:, -1:]
        parts: list[Tensor] = []
        for number, start in enumerate(range(0, len(actions), c.horizon)):
            chunk = actions[None, start : start + c.horizon]
            clip = clip if number == 0 else continued(clip, parts[-1], chunk)
            shape = (chunk.shape[1], len(self.model.places), c.channels)
            noise = seeded_noise(chunk_seeds([seed], number), shape, like=now)
            sampler = lambda predict, start: sample(predict, start, steps=self.sampler_steps)
            parts.append(self.model.predict(clip, noise=noise, sampler=sampler))
        return (torch.cat(parts, 1) - now)[0]


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures [a b y x 3] resized to (height, width), averaged where they shrink."""
    if tuple(images.shape[2:4]) == tuple(size):
        return images
    flat = images.flatten(0, 1).movedim(-1, 1)
    flat = interpolate(flat, tuple(size), mode="bilinear", antialias=True, align_corners=False)
    return flat.movedim(1, -1).unflatten(0, images.shape[:2])

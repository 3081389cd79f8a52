"""PixelTransformer: the 2D baseline as a world model; it predicts pictures of its cameras, and has no scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from scene4d.errors import DataFormatError
from scene4d.models.flow import Sampler, seeded_noise
from scene4d.models.pixel_transformer.network import Clip, PixelModel
from scene4d.robot.spec import RobotSpec
from scene4d.robot.track import track_of
from scene4d.world.contract import Prediction, State, WorldModelSpec
from scene4d.world.flat_batches import flat_state, flat_steps, unflat
from scene4d.world.observation import Observation

STEP_SECONDS = 0.025
"""Seconds of a step where the robot's spec does not say."""


@dataclass(frozen=True)
class PixelState(State):
    """The last pictures of the cameras and how the robot got here. Batch axes `*b`.

    pictures [*b p v y x 3] at the model's size, now last; shown [*b v h w 3]: those of now as they were recorded;
    past_actions [*b k a]; past_proprio [*b k+1 q], now last; known [*b]: 1 where that is known, 0 after a prediction;
    task [*b] int64, 0 = unknown.
    """

    pictures: Tensor
    shown: Tensor
    past_actions: Tensor
    past_proprio: Tensor
    known: Tensor
    task: Tensor


@dataclass(frozen=True, kw_only=True)
class PixelPrediction(Prediction):
    """Predicted pictures [*b h v y x 3] at the model's size, not clamped."""

    pictures: Tensor


class PixelTransformer(Sampler, nn.Module):
    """Predicts what each picture changes by; implements `WorldModel`, `Renders` and `Samples`.

    Pictures of another size than the model's are shrunk for it, and what it adds is enlarged.

    Args:
        network: the transformer. cameras: names of the cameras it learned with, in that order. robot: it learned from.
    """

    def __init__(self, network: PixelModel, *, cameras: Sequence[str], robot: RobotSpec):
        super().__init__()
        self.network, self.config = network, network.config
        self.cameras, self.robot = tuple(cameras), robot

    @property
    def spec(self) -> WorldModelSpec:
        """Horizon, step and robots."""
        return WorldModelSpec(self.config.horizon, self.robot.step_seconds or STEP_SECONDS, (self.robot,))

    @torch.no_grad()
    def observe(self, observation: Observation, *, state: PixelState | None = None) -> PixelState:
        """The state [] now; a given `state` is replaced.

        Raises:
            DataFormatError: pictures of a camera are missing. ConfigError: of another robot than the model's.
        """
        robot = self.spec.robot_of(observation)
        frames, task, c = observation.frames or {}, observation.task.text, self.config
        missing = [name for name in self.cameras if name not in frames]
        if missing:
            raise DataFormatError("has no pictures", field="observation.frames", found=list(frames), expected=missing)
        num = len(frames[self.cameras[0]].rgb)
        times = [max(0, num - c.num_past + i) for i in range(c.num_past)]
        pictures = torch.stack([frames[name].rgb[times] for name in self.cameras], 1)  # [p v h w 3]
        track = track_of(observation.actions, observation.proprio, num_past=c.num_past_actions)
        now = observation.scene.times[-1] if observation.scene is not None else torch.zeros(())
        return PixelState(
            time=now.double(),
            proprio=observation.proprio[-1],
            robot=robot,
            pictures=resized(pictures, (c.size, c.size)),
            shown=torch.stack([frames[name].rgb[-1] for name in self.cameras]),
            past_actions=track.actions,
            past_proprio=track.proprio,
            known=torch.ones(()),
            task=torch.tensor(c.tasks.index(task) + 1 if task in c.tasks else 0),
        )

    @torch.no_grad()
    def predict(self, state: PixelState, *, actions: Tensor, seeds: Sequence[int] = (0,)) -> PixelPrediction:
        """The next h <= horizon steps of states [*b] under actions [*b h a]; implements `WorldModel`."""
        (flat, seeds, lead), c = flat_state(state, seeds), self.config
        clip = Clip(
            pictures=flat.pictures,
            past_actions=flat.past_actions,
            actions=flat_steps(actions, lead, name="actions", tail=(c.num_actions,), horizon=c.horizon),
            past_proprio=flat.past_proprio,
            known=flat.known,
            task=flat.task,
        )
        # A shorter chunk draws what the whole one would, so that stepping through it gives the same.
        noise = seeded_noise(seeds, (c.horizon, len(self.network.places), c.channels), like=actions)
        pictures = self.network.draw(clip, noise=noise[:, : actions.shape[-2]], steps=self.sampler_steps)
        return unflat(PixelPrediction(actions=clip.actions, pictures=pictures), lead)

    @torch.no_grad()
    def advance(self, state: PixelState, prediction: PixelPrediction, *, num_steps: int) -> PixelState:
        """The state after `num_steps` of the prediction; the robot's own state is not predicted, so it is unknown."""
        axis, c = len(state.batch_shape), self.config
        future = prediction.pictures.narrow(axis, 0, num_steps)
        done = prediction.actions.narrow(axis, 0, num_steps)
        last = lambda x, num: x.narrow(axis, x.shape[axis] - num, num)
        added = future.select(axis, num_steps - 1) - state.pictures.select(axis, c.num_past - 1)
        return state.replace(
            time=state.time + num_steps * (state.robot.step_seconds or self.spec.step_seconds),
            pictures=last(torch.cat([state.pictures, future.clamp(0, 1)], axis), c.num_past),
            shown=state.shown + _enlarged(added, state.shown),
            past_actions=last(torch.cat([state.past_actions, done], axis), c.num_past_actions),
            known=torch.zeros_like(state.known),
        )

    def images(self, state: PixelState, prediction: PixelPrediction) -> Mapping[str, Tensor]:
        """{camera: predicted pictures [h y x 3] in [0, 1]} of a state [], at the size of the recording."""
        added = prediction.pictures - state.pictures[-1]  # [h v y x 3]
        pictures = (state.shown + _enlarged(added, state.shown)).clamp(0, 1)
        return {name: pictures[:, view] for view, name in enumerate(self.cameras)}


def _enlarged(added: Tensor, shown: Tensor) -> Tensor:
    """What was added to pictures [*b v y x 3], at the size of `shown`."""
    lead = added.shape[:-4]
    size = (shown.shape[-3], shown.shape[-2])
    return resized(added.reshape(-1, *added.shape[-4:]), size).reshape(*lead, -1, *shown.shape[-3:])


def resized(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures [a b y x 3] resized to (height, width), averaged where they shrink."""
    if tuple(pictures.shape[2:4]) == tuple(size):
        return pictures
    flat = pictures.flatten(0, 1).movedim(-1, 1)
    flat = interpolate(flat, tuple(size), mode="bilinear", antialias=True, align_corners=False)
    return flat.movedim(1, -1).unflatten(0, pictures.shape[:2])

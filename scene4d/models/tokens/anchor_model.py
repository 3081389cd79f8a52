"""What world models on the Gaussian VAE's tokens share: the codec, the scales of what they learn from, and powers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scene4d.models.proprio import ProprioForecast
from scene4d.models.tokens.anchored_state import AnchoredState, AnchorPrediction
from scene4d.models.tokens.latent import Codec
from scene4d.models.tokens.motion_targets import MotionScale
from scene4d.models.tokens.scene_tokens import SceneTokens
from scene4d.models.tokens.token_windows import TokenWindows, is_moving
from scene4d.robot.spec import RobotSpec
from scene4d.scene import Scene4D
from scene4d.world.carry import AnchoredGaussians, AnchorMotion, later_times, scene_of_motion
from scene4d.world.contract import WorldModelSpec

STEP_SECONDS = 0.025


class AnchorModel(nn.Module):
    """The common part of world models that predict the motion of anchors; implements `Decodes` and `MovesAnchors`.

    Args:
        codec: encodes Gaussians; frozen, its weights are stored elsewhere. channels: of its tokens, c.
        robots: that it learned from. step_seconds: of a step where neither scene nor robot says.
    """

    token_mean: Tensor
    token_std: Tensor
    reward_scale: Tensor
    proprio: ProprioForecast

    def __init__(
        self, codec: Codec, *, channels: int, horizon: int, robots: tuple[RobotSpec, ...], step_seconds: float
    ):
        super().__init__()
        self.horizon, self.robots, self.step_seconds = horizon, robots, step_seconds
        self._codec = (codec,)  # in a tuple, so that its weights are not this module's
        self.scale = MotionScale(horizon)
        self.register_buffer("token_mean", torch.zeros(channels))
        self.register_buffer("token_std", torch.ones(channels))
        self.register_buffer("reward_scale", torch.ones(()))

    @property
    def codec(self) -> Codec:
        """The Gaussian VAE."""
        return self._codec[0]

    @property
    def spec(self) -> WorldModelSpec:
        """Horizon, step and robots."""
        known = [robot.step_seconds for robot in self.robots if robot.step_seconds]
        return WorldModelSpec(self.horizon, known[0] if known else self.step_seconds, self.robots)

    def scaled(self, tokens: Tensor) -> Tensor:
        """Tokens [.. c] in units of their spread over the training windows."""
        return (tokens - self.token_mean) / self.token_std

    def scene_tokens(self, state: AnchoredState) -> SceneTokens:
        """What a network is given of the anchors of a state [b]."""
        tokens = self.scaled(state.latent.tokens)
        return SceneTokens(tokens, anchors=state.anchors, rgb=state.anchor_rgb, past=state.anchor_past)

    def window_tokens(self, batch: TokenWindows) -> SceneTokens:
        """The same of prepared windows [b]."""
        tokens = self.scaled(batch.tokens)
        return SceneTokens(tokens, anchors=batch.anchors, rgb=batch.anchor_rgb, past=batch.anchor_past)

    @torch.no_grad()
    def set_statistics(self, batches: Sequence[TokenWindows], *, instants: Sequence[int] | None = None) -> None:
        """Take the scales of tokens, motion and reward from prepared training windows; once, before training.

        Args:
            instants: frames ahead at which they keep the truth, by default 1, 2, ...
        """
        tokens = torch.cat([b.tokens.flatten(0, -2) for b in batches])
        self.token_mean.copy_(tokens.mean(0))
        # A channel that the codec does not use must not be blown up to noise.
        self.token_std.copy_(tokens.std(0).clamp_min(0.05 * tokens.std()))
        rewards = torch.cat([b.reward.flatten() for b in batches])
        self.reward_scale.copy_(rewards.nan_to_num().abs().max().clamp_min(1e-3))
        for batch in batches:
            moving = is_moving(batch.motion) & batch.known[None]
            self.scale.update(batch.motion[None], moving[None], instants=instants)

    def scene(self, state: AnchoredState, prediction: AnchorPrediction) -> Scene4D:
        """Now and the predicted steps: the known Gaussians carried."""
        seconds = state.robot.step_seconds or self.step_seconds
        times = later_times(state.time, num_steps=prediction.num_steps, step_seconds=seconds)
        return scene_of_motion(state.anchored, prediction.motion, times=times)

    def anchored(self, state: AnchoredState) -> AnchoredGaussians:
        """The Gaussians of a state on their anchors."""
        return state.anchored

    def anchor_motion(self, prediction: AnchorPrediction) -> AnchorMotion:
        """The predicted motion of these anchors."""
        return prediction.motion

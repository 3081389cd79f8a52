"""The networks: what is believed of scene and robot, how it goes on under actions, and what it says of anchors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from scene4d.layers import MLP, Block, Modulation, RMSNorm, Rotary, fourier_features, modulate, zero_
from scene4d.models.categorical import drawn, log_probabilities
from scene4d.models.proprio import ProprioConfig, RobotCondition
from scene4d.models.tokens.anchors import AnchorConfig
from scene4d.models.tokens.motion_estimate import MotionEstimate
from scene4d.models.tokens.scene_tokens import ANCHOR_FEATURES, STEP_FEATURES, SceneTokens
from scene4d.robot.slots import Slots
from scene4d.robot.track import Track
from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.text.task_vectors import TextEncoding, task_channels


@dataclass(frozen=True)
class RSSMConfig:
    """What the model is built from; horizon and past are those of the windows that it learns from."""

    horizon: int = 8
    """Steps of one chunk, h."""
    slots: Slots = field(default_factory=Slots)
    """How many numbers of a robot it takes."""
    text: TextEncoding = "words"
    """How a task's text becomes numbers, as of gaussian_flow."""
    proprio: ProprioConfig = field(default_factory=ProprioConfig)
    """The forecast of the robot's own state."""
    width: int = 96
    """Channels of an anchor."""
    hidden: int = 128
    """Channels of the recurrent state."""
    latent: tuple[int, int] = (16, 16)
    """Categorical variables of the latent, and classes of each."""
    moving_thresholds: tuple[float, float] = (0.9, 0.5)
    """Probability of moving from which an anchor at rest sets out, and from which one that has moved goes on."""
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    """How anchors are chosen."""


@dataclass(frozen=True)
class Belief(TensorStruct):
    """The state of the recurrence: hidden [*b d], and latent [*b g*k], one-hot a group."""

    hidden: Tensor
    latent: Tensor

    SHAPES = shapes(hidden="*b d", latent="*b c")


class BeliefNetwork(nn.Module):
    """A recurrent state-space model: h' = GRU(h; z, action, robot), prior p(z'|h'), posterior q(z'|h', anchors).

    Source: Hafner et al. 2019 (PlaNet) and 2023 (DreamerV3: categorical latents, straight-through, unimix).
    """

    def __init__(self, config: RSSMConfig, *, channels: int):
        super().__init__()
        self.config = c = config
        numbers, latent = c.slots.num_actions + c.slots.num_proprio, math.prod(c.latent)
        robot = numbers + task_channels(c.text)
        self.embed_anchors = MLP([channels + ANCHOR_FEATURES, c.width, c.width])
        self.blocks = nn.ModuleList([Block(c.width, num_heads=4) for _ in range(2)])
        self.rotary = Rotary(c.width // 4, wavelengths=((0.08, 3.0),) * 3)
        self.embed_moved = MLP([c.width + 3 + 3 * 7, c.width, c.width])
        self.start = MLP([robot, c.hidden, c.hidden])
        self.embed_robot = nn.Linear(robot + numbers + c.proprio.width, c.hidden)
        self.embed_latent = nn.Linear(latent, c.hidden, bias=False)
        self.cell = nn.GRUCell(c.hidden, c.hidden)
        self.prior = MLP([c.hidden, c.hidden, latent])
        self.posterior = MLP([c.hidden + 2 * c.width, c.hidden, latent])
        self.outcome = MLP([c.hidden + latent, c.hidden, 3])
        self.embed_step = nn.Linear(c.width + STEP_FEATURES, c.width)
        self.decoder = Block(c.width, num_heads=4, condition_dim=c.hidden + latent)
        self.norm = RMSNorm(c.width, elementwise_affine=False)
        self.final = Modulation(c.width, condition_dim=c.hidden + latent, num=2)
        self.out = zero_(nn.Linear(c.width, 6 + 6 + 1 + 2))

    def encode(self, scene: SceneTokens, hand: Tensor) -> Tensor:
        """Features [b l w] of the anchors now, the hand [b 3] among them."""
        x, table = self.embed_anchors(scene.features(hand)), self.rotary(scene.anchors)
        for block in self.blocks:
            x = block(x, rotary=table)
        return x

    def embed(self, scene: SceneTokens, features: Tensor, *, moved: Tensor, hand: Tensor) -> Tensor:
        """The set of anchors [b t 2w] at t moments: each `moved` [b t l 3] m since now, the hand [b t 3] there."""
        place = fourier_features(scene.anchors[:, None] + moved - hand[..., None, :], num_bands=3, longest=1.0)
        each = features[:, None].expand(-1, moved.shape[1], -1, -1)
        x = self.embed_moved(torch.cat([each, torch.asinh(moved / 0.02), place], -1))
        return torch.cat([x.mean(-2), x.amax(-2)], -1)

    def believe(self, scene: SceneTokens, features: Tensor, *, track: Track, task: Tensor, noise: Tensor) -> Belief:
        """The belief [b] now, from the end of the track in slots and a look at the anchors; noise: see `drawn`."""
        now = track.proprio[:, -1]
        hidden = self.start(torch.cat([track.actions[:, -1], now, task], -1)).tanh()
        seen = self.embed(scene, features, moved=0 * scene.anchors[:, None], hand=now[:, None, :3])[:, 0]
        return Belief(hidden, drawn(self._logs(self.posterior, hidden, seen), noise))

    def imagine(
        self, belief: Belief, given: RobotCondition, *, noise: Tensor, seen: tuple[Tensor, ...] = ()
    ) -> tuple[Belief, Tensor, Tensor]:
        """Beliefs [b h] as the robot goes on, and log-probabilities [b h g k] of prior and posterior.

        Args:
            noise: [b h g k], see `drawn`. seen: known [b h] bool and sets of anchors [b h 2w] at later steps; the
                posterior is drawn from where known, the prior elsewhere.
        """
        steps, actions, change = [], given.actions, given.proprio_change / 0.05
        fixed = torch.cat([given.proprio, given.task], -1)[:, None].expand(-1, actions.shape[1], -1)
        known = self.embed_robot(torch.cat([actions, actions.cumsum(1) / 4, change, fixed, given.hidden], -1))
        for i, step in enumerate(known.unbind(1)):
            hidden = self.cell(nn.functional.silu(step + self.embed_latent(belief.latent)), belief.hidden)
            prior = posterior = self._logs(self.prior, hidden)
            if seen:
                looked = self._logs(self.posterior, hidden, seen[1][:, i])
                posterior = torch.where(seen[0][:, i, None, None], looked, prior)
            belief = Belief(hidden, drawn(posterior, noise[:, i]))
            steps.append((belief, prior, posterior))
        beliefs, priors, posteriors = zip(*steps, strict=True)
        return Belief.stack(beliefs, 1), torch.stack(priors, 1), torch.stack(posteriors, 1)

    def decode(
        self, scene: SceneTokens, features: Tensor, *, beliefs: Belief, given: RobotCondition, scale: Tensor
    ) -> MotionEstimate:
        """What beliefs [b h] say of the anchors with these features [b l w]; scale [horizon 6] of their motion."""
        change = given.proprio_change[..., :3]
        steps = scene.step_features(given.proprio[:, :3], change, scale=scale)
        each = features[:, None].expand(-1, steps.shape[1], -1, -1)
        condition = torch.cat([beliefs.hidden, beliefs.latent], -1)
        x = self.embed_step(torch.cat([each, steps], -1))
        x = self.decoder(x, condition[:, :, None], rotary=self.rotary(scene.anchors)[:, None])
        shift, gain = self.final(condition[:, :, None])
        motion, log_var, gate, share = self.out(modulate(self.norm(x), shift=shift, scale=gain)).split([6, 6, 1, 2], -1)
        coasting, along = scene.simple_motions(change, scale=scale)
        motion = motion + nn.functional.pad(share[..., :1] * coasting + share[..., 1:] * along, (3, 0))
        return MotionEstimate(motion, gate[..., 0] - 1.0, log_var=log_var - 2.0, outcome=self.outcome(condition))

    def _logs(self, head: nn.Module, *evidence: Tensor) -> Tensor:
        """Log-probabilities [b g k] that a head gives by evidence."""
        return log_probabilities(head(torch.cat(evidence, -1)), self.config.latent)

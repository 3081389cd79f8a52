"""The networks: what is believed of scene and robot, how it goes on under actions, and what it says of anchors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from scene4d.layers import MLP, Block, Modulation, RMSNorm, Rotary, fourier_features, modulate, zero_
from scene4d.models.categorical import drawn, log_probabilities
from scene4d.models.tokens.anchors import AnchorConfig
from scene4d.models.tokens.motion_estimate import MotionEstimate
from scene4d.models.tokens.scene_tokens import ANCHOR_FEATURES, STEP_FEATURES, SceneTokens
from scene4d.robot.slots import NUM_ACTION_SLOTS, NUM_PROPRIO_SLOTS, TASK_CHANNELS
from scene4d.robot.track import Track
from scene4d.tensor_struct import TensorStruct


@dataclass(frozen=True)
class RSSMConfig:
    """What the model is built from; horizon and past are those of the windows that it learns from."""

    horizon: int = 8
    """Steps of one chunk, h."""
    num_past: int = 8
    """Past steps of the robot that are looked at."""
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
    """hidden [*b d]; latent [*b g*k], one-hot a group; of the robot, in slots [*b 20], its place, its scaled speed a
    step, and goal: the set point that its actions have moved."""

    hidden: Tensor
    latent: Tensor
    place: Tensor
    speed: Tensor
    goal: Tensor


class BeliefNetwork(nn.Module):
    """A recurrent state-space model: h' = GRU(h; z, action, robot), prior p(z'|h'), posterior q(z'|h', anchors).

    Source: Hafner et al. 2019 (PlaNet) and 2023 (DreamerV3: categorical latents, straight-through, unimix).
    """

    def __init__(self, config: RSSMConfig, *, channels: int):
        super().__init__()
        self.config = c = config
        num, latent = NUM_PROPRIO_SLOTS, math.prod(c.latent)
        known = NUM_ACTION_SLOTS + 5 * num + TASK_CHANNELS
        self.embed_anchors = MLP([channels + ANCHOR_FEATURES, c.width, c.width])
        self.blocks = nn.ModuleList([Block(c.width, num_heads=4) for _ in range(2)])
        self.rotary = Rotary(c.width // 4, wavelengths=((0.08, 3.0),) * 3)
        self.embed_moved = MLP([c.width + 3 + 3 * 7, c.width, c.width])
        self.start = nn.Linear(TASK_CHANNELS, c.hidden)
        self.embed_known = nn.Sequential(nn.Linear(latent + known, c.hidden), nn.SiLU())
        self.cell = nn.GRUCell(c.hidden, c.hidden)
        self.prior = MLP([c.hidden, c.hidden, latent])
        self.posterior = MLP([c.hidden + 2 * c.width + num, c.hidden, latent])
        self.robot, self.robot_straight = zero_(nn.Linear(c.hidden, num)), zero_(nn.Linear(known, num, bias=False))
        self.effect = nn.Parameter(torch.zeros(NUM_ACTION_SLOTS, num))  # of actions on the set point, scaled
        self.robot_scale = nn.Parameter(torch.full((num,), 0.02), requires_grad=False)
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
        """The belief [b] now: from the robot's track in slots, then from a look at the anchors; noise as of `drawn`."""
        place = track.proprio[:, 0]
        none = torch.zeros_like(noise).flatten(1)  # no scene is known of the past
        belief = Belief(self.start(task), latent=none, place=place, speed=torch.zeros_like(place), goal=place)
        for i, action in enumerate(track.actions.unbind(1)):
            hidden, _, goal = self._step(belief, action, task=task)
            valid, place = track.valid[:, i, None], track.proprio[:, i + 1]
            hidden, goal = torch.where(valid, hidden, belief.hidden), torch.where(valid, goal, place)
            speed = torch.where(valid, (place - belief.place) / self.robot_scale, 0.0)
            belief = Belief(hidden, latent=none, place=place, speed=speed, goal=goal)
        seen = self.embed(scene, features, moved=0 * scene.anchors[:, None], hand=place[:, None, :3])[:, 0]
        return belief.replace(latent=drawn(self._logs(self.posterior, belief.hidden, seen, belief.speed), noise))

    def imagine(
        self, belief: Belief, actions: Tensor, *, task: Tensor, noise: Tensor, seen: tuple[Tensor, ...] = ()
    ) -> tuple[Belief, Tensor, Tensor]:
        """Beliefs [b h] under actions [b h 16], and log-probabilities [b h g k] of prior and posterior.

        Args:
            noise: [b h g k], as of `drawn`. seen: known [b h] bool, sets of anchors [b h 2w] and places of the robot
                [b h 20] at later steps: where known, the posterior is drawn from and the robot is there.
        Returns:
            The beliefs; their `place` is the one imagined from the step before, also where the true one is known.
        """
        steps = []
        for i, action in enumerate(actions.unbind(1)):
            hidden, speed, goal = self._step(belief, action, task=task)
            place = imagined = belief.place + speed * self.robot_scale
            prior = posterior = self._logs(self.prior, hidden)
            if seen:
                known, anchors, robot = seen[0][:, i, None], seen[1][:, i], seen[2][:, i]
                place = torch.where(known, robot, place)
                speed = torch.where(known, (place - belief.place) / self.robot_scale, speed)
                posterior = torch.where(known[..., None], self._logs(self.posterior, hidden, anchors, speed), prior)
            belief = Belief(hidden, latent=drawn(posterior, noise[:, i]), place=place, speed=speed, goal=goal)
            steps.append((belief.replace(place=imagined), prior, posterior))
        beliefs, priors, posteriors = zip(*steps, strict=True)
        return Belief.stack(beliefs, 1), torch.stack(priors, 1), torch.stack(posteriors, 1)

    def decode(
        self, scene: SceneTokens, features: Tensor, *, beliefs: Belief, hand: Tensor, scale: Tensor
    ) -> MotionEstimate:
        """What beliefs [b h] say of the anchors with these features; hand [b 3] now; scale [horizon 6] of motion."""
        change = beliefs.place[..., :3] - hand[:, None]
        steps = scene.step_features(hand, change, scale=scale)
        each = features[:, None].expand(-1, steps.shape[1], -1, -1)
        condition = torch.cat([beliefs.hidden, beliefs.latent], -1)
        x = self.embed_step(torch.cat([each, steps], -1))
        x = self.decoder(x, condition[:, :, None], rotary=self.rotary(scene.anchors)[:, None])
        shift, gain = self.final(condition[:, :, None])
        motion, log_var, gate, share = self.out(modulate(self.norm(x), shift=shift, scale=gain)).split([6, 6, 1, 2], -1)
        coasting, along = scene.simple_motions(change, scale=scale)
        motion = motion + nn.functional.pad(share[..., :1] * coasting + share[..., 1:] * along, (3, 0))
        return MotionEstimate(motion, gate[..., 0] - 1.0, log_var=log_var - 2.0, outcome=self.outcome(condition))

    def _step(self, belief: Belief, action: Tensor, *, task: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The recurrent state, the robot's speed and its set point after an action [b 16]."""
        goal = belief.goal + (action @ self.effect) * self.robot_scale
        ahead = (goal - belief.place) / self.robot_scale
        robot = [belief.place, 4 * belief.speed, ahead, torch.tanh(2 * ahead), torch.tanh(ahead / 2)]
        known = torch.cat([action, *robot, task], -1)
        hidden = self.cell(self.embed_known(torch.cat([belief.latent, known], -1)), belief.hidden)
        return hidden, belief.speed + 0.25 * (self.robot(hidden) + self.robot_straight(known)), goal

    def _logs(self, head: nn.Module, *evidence: Tensor) -> Tensor:
        """Log-probabilities [b g k] that a head gives by evidence."""
        return log_probabilities(head(torch.cat(evidence, -1)), self.config.latent)

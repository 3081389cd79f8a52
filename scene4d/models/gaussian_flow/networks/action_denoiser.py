"""Which actions: a denoiser over a chunk of actions, given the scene now and, if it is known, how it will move."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from scene4d.layers import MLP, Block, RMSNorm, fourier_features, modulate, sinusoidal_embedding, zero_
from scene4d.models.flow import FlowConfig, draw_levels, noised, sample
from scene4d.models.gaussian_flow.motion.known_future import KnownMotion
from scene4d.models.gaussian_flow.networks.dit import MOTION_CHANNELS
from scene4d.models.instants import TIME_FEATURES, Steps
from scene4d.models.tokens.scene_tokens import SceneTokens
from scene4d.robot.slots import Slots
from scene4d.robot.track import Track
from scene4d.text.task_vectors import TextEncoding, task_channels

RECENT = 4
"""Past actions and speeds that it is given."""
ACTION_STEPS = 4
"""Sampler steps of it to one of the motion's. It is small beside that, and few steps make samples too much alike."""
SHOWN = 0.5
"""Share of the anchors that a training step shows: a few thousand windows are soon known by heart otherwise."""
TOKEN_NOISE, ACTION_NOISE, PROPRIO_NOISE = 0.3, 0.5, 0.02
"""Spread of what is added in training to scaled tokens, to past actions, and to all proprio of a window at once."""


@dataclass(frozen=True)
class ActionDenoiserConfig:
    """Size of the denoiser of actions."""

    width: int = 128
    """Channels inside."""
    depth: int = 2
    """Blocks."""
    num_heads: int = 4
    """Attention heads."""
    num_actions: int = 0
    """Actions of a chunk, one a frame; 0: as many as the shortest chunk of motion has frames."""
    timed: bool = False
    """Be given how long the steps of a known motion are, to take steps of several lengths."""


@dataclass(frozen=True)
class ActionEvidence:
    """What the denoiser of actions is given, batch [b].

    scene: the anchors now; track: of the robot, in slots; task [b 32]; future: what is known of the motion of the
    anchors at the ends of `steps`, or None where nothing is.
    """

    scene: SceneTokens
    track: Track
    task: Tensor
    future: KnownMotion | None = None
    steps: Steps | None = None


class ActionDenoiser(nn.Module):
    """Clean actions from noisy ones. With the future motion of the anchors it is an inverse model, without a policy.

    The anchors are context for the steps of the chunk, each with what it is and, where it is known, how it will move.
    Actions are in units of their spread over the training set; slots that no robot used stay 0.
    """

    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(self, config: ActionDenoiserConfig, *, channels: int, horizon: int, slots: Slots, text: TextEncoding):
        super().__init__()
        self.config, self.horizon = config, horizon
        width = config.width
        static = channels + 3 + 6 + 3 * (1 + 2 * 3) + 1
        self.embed_anchor = MLP([static + horizon * (MOTION_CHANNELS + 1), width, width])
        self.embed_action = nn.Linear(slots.num_actions, width)
        num, num_proprio = slots.num_actions, slots.num_proprio
        given = num_proprio + RECENT * (num + num_proprio) + task_channels(text) + 32 + 16
        self.condition = MLP([given, width, width])
        self.blocks = nn.ModuleList(
            Block(width, num_heads=config.num_heads, context_dim=width, condition_dim=width)
            for _ in range(config.depth)
        )
        self.norm = RMSNorm(width, elementwise_affine=False)
        self.final = zero_(nn.Linear(width, 2 * width))
        self.out = zero_(nn.Linear(width, num))
        if config.timed:
            self.embed_time = zero_(nn.Linear(horizon * TIME_FEATURES, width))
        self.register_buffer("mean", torch.zeros(num))
        self.register_buffer("std", torch.ones(num))
        self.register_buffer("temperature", torch.ones(()))  # see `calibrate_actions`

    @torch.no_grad()
    def set_statistics(self, actions: Tensor) -> None:
        """Take mean and spread from training actions [.. 16]; a slot that never changes is left out."""
        flat = actions.flatten(0, -2)
        self.mean.copy_(flat.mean(0))
        self.std.copy_(flat.std(0))

    def normalize(self, actions: Tensor) -> Tensor:
        """Actions [.. 16] with zero mean and unit spread; 0 in slots without spread."""
        used = self.std > 1e-6
        return torch.where(used, (actions - self.mean) / self.std.clamp_min(1e-6), 0.0)

    def denormalize(self, actions: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return self.mean + actions * self.std

    def forward(self, noisy: Tensor, levels: Tensor, *, given: ActionEvidence) -> Tensor:
        """Clean normalised actions [b h 16] from noisy ones at levels [b]."""
        context = self.embed_anchor(self._anchor_features(given, like=noisy))  # [b l c]
        if given.steps is not None and self.config.timed:
            context = context + self.embed_time(self._time_features(given.steps, like=noisy))
        condition = self.condition(self._step_features(levels, given, num_steps=noisy.shape[1]))  # [b h c]
        x = self.embed_action(noisy)  # [b h c]
        for block in self.blocks:
            x = block(x, condition, context=context)
        shift, gain = self.final(nn.functional.silu(condition)).chunk(2, -1)
        return self.out(modulate(self.norm(x), shift=shift, scale=gain))

    @torch.no_grad()
    def draw(self, noise: Tensor, *, given: ActionEvidence, steps: int) -> Tensor:
        """Actions [b h 16] from noise of that shape, in `steps` sampler steps."""
        noise = self.temperature * noise * (self.std > 1e-6)
        return self.denormalize(sample(lambda x, levels: self(x, levels, given=given), noise, steps=steps))

    def _time_features(self, steps: Steps, *, like: Tensor) -> Tensor:
        """[f] of the ends of steps; those that are missing of a chunk have none."""
        features = steps.time_features.to(like)[1:].flatten()
        return nn.functional.pad(features, (0, self.horizon * TIME_FEATURES - len(features)))

    def _anchor_features(self, given: ActionEvidence, *, like: Tensor) -> Tensor:
        """[b l f]: latent, colour, past motion, offset from the hand, height, and the motion to come if it is given."""
        scene = given.scene
        batch, num_anchors = scene.anchors.shape[:2]
        place = fourier_features(scene.anchors - given.track.proprio[:, -1:, :3], num_bands=3, longest=2.0)
        future = like.new_zeros(batch, self.horizon, num_anchors, MOTION_CHANNELS + 1)
        if given.future is not None:
            marked = given.future.features
            future[:, : marked.shape[1]] = marked
        future = future.transpose(1, 2).flatten(2)  # [b l h*7]
        past = torch.asinh(scene.past / 0.005)
        return torch.cat([scene.tokens, scene.rgb - 0.5, past, place, scene.anchors[..., 2:], future], -1)

    def _step_features(self, levels: Tensor, given: ActionEvidence, *, num_steps: int) -> Tensor:
        """[b h f]: proprio, the last actions and speeds, task, level and step number."""
        track = given.track
        speeds = track.proprio.diff(dim=1)[:, -RECENT:] / 0.02
        recent = torch.cat([track.actions[:, -RECENT:], speeds], -1) * track.valid[:, -RECENT:, None]
        fixed = torch.cat([track.proprio[:, -1], recent.flatten(1), given.task], -1)
        level = sinusoidal_embedding(levels, 32, shortest=0.05, longest=4.0)
        number = torch.arange(1.0, num_steps + 1, device=levels.device)
        number = sinusoidal_embedding(number, 16, shortest=3.0, longest=64.0)
        both = torch.cat([fixed, level], -1)[:, None].expand(-1, num_steps, -1)
        return torch.cat([both, number.expand(len(levels), -1, -1)], -1)


def augmented(model: ActionDenoiser, given: ActionEvidence) -> ActionEvidence:
    """What a training step gets: some of the anchors, all a little off, so that no window is twice the same."""
    track, num_anchors, device = given.track, given.scene.anchors.shape[1], given.task.device
    kept = torch.randperm(num_anchors, device=device)[: max(1, int(SHOWN * num_anchors))]
    shown = given.scene.map(lambda x: x[:, kept])
    tokens = shown.tokens + TOKEN_NOISE * torch.randn_like(shown.tokens)
    actions = track.actions + ACTION_NOISE * torch.randn_like(track.actions) * (model.std > 1e-6)
    moves = track.proprio.std((0, 1)) > 1e-6
    proprio = track.proprio + PROPRIO_NOISE * torch.randn_like(track.proprio[:, :1]) * moves
    return replace(
        given,
        scene=shown.replace(tokens=tokens),
        track=track.replace(actions=actions, proprio=proprio),
        future=None if given.future is None else given.future.map(lambda x: x[:, :, kept]),
    )


def action_loss(
    model: ActionDenoiser, actions: Tensor, *, given: ActionEvidence, config: FlowConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error of clean actions [b h 16]; half of the samples get what is known of the future.

    Metrics: error of actions given the future, and of those not, both in units of their spread.
    """
    clean = model.normalize(actions)
    levels = draw_levels(len(clean), config=config, like=clean)
    known = torch.rand(len(clean), device=clean.device) < 0.5
    noisy = noised(clean, torch.randn_like(clean) * (model.std > 1e-6), levels=levels)
    future = given.future
    if future is not None:
        future = future.replace(known=future.known & known[:, None, None])
    predicted = model(noisy, levels, given=replace(given, future=future))
    used = (model.std > 1e-6).to(predicted)
    square = ((predicted - clean).square() * used).sum(-1).mean(-1) / used.sum().clamp_min(1)  # [b]
    share = lambda mask: (square * mask).sum() / mask.sum().clamp_min(1)
    return square.mean(), {"inverse": share(known).detach(), "policy": share(~known).detach()}

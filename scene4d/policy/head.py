"""The action head: virtual views of now and of the forecast -> a chunk of actions, by flow matching.

Every pixel enters as colour, position relative to the hand and coverage, so what the head learns about an object near
the hand holds wherever the two stand. The scene is encoded once; only the small chunk decoder runs again at every step
of the sampler (and for every noise draw in training).
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scene4d.check import check
from scene4d.errors import ShapeError
from scene4d.layers import MLP, Block, RMSNorm, sinusoidal_embedding, zero_
from scene4d.policy.encoders import POINT_SCALE, ActionHeadConfig, ViewEncoder, encoder_for
from scene4d.policy.keypose_heatmap import KeyposeHeatmap, heatmap_loss, keypose_from_heatmap
from scene4d.types import Frames

GOAL_CHANNELS = 7
NEAR_M = 0.02
"""Distance to the goal, in m, below which the goal features resolve it finely."""
KEYPOSE_WEIGHT = 0.25
"""Weight of the loss of the keypose heat map, in nats, beside that of the actions."""
HUBER = 0.3
"""Normalised error where the loss turns from square to linear: the expert switches abruptly between phases."""


def task_row(task: str, *, num_tasks: int) -> int:
    """The row of a task name in the table: the same on every machine, for names never heard of too."""
    return zlib.crc32(task.encode()) % num_tasks


def goal_features(goal: Tensor, *, hand: Tensor) -> Tensor:
    """Features [b 7] of goals [b 3] m for hands at [b 3] m; zeros where the goal is NaN (there is none)."""
    given = goal.isfinite().all(-1, keepdim=True)
    offset = torch.where(given, goal - hand, torch.zeros_like(hand))
    return torch.cat([offset / POINT_SCALE, torch.asinh(offset / NEAR_M), given.to(offset)], -1)


class ActionHead(nn.Module):
    """Policy: views [*b v] of now, or [*b 2v] with those of the forecast's last step behind -> actions [*b chunk a]."""

    action_mean: Tensor
    action_std: Tensor
    proprio_mean: Tensor
    proprio_std: Tensor

    def __init__(self, config: ActionHeadConfig | None = None) -> None:
        super().__init__()
        self.config = config = config if config is not None else ActionHeadConfig()
        self.views = encoder_for(config)
        self.task = nn.Embedding(config.num_tasks, config.width)
        self.proprio = MLP([config.proprio_dim, config.width, config.width])
        self.features = nn.Linear(config.feature_dim, config.width) if config.feature_dim else None
        self.goal = MLP([GOAL_CHANNELS, config.width, config.width]) if config.goal_conditioned else None
        # The heat map, and the token of the place that it shows. Their names are keys of stored weights.
        self.aim = self.aimed = None
        if config.sees_scene:
            self.aim = KeyposeHeatmap([*config.stem, config.width], num_tasks=config.num_tasks)
            self.aimed = MLP([GOAL_CHANNELS, config.width, config.width])
        block = lambda: Block(config.width, num_heads=config.heads, hidden=config.hidden)
        self.encoder = nn.ModuleList(block() for _ in range(config.encoder_depth))
        self.encoder_norm = RMSNorm(config.width)
        self.decoder = ChunkDecoder(config)
        # Statistics travel with the weights: a head read from a file answers in the units of the action spec.
        for name, num in (("action", config.action_dim), ("proprio", config.proprio_dim)):
            self.register_buffer(f"{name}_mean", torch.zeros(num))
            self.register_buffer(f"{name}_std", torch.ones(num))

    @torch.no_grad()
    def set_statistics(self, *, actions: Tensor, proprio: Tensor) -> None:
        """Take mean and deviation from training actions [n a] and proprio [n p]."""
        for name, values in (("action", actions), ("proprio", proprio)):
            getattr(self, f"{name}_mean").copy_(values.mean(0))
            # A channel that never changes must not blow up what little noise it has.
            getattr(self, f"{name}_std").copy_(values.std(0).clamp_min(1e-2))

    def encode(
        self,
        views: Frames,
        *,
        features: Tensor | None,
        proprio: Tensor,
        task_rows: Tensor,
        hand: Tensor | None = None,
        goal: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Context tokens [b s c] of views [b v] or [b 2v], features [b l f] or None, proprio [b p], task rows [b].

        hand [b 3] m is the origin of positions; by default the first three numbers of the proprioception.
        goal [b 3] m, NaN where there is none; a head that is not goal-conditioned ignores it.

        Returns:
            The tokens, and heat maps [b v y x] over the views of now: where the next keypose is (`KeyposeHeatmap`);
            None from a head that does not see scenes.
        """
        hand = proprio[..., :3] if hand is None else hand
        tokens, heat = self.look(views, hand=hand, task_rows=task_rows)  # [b v*s c], [b 1 c]
        normal = (proprio - self.proprio_mean) / self.proprio_std
        tokens += [self.proprio(normal)[:, None], self.task(task_rows)[:, None]]  # [b 1 c]
        if self.goal is not None:
            goal = torch.full_like(hand, torch.nan) if goal is None else goal.to(hand)
            tokens.append(self.goal(goal_features(goal, hand=hand))[:, None])  # [b 1 c]
        if self.features is not None and features is not None:
            tokens.append(self.features(features))  # [b l c]
        x = torch.cat(tokens, 1)  # [b s c]
        for block in self.encoder:
            x = block(x)
        return self.encoder_norm(x), heat

    def look(self, views: Frames, *, hand: Tensor, task_rows: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Tokens of the views, and heat maps with the keypose they show as one more token, where there are any."""
        if self.aim is None or self.aimed is None or not isinstance(self.views, ViewEncoder):
            return [self.views(views, hand=hand)], None
        count, num = views.rgb.shape[1], self.config.num_views
        levels = self.views.levels(views, hand=hand)
        now = [level.unflatten(0, (-1, count))[:, :num].flatten(0, 1) for level in levels]
        heat = self.aim(now, task_rows=task_rows, count=num)
        # No gradient from the actions to the heat maps: they learn keyposes and nothing else.
        place = keypose_from_heatmap(heat.detach(), views.cameras[:, :num])
        keypose = self.aimed(goal_features(place, hand=hand))
        return [self.views.tokens(levels[-1], count=count), keypose[:, None]], heat

    @torch.no_grad()
    def act(
        self,
        views: Frames,
        *,
        features: Tensor | None,
        proprio: Tensor,
        task: str | Sequence[str],
        seed: int | Sequence[int],
        goal: Tensor | None = None,
    ) -> Tensor:
        """Sample a chunk of actions.

        Args:
            views: [*b v] of now, or [*b 2v]: now, then the forecast's last step.
            features: latent tokens [*b l f] or None.
            proprio: [*b p].
            task: one name, or one a sample.
            seed: one seed, or one a sample; a sample's result depends on its own seed only.
            goal: [*b 3] m in the world, the position that the object of the task should come to; None = no goal.
        Returns:
            Actions [*b chunk a] in the units of the action spec.
        Raises:
            ShapeError: the number of views, or of tasks or seeds, is not right.
        """
        batch = views.batch_shape[:-1]
        found, num = views.batch_shape[-1], self.config.num_views
        if found not in (num, 2 * num):
            raise ShapeError("wrong number of views", field="views", found=found, expected=f"{num} or twice that")
        check(proprio=(proprio, "*b p"), viewmats=(views.cameras.viewmats, "*b v 4 4"))
        views = views.map(lambda x: x.reshape(-1, *x.shape[len(batch) :]))
        proprio = proprio.reshape(-1, proprio.shape[-1]).to(views.rgb)
        features = None if features is None else features.reshape(-1, *features.shape[-2:])
        tasks, seeds = (_one_each(x, len(proprio), name=name) for name, x in (("task", task), ("seed", seed)))
        rows = torch.tensor([task_row(t, num_tasks=self.config.num_tasks) for t in tasks], device=proprio.device)
        goal = None if goal is None else goal.reshape(-1, 3)
        context, _ = self.encode(views, features=features, proprio=proprio, task_rows=rows, goal=goal)
        # Drawn on the CPU, so that a seed means the same on every device.
        shape = (self.config.chunk, self.config.action_dim)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds]
        actions = sample_chunk(self, torch.stack(noise).to(proprio), context=context)
        return (actions * self.action_std + self.action_mean).reshape(*batch, *actions.shape[1:])


def _one_each(value, count: int, *, name: str) -> list:
    values = [value] * count if isinstance(value, str | int) else list(value)
    if len(values) != count:
        raise ShapeError("one is needed for each sample", field=name, found=len(values), expected=count)
    return values


def sample_chunk(head: ActionHead, noise: Tensor, *, context: Tensor) -> Tensor:
    """Straight-line flow from `noise` [b h a] to a normalised chunk, in `sampler_steps` Euler steps.

    Source: Lipman et al., Flow Matching for Generative Modeling (2023), section 4; the network predicts the clean end.
    """
    x, steps = noise[:, None], head.config.sampler_steps  # [b 1 h a]
    levels = torch.linspace(1, 0, steps + 1)
    for now, then in itertools.pairwise(levels):
        clean = head.decoder(x, level=now.to(x).expand(x.shape[:2]), context=context)
        x = clean + (then / now) * (x - clean)
    return x[:, 0]


def head_loss(head: ActionHead, batch: dict, *, num_draws: int = 4) -> tuple[Tensor, dict[str, Tensor]]:
    """Flow-matching loss of a batch of demonstrations.

    Args:
        batch: views Frames [b v] or [b 2v]; features [b l f] or None; proprio [b p]; hand and goal [b 3] or None;
            task_rows [b]; actions [b h a]; valid [b h] bool; keypose [b 3] m, the next keypose.
        num_draws: noise draws for each encoded sample; the decoder is cheap beside the encoder.
    Returns:
        The loss (scalar; differentiable in the weights) and metrics: error (mean absolute, normalised), and of
        heads with a keypose heat map, aim (its loss, nats).
    Source: Lipman et al. (2023); x-prediction as in Salimans and Ho (2022), whose error at every level is bounded.
    """
    features, hand, goal = batch.get("features"), batch.get("hand"), batch.get("goal")
    proprio, rows = batch["proprio"], batch["task_rows"]
    context, heat = head.encode(
        batch["views"], features=features, proprio=proprio, task_rows=rows, hand=hand, goal=goal
    )
    clean = ((batch["actions"] - head.action_mean) / head.action_std)[:, None]  # [b 1 h a]
    clean = clean.expand(-1, num_draws, -1, -1)  # [b d h a]
    weight = batch["valid"][:, None, :, None].to(clean).expand_as(clean)
    # Near pure noise the answer must come from the views, so those levels are drawn more often.
    level = 1 - torch.rand(clean.shape[:2], device=clean.device) ** 1.5
    noisy = torch.lerp(clean, torch.randn_like(clean), level[..., None, None])
    error = head.decoder(noisy, level=level, context=context) - clean
    size = torch.where(error.abs() < HUBER, error.square() / (2 * HUBER), error.abs() - HUBER / 2)
    mean = lambda x: (x * weight).sum() / weight.sum().clamp_min(1)
    metrics = {"error": mean(error.detach().abs())}
    if heat is None:
        return mean(size), metrics
    missed = heatmap_loss(heat, batch["views"].cameras[:, : heat.shape[1]], place=batch["keypose"])
    return mean(size) + KEYPOSE_WEIGHT * missed, {**metrics, "aim": missed.detach()}


class ChunkDecoder(nn.Module):
    """Action tokens that attend to each other and to the scene, conditioned on the level of their noise."""

    def __init__(self, config: ActionHeadConfig) -> None:
        super().__init__()
        self.width = width = config.width
        self.enter = nn.Linear(config.action_dim, width)
        self.place = nn.Parameter(torch.randn(config.chunk, width) * 0.1)
        self.level = MLP([width, width, width])
        self.blocks = nn.ModuleList(
            Block(width, num_heads=config.heads, context_dim=width, condition_dim=width, hidden=config.hidden)
            for _ in range(config.decoder_depth)
        )
        self.leave_norm = RMSNorm(width)
        self.leave = zero_(nn.Linear(width, config.action_dim))

    def forward(self, noisy: Tensor, *, level: Tensor, context: Tensor) -> Tensor:
        """Clean normalised chunks [b d h a] of noisy ones, noise level [b d] (1 = pure noise), context [b s c]."""
        draws, chunk = noisy.shape[1:3]
        condition = self.level(sinusoidal_embedding(level, self.width))  # [b d c]
        condition = condition.repeat_interleave(chunk, 1)  # [b d*h c]
        x = (self.enter(noisy) + self.place).flatten(1, 2)  # [b d*h c]
        # All draws of a sample attend to the same scene tokens; the mask keeps them from attending to each other.
        draw = torch.arange(draws, device=x.device).repeat_interleave(chunk)
        mask = draw[:, None] == draw if draws > 1 else None  # [d*h d*h]
        for block in self.blocks:
            x = block(x, condition, mask=mask, context=context)
        return self.leave(self.leave_norm(x)).unflatten(1, (draws, chunk))

"""The action head: virtual views of now and of the forecast -> a chunk of actions, by flow matching.

Every pixel enters as colour, place relative to the hand and coverage, so what the head learns about an object near the
hand holds wherever the two stand. The scene is encoded once; only the small chunk decoder runs again at every step of
the sampler (and for every noise draw in training).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scene4d.check import check
from scene4d.errors import ShapeError
from scene4d.layers import AdaLN, Attention, RMSNorm, SwiGLU, fourier_features
from scene4d.policy.views import NUM_VIEWS, points_from_views
from scene4d.types import Frames

PIXEL_CHANNELS = 7
POINT_SCALE = 0.25
"""Metres that count as 1 in the network: the reach of the hand-following views."""


@dataclass(frozen=True)
class ActionHeadConfig:
    """Sizes of an `ActionHead`."""

    width: int = 96
    """Channels of a token."""
    heads: int = 4
    """Attention heads."""
    encoder_depth: int = 3
    """Blocks over the view tokens."""
    decoder_depth: int = 2
    """Blocks over the action tokens."""
    stem: tuple[int, ...] = (24, 32, 48)
    """Channels of the strided convolutions before the last one, which gives `width`; each halves the picture."""
    view_size: int = 64
    """Pixels a side of the views."""
    num_views: int = NUM_VIEWS
    """Virtual views of one instant."""
    chunk: int = 8
    """Actions predicted at once."""
    action_dim: int = 4
    """Numbers in an action."""
    proprio_dim: int = 4
    """Numbers in the proprioception; the first three are the hand's place in m."""
    feature_dim: int = 0
    """Channels of latent tokens from the world model; 0 = none are looked at."""
    num_tasks: int = 64
    """Rows of the table that task names are hashed into."""
    sampler_steps: int = 5
    """Steps from noise to actions."""


def task_row(task: str, *, num_tasks: int) -> int:
    """The row of a task name in the table: the same on every machine, for names never heard of too."""
    return zlib.crc32(task.encode()) % num_tasks


class ActionHead(nn.Module):
    """Policy: views [*b v] of now, or [*b 2v] with those of the forecast's last step behind -> actions [*b chunk a]."""

    def __init__(self, config: ActionHeadConfig | None = None) -> None:
        super().__init__()
        self.config = config = config if config is not None else ActionHeadConfig()
        self.views = ViewEncoder(config)
        self.task = nn.Embedding(config.num_tasks, config.width)
        self.proprio = nn.Sequential(nn.Linear(config.proprio_dim, config.width), nn.SiLU(), nn.Linear(config.width, config.width))
        self.features = nn.Linear(config.feature_dim, config.width) if config.feature_dim else None
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.encoder_depth))
        self.encoder_norm = RMSNorm(config.width)
        self.decoder = ChunkDecoder(config)
        # Statistics travel with the weights: a head read from a file speaks in the units of the action spec.
        self.register_buffer("action_mean", torch.zeros(config.action_dim))
        self.register_buffer("action_std", torch.ones(config.action_dim))
        self.register_buffer("proprio_mean", torch.zeros(config.proprio_dim))
        self.register_buffer("proprio_std", torch.ones(config.proprio_dim))

    @torch.no_grad()
    def set_statistics(self, *, actions: Tensor, proprio: Tensor) -> None:
        """Take mean and deviation from training actions [n a] and proprio [n p]."""
        for name, values in (("action", actions), ("proprio", proprio)):
            getattr(self, f"{name}_mean").copy_(values.mean(0))
            # A channel that never changes must not blow up what little noise it has.
            getattr(self, f"{name}_std").copy_(values.std(0).clamp_min(1e-2))

    def encode(self, views: Frames, *, features: Tensor | None, proprio: Tensor, task_rows: Tensor) -> Tensor:
        """Context tokens [b s c] of views [b v] or [b 2v], features [b l f] or None, proprio [b p], task rows [b]."""
        tokens = [self.views(views, hand=proprio[..., :3])]  # [b v*16 c]
        normal = (proprio - self.proprio_mean) / self.proprio_std
        tokens += [self.proprio(normal)[:, None], self.task(task_rows)[:, None]]  # [b 1 c]
        if self.features is not None and features is not None and features.shape[-2]:
            tokens.append(self.features(features))  # [b l c]
        x = torch.cat(tokens, 1)  # [b s c]
        for block in self.encoder:
            x = block(x)
        return self.encoder_norm(x)

    def denoise(self, noisy: Tensor, *, level: Tensor, context: Tensor) -> Tensor:
        """The clean normalised chunk [b h a] that `noisy` [b h a] at noise level [b] (1 = pure noise) looks like."""
        return self.decoder(noisy, level=level, context=context)

    @torch.no_grad()
    def act(self, views: Frames, *, features: Tensor | None, proprio: Tensor, task: str | Sequence[str], seed: int | Sequence[int]) -> Tensor:
        """Sample a chunk of actions.

        Args:
            views: [*b v] of now, or [*b 2v]: now, then the forecast's last step.
            features: latent tokens [*b l f] or None.
            proprio: [*b p].
            task: one name, or one a sample.
            seed: one seed, or one a sample; a sample's result depends on its own seed only.
        Returns:
            Actions [*b chunk a] in the units of the action spec.
        Raises:
            ShapeError: the number of views, or of tasks or seeds, is not right.
        """
        batch = views.batch_shape[:-1]
        if views.batch_shape[-1] not in (self.config.num_views, 2 * self.config.num_views):
            raise ShapeError("wrong number of views", field="views", found=views.batch_shape[-1], expected=f"{self.config.num_views} or twice that")
        check(proprio=(proprio, "*b p"), viewmats=(views.cameras.viewmats, "*b v 4 4"))
        views = views.map(lambda x: x.reshape(-1, *x.shape[len(batch) :]))
        proprio = proprio.reshape(-1, proprio.shape[-1]).to(views.rgb)
        features = None if features is None else features.reshape(-1, *features.shape[-2:])
        count = proprio.shape[0]
        tasks = _one_each(task, count, name="task")
        rows = torch.tensor([task_row(t, num_tasks=self.config.num_tasks) for t in tasks], device=proprio.device)
        context = self.encode(views, features=features, proprio=proprio, task_rows=rows)
        noise = self._noise(_one_each(seed, count, name="seed")).to(proprio)
        actions = sample_chunk(self, noise, context=context) * self.action_std + self.action_mean
        return actions.reshape(*batch, *actions.shape[1:])

    def _noise(self, seeds: Sequence[int]) -> Tensor:
        """One draw a seed, made on the CPU so that it is the same on every device: [b h a]."""
        shape = (self.config.chunk, self.config.action_dim)
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds])


def _one_each(value, count: int, *, name: str) -> list:
    values = [value] * count if isinstance(value, str | int) else list(value)
    if len(values) != count:
        raise ShapeError("one is needed for each sample", field=name, found=len(values), expected=count)
    return values


def sample_chunk(head: ActionHead, noise: Tensor, *, context: Tensor) -> Tensor:
    """Straight-line flow from `noise` [b h a] to a normalised chunk, in `sampler_steps` Euler steps.

    Source: Lipman et al., Flow Matching for Generative Modeling (2023), section 4; the network predicts the clean end.
    """
    x, steps = noise, head.config.sampler_steps
    levels = torch.linspace(1, 0, steps + 1)
    for now, then in zip(levels[:-1], levels[1:], strict=True):
        clean = head.denoise(x, level=now.to(x).expand(x.shape[0]), context=context)
        x = clean + (then / now) * (x - clean)
    return x


def head_loss(head: ActionHead, batch: dict, *, num_draws: int = 8) -> tuple[Tensor, dict[str, Tensor]]:
    """Flow-matching loss of a batch of demonstrations.

    Args:
        batch: views Frames [b v] or [b 2v]; features [b l f] or None; proprio [b p]; task_rows [b]; actions [b h a];
            valid [b h] bool.
        num_draws: noise draws for each encoded sample; the decoder is cheap beside the encoder.
    Returns:
        The loss (scalar; differentiable in the weights) and metrics {loss, error} (error: mean absolute, normalised).
    Source: Lipman et al. (2023); x-prediction as in Salimans and Ho (2022), whose error at every level is bounded.
    """
    context = head.encode(batch["views"], features=batch.get("features"), proprio=batch["proprio"], task_rows=batch["task_rows"])
    clean = (batch["actions"] - head.action_mean) / head.action_std  # [b h a]
    clean, context = (x.repeat_interleave(num_draws, 0) for x in (clean, context))
    weight = batch["valid"].repeat_interleave(num_draws, 0)[..., None].to(clean).expand_as(clean)
    # Near pure noise the answer must come from the views, so those levels are drawn more often.
    level = 1 - torch.rand(clean.shape[0], device=clean.device) ** 1.5
    noisy = torch.lerp(clean, torch.randn_like(clean), level[:, None, None])
    error = head.denoise(noisy, level=level, context=context) - clean
    loss = torch.nn.functional.smooth_l1_loss(error * weight, torch.zeros_like(error), beta=0.3, reduction="sum") / weight.sum().clamp_min(1)
    return loss, {"loss": loss.detach(), "error": ((error.abs() * weight).sum() / weight.sum().clamp_min(1)).detach()}


class ViewEncoder(nn.Module):
    """Each view through strided convolutions to a few patch tokens, marked with place, view and instant."""

    def __init__(self, config: ActionHeadConfig) -> None:
        super().__init__()
        self.num_views = config.num_views
        layers: list[nn.Module] = []
        channels = PIXEL_CHANNELS
        for width in config.stem:
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
            channels = width
        self.stem = nn.Sequential(*layers, nn.Conv2d(channels, config.width, 3, stride=2, padding=1))
        side = config.view_size // 2 ** (len(config.stem) + 1)
        self.place = nn.Parameter(torch.randn(side * side, config.width) * 0.1)
        self.view = nn.Parameter(torch.randn(config.num_views, config.width) * 0.1)
        self.instant = nn.Parameter(torch.randn(2, config.width) * 0.1)

    def forward(self, views: Frames, *, hand: Tensor) -> Tensor:
        """Tokens [b v*s c] of views [b v]; a second set of views is taken as the forecast's."""
        points = points_from_views(views, hand) / POINT_SCALE  # [b v h w 3]
        pixels = torch.cat([views.rgb - 0.5, points.clamp(-4, 4), views.alpha[..., None] - 0.5], -1)  # [b v h w 7]
        count = pixels.shape[1]
        tokens = self.stem(pixels.flatten(0, 1).movedim(-1, 1)).flatten(2).mT  # [b*v s c]
        tokens = tokens.unflatten(0, (-1, count)) + self.place  # [b v s c]
        index = torch.arange(count, device=tokens.device)
        mark = self.view[index % self.num_views] + self.instant[index // self.num_views]  # [v c]
        return (tokens + mark[:, None]).flatten(1, 2)  # [b v*s c]

"""A video model on patches of the input pictures: what each patch will have changed by, step by step, under actions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scene4d.errors import ConfigError, ShapeError
from scene4d.layers import MLP, Block, RMSNorm, Rotary, causal_mask, modulate, zero_
from scene4d.models.flow import sample, step_features
from scene4d.tensor_struct import TensorStruct, shapes


@dataclass(frozen=True)
class PixelsConfig:
    """Size of the 2D baseline; the transformer's own figures are those of the world model's denoiser."""

    size: int = 64
    """Pixels a side of the pictures."""
    patch: int = 8
    """Pixels a side of a patch, which is one token."""
    num_views: int = 2
    """Cameras."""
    num_past: int = 2
    """Pictures of each camera that are seen, the last one now."""
    horizon: int = 8
    """Steps of one chunk, h; longer forecasts chain chunks."""
    num_past_actions: int = 8
    """Past actions and robot states that it gets, as many as the flagship does."""
    num_actions: int = 4
    """Dimensions of an action."""
    num_proprio: int = 4
    """Dimensions of the robot's own state."""
    tasks: tuple[str, ...] = ()
    """Tasks that it distinguishes; any other counts as unknown."""
    width: int = 128
    """Channels of a token inside."""
    depth: int = 4
    """Blocks; spatial and temporal ones take turns, so an even number."""
    num_heads: int = 4
    """Attention heads."""
    hidden: int = 256
    """Channels inside the feed-forward of a spatial block; a temporal one has half."""
    condition: int = 128
    """Channels of the condition that modulates a step."""

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ConfigError("must divide the picture", field="patch", found=self.patch, expected=f"of {self.size}")

    @property
    def channels(self) -> int:
        """Numbers of a patch."""
        return 3 * self.patch**2


@dataclass(frozen=True)
class Clip(TensorStruct):
    """Pictures and what changes them, batch axes `*b`.

    pictures [*b p v y x 3], oldest first, the last now; past_actions [*b k a], the last led to now; actions [*b h a];
    past_proprio [*b k+1 q], the last now; known [*b] 1 where that is known, else 0; task [*b] int64, 0 = unknown;
    future [*b h v y x 3] or None.
    """

    pictures: Tensor
    past_actions: Tensor
    actions: Tensor
    past_proprio: Tensor
    known: Tensor
    task: Tensor
    future: Tensor | None = None

    SHAPES = shapes(
        pictures="*b p v y x 3",
        past_actions="*b k a",
        actions="*b h a",
        past_proprio="*b l q",
        known="*b",
        task="*b",
        future="*b h v y x 3",
    )

    @property
    def known_future(self) -> Tensor:
        """The future, which training has.

        Raises:
            ShapeError: there is none.
        """
        if self.future is None:
            raise ShapeError("is not known", field="clip.future", expected="[*b h v y x 3]")
        return self.future


def patches_from_pictures(pictures: Tensor, patch: int) -> Tensor:
    """Pictures [*b v y x 3] cut into patches [*b l c], view by view, row by row; l = v (y / patch) (x / patch)."""
    cut = pictures.unflatten(-2, (-1, patch)).unflatten(-4, (-1, patch))  # [*b v r p s q 3]
    return cut.transpose(-4, -3).flatten(-3).flatten(-4, -2)


def pictures_from_patches(patches: Tensor, patch: int, *, num_views: int) -> Tensor:
    """The inverse, for square pictures."""
    side = round((patches.shape[-2] / num_views) ** 0.5)
    cut = patches.unflatten(-2, (num_views, side, side)).unflatten(-1, (patch, patch, 3))  # [*b v r s p q 3]
    return cut.transpose(-4, -3).flatten(-3, -2).flatten(-4, -3)


class PixelModel(nn.Module):
    """Forecasts pictures as what is added to the last one: a diffusion transformer over patches and steps.

    Attention alternates between the patches of one step (rotary in row, column and view) and the steps of one patch
    (causal); step i is modulated by the noise level and by actions 0..i, never by a later one.
    Source: DiT (Peebles and Xie 2023) for adaLN-zero.
    """

    places: Tensor
    scale: Tensor

    def __init__(self, config: PixelsConfig = PixelsConfig()):
        super().__init__()
        self.config = c = config
        self.embed_static = MLP([c.num_past * c.channels, c.width, c.width])
        self.embed_step = nn.Linear(c.channels, c.width)
        self.observed = nn.Parameter(torch.zeros(c.width))
        self.view = nn.Parameter(torch.zeros(c.num_views, 1, c.width))
        self.task = nn.Embedding(len(c.tasks) + 1, 16)
        past = c.num_past_actions * c.num_actions + (c.num_past_actions + 1) * c.num_proprio
        self.condition = MLP([2 * c.num_actions + past + 1 + 16 + 32 + 16, c.condition, c.condition])
        # Temporal blocks have few steps to mix: half the feed-forward serves them.
        self.blocks = nn.ModuleList(
            Block(c.width, num_heads=c.num_heads, condition_dim=c.condition, hidden=c.hidden // (1 + i % 2))
            for i in range(c.depth)
        )
        head = c.width // c.num_heads
        self.rotary_space = Rotary(head, wavelengths=[(2.5, 40.0), (2.5, 40.0), (2.5, 10.0)])
        self.rotary_time = Rotary(head, wavelengths=[(2.5, 40.0)])
        self.norm = RMSNorm(c.width, elementwise_affine=False)
        self.final = zero_(nn.Linear(c.condition, 2 * c.width))
        self.out = zero_(nn.Linear(c.width, c.channels))
        self.register_buffer("scale", torch.full((c.horizon,), 0.1))
        axis = torch.arange(c.size // c.patch, dtype=torch.float32)
        places = torch.cartesian_prod(torch.arange(c.num_views, dtype=torch.float32), axis, axis)
        self.register_buffer("places", places[:, [1, 2, 0]], persistent=False)  # [l 3] row, column, view

    def residual(self, clip: Clip) -> Tensor:
        """The target [b h l c]: future less now, in units of its spread at each step."""
        added = clip.known_future - clip.pictures[:, -1:]
        patches = patches_from_pictures(added, self.config.patch)
        return patches / self.scale[: patches.shape[1], None, None]

    def forward(self, noisy: Tensor, levels: Tensor, *, clip: Clip) -> Tensor:
        """The clean residual [b h l c] of a noisy one at levels [b]."""
        num_steps = noisy.shape[1]
        past = patches_from_pictures(clip.pictures - 0.5, self.config.patch)  # [b p l c]
        static = self.embed_static(past.transpose(1, 2).flatten(-2))  # [b l w]
        static = (static.unflatten(1, (self.config.num_views, -1)) + self.view).flatten(1, 2)
        x = static[:, None] + self.embed_step(noisy)  # [b h l w]
        x = torch.cat([(static + self.observed)[:, None], x], 1)  # [b 1+h l w]
        condition = self.condition(self._robot_features(levels, clip))  # [b 1+h w]
        space = self.rotary_space(self.places)  # [l f 2]
        time = self.rotary_time(torch.arange(num_steps + 1.0, device=x.device)[:, None])  # [1+h f 2]
        mask = causal_mask(num_steps + 1, device=x.device)
        for i, block in enumerate(self.blocks):
            if i % 2 == 0:
                x = block(x, condition[:, :, None], rotary=space)
            else:
                x = block(x.transpose(1, 2), condition[:, None], rotary=time, mask=mask).transpose(1, 2)
        shift, gain = self.final(nn.functional.silu(condition[:, 1:, None])).chunk(2, -1)
        return self.out(modulate(self.norm(x[:, 1:]), shift=shift, scale=gain))  # [b h l c]

    def _robot_features(self, levels: Tensor, clip: Clip) -> Tensor:
        """[b 1+h f]: for now and each step the action that leads to it, their sum, proprio, task, level, number."""
        led, steps = step_features(levels, clip.actions, last_action=clip.past_actions[:, -1])
        known, now = clip.known[:, None].to(levels), clip.past_proprio[:, -1:]
        moved = 20 * (clip.past_proprio[:, :-1] - now).flatten(1)
        parts = [clip.past_actions.flatten(1), moved * known, now[:, 0] * known, known, self.task(clip.task)]
        return torch.cat([led, torch.cat(parts, -1)[:, None].expand(-1, led.shape[1], -1), steps], -1)

    @torch.no_grad()
    def draw(self, clip: Clip, *, noise: Tensor, steps: int) -> Tensor:
        """Future pictures [b h v y x 3] under the actions [b h a] of a clip, not clamped; h <= horizon.

        Args:
            noise: [b h l c] where sampling starts. steps: of the sampler.
        """
        residual = sample(lambda x, levels: self(x, levels, clip=clip), noise, steps=steps)
        residual = residual * self.scale[: residual.shape[1], None, None]
        added = pictures_from_patches(residual, self.config.patch, num_views=self.config.num_views)
        return clip.pictures[:, -1:] + added

"""New Gaussians: what lies where no camera has looked, decoded from the tokens of what was seen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scene4d.gaussians.edit import concatenate
from scene4d.geometry.neighbours import farthest_points
from scene4d.geometry.rotation import normalize_quat
from scene4d.geometry.sh import sh_from_rgb
from scene4d.layers import MLP, Block, RMSNorm, Rotary
from scene4d.models.gaussian_flow.networks.vae import ROW_DIM, spread_rows
from scene4d.models.tokens.scene_tokens import SceneTokens
from scene4d.render.losses import PictureLossConfig, picture_loss
from scene4d.render.render import render
from scene4d.types import Frames, Gaussians

MIN_OPACITY = 0.02
"""Rows fainter than this are none."""
FRESH_OPACITY = -4.6
"""Logit of the opacity at first: below MIN_OPACITY, so a fresh model invents nothing, and just enough to be taught."""


@dataclass(frozen=True)
class CompletionConfig:
    """Size of the completion."""

    num_places: int = 48
    """Places in the world about which Gaussians that stand still are decoded."""
    per_place: int = 32
    """Gaussians a place decodes to."""
    per_anchor: int = 12
    """Gaussians an anchor decodes to: the far side of what is seen, which moves with it."""
    width: int = 128
    """Channels inside."""
    depth: int = 2
    """Blocks."""
    num_heads: int = 4
    """Attention heads."""
    reach: float = 0.08
    """Metres from its place or anchor that a row is at first."""
    longest: float = 0.25
    """Metres that the deviation of a row is at most: long rows are streaks to cameras that look from elsewhere."""


class Completion(nn.Module):
    """Decodes the unseen from what is seen: back sides that ride on anchors, and surroundings at learned places.

    Rows 0 .. l * per_anchor - 1 belong to the anchors in order, those behind them to the places. Trained by drawing
    memory and new rows together into cameras that the memory never saw and into those it did, so that what is decoded
    fills what is missing and shows nowhere else.
    """

    centres: Tensor

    def __init__(self, config: CompletionConfig = CompletionConfig(), *, channels: int):
        super().__init__()
        self.config = c = config
        self.embed = MLP([channels + 3 + 1, c.width, c.width])
        self.place = nn.Parameter(torch.randn(c.num_places, c.width) * 0.2)
        self.register_buffer("centres", torch.randn(c.num_places, 3) * 0.3)
        self.rotary = Rotary(c.width // c.num_heads, wavelengths=[(0.1, 4.0)] * 3)
        self.blocks = nn.ModuleList(Block(c.width, num_heads=c.num_heads) for _ in range(c.depth))
        self.norm = RMSNorm(c.width)
        self.of_anchor = _RowHead(c.width, num=c.per_anchor, reach=0.5 * c.reach, longest=c.longest)
        self.of_place = _RowHead(c.width, num=c.per_place, reach=c.reach, longest=c.longest)

    @torch.no_grad()
    def set_places(self, points: Tensor) -> None:
        """Take the places from points [n 3] that the inputs of training scenes missed: spread evenly over them."""
        num = self.config.num_places
        spread = farthest_points(points, min(num, len(points)), start=0)
        self.centres.copy_(points[spread[torch.arange(num) % len(spread)]])

    def forward(self, scene: SceneTokens) -> Gaussians:
        """New Gaussians [b r] of scenes [b]."""
        num, lead = len(scene.anchors), scene.anchors.shape[1]
        height = scene.anchors[..., 2:]
        seen = self.embed(torch.cat([scene.tokens, scene.rgb - 0.5, height], -1))  # [b l c]
        x = torch.cat([seen, self.place.expand(num, -1, -1)], 1)  # [b l+k c]
        centres = torch.cat([scene.anchors, self.centres.expand(num, -1, -1)], 1)  # [b l+k 3]
        table = self.rotary(centres)
        for block in self.blocks:
            x = block(x, rotary=table)
        x = self.norm(x)
        anchored = self.of_anchor(x[:, :lead], centres[:, :lead])
        placed = self.of_place(x[:, lead:], centres[:, lead:])
        return Gaussians.cat([anchored, placed], 1)

    def skin(self, num_anchors: int, *, num_candidates: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Skin index [r j] and weights [r j] of the rows: an anchor's ride on it, a place's stand still."""
        index = torch.arange(num_anchors, device=like.device).repeat_interleave(self.config.per_anchor)
        riding, total = len(index), len(index) + self.config.num_places * self.config.per_place
        skin_weights = torch.zeros(total, num_candidates, dtype=like.dtype, device=like.device)
        skin_index = torch.zeros_like(skin_weights, dtype=torch.int64)
        skin_index[:riding], skin_weights[:riding, 0] = index[:, None], 1.0
        return skin_index, skin_weights


class _RowHead(nn.Module):
    """Tokens [b l c] at centres [b l 3] to the fields of Gaussians [b l*j]."""

    def __init__(self, width: int, *, num: int, reach: float, longest: float):
        super().__init__()
        self.num, self.reach, self.longest = num, reach, longest
        self.out = MLP([width, 2 * width, num * ROW_DIM])
        rows = spread_rows(num)
        rows[:, 10] = FRESH_OPACITY
        with torch.no_grad():
            self.out.last.weight.mul_(0.3)
            self.out.last.bias.copy_(rows.flatten())

    def forward(self, x: Tensor, centres: Tensor) -> Gaussians:
        rows = self.out(x).unflatten(-1, (self.num, ROW_DIM))  # [b l j 14]
        offset, quats, log_scale, opacity, colour = rows.split((3, 4, 3, 1, 3), -1)
        return Gaussians(
            means=(centres[..., None, :] + self.reach * offset).flatten(1, 2),
            quats=normalize_quat(quats + quats.new_tensor([1.0, 0, 0, 0])).flatten(1, 2),
            scales=(0.35 * self.reach * log_scale.clamp(-4, 2).exp()).clamp_max(self.longest).flatten(1, 2),
            opacities=opacity[..., 0].sigmoid().flatten(1, 2),
            sh=sh_from_rgb(colour.sigmoid()).flatten(1, 2),
        )


def completion_loss(
    completion: Completion, scene: SceneTokens, *, memory: Gaussians, targets: Frames, config: PictureLossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Pictures [b v] of memory [b n] and new Gaussians together, from cameras the memory saw and from others."""
    both = joined(memory.replace(extras={}), completion(scene))
    return picture_loss(render(both, targets.cameras), targets, config=config)


def joined(memory: Gaussians, new: Gaussians) -> Gaussians:
    """Both sets [*b n+r] as one; `new` takes zeros for what the memory knows besides, fewer SH bases are filled up.

    The new rows' ids count up from the memory's highest.
    """
    ids = memory.ids.amax(-1, keepdim=True) + torch.arange(1, new.num_gaussians + 1, device=new.means.device)
    extras = {k: v.new_zeros(*new.opacities.shape, v.shape[-1]) for k, v in memory.extras.items()}
    return concatenate([memory, new.replace(ids=torch.where(new.ids >= 0, ids, -1), extras=extras)])

"""Skinning: how much of each candidate anchor's motion a Gaussian of the memory follows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scene4d.geometry.skinning import gather_anchors
from scene4d.tensor_struct import TensorStruct, shapes


@dataclass(frozen=True)
class SkinConfig:
    """Size of the skinning head."""

    width: int = 48
    """Channels of its hidden layer."""
    kind: int = 12
    """Channels that an anchor's token is brought down to."""
    hand: float = 0.3
    """Metres that offsets from the hand are divided by."""
    distance: float = 0.1
    """Metres that offsets are divided by."""
    motion: float = 0.01
    """Metres a step that past motion is divided by."""
    sharpness: float = 2.0
    """Factor on the logits when weights are used, not trained: a Gaussian belongs to one body, not to a blend."""


@dataclass(frozen=True)
class AnchorFeatures(TensorStruct):
    """What is known of rows or anchors now: means [*b n 3] m; past [*b n 6] m a step, of the two last; rgb [*b n 3]."""

    means: Tensor
    past: Tensor
    rgb: Tensor

    SHAPES = shapes(means="*b n 3")


class SkinHead(nn.Module):
    """Weights from offset, colour difference and past-motion difference; no segments, and a way out: follow none.

    The anchor's token tells what it is part of, such as a door in its frame, before anything has moved; the offset from
    the hand tells gripper from what it holds. A row follows candidates by a softmax over their scores and that of "none
    of these" (static), so a speck of table whose four nearest anchors all lie on the arm can stay where it is.
    """

    def __init__(self, config: SkinConfig = SkinConfig(), *, channels: int):
        super().__init__()
        self.config = config
        self.kind = nn.Linear(channels, config.kind)
        self.pair = nn.Sequential(
            nn.Linear(22 + config.kind, config.width), nn.SiLU(), nn.Linear(config.width, config.width), nn.SiLU()
        )
        self.score = nn.Linear(config.width, 1)
        self.none = nn.Linear(config.width, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.none.weight)
        nn.init.constant_(self.none.bias, -3.0)

    def forward(
        self, rows: AnchorFeatures, anchors: AnchorFeatures, *, tokens: Tensor, hand: Tensor, skin_index: Tensor
    ) -> Tensor:
        """Logits [*b n j+1], the last one for "none".

        Args:
            rows: [*b n]. anchors: [*b l], and their scaled tokens [*b l c]. hand: [*b 3] m. skin_index: [*b n j].
        """
        config = self.config
        offset = (rows.means[..., None, :] - gather_anchors(anchors.means, skin_index)) / config.distance  # [*b n j 3]
        colour = rows.rgb[..., None, :] - gather_anchors(anchors.rgb, skin_index)  # [*b n j 3]
        of_anchor = gather_anchors(anchors.past, skin_index) / config.motion  # [*b n j 6]
        of_row = (rows.past / config.motion)[..., None, :].expand_as(of_anchor)
        far, odd = offset.norm(dim=-1, keepdim=True), colour.norm(dim=-1, keepdim=True)
        apart = (of_row - of_anchor)[..., :3].norm(dim=-1, keepdim=True)
        speeds = [_squash(x[..., :3].norm(dim=-1, keepdim=True)) for x in (of_row, of_anchor)]
        features = [offset, far, far.square(), colour, odd, _squash(apart), *speeds]
        features += [_squash(of_row[..., :3] - of_anchor[..., :3]), _squash(of_anchor[..., :3])]
        from_hand = _squash((rows.means - hand[..., None, :]) / config.hand)[..., None, :].expand_as(offset)
        features += [from_hand, gather_anchors(self.kind(tokens), skin_index)]
        hidden = self.pair(torch.cat([*features, torch.ones_like(far)], -1))  # [*b n j c]
        # Nearer and more alike is the start; what is learned is added to it.
        score = self.score(hidden)[..., 0] - 2 * far[..., 0] - 8 * odd[..., 0] - 4 * _squash(apart)[..., 0]
        none = self.none(hidden.amax(-2))  # [*b n 1]
        return torch.cat([score, none + score.amax(-1, keepdim=True).detach()], -1)

    def weights(self, logits: Tensor, *, hard: bool) -> Tensor:
        """Skinning weights [*b n j]; hard (at use): sharpened, all 0 where "none" has won, else summing to 1."""
        if not hard:
            return logits.softmax(-1)[..., :-1]
        kept, none = (logits * self.config.sharpness).softmax(-1).tensor_split([-1], -1)
        return torch.where(none < 0.5, kept / kept.sum(-1, keepdim=True).clamp_min(1e-9), torch.zeros_like(kept))


def _squash(x: Tensor) -> Tensor:
    return x / (1 + x.abs())

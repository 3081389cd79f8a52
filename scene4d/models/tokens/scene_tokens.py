"""What networks are given of a scene: its anchors as tokens, and features of these and of the hand that comes near."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.layers import fourier_features
from scene4d.tensor_struct import TensorStruct, shapes

ANCHOR_FEATURES = 3 + 6 + 3 * (1 + 2 * 3) + 2
"""Numbers of `SceneTokens.features` beside the token."""
STEP_FEATURES = 3 * (1 + 2 * 3) + 3 + 3 + 1
"""Numbers of `SceneTokens.step_features`."""


@dataclass(frozen=True)
class SceneTokens(TensorStruct):
    """What is known now about the anchors, batch [b].

    tokens [b l c] scaled latent; anchors [b l 3] m; rgb [b l 3]; past [b l 6] m a step (last step, the one before).
    """

    tokens: Tensor
    anchors: Tensor
    rgb: Tensor
    past: Tensor

    SHAPES = shapes(anchors="*b l 3")

    def features(self, hand: Tensor) -> Tensor:
        """[b l f]: latent, colour, past motion, offset from the hand [b 3], height, distance."""
        offset = self.anchors - hand[:, None]
        extra = torch.cat([self.anchors[..., 2:], offset.norm(dim=-1, keepdim=True)], -1)
        place = fourier_features(offset, num_bands=3, longest=2.0)
        return torch.cat([self.tokens, self.rgb - 0.5, torch.asinh(self.past / 0.005), place, extra], -1)

    def simple_motions(self, change: Tensor, *, scale: Tensor, frames: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Two motions that anchors often take a share of, in units of `scale` [h 6].

        Shifts [b h l 3] at constant velocity, and [b h 1 3] of the hand, which is foreseen to move by `change` [b h 3].

        Args:
            frames: [h] ahead, by default 1, 2, ...
        """
        num_steps = change.shape[1]
        unit = scale[:num_steps, None, 3:]  # [h 1 3]
        if frames is None:
            frames = torch.arange(1, num_steps + 1, device=unit.device, dtype=unit.dtype)
        return self.past[:, None, :, :3] * frames[:, None, None] / unit, change[..., None, :] / unit

    def step_features(self, hand: Tensor, change: Tensor, *, scale: Tensor, frames: Tensor | None = None) -> Tensor:
        """[b h l f]: offset from where the hand [b 3] will be, and the two simple motions."""
        coasting, move = self.simple_motions(change, scale=scale, frames=frames)
        offset = self.anchors[:, None] - (hand[:, None, None] + change[..., None, :])  # [b h l 3]
        near = torch.exp(-((offset.norm(dim=-1, keepdim=True) / 0.12) ** 2))
        place = fourier_features(offset, num_bands=3, longest=1.0)
        return torch.cat([place, move.expand_as(offset), torch.asinh(coasting), near], -1)

"""What the Gaussian flow model knows at one moment, and what it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.geometry.rotation import identity_pose
from scene4d.models.tokens.latent import Latent
from scene4d.types import Gaussians
from scene4d.world.carry import AnchoredGaussians, AnchorMotion
from scene4d.world.contract import Prediction, State, put


@dataclass(frozen=True)
class GaussianState(State):
    """The Gaussians of now on their anchors, the anchors' tokens, and how the robot got here. Batch axes `*b`.

    anchored: Gaussians [*b n] and anchors [*b l]; recent [*b 3 l 7]: poses of the anchors at the last three steps
    against now, oldest first; latent [*b l c]; anchor_rgb [*b l 3]; unseen_rows [*b r]: whether each row that the
    completion decodes may be there, given where the cameras looked.
    past_actions [*b p a], past_proprio [*b p q] before now, past_valid [*b p]; task_vector [*b 32].
    """

    anchored: AnchoredGaussians
    recent: Tensor
    latent: Latent
    anchor_rgb: Tensor
    unseen_rows: Tensor
    past_actions: Tensor
    past_proprio: Tensor
    past_valid: Tensor
    task_vector: Tensor

    @property
    def gaussians(self) -> Gaussians:
        """The memory [*b n] now."""
        return self.anchored.gaussians

    @property
    def anchors(self) -> Tensor:
        """Places of the anchors now, [*b l 3] m."""
        return self.anchored.anchors

    def put(self, rows: Tensor, new: Any) -> Self:
        """A state [b] with the elements that `rows` [r] names replaced by `new` [r], filled up to as many Gaussians."""
        num_rows = max(self.gaussians.num_gaussians, new.gaussians.num_gaussians)
        old = self.replace(anchored=self.anchored.padded(num_rows))
        return put(old, rows, new.replace(anchored=new.anchored.padded(num_rows)))

    @classmethod
    def stack(cls, items: Sequence[Any], dim: int = 0) -> Self:
        """Stack states; those with fewer Gaussians are filled up with empty slots.

        Raises:
            ConfigError: their colours have different numbers of SH bases.
        """
        bases = [state.gaussians.sh.shape[-2] for state in items]
        if len(set(bases)) > 1:
            other = next(i for i, num in enumerate(bases) if num != bases[0])
            raise ConfigError(
                "differs between start states", field="sh", frame=other, found=f"{bases[other]} bases",
                expected=f"{bases[0]} bases", fix="make one simulator for each kind of recording",
            )  # fmt: skip
        return super().stack(items, dim)


@dataclass(frozen=True, kw_only=True)
class GaussianPrediction(Prediction):
    """The motion of the state's anchors since now, beside what every prediction has."""

    motion: AnchorMotion

    @property
    def world_from_now(self) -> Tensor:
        """Rigid motion of the anchors since now, [*b h l 7]."""
        return self.motion.world_from_now


def past_poses(past: Tensor) -> Tensor:
    """World-from-rest [3 l 7] at the two steps before now and now (rest = now), from past motion [l 6]."""
    identity = identity_pose(past.shape[0], like=past)
    before = torch.cat([identity[..., :4], -past[..., :3]], -1)
    older = torch.cat([identity[..., :4], -past[..., :3] - past[..., 3:]], -1)
    return torch.stack([older, before, identity])

"""What the Gaussian flow model knows at one moment, and the scene that comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from scene4d.models.gaussian_flow.networks.completion import MIN_OPACITY, joined
from scene4d.models.tokens.anchored_state import AnchoredState
from scene4d.scene import Scene4D
from scene4d.types import Gaussians
from scene4d.world.carry import AnchoredGaussians, AnchorMotion, later_times, scene_of_motion


@dataclass(frozen=True)
class GaussianState(AnchoredState):
    """The Gaussians of now on their anchors, and where new ones may be.

    unseen_rows [*b r]: whether each row that the completion decodes may be there, given where the cameras looked.
    """

    unseen_rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    def anchored_new(self, new: Gaussians, *, skin: tuple[Tensor, Tensor]) -> AnchoredGaussians:
        """Decoded Gaussians [*b r] at rest that may be there, on the anchors that skin index and weights [r j] name.

        Those too faint to see are left out.
        """
        lead = self.batch_shape
        visible = (new.opacities > MIN_OPACITY) & self.unseen_rows  # [*b r]
        new = new.replace(opacities=new.opacities * visible, ids=torch.where(visible, new.ids, -1))
        # Empty slots in every scene of the batch go altogether.
        kept = visible.reshape(-1, visible.shape[-1]).any(0).nonzero()[:, 0]
        index, weights = (x[kept].expand(*lead, len(kept), -1) for x in skin)
        return AnchoredGaussians(new.map(lambda x: x.index_select(len(lead), kept)), self.anchors, index, weights)

    def scene(self, motion: AnchorMotion, *, new: AnchoredGaussians, step_seconds: float) -> Scene4D:
        """Scene4D at now (observed) and the h predicted steps: known Gaussians keep their ids, new ones follow above.

        Args:
            new: Gaussians [*b r], which exist from the first predicted step on.
            step_seconds: of a robot that does not say.
        """
        lead, known, num_steps = self.batch_shape, self.anchored, motion.world_from_now.shape[-3]
        seconds = self.robot.step_seconds or step_seconds
        times = later_times(self.time, num_steps=num_steps, step_seconds=seconds)
        old_span = torch.stack([times[..., :1], times[..., -1:]], -1).expand(*lead, known.gaussians.num_gaussians, 2)
        new_span = torch.stack([times[..., 1:2], times[..., -1:]], -1).expand(*lead, new.gaussians.num_gaussians, 2)
        now = AnchoredGaussians(
            gaussians=joined(known.gaussians, new.gaussians),
            anchors=known.anchors,
            skin_index=torch.cat([known.skin_index, new.skin_index], -2),
            skin_weights=torch.cat([known.skin_weights, new.skin_weights], -2),
        )
        scene = scene_of_motion(now, motion, times=times, alive=torch.cat([old_span, new_span], -2))
        return scene.replace(info={"model": "scene4d dynamics"})

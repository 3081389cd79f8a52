"""From a prediction to Gaussians over time: known ones carried by their anchors, new ones where nobody has looked."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.models.gaussian_flow.networks.completion import MIN_OPACITY, joined
from scene4d.models.gaussian_flow.state import GaussianState
from scene4d.scene import Scene4D
from scene4d.types import Gaussians
from scene4d.world.carry import AnchoredGaussians, AnchorMotion, later_times, scene_of_motion


def decoded_scene(
    state: GaussianState, motion: AnchorMotion, *, new: Gaussians, new_skin: tuple[Tensor, Tensor], step_seconds: float
) -> Scene4D:
    """Scene4D at now (observed) and the h predicted steps: known Gaussians keep their ids, new ones get ids above them.

    Args:
        new: decoded Gaussians [*b r] at rest, which exist from the first predicted step on; their skin index and
            weights [r j] say which anchors they follow.
    """
    lead, known = state.batch_shape, state.anchored
    times = later_times(state.time, num_steps=motion.world_from_now.shape[-3], step_seconds=step_seconds)
    new, new_skin = _visible_rows(new, new_skin)
    old_span = torch.stack([times[..., :1], times[..., -1:]], -1).expand(*lead, known.gaussians.num_gaussians, 2)
    new_span = torch.stack([times[..., 1:2], times[..., -1:]], -1).expand(*lead, new.num_gaussians, 2)
    both = lambda old, added: torch.cat([old, added.expand(*lead, *added.shape)], -2)
    now = AnchoredGaussians(
        gaussians=joined(known.gaussians, new),
        anchors=known.anchors,
        skin_index=both(known.skin_index, new_skin[0]),
        skin_weights=both(known.skin_weights, new_skin[1]),
    )
    scene = scene_of_motion(now, motion, times=times, alive=torch.cat([old_span, new_span], -2))
    return scene.replace(info={"model": "scene4d dynamics"})


def _visible_rows(new: Gaussians, skin: tuple[Tensor, Tensor]) -> tuple[Gaussians, tuple[Tensor, Tensor]]:
    """Rows too faint to see become empty slots, and go where they are faint in every scene of the batch."""
    visible = new.opacities > MIN_OPACITY  # [*b r]
    kept = visible.reshape(-1, visible.shape[-1]).any(0).nonzero()[:, 0]
    new = new.replace(opacities=new.opacities * visible, ids=torch.where(visible, new.ids, -1))
    return new.map(lambda x: x.index_select(len(visible.shape) - 1, kept)), (skin[0][kept], skin[1][kept])

"""Gradient steps through a scene's motion: what moves gets the one look that suits all instants it was seen at."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from scene4d.geometry.frame_images import depth_of
from scene4d.lift.refine.adam_loop import Progress, descend
from scene4d.lift.refine.refine_config import RefineSceneConfig
from scene4d.lift.refine.refine_frame import changed_look, look_optimizer, misfit, usable_pixels
from scene4d.render.render import render
from scene4d.scene import Scene4D, alive_at
from scene4d.types import Frames, Gaussians


def refine_scene(
    scene: Scene4D, frames: Frames, *, config: RefineSceneConfig | None = None, progress: Progress | None = None
) -> Scene4D:
    """A scene [n] whose moving rows render to what was seen at all of its instants, frames [t v].

    A moving row was measured at one instant and is shown at many: each step renders one of them through the motion, so
    that a row is judged by every view that it ever turned towards, and rows that pile up learn to share. Lives, ids and
    motion stay, and so do static rows, which never turned and would only learn these very views by heart.

    Args:
        progress: called with (steps done, steps).
    """
    config = config or RefineSceneConfig()
    moves = (scene.motion.skin_weights != 0).any(-1)
    if config.passes <= 0 or not bool(moves.any()):
        return scene
    moving = scene.base.replace(extras={}).pick(moves)
    shift, growth = torch.zeros_like(moving.means), torch.zeros_like(moving.scales)
    adam = look_optimizer(moving, shift=shift, growth=growth, config=config, beta2=0.98, skip_unseen=True)
    number = torch.where(moves, moves.cumsum(0) - 1, -1)  # [n] into the moving rows
    order = torch.Generator().manual_seed(config.seed)
    visits = torch.cat([torch.randperm(len(scene.times), generator=order) for _ in range(config.passes)]).tolist()

    def loss_of_step(step: int) -> Tensor:
        t = visits[step]
        time = float(scene.times[t])
        rows = alive_at(scene, time).nonzero()[:, 0]
        now = _part(scene, rows)
        base = _put(now.base, moves[rows], leaves=adam.leaves(number[rows][number[rows] >= 0]))
        drawn, seen = render(now.replace(base=base).at(time), frames.cameras[t]), frames[t]
        # Where nothing was measured there may be nothing to cover it with.
        return misfit(drawn, seen, solid=usable_pixels(seen) * (depth_of(seen) > 0), coverage=config.coverage)

    descend(loss_of_step, optimizer=adam, steps=len(visits), progress=progress)
    base = _put(scene.base.replace(extras={}), moves, leaves=adam.values)
    return scene.replace(base=base.replace(extras=scene.base.extras))


def _part(scene: Scene4D, rows: Tensor) -> Scene4D:
    """Some rows of a scene, without extras."""
    motion = scene.motion
    return scene.replace(
        base=scene.base.replace(extras={}).pick(rows),
        motion=motion.replace(skin_index=motion.skin_index[rows], skin_weights=motion.skin_weights[rows]),
        alive=scene.alive[rows],
        residual=None,
    )


def _put(base: Gaussians, moving: Tensor, *, leaves: Mapping[str, Tensor]) -> Gaussians:
    """`base` with the values of the leaves in its `moving` rows."""
    index = moving.nonzero()[:, 0]
    start = base.pick(index)
    changed = changed_look(start, leaves, size=start.scales.median(-1, keepdim=True).values)
    return base.replace(**{k: getattr(base, k).index_copy(0, index, v) for k, v in changed.items()})

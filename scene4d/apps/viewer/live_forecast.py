"""The agent let loose inside the world model: it looks at the predicted scene, acts, and the scene is predicted on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from scene4d.apps.compose.action_head import head_of
from scene4d.apps.compose.models import Models
from scene4d.apps.compose.scene_start import chosen_actions
from scene4d.errors import NumericsError
from scene4d.gaussians.formats.points import robust_bounds
from scene4d.policy.encoders import views_for
from scene4d.robot.slots import hand_position
from scene4d.scene import Scene4D
from scene4d.world.capabilities import Decodes, MovesAnchors, require
from scene4d.world.observation import Observation

TOO_FAR = 5.0
"""Times the radius of what was observed: beyond, what moves has left the scene."""


@runtime_checkable
class LiveWorldModel(Decodes, MovesAnchors, Protocol):
    """What the rollout asks of a world model."""


@torch.no_grad()
def roll_forward(
    models: Models, start: Observation, *, num_steps: int = 24, replan_every: int = 4, seed: int = 0
) -> Iterator[Scene4D]:
    """Yield the future chunk by chunk: now and `replan_every` predicted steps, each from the end of the one before.

    The head looks at the predicted scene as it is (not at a forecast within the forecast).

    Raises:
        CheckpointError: the weights hold no action head, or an unfit one.
        NumericsError: the prediction left the scene, or the actions are not finite.
    """
    head, model = head_of(models), require(models.world, LiveWorldModel, what="the viewer's rollout")
    state = model.observe(start)
    centre, radius = robust_bounds(model.anchored(state).gaussians)
    for number, step in enumerate(range(0, num_steps, replan_every)):
        hand = hand_position(state.proprio, state.robot)
        views = views_for(head.config, model.anchored(state).gaussians, hand=hand)
        actions = chosen_actions(head, start, views=views, proprio=state.proprio, seed=seed + number)
        actions = actions[: min(replan_every, num_steps - step)]
        prediction = model.predict(state, actions=actions, seeds=(seed + number,))
        scene = model.scene(state, prediction)
        _refuse_wild(scene, centre=centre, radius=radius, step=step)
        yield scene
        state = model.advance(state, prediction, num_steps=len(actions))


def _refuse_wild(scene: Scene4D, *, centre: Tensor, radius: float, step: int) -> None:
    """A prediction in which Gaussians leave everything that was seen is no prediction: it is refused and not drawn.

    One Gaussian is enough, as one anchor is to the simulator: a median hides whatever befalls the smaller half. What
    was far off from the start is a stray of the reconstruction and no fault of the prediction.
    """
    places = torch.stack([scene.at(time).means for time in scene.times.tolist()])  # [t n 3]
    within = (places - centre).norm(dim=-1) <= TOO_FAR * radius
    wild = (~places.isfinite().all(-1) | (within[0] & ~within)).any(0)
    if bool(wild.any()):
        raise NumericsError(
            "the prediction left the scene", field="rollout", frame=step, found=f"{int(wild.sum())} of {len(wild)}",
            expected=f"every Gaussian within {TOO_FAR * radius:.2g} m", fix="roll out fewer steps, or another seed",
        )  # fmt: skip

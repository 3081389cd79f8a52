"""The agent let loose inside the world model: it looks at the predicted scene, acts, and the scene is predicted on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from scene4d.apps.compose.models import Models
from scene4d.apps.compose.scene_start import SceneStart, chosen_actions, head_of
from scene4d.errors import NumericsError
from scene4d.gaussians.formats.points import robust_bounds
from scene4d.policy.encoders import views_for
from scene4d.scene import Scene4D

TOO_FAR = 5.0
"""Times the radius of what was observed: beyond, what moves has left the scene."""


@torch.no_grad()
def roll_forward(
    models: Models, start: SceneStart, *, num_steps: int = 24, replan_every: int = 4, seed: int = 0
) -> Iterator[Scene4D]:
    """Yield the future chunk by chunk: now and `replan_every` predicted steps, each from the end of the one before.

    The head looks at the predicted scene as it is (not at a forecast within the forecast).

    Raises:
        CheckpointError: the weights hold no action head, or an unfit one.
        NumericsError: the prediction left the scene, or the actions are not finite.
    """
    head, model = head_of(models), models.dynamics
    state = model.observe(start.scene, actions=start.past_actions, proprio=start.proprio, context=start.context)
    centre, radius = robust_bounds(state.memory)
    for number, step in enumerate(range(0, num_steps, replan_every)):
        views = views_for(head.config, state.memory, hand=state.proprio[:3])
        actions = chosen_actions(head, start, views, proprio=state.proprio, seed=seed + number)
        forecast = model.predict(state, actions=actions[: min(replan_every, num_steps - step)], seeds=(seed + number,))
        scene = model.scene(state, forecast)
        _refuse_wild(scene, centre=centre, radius=radius, step=step)
        yield scene
        state = model.advance(state, forecast, num_steps=len(forecast.actions))


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

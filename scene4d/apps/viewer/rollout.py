"""The agent let loose inside the world model: it looks at the predicted scene, acts, and the scene is predicted on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scene4d.apps.act import observed_part, task_from_text
from scene4d.apps.build.models import Models
from scene4d.errors import CheckpointError, NumericsError
from scene4d.gaussians.points import robust_bounds
from scene4d.policy.encoders import views_for
from scene4d.types import Gaussians, Scene4D

TOO_FAR = 5.0
"""Times the radius of what was observed: beyond, moving matter has left the scene."""


@dataclass(frozen=True)
class RolloutStart:
    """Where a rollout begins: the scene, the robot's states [t p] up to its last observed instant (or that one's [p]),
    its past actions."""

    scene: Scene4D
    proprio: Tensor
    past_actions: Tensor | None
    info: Mapping[str, Any]


@torch.no_grad()
def roll_forward(
    models: Models, start: RolloutStart, *, task: str, num_steps: int = 24, replan_every: int = 4, seed: int = 0
) -> Iterator[Scene4D]:
    """Yield the future chunk by chunk: now and `replan_every` predicted steps, each from the end of the one before.

    The head looks at the predicted scene as it is (not at a forecast within the forecast).

    Args:
        task: name of a task the head was trained on, or words of it.
    Raises:
        CheckpointError: the weights hold no action head. ConfigError: nothing was trained for the task.
        DataFormatError: nothing in the scene was observed. NumericsError: the prediction left the scene.
    """
    head, model = models.policy, models.dynamics
    if head is None:
        raise CheckpointError("holds no action head", field="policy", fix="train with a [policy] section")
    name = task_from_text(task, models.tasks)
    told = {k: start.info[k] for k in ("action_spec", "proprio_spec") if start.info.get(k)}
    context = {**models.info.get("context", {}), **told, "task": name}
    past = observed_part(start.scene)
    rest = start.proprio.new_zeros(1, head.config.action_dim)  # where nothing is known of the past, the robot rested
    done = rest if start.past_actions is None else start.past_actions[: past.times.shape[-1] - 1].to(rest)
    state = model.observe(past, actions=done if len(done) else rest, proprio=start.proprio, context=context)
    centre, radius = robust_bounds(state.memory)
    for number, step in enumerate(range(0, num_steps, replan_every)):
        views = views_for(head.config, state.memory, hand=state.proprio[:3])
        actions = head.act(views, features=None, proprio=state.proprio, task=name, seed=seed + number)
        forecast = model.predict(state, actions=actions[: min(replan_every, num_steps - step)], seeds=(seed + number,))
        scene = model.scene(state, forecast)
        _refuse_wild(scene.at(float(scene.times[-1])), centre=centre, radius=radius, step=step)
        yield scene
        state = model.advance(state, forecast, num_steps=len(forecast.actions))


def _refuse_wild(gaussians: Gaussians, *, centre: Tensor, radius: float, step: int) -> None:
    """A prediction that has left everything that was seen is no prediction: say so and do not draw it."""
    means = gaussians.means
    middle = means.median(0).values
    if not bool(means.isfinite().all()) or float((middle - centre).norm()) > TOO_FAR * radius:
        raise NumericsError(
            "the prediction left the scene", field="rollout", frame=step, fix="roll out fewer steps, or another seed"
        )

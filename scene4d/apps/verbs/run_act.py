"""scene4d act SCENE --task TEXT: the next actions for a task, with names and units."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scene4d.apps.agent.task_names import spec_columns, task_from_text
from scene4d.apps.compose.models import Models, load_models
from scene4d.apps.compose.scene_start import SceneStart, chosen_actions, head_of, scene_start, start_of_file
from scene4d.apps.verbs.options.agents import ActOptions
from scene4d.gaussians.s4d.s4d import open_s4d
from scene4d.policy.encoders import views_for
from scene4d.policy.observation import predicted_instant
from scene4d.policy.virtual_cameras import concat_views
from scene4d.scene import Scene4D


def run_act(options: ActOptions) -> dict[str, Any]:
    """Plan one chunk of actions.

    Returns:
        JSON-ready: actions [h][a], names [a], units [a], task (as understood), time (s), forecast (bool).
    Raises:
        CheckpointError: the weights hold no action head, or an unfit one.
        ConfigError: nothing was trained for the task, or the scene is of another robot than the weights.
        DataFormatError: the scene is broken, holds no robot state, or --proprio or --goal are not finite numbers.
        NumericsError: the actions are not finite.
    """
    models = load_models(options.weights)
    head_of(models, file=options.weights)
    task, file = task_from_text(options.task, models.tasks), open_s4d(options.scene)
    start = start_of_file(models, file, scene=file.scene(), task=task, proprio=options.proprio, goal=options.goal)
    result = _planned(models, start, seed=options.seed, forecast=options.forecast)
    names, units = result["names"], result["units"]
    width = max(len(name) for name in names)
    for i, action in enumerate(result["actions"]):
        values = "   ".join(f"{name:>{width}} {value:+.3f}" for name, value in zip(names, action, strict=True))
        print(f"step {i + 1}   {values}")
    print("units    " + "   ".join(f"{name}: {unit}" for name, unit in zip(names, units, strict=True)))
    return result


def plan_actions(
    models: Models,
    scene: Scene4D,
    *,
    task: str,
    proprio: Tensor,
    past_actions: Tensor | None = None,
    info: Mapping[str, Any] | None = None,
    seed: int = 0,
    forecast: bool = True,
) -> dict[str, Any]:
    """Plan one chunk of actions from the last observed instant of a scene.

    Args:
        models: with an action head.
        task: name of a task the head was trained on, or its words.
        proprio: [p] at that instant, or [t p] up to it: how the robot answered commands shows where it goes.
        past_actions: [t a] of the scene, actions[i] leads from its time i to i + 1, or None.
        info: action_spec, proprio_spec and action_meaning of the recording; cameras {name: Cameras []} that saw the
            scene; goal [3] m, where what the task is about should come to be.
        forecast: whether the head also looks at the forecast.
    Returns:
        JSON-ready: actions [h][a], names [a] and units [a] of the weights, task, time (s), forecast (bool).
    Raises:
        as `run_act`.
    """
    name = task_from_text(task, models.tasks)
    start = scene_start(models, scene, task=name, proprio=proprio, past_actions=past_actions, info=info)
    return _planned(models, start, seed=seed, forecast=forecast)


def _planned(models: Models, start: SceneStart, *, seed: int, forecast: bool) -> dict[str, Any]:
    """What `plan_actions` returns, from where the scene ends."""
    head, past, hand = head_of(models), start.scene, start.proprio[-1, :3]
    now = float(past.times[-1])
    drawn = functools.partial(views_for, head.config, hand=hand)
    views, features = drawn(past.at(now)), None
    if forecast:
        future, features = predicted_instant(
            past,
            world_model=models.dynamics,
            past_actions=start.past_actions,
            proprio=start.proprio,
            context=start.context,
            horizon=models.dynamics.config.horizon,
        )
        views = concat_views([views, drawn(future)])
    actions = chosen_actions(head, start, views, proprio=start.proprio[-1], seed=seed, features=features)
    # The numbers are the head's: its weights say what they mean.
    spec = models.info.get("context", {}).get("action_spec")
    names, units = spec_columns(spec or [], width=head.config.action_dim)
    return {
        "actions": [[round(float(x), 5) for x in row] for row in actions],
        "names": names,
        "units": units,
        "task": start.context["task"],
        "time": round(now, 6),
        "forecast": forecast,
    }

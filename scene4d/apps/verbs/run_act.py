"""scene4d act SCENE --task TEXT: the next actions for a task, with names and units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scene4d.apps.agent.agent import AgentConfig
from scene4d.apps.agent.task_names import names_and_units, task_from_text
from scene4d.apps.compose.action_head import head_of
from scene4d.apps.compose.models import Models, load_models
from scene4d.apps.compose.scene_start import chosen_actions, head_start, start_of_file
from scene4d.apps.terminal.progress import steps_shown
from scene4d.apps.verbs.options.agents import ActOptions
from scene4d.gaussians.s4d.s4d import open_s4d
from scene4d.policy.encoders import views_for
from scene4d.policy.observation_builder import HeadWorldModel, predicted_instant
from scene4d.robot.slots import hand_position
from scene4d.types import Frames, Task
from scene4d.world.capabilities import require
from scene4d.world.observation import Observation


def run_act(options: ActOptions) -> dict[str, Any]:
    """Plan one chunk of actions.

    Returns:
        JSON-ready: actions [h][a] within their bounds, names [a], units [a], task (as understood), time (s), forecast
        (bool), carried_out (steps after which an agent plans again).
    Raises:
        CheckpointError: the weights hold no action head, or an unfit one.
        ConfigError: nothing was trained for the task, or the scene is of another robot than the weights.
        DataFormatError: the scene is broken, holds no robot state, or --proprio or --goal are not finite numbers.
        NumericsError: the actions are not finite.
    """
    with steps_shown(2) as step:
        models, start = step("reading weights and scene", lambda: _start(options))
        return step("planning", lambda: _planned(models, start, seed=options.seed, forecast=options.forecast))


def _start(options: ActOptions) -> tuple[Models, Observation]:
    """The weights, and where they begin to act."""
    models = load_models(options.weights)
    head_of(models, file=options.weights)
    task, file = task_from_text(options.task, models.tasks), open_s4d(options.scene)
    proprio, goal = options.proprio, options.goal
    return models, start_of_file(models, file, scene=file.scene(), task=task, proprio=proprio, goal=goal)


def text_of(result: Mapping[str, Any]) -> str:
    """The chunk, one line a step."""
    names, units = result["names"], result["units"]
    width = max(len(name) for name in names)
    lines = []
    for i, action in enumerate(result["actions"]):
        values = "   ".join(f"{name:>{width}} {value:+.3f}" for name, value in zip(names, action, strict=True))
        lines.append(f"step {i + 1}   {values}")
    lines.append("units    " + "   ".join(f"{name}: {unit}" for name, unit in zip(names, units, strict=True)))
    kept = result["carried_out"]
    return "\n".join([*lines, f"an agent carries out the first {kept} and plans again; the later ones are its outlook"])


def plan_actions(
    models: Models, known: Observation, *, task: str, seed: int = 0, forecast: bool = True
) -> dict[str, Any]:
    """Plan one chunk of actions from the last observed instant of a scene.

    Args:
        models: with an action head. known: the scene, with the robot's states and actions up to that instant.
        task: name of a task the head was trained on, or its words.
        forecast: whether the head also looks at the forecast.
    Returns:
        JSON-ready: actions [h][a], names [a] and units [a] of the weights, task, time (s), forecast (bool),
        carried_out (steps).
    Raises:
        as `run_act`.
    """
    name = task_from_text(task, models.tasks)
    start = head_start(models, known.replace(task=Task(name, known.task.goal)))
    return _planned(models, start, seed=seed, forecast=forecast)


def _planned(models: Models, start: Observation, *, seed: int, forecast: bool) -> dict[str, Any]:
    """What `plan_actions` returns, from where it begins."""
    head, past = head_of(models), start.known_scene
    hand, now = hand_position(start.proprio[-1], start.robot), float(past.times[-1])
    views, features = views_for(head.config, past.at(now), hand=hand), None
    if forecast:
        world = require(models.world, HeadWorldModel, what="an action head's forecast")
        future, features = predicted_instant(start, world_model=world, horizon=world.spec.horizon)
        views = Frames.cat([views, views_for(head.config, future, hand=hand)])
    actions = chosen_actions(head, start, views=views, proprio=start.proprio[-1], seed=seed, features=features)
    # The numbers are the head's: its weights say what they mean.
    names, units = names_and_units(start.robot.action, width=head.config.action_dim)
    return {
        "actions": [[round(float(x), 5) for x in row] for row in actions],
        "names": names,
        "units": units,
        "task": start.task.text,
        "time": round(now, 6),
        "forecast": forecast,
        "carried_out": min(AgentConfig.replan_every, len(actions)),
    }

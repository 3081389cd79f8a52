"""scene4d act SCENE --task TEXT: the next actions for a task, with names and units."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from scene4d.apps.agent import checked_goal
from scene4d.apps.build.models import Models, load_models
from scene4d.dynamics.actions import resting_action
from scene4d.errors import CheckpointError, ConfigError, DataFormatError
from scene4d.gaussians.s4d import S4DFile, open_s4d
from scene4d.policy.encoders import views_for
from scene4d.policy.percept import foreseen
from scene4d.policy.views import one_after_another
from scene4d.types import Scene4D

TOLD = ("action_spec", "proprio_spec", "action_meaning", "cameras")
"""What a recording tells a world model of its robot and its cameras."""


@dataclass(frozen=True)
class ActOptions:
    """The next actions for a task, from a scene."""

    scene: Annotated[Path, tyro.conf.Positional]
    """A .s4d file; the actions start at its last observed instant."""
    task: str
    """What is to be done: the name of a task the head was trained on, or words of it ("open the door")."""
    weights: Path | None = None
    """A weights file, or the name of shipped ones (small, tiny); by default the best of those."""
    seed: int = 0
    """Seed of the sampled chunk."""
    forecast: bool = True
    """Whether the head also looks at the forecast."""
    proprio: tuple[float, ...] | None = None
    """The robot's state at that instant (hand x y z in m, gripper opening in m), where the scene does not hold it."""
    goal: tuple[float, float, float] | None = None
    """Where what the task is about should come to be (x y z in m, world), where the scene does not show it."""


def run_act(options: ActOptions) -> dict[str, Any]:
    """Plan one chunk of actions.

    Returns:
        JSON-ready: actions [h][a], names [a], units [a], task (as understood), time (s), forecast (bool).
    Raises:
        CheckpointError: the weights hold no action head. ConfigError: nothing was trained for the task.
        DataFormatError: the scene is broken, or holds no robot state.
    """
    models = load_models(options.weights)
    if models.policy is None:
        raise CheckpointError(
            "holds no action head", file=options.weights, field="policy", fix="train with a [policy] section"
        )
    file = open_s4d(options.scene)
    scene = file.scene()
    result = plan_actions(
        models,
        scene,
        task=options.task,
        proprio=_proprio(options, file, scene),
        past_actions=file.actions,
        info={
            **file.info,
            "action_spec": file.action_spec,
            "cameras": file.input_cameras(_last_observed(scene)),
            "goal": None if options.goal is None else torch.tensor(options.goal),
        },
        seed=options.seed,
        forecast=options.forecast,
    )
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
        task: name of a task the head was trained on, or words of it.
        proprio: [p] at that instant, or [t p] up to it: how the robot answered tells where it goes.
        past_actions: [t a] of the scene, actions[i] leads from its time i to i + 1, or None.
        info: action_spec, proprio_spec and action_meaning, where they differ from what the models were trained with;
            cameras {name: Cameras []} that saw the scene; goal [3] m, where what the task is about should come to be.
        forecast: whether the head also looks at the forecast.
    Returns:
        JSON-ready: actions [h][a], names [a], units [a], task, time (s), forecast (bool).
    """
    head, info = models.policy, dict(info or {})
    context = {**models.info.get("context", {}), **{k: info[k] for k in TOLD if info.get(k)}}
    name = task_from_text(task, models.tasks)
    past = observed_part(scene)
    now = float(past.times[-1])
    way = proprio if proprio.ndim > 1 else proprio[None]
    drawn = functools.partial(views_for, head.config, hand=way[-1, :3])
    views, features = drawn(past.at(now)), None
    width = head.config.action_dim
    if forecast:
        rest = resting_action(way[:1], context, width=width)  # where nothing is known of the past, the robot rested
        done = rest if past_actions is None else past_actions[: past.times.shape[-1] - 1].to(rest)
        future, features = foreseen(
            past,
            world_model=models.dynamics,
            past_actions=done if len(done) else rest,
            proprio=way,
            context={**context, "task": name},
            horizon=models.dynamics.config.horizon,
        )
        views = one_after_another([views, drawn(future)])
    actions = head.act(
        views, features=features, proprio=way[-1], task=name, seed=seed, goal=checked_goal(info.get("goal"))
    )
    names, units = spec_columns(context.get("action_spec") or [], width=width)
    return {
        "actions": [[round(float(x), 5) for x in row] for row in actions],
        "names": names,
        "units": units,
        "task": name,
        "time": round(now, 6),
        "forecast": forecast,
    }


def observed_part(scene: Scene4D) -> Scene4D:
    """The scene up to its last observed instant.

    Raises:
        DataFormatError: nothing in it was observed.
    """
    if not bool(scene.observed.any()):
        raise DataFormatError(
            "has no observed instant", field="observed", fix="give a reconstructed scene, not a bare forecast"
        )
    stop = int(scene.observed.nonzero().max()) + 1
    motion = scene.motion
    log_var = None if motion.log_var is None else motion.log_var[:stop]
    residual = None if scene.residual is None else {k: v[:stop] for k, v in scene.residual.items()}
    return scene.replace(
        motion=motion.replace(world_from_rest=motion.world_from_rest[:stop], log_var=log_var),
        times=scene.times[:stop],
        observed=scene.observed[:stop],
        residual=residual,
    )


def task_from_text(text: str, known: Sequence[str]) -> str:
    """The known task that shares most words with a text.

    Raises:
        ConfigError: none shares a word; lists the known ones.
    """
    words = _words(text)
    scores = {name: len(words & _words(name)) / len(_words(name)) for name in known}
    best = max(scores, key=scores.get, default=None)
    if best is None or scores[best] == 0:
        raise ConfigError(
            "nothing was trained for it", field="task", found=text, expected=", ".join(known) or "a trained task"
        )
    return best


def spec_columns(spec: Sequence[Mapping[str, Any]], *, width: int) -> tuple[list[str], list[str]]:
    """Names and units of the numbers of an action; a0, a1, ... and "" where the spec does not tell."""
    rows = [*spec[:width], *[{}] * (width - len(spec))]
    return [str(r.get("name", f"a{i}")) for i, r in enumerate(rows)], [str(r.get("unit", "")) for r in rows]


def _words(text: str) -> set[str]:
    words = "".join(c.lower() if c.isalnum() else " " for c in text).split()
    return {w for w in words if not (w[0] == "v" and w[1:].isdigit())}


def _proprio(options: ActOptions, file: S4DFile, scene: Scene4D) -> Tensor:
    values = options.proprio if options.proprio is not None else file.info.get("proprio")
    if values is None:
        fix = "add --proprio X Y Z OPENING (hand in m, gripper opening in m)"
        raise DataFormatError("holds no robot state", file=options.scene, field="info.proprio", fix=fix)
    return proprio_up_to_now(values, scene)


def proprio_up_to_now(values: Sequence[Any], scene: Scene4D) -> Tensor:
    """The robot's states [t p] up to the last observed instant, from those of all instants, or from that one's [p]."""
    rows = torch.tensor(values, dtype=torch.float32)
    if rows.ndim == 1:
        return rows[None]
    return rows[: _last_observed(scene) + 1]


def _last_observed(scene: Scene4D) -> int:
    return int(scene.observed.nonzero().max()) if bool(scene.observed.any()) else 0

"""Where the agent begins to act in a recorded scene: what world model and head are told of its past, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scene4d.apps.agent.agent import check_head
from scene4d.apps.agent.agent_checks import checked_goal
from scene4d.apps.compose.models import Models
from scene4d.errors import CheckpointError, ConfigError, DataFormatError, NumericsError
from scene4d.gaussians.s4d.s4d import S4DFile
from scene4d.policy.head import ActionHead
from scene4d.robot.actions import resting_action
from scene4d.scene import Scene4D
from scene4d.types import Frames

TOLD = ("action_spec", "proprio_spec", "action_meaning", "cameras")
"""What a recording tells a world model of its robot and its cameras."""
MEANING = ("name", "unit", "frame")
"""What a row of a spec says of a number."""


@dataclass(frozen=True)
class SceneStart:
    """The past of a scene up to its last observed instant, "now", as a head and a world model take it.

    scene: up to now. proprio: [t p], now last. past_actions: [n >= 1, a], the last one led to now. context: task, specs
    in which head and world model speak, cameras {name: Cameras []} that saw the scene. goal: [3] m in the world, where
    what the task is about should come to be, or None.
    """

    scene: Scene4D
    proprio: Tensor
    past_actions: Tensor
    context: Mapping[str, Any]
    goal: Tensor | None


def head_of(models: Models, *, file: str | Path | None = None) -> ActionHead:
    """The action head of weights, which `file` holds.

    Raises:
        CheckpointError: there is none, or its statistics cannot be divided by.
        ConfigError: it speaks of other numbers than the specs that it was trained with.
    """
    if models.policy is None:
        raise CheckpointError("holds no action head", file=file, field="policy", fix="train with a [policy] section")
    check_head(models.policy, context=models.info.get("context", {}))
    return models.policy


def start_of_file(
    models: Models,
    file: S4DFile,
    *,
    scene: Scene4D,
    task: str,
    proprio: Sequence[float] | None = None,
    goal: Sequence[float] | None = None,
) -> SceneStart:
    """Where the agent begins in a .s4d file.

    Args:
        scene: that of the file. task: a name that the head knows.
        proprio: the robot's state [p] now in the numbers of the head, instead of what the file holds.
        goal: x, y, z in m.
    Raises:
        as `scene_start`; DataFormatError: the file holds no robot state, or none of now.
    """
    width = head_of(models).config.proprio_dim
    info = {**file.info, "action_spec": file.action_spec, "cameras": file.input_cameras(_last_observed(scene))}
    if proprio is not None:
        info.pop("proprio_spec", None)  # which speaks of what the file holds
    return scene_start(
        models,
        scene,
        task=task,
        proprio=told_states(file, scene, given=proprio, width=width),
        past_actions=file.actions,
        info={**info, "goal": None if goal is None else torch.tensor(goal)},
        file=file.path,
    )


def scene_start(
    models: Models,
    scene: Scene4D,
    *,
    task: str,
    proprio: Tensor,
    past_actions: Tensor | None = None,
    info: Mapping[str, Any] | None = None,
    file: Path | None = None,
) -> SceneStart:
    """Where the agent begins in a scene.

    Args:
        task: a name that the head knows.
        proprio: [p] at the last observed instant, or [t p] up to it.
        past_actions: [t a] of the scene, actions[i] leads from its time i to i + 1, or None.
        info: action_spec, proprio_spec and action_meaning of the recording; cameras {name: Cameras []} that saw it;
            goal [3] m.
        file: that holds the scene, for errors.
    Raises:
        CheckpointError: the weights hold no action head, or an unfit one.
        ConfigError: the recording's specs are not those that the weights were trained with.
        DataFormatError: nothing was observed; proprio, actions or goal are not as the head knows them.
    """
    head, info = head_of(models), dict(info or {})
    known = {k: v for k, v in models.info.get("context", {}).items() if v}
    for kind, width in (("action", head.config.action_dim), ("proprio", head.config.proprio_dim)):
        _check_spec(info.get(f"{kind}_spec"), known.get(f"{kind}_spec"), kind=kind, width=width, file=file)
    # The head's actions are in the numbers of its weights: what a scene says of its own only adds what these leave out.
    context = {**{k: info[k] for k in TOLD if info.get(k)}, **known, "task": task}
    past = observed_part(scene)
    way = checked_states(proprio, width=head.config.proprio_dim, file=file)
    # Where nothing is known of the past, the robot rested.
    done = resting_action(way[-1:], context, width=head.config.action_dim)
    if past_actions is not None and past.times.shape[-1] > 1:
        done = _checked_actions(past_actions, width=head.config.action_dim, file=file)[: past.times.shape[-1] - 1]
    return SceneStart(past, way, done, context, checked_goal(info.get("goal")))


def chosen_actions(
    head: ActionHead, start: SceneStart, views: Frames, *, proprio: Tensor, seed: int, features: Tensor | None = None
) -> Tensor:
    """A chunk of actions [h a] for the task of `start`, from views [v] and the robot's state [p] of then.

    Raises:
        NumericsError: it is not finite.
    """
    task, goal = start.context["task"], start.goal
    actions = head.act(views, features=features, proprio=proprio, task=task, seed=seed, goal=goal)
    if not bool(actions.isfinite().all()):
        raise NumericsError("are not finite", field="actions", fix="check the weights, the scene and the robot's state")
    return actions


def told_states(
    file: S4DFile, scene: Scene4D, *, given: Sequence[float] | None = None, width: int | None = None
) -> Tensor:
    """The robot's states [t p] up to the last observed instant of a .s4d: the `given` one, or what the file holds.

    Raises:
        DataFormatError: there is none, it ends before that instant, or is not made of `width` finite numbers.
    """
    if given is not None:
        return checked_states(given, width=width)
    held, last = file.info.get("proprio"), _last_observed(scene)
    if held is None:
        fix = "add --proprio X Y Z OPENING (hand in m, gripper opening in m)"
        raise DataFormatError("holds no robot state", file=file.path, field="info.proprio", fix=fix)
    rows = checked_states(held, width=width, file=file.path, field="info.proprio")
    if isinstance(held[0], list) and len(rows) <= last:
        raise DataFormatError(
            "ends before the last observed instant", file=file.path, field="info.proprio",
            found=f"{len(rows)} states", expected=f"{last + 1}, one an instant", fix="add --proprio X Y Z OPENING",
        )  # fmt: skip
    return rows[: last + 1]  # what is known of later ones is foreseen, not told


def checked_states(
    values: Any, *, width: int | None = None, file: Path | None = None, field: str = "proprio"
) -> Tensor:
    """States of a robot [p] or [t p] as [t p].

    Raises:
        DataFormatError: other than finite numbers, or not `width` in each.
    """
    try:
        rows = torch.as_tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        rows, found = torch.zeros(0), f"{str(values)[:60]} ({str(error)[:60]})"
    else:
        found = f"{list(rows.shape)} {rows.flatten()[:8].tolist()}"
    rows = rows[None] if rows.dim() == 1 else rows
    fits = rows.dim() == 2 and rows.numel() > 0 and rows.shape[-1] == (width or rows.shape[-1])
    if not fits or not bool(rows.isfinite().all()):
        raise DataFormatError(
            "is no robot state that the head knows", file=file, field=field, found=found,
            expected=f"{width or 'some'} finite numbers", fix="give it as the weights' proprio_spec says, in its units",
        )  # fmt: skip
    return rows


def observed_part(scene: Scene4D) -> Scene4D:
    """The scene up to its last observed instant.

    Raises:
        DataFormatError: nothing in it was observed, or it is a batch.
    """
    if not bool(scene.observed.any()):
        raise DataFormatError(
            "has no observed instant", field="observed", fix="give a reconstructed scene, not a bare forecast"
        )
    stop = _last_observed(scene) + 1
    motion = scene.motion
    log_var = None if motion.log_var is None else motion.log_var[:stop]
    residual = None if scene.residual is None else {k: v[:stop] for k, v in scene.residual.items()}
    return scene.replace(
        motion=motion.replace(world_from_rest=motion.world_from_rest[:stop], log_var=log_var),
        times=scene.times[:stop],
        observed=scene.observed[:stop],
        residual=residual,
    )


def _last_observed(scene: Scene4D) -> int:
    if scene.batch_shape:
        raise DataFormatError("is a batch", field="times", found=list(scene.times.shape), expected="one scene, [t]")
    return int(scene.observed.nonzero().max()) if bool(scene.observed.any()) else 0


def _checked_actions(actions: Tensor, *, width: int, file: Path | None) -> Tensor:
    if actions.dim() != 2 or actions.shape[-1] != width or len(actions) == 0 or not bool(actions.isfinite().all()):
        raise DataFormatError(
            "are not those of the head's robot", file=file, field="actions", found=list(actions.shape),
            expected=f"[t {width}], finite", fix="take the weights that were trained for this robot",
        )  # fmt: skip
    return actions.float()


def _check_spec(told: Any, known: Any, *, kind: str, width: int, file: Path | None) -> None:
    """Refuse a recording whose numbers are others than those that the weights know; what one of the two leaves out is
    no difference."""
    if not told:
        return
    if not isinstance(told, Sequence) or not all(isinstance(row, Mapping) for row in told):
        raise DataFormatError("is no spec", file=file, field=f"{kind}_spec", found=str(told)[:80], expected="rows")
    ours = known or [{}] * width
    pairs = [(_said(row, key), _said(own, key)) for row, own in zip(told, ours, strict=False) for key in MEANING]
    if len(told) == len(ours) and all(theirs == own for theirs, own in pairs if theirs and own):
        return
    raise ConfigError(
        "is not what the weights were trained for", file=file, field=f"{kind}_spec", found=_line(told),
        expected=_line(ours) if known else f"{width} numbers",
        fix="take weights that were trained for this robot, or name names and units of the recording as they do",
    )  # fmt: skip


def _said(row: Mapping[str, Any], key: str) -> str:
    """What a row says; a bare number in the place of a name (LeRobot's, where there is none) says nothing."""
    word = str(row.get(key) or "").strip()
    return "" if key == "name" and word.isdigit() else word


def _line(spec: Sequence[Mapping[str, Any]]) -> str:
    """A spec as words: "dx [0.02 m, world], ..."."""
    marks = [", ".join(filter(None, (_said(row, "unit"), _said(row, "frame")))) for row in spec]
    names = [_said(row, "name") or f"a{i}" for i, row in enumerate(spec)]
    return ", ".join(f"{name} [{mark}]" if mark else name for name, mark in zip(names, marks, strict=True))

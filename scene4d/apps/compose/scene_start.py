"""Where the agent begins to act in a recorded scene: an Observation in the terms of the head, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scene4d.apps.agent.agent_checks import check_place, check_seen, checked_goal
from scene4d.apps.compose.action_head import head_of, robot_of_head
from scene4d.apps.compose.models import Models
from scene4d.errors import DataFormatError, NumericsError
from scene4d.gaussians.s4d.s4d import S4DFile
from scene4d.policy.head import ActionHead
from scene4d.robot.actions import resting_action
from scene4d.robot.bounds import within_bounds
from scene4d.robot.spec import VectorSpec
from scene4d.scene import Scene4D
from scene4d.types import Frames, Task
from scene4d.world.observation import Observation, robot_of_s4d, step_of


def start_of_file(
    models: Models,
    file: S4DFile,
    *,
    scene: Scene4D,
    task: str,
    proprio: Sequence[float] | None = None,
    goal: Sequence[float] | None = None,
) -> Observation:
    """Where the agent begins in a .s4d file: at its last observed instant.

    Args:
        scene: that of the file. task: a name that the head knows.
        proprio: the robot's state [p] now in the numbers of the head, instead of what the file holds.
        goal: x, y, z in m.
    Raises:
        as `head_start`; DataFormatError: the file holds no robot state, or none of now.
    """
    width = head_of(models).config.proprio_dim
    robot = robot_of_s4d(file)
    if proprio is not None or not robot.proprio.width:  # what is typed in is in the numbers of the head
        robot = replace(robot, proprio=VectorSpec.from_rows(None, width=width))
    robot_of_head(models).check_same(robot, file=file.path)
    states = _states_of_file(file, scene, given=proprio, width=width)
    robot = replace(robot, step_seconds=step_of(scene.times))
    robot_of_head(models).check_same(robot, file=file.path)
    actions = file.actions if file.actions is not None else states.new_zeros(0, robot.action.width)
    cameras = file.input_cameras(_last_observed(scene))
    asked = Task(task, None if goal is None else checked_goal(torch.tensor(goal)))
    known = Observation(actions.float(), states, robot=robot, scene=scene, cameras=cameras, task=asked)
    return head_start(models, known, file=file.path)


def head_start(models: Models, known: Observation, *, file: Path | None = None) -> Observation:
    """What is known at the last observed instant of a scene, in the terms of the action head.

    Args:
        known: with the whole scene; its task is a name that the head knows. Its actions may be none: where nothing is
            known of the past, the robot rested.
        file: that holds the scene, for errors.
    Raises:
        CheckpointError: the weights hold no action head, or an unfit one.
        ConfigError: the recording is of another robot than the weights.
        DataFormatError: nothing was observed; states or actions are not as the head knows them.
    """
    head = head_of(models)
    robot = robot_of_head(models)
    past = observed_part(known.known_scene)
    states = checked_states(known.proprio, width=head.config.proprio_dim, file=file)
    check_seen(states[-1], name="proprio", head=head)
    if known.task.goal is not None:
        check_place(known.task.goal, field="goal", head=head)
    num_past, actions = past.times.shape[-1] - 1, known.actions
    if len(actions):
        robot.check_same(known.robot, file=file)
        actions = _checked_actions(actions, width=head.config.action_dim, file=file)[:num_past]
    else:
        robot.check_same(replace(known.robot, action=VectorSpec.from_rows(None)), file=file)
    robot = robot.filled_from(known.robot)
    if not len(actions):
        actions = resting_action(states[-1:], robot)
    return known.replace(scene=past, proprio=states, actions=actions, robot=robot)


def chosen_actions(
    head: ActionHead, start: Observation, *, views: Frames, proprio: Tensor, seed: int, features: Tensor | None = None
) -> Tensor:
    """A chunk of actions [h a] for the task of `start`, from views [v] and the robot's state [p] of then, in bounds.

    Raises:
        NumericsError: it is not finite.
    """
    task, goal = start.task.text, start.task.goal
    actions = head.act(views, features=features, proprio=proprio, task=task, seed=seed, goal=goal)
    if not bool(actions.isfinite().all()):
        raise NumericsError("are not finite", field="actions", fix="check the weights, the scene and the robot's state")
    return within_bounds(actions, start.robot)


def _states_of_file(
    file: S4DFile, scene: Scene4D, *, given: Sequence[float] | None = None, width: int | None = None
) -> Tensor:
    """The robot's states [t p] up to the last observed instant of a .s4d: the `given` one, or what the file holds."""
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
    return rows[: last + 1]  # later ones are predictions, not observations


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
        fix = "give a reconstructed scene, not a bare forecast"
        raise DataFormatError("has no observed instant", field="observed", fix=fix)
    stop = _last_observed(scene) + 1
    motion = scene.motion
    log_var = None if motion.log_var is None else motion.log_var[:stop]
    residual = None if scene.residual is None else {k: v[:stop] for k, v in scene.residual.items()}
    motion = motion.replace(world_from_rest=motion.world_from_rest[:stop], log_var=log_var)
    times, observed = scene.times[:stop], scene.observed[:stop]
    return scene.replace(motion=motion, times=times, observed=observed, residual=residual)


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

"""The action head of loaded weights, and the robot whose numbers it speaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scene4d.apps.compose.models import Models
from scene4d.errors import CheckpointError, ConfigError
from scene4d.policy.head import ActionHead
from scene4d.robot.several_robots import fitting_robot, names_of
from scene4d.robot.spec import RobotSpec, VectorSpec


def head_of(models: Models, *, file: str | Path | None = None) -> ActionHead:
    """The action head of weights, which `file` holds.

    Raises:
        CheckpointError: there is none, or its statistics cannot be divided by.
        ConfigError: it has other numbers than the robot that it was trained with.
    """
    if models.policy is None:
        raise CheckpointError("holds no action head", file=file, field="policy", fix="train with a [policy] section")
    _robot_for(models.policy, models)
    return models.policy


def robot_of_head(models: Models) -> RobotSpec:
    """The robot of an action head: that of its weights, numbers without names where they do not say.

    Raises:
        as `head_of`; ConfigError: the weights know several robots, and it may be of more than one.
    """
    head = head_of(models)
    config, robot = head.config, _robot_for(head, models)
    bare = lambda spec, width: spec if spec.width else VectorSpec.from_rows(None, width=width)
    return replace(robot, action=bare(robot.action, config.action_dim), proprio=bare(robot.proprio, config.proprio_dim))


def _robot_for(head: ActionHead, models: Models) -> RobotSpec:
    """Which of the robots that the weights know a head is of: by the name that they say, else by how many numbers."""
    robots, name = models.world.spec.robots, str(models.info.get("policy_robot") or "")
    named = [robot for robot in robots if name in ("", robot.name)] if len(robots) > 1 else robots
    if not named:
        problem, expected = "is none that the world model learned from", names_of(robots)
        raise ConfigError(problem, field="policy_robot", found=name, expected=expected)
    return fitting_robot(named, lambda robot: check_head(head, robot=robot))


def check_head(head: ActionHead, *, robot: RobotSpec) -> None:
    """Refuse a head whose numbers are not those of its robot, or whose normaliser is none.

    Raises:
        ConfigError: an action or a state of the robot has another number of numbers than the head has.
        CheckpointError: a mean is not finite, or a deviation is not positive.
    """
    vectors = ("action", robot.action, head.config.action_dim), ("proprio", robot.proprio, head.config.proprio_dim)
    for name, spec, width in vectors:
        if spec.width not in (0, width):
            found, fix = f"{spec.width} numbers", "take the weights that were trained for this robot"
            raise ConfigError("differs from the head", field=f"{name}_spec", found=found, expected=f"{width}", fix=fix)
        mean, std = getattr(head, f"{name}_mean"), getattr(head, f"{name}_std")
        if not (bool(mean.isfinite().all()) and bool(std.isfinite().all()) and bool((std > 0).all())):
            problem, expected, fix = "is no normaliser", "finite, > 0", "train the head again"
            raise CheckpointError(problem, field=f"policy.{name}_std", found=std.tolist(), expected=expected, fix=fix)

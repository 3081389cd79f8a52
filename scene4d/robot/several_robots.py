"""One set of weights for several robots: which ones they are, and which of them a recording is of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scene4d.errors import ConfigError
from scene4d.robot.spec import RobotSpec


def distinct_robots(found: Iterable[RobotSpec]) -> tuple[RobotSpec, ...]:
    """Robots that differ from one another; what one leaves open comes from the later ones that are the same."""
    kept: list[RobotSpec] = []
    for robot in found:
        place = next((i for i, one in enumerate(kept) if one.difference(robot) is None), None)
        if place is None:
            kept.append(robot)
        else:
            kept[place] = kept[place].filled_from(robot)
    return tuple(kept)


def only_robot(robots: Sequence[RobotSpec]) -> RobotSpec:
    """The one robot that a model learned from.

    Raises:
        ConfigError: there are several.
    """
    if len(robots) != 1:
        problem, fix = "are several", "take weights or a family of models that know one robot"
        raise ConfigError(problem, field="robots", found=names_of(robots), expected="one robot", fix=fix)
    return robots[0]


def fitting_robot(robots: Sequence[RobotSpec], check: Callable[[RobotSpec], None]) -> RobotSpec:
    """The robot that passes a check, of those that a model learned from.

    Where those that pass differ in their names alone, it is one of them without a name: their numbers mean the same.

    Args:
        check: refuses a robot by a ConfigError, such as `robot.check_same(other)`.
    Raises:
        ConfigError: none passes, or more than one does, so that it is not known which it is.
    """
    passed, refused = [], []
    for robot in robots:
        try:
            check(robot)
            passed.append(robot)
        except ConfigError as error:
            refused.append(error)
    if len(passed) == 1:
        return passed[0]
    if len(robots) == 1:
        raise refused[0]
    if passed and all(_meaning(robot) == _meaning(passed[0]) for robot in passed):
        return replace(passed[0], name="")
    if passed:
        fix = "say which: the name of the robot, and names of its numbers"
        expected = "a recording that only one of them could have made"
        raise ConfigError("may be several robots", field="robot", found=names_of(passed), expected=expected, fix=fix)
    # The field that most of them differ in says best what is wrong.
    fields = [error.field for error in refused]
    first = max(refused, key=lambda error: fields.count(error.field))
    same = [error for error in refused if error.field == first.field]
    raise ConfigError(
        "is of none of the robots that the model learned from",
        file=first.file,
        field=first.field,
        frame=first.frame,
        found=first.found,
        expected=" | ".join(dict.fromkeys(str(error.expected) for error in same)),
        fix=f"it knows {names_of(robots)}: take weights that were trained for this robot",
    )


def _meaning(robot: RobotSpec) -> tuple[Any, ...]:
    """All that decides what a robot's numbers mean."""
    return robot.action, robot.proprio, robot.meaning


def names_of(robots: Sequence[RobotSpec]) -> str:
    """Names of robots, or their actions where they have none."""
    return ", ".join(robot.name or f"one with {robot.action}" for robot in robots)


def info_of_robots(robots: Sequence[RobotSpec]) -> dict[str, Any]:
    """What weights store of the robots that they learned from: `context` and `step_seconds` of one, or `robots`."""
    if len(robots) == 1:
        return {"context": robots[0].as_info(), "step_seconds": robots[0].step_seconds}
    width = lambda robot: {"num_actions": robot.action.width, "num_proprio": robot.proprio.width}
    each = [{**robot.as_info(), **width(robot), "step_seconds": robot.step_seconds} for robot in robots]
    return {"robots": each}


def robots_of_info(info: Mapping[str, Any], *, file: str | Path | None = None) -> tuple[RobotSpec, ...]:
    """The robots that the info of weights describes.

    Raises:
        ConfigError: a spec is no spec.
    """
    rows = info.get("robots")
    if rows is None:
        return (RobotSpec.from_info(info.get("context") or {}, step_seconds=info.get("step_seconds"), file=file),)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        raise ConfigError("is no list of robots", file=file, field="robots", found=str(rows)[:80])
    counted = lambda row, key: row[key] if isinstance(row.get(key), int) and 0 < row[key] < 1 << 16 else None
    return tuple(
        RobotSpec.from_info(
            row, num_actions=counted(row, "num_actions"), num_proprio=counted(row, "num_proprio"), file=file
        )
        for row in rows
    )

"""Several robots in one set of weights: which one a recording is of, and what is refused in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scene4d.errors import ConfigError
from scene4d.robot.several_robots import (
    distinct_robots,
    fitting_robot,
    info_of_robots,
    only_robot,
    robots_of_info,
)
from scene4d.robot.spec import ActionMeaning, RobotSpec, VectorSpec
from scene4d.world.contract import WorldModelSpec


def robot(name: str, *, action: tuple[str, ...] = ("dx", "dy", "dz"), seconds: float | None = 0.05) -> RobotSpec:
    rows = lambda names: VectorSpec.from_rows([{"name": each, "unit": "m"} for each in names])
    return RobotSpec(rows(action), rows(("x", "y", "z")), ActionMeaning("relative steps"), seconds, name)


GRIPPER = robot("gripper", action=("dx", "dy", "dz", "gripper"))
PUSHER = robot("pusher", action=("dx", "dy", "dz", "blade"))
ARM = robot("arm", action=tuple(f"joint{i}" for i in range(7)))
SPEC = WorldModelSpec(8, 0.05, (GRIPPER, PUSHER, ARM))


@pytest.mark.parametrize("known", [GRIPPER, PUSHER, ARM])
def test_a_recording_is_of_the_robot_that_it_names(known):
    assert SPEC.robot_like(known) == known
    assert SPEC.robot_like(replace(known, name="", meaning=ActionMeaning())) == known


def test_a_robot_that_is_none_of_them_is_refused_in_one_line():
    other = robot("suction", action=("dx", "dy", "dz", "cup"))
    with pytest.raises(ConfigError) as raised:
        SPEC.robot_like(other, file="one.s4d")
    line = raised.value.line()
    assert "\n" not in line and "one.s4d" in line and raised.value.field == "action_spec[3]"
    assert "cup" in line and "gripper" in line and "blade" in line and "gripper, pusher, arm" in line


def test_one_robot_is_refused_as_ever():
    with pytest.raises(ConfigError) as raised:
        WorldModelSpec(8, 0.05, (GRIPPER,)).robot_like(ARM)
    with pytest.raises(ConfigError) as before:
        GRIPPER.check_same(ARM)
    assert raised.value.line() == before.value.line()


def test_a_recording_that_may_be_of_several_is_refused():
    bare = RobotSpec(VectorSpec.from_rows(None, width=4), VectorSpec.from_rows(None, width=3))
    with pytest.raises(ConfigError, match="may be several robots") as raised:
        SPEC.robot_like(bare)
    assert raised.value.found == "gripper, pusher"


def test_robots_whose_numbers_mean_the_same_need_no_name():
    twin = replace(GRIPPER, name="sawyer", step_seconds=0.0501)
    both = WorldModelSpec(8, 0.05, (GRIPPER, twin, ARM))
    assert both.robot_like(twin) == twin and both.robot_like(GRIPPER) == GRIPPER
    assert both.robot_like(replace(GRIPPER, name="")) == replace(GRIPPER, name="")


def test_who_needs_one_robot_says_so():
    assert only_robot((ARM,)) is ARM and WorldModelSpec(8, 0.05, (ARM,)).robot is ARM
    with pytest.raises(ConfigError, match="gripper, pusher, arm"):
        _ = SPEC.robot


def test_robots_that_are_the_same_are_counted_once():
    bare = replace(ARM, meaning=ActionMeaning(), step_seconds=None)
    assert distinct_robots([bare, PUSHER, ARM, replace(PUSHER, step_seconds=0.051)]) == (ARM, PUSHER)


def test_weights_keep_them():
    for robots in ((GRIPPER,), (GRIPPER, PUSHER, ARM)):
        assert robots_of_info(info_of_robots(robots)) == robots
    bare = RobotSpec(VectorSpec.from_rows(None, width=5), VectorSpec.from_rows(None, width=2), name="bare")
    assert robots_of_info(info_of_robots((bare, ARM))) == (bare, ARM)
    assert set(info_of_robots((GRIPPER,))) == {"context", "step_seconds"}, "as weights of one robot always had it"


@pytest.mark.parametrize(
    "rows", [[], "gripper", [1], {"a": 1}, [{"action_spec": 3}], [{"num_actions": -4, "action_spec": 1}]]
)
def test_a_damaged_list_is_refused(rows):
    with pytest.raises(ConfigError):
        robots_of_info({"robots": rows}, file="w.safetensors")


def test_the_check_of_the_caller_decides():
    def check(one: RobotSpec) -> None:
        if one.name != "arm":
            raise ConfigError("is not it", field="robot", found="x", expected=one.name)

    assert fitting_robot(SPEC.robots, check) == ARM

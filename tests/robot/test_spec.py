"""What the numbers of a robot mean: stored and read again, compared, filled up, and refused where two robots differ."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from scene4d.errors import ConfigError
from scene4d.robot.spec import STEP_TOLERANCE, ActionMeaning, RobotSpec, VectorSpec

ROWS = [
    {"name": "dx", "unit": "0.02 m", "frame": "world", "low": -1.0, "high": 1.0},
    {"name": "yaw", "unit": "rad", "frame": None, "low": -3.1, "high": None},
    {"name": "gripper", "unit": None, "frame": ""},
]
STATE = [{"name": n, "unit": "m", "frame": "world"} for n in "xyz"]
INFO = {
    "action_spec": ROWS,
    "proprio_spec": STATE,
    "action_meaning": "change of the hand's place",
    "robot": "Sawyer",
    "step_seconds": 0.05,
}
ROBOT = RobotSpec.from_info(INFO)
OPEN = RobotSpec.from_info({}, num_actions=3, num_proprio=3)


def with_row(index, **changes):
    """The action rows with one of them changed."""
    return VectorSpec.from_rows([{**row, **changes} if i == index else row for i, row in enumerate(ROWS)])


def test_rows_come_back_from_a_file_as_they_were():
    spec = VectorSpec.from_rows(ROWS)
    assert (spec.names, spec.units, spec.frames) == (
        ("dx", "yaw", "gripper"),
        ("0.02 m", "rad", ""),
        ("world", "", ""),
    )
    assert spec.bounds == ((-1.0, 1.0), (-3.1, None), (None, None)) and spec.width == 3 and spec.known
    assert spec.rows() == [{k: v for k, v in row.items() if v not in (None, "")} for row in ROWS]
    assert VectorSpec.from_rows(json.loads(json.dumps(spec.rows()))) == spec
    assert VectorSpec.from_rows(tuple(ROWS), width=3) == spec


@pytest.mark.parametrize("rows", [[{"name": "a"}, {}], [{}, {"unit": "rad"}], [{"low": -1.0}, {"high": 2.0}]])
def test_what_is_declared_of_some_numbers_alone_comes_back_too(rows):
    spec = VectorSpec.from_rows(rows)
    assert spec.width == 2
    assert VectorSpec.from_rows(json.loads(json.dumps(spec.rows()))) == spec


def test_a_vector_of_which_nothing_is_declared_is_a_width():
    for rows in (None, [], ()):
        spec = VectorSpec.from_rows(rows, width=4)
        assert spec.width == 4 and not spec.known and spec.rows() == [] and str(spec) == "4 numbers"
    assert VectorSpec.from_rows(None).width == 0


def test_info_comes_back_as_it_was_and_holds_no_null():
    stored = json.loads(json.dumps(ROBOT.as_info()))
    assert RobotSpec.from_info(stored, step_seconds=0.05) == ROBOT
    assert stored["action_meaning"] == INFO["action_meaning"] and stored["robot"] == "Sawyer"
    assert OPEN.as_info() == {} and OPEN.action.width == 3


def test_equal_robots_are_one_key_and_recorded_ranges_are_no_part_of_a_robot():
    again = RobotSpec.from_info(json.loads(json.dumps(INFO)))
    assert again == ROBOT and hash(again) == hash(ROBOT) and {ROBOT: 1}[again] == 1
    seen = ROBOT.with_recorded(((-1.0, 1.0),) * 3)
    assert seen == ROBOT and hash(seen) == hash(ROBOT) and seen.recorded == ((-1.0, 1.0),) * 3
    for other in (
        replace(ROBOT, action=with_row(0, unit="m")),
        replace(ROBOT, meaning=ActionMeaning()),
        replace(ROBOT, name="Panda"),
        replace(ROBOT, step_seconds=0.1),
    ):
        assert other != ROBOT


DIFFERENT = {
    "a name": (replace(ROBOT, action=with_row(1, name="pitch")), "action_spec[1]", "yaw [rad]", "pitch [rad]"),
    "a unit": (replace(ROBOT, action=with_row(1, unit="deg")), "action_spec[1]", "yaw [rad]", "yaw [deg]"),
    "a frame": (
        replace(ROBOT, action=with_row(0, frame="hand")),
        "action_spec[0]",
        "dx [0.02 m, world]",
        "dx [0.02 m, hand]",
    ),
    "more numbers": (
        replace(ROBOT, action=VectorSpec.from_rows(None, width=7)),
        "action_spec",
        "dx [0.02 m, world], yaw [rad], gripper",
        "7 numbers",
    ),
    "a state": (
        replace(ROBOT, proprio=VectorSpec.from_rows([*STATE[:2], {"name": "joint1"}])),
        "proprio_spec[2]",
        "z [m, world]",
        "joint1",
    ),
    "a meaning": (
        replace(ROBOT, meaning=ActionMeaning("absolute place of the hand")),
        "action_meaning",
        "change of the hand's place",
        "absolute place of the hand",
    ),
    "a robot": (replace(ROBOT, name="Panda"), "robot", "Sawyer", "Panda"),
    "a step": (replace(ROBOT, step_seconds=0.1), "step_seconds", "0.05", "0.1"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_first_thing_that_differs_is_found_from_both_sides(name):
    other, field, own, theirs = DIFFERENT[name]
    assert ROBOT.difference(other) == (field, own, theirs)
    assert other.difference(ROBOT) == (field, theirs, own)


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_robot_is_refused_in_one_line_that_names_all(name):
    other, field, expected, found = DIFFERENT[name]
    with pytest.raises(ConfigError) as raised:
        ROBOT.check_same(other, file="run/scene.s4d", frame=2)
    error, line = raised.value, str(raised.value)
    assert (error.file, error.field, error.frame) == ("run/scene.s4d", field, 2)
    assert (error.found, error.expected) == (found, expected) and error.fix
    assert "\n" not in line and line.startswith(f"run/scene.s4d: {field}: frame 2: is of another robot")
    assert f"(found {found}, expected {expected})" in line


def test_what_one_of_two_leaves_open_is_no_difference():
    nameless = RobotSpec.from_info({"action_spec": [{"name": str(i)} for i in range(3)]})
    bare = RobotSpec.from_info({})  # not even how many numbers
    partly = replace(ROBOT, action=VectorSpec.from_rows([{"name": "dx"}, {"unit": "rad"}, {}]))
    for other in (ROBOT, OPEN, nameless, bare, partly, replace(ROBOT, name="", step_seconds=None)):
        assert ROBOT.difference(other) is None and other.difference(ROBOT) is None
        ROBOT.check_same(other)


def test_bounds_are_no_difference_and_neither_is_the_jitter_of_a_clock():
    ROBOT.check_same(replace(ROBOT, action=with_row(0, low=-5.0, high=5.0)))
    ROBOT.check_same(replace(ROBOT, step_seconds=0.05 * (1 + 0.9 * STEP_TOLERANCE)))
    with pytest.raises(ConfigError, match="step_seconds"):
        ROBOT.check_same(replace(ROBOT, step_seconds=0.05 * (1 + 1.2 * STEP_TOLERANCE)))


@pytest.mark.parametrize(
    ("own", "theirs", "differ"),
    [
        ("change of the pose", "delta pose", False),
        ("absolute pose", "pose at the next frame, absolute", False),
        ("absolute pose", "relative pose", True),
        ("the gripper's pose", "absolute pose", True),
        ("the gripper's pose", "the gripper's pose", False),
        ("", "absolute pose", False),
    ],
)
def test_meanings_differ_in_their_kind_or_where_that_is_open_in_their_words(own, theirs, differ):
    own, theirs = ActionMeaning(own), ActionMeaning(theirs)
    assert own.difference(theirs) is theirs.difference(own) is differ


def test_places_are_named_unless_words_deny_it():
    named = {text: ActionMeaning(text).names_places for text in ("", "absolute pose", "velocity of the hand", "pose")}
    assert named == {"": True, "absolute pose": True, "velocity of the hand": False, "pose": False}


def test_what_is_open_is_filled_from_another_spec_and_the_rest_stays():
    assert OPEN.filled_from(ROBOT) == ROBOT and ROBOT.filled_from(OPEN) == ROBOT
    own = RobotSpec.from_info({"action_spec": [{"name": n} for n in "abc"], "robot": "Panda"}, step_seconds=0.1)
    filled = own.filled_from(ROBOT.with_recorded(((0.0, 1.0),) * 3))
    assert (filled.action, filled.name, filled.step_seconds) == (own.action, "Panda", 0.1)
    assert (filled.proprio, filled.meaning) == (ROBOT.proprio, ROBOT.meaning)
    assert filled.recorded == ((0.0, 1.0),) * 3


@pytest.mark.parametrize(
    ("key", "spec", "field"),
    [
        ("action_spec", [{"name": "a", "low": 2.0, "high": 1.0}], "action_spec[0]"),
        ("action_spec", [{"name": "a"}, {"name": "b", "high": math.nan}], "action_spec[1]"),
        ("proprio_spec", [{"name": "a", "low": "far"}], "proprio_spec[0]"),
        ("proprio_spec", "xyz", "proprio_spec"),
        ("action_spec", 3, "action_spec"),
        ("action_spec", ["dx", "dy"], "action_spec"),
    ],
    ids=["order", "nan", "text", "string", "number", "names"],
)
def test_what_is_no_spec_or_has_impossible_bounds_is_refused_with_file_and_field(key, spec, field):
    with pytest.raises(ConfigError) as raised:
        RobotSpec.from_info({key: spec}, file="scene.s4d")
    error = raised.value
    assert (error.file, error.field) == ("scene.s4d", field)
    assert error.found is not None and error.expected is not None and "\n" not in str(error)


def test_a_spec_of_another_number_of_numbers_is_refused():
    for key, width in (("action_spec", {"num_actions": 7}), ("proprio_spec", {"num_proprio": 4})):
        with pytest.raises(ConfigError) as raised:
            RobotSpec.from_info(INFO, file="scene.s4d", **width)
        number = next(iter(width.values()))
        assert (raised.value.file, raised.value.field) == ("scene.s4d", key)
        assert (raised.value.found, raised.value.expected) == (f"{number} numbers", 3)

"""Angles that wrap: differences, statistics and actions without jumps of a turn; all other numbers bit-equal."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from scene4d.models.proprio import proprio_futures
from scene4d.robot.actions import action_slots, from_action_slots, resting_action
from scene4d.robot.angles import unwrapped, unwrapped_to_last, wrapped
from scene4d.robot.columns import joint_unit
from scene4d.robot.slots import ACTION_SLOTS, USUAL_SLOTS, into_slots, proprio_slot_index, slots_of
from scene4d.robot.spec import ActionMeaning, RobotSpec, VectorSpec
from scene4d.robot.track import proprio_change, track_in_slots, track_of

TURNS = {"rad": 2 * math.pi, "deg": 360.0}
PLACE = [{"name": axis, "unit": "m"} for axis in "xyz"]


def robot_of(unit, *, meaning="state at the next frame, absolute"):
    """A robot whose actions are the next state: a place, an orientation, a gripper."""
    angles = [{"name": name, "unit": unit} for name in ("roll", "pitch", "yaw")]
    spec = VectorSpec.from_rows([*PLACE, *angles, {"name": "gripper", "unit": "1"}])
    return RobotSpec(spec, spec, ActionMeaning(meaning))


def turning(unit, *, num=40, step=0.02, start=0.307):
    """States [t 7] of a hand that turns on and on about z, its yaw as a sensor reports it; and the true yaw [t]."""
    turn = TURNS[unit]
    true = turn * (start + step * torch.arange(num, dtype=torch.float64))
    states = torch.zeros(num, 7, dtype=torch.float64)
    states[:, 0] = 0.01 * torch.arange(num)
    states[:, 3] = 0.499 * turn * (-1.0) ** torch.arange(num)  # a roll of almost half a turn, read from both sides
    states[:, 5] = torch.remainder(true + turn / 2, turn) - turn / 2
    states[:, 6] = torch.arange(num) % 2
    return states, true


@pytest.mark.parametrize("unit", TURNS)
def test_a_series_that_wraps_goes_on(unit):
    states, true = turning(unit)
    assert float(states[:, 5].diff().abs().max()) > 0.9 * TURNS[unit]  # as recorded it jumps
    spec = robot_of(unit).proprio
    found = unwrapped(states, spec)
    torch.testing.assert_close(found[:, 5].diff(), true.diff())
    assert float(found[:, 3].diff().abs().max()) < 0.003 * TURNS[unit]
    assert torch.equal(found[0], states[0]) and torch.equal(found[:, [0, 1, 2, 4, 6]], states[:, [0, 1, 2, 4, 6]])
    back = unwrapped_to_last(states, spec)
    torch.testing.assert_close(back[:, 5].diff(), true.diff())
    assert torch.equal(back[-1], states[-1])
    torch.testing.assert_close(wrapped(found, spec), states)


@pytest.mark.parametrize("unit", TURNS)
def test_a_batch_of_series_is_each_of_them(unit):
    both = torch.stack([turning(unit)[0], turning(unit, start=0.1, step=-0.03)[0]])
    spec = robot_of(unit).proprio
    assert torch.equal(unwrapped(both, spec), torch.stack([unwrapped(one, spec) for one in both]))
    start = both[:, 0]
    later = unwrapped(both[:, 1:], spec, start=start)
    torch.testing.assert_close(later, unwrapped(both, spec)[:, 1:])


@pytest.mark.parametrize("unit", TURNS)
def test_changes_since_now_have_no_jump(unit):
    robot, (states, true) = robot_of(unit), turning(unit)
    yaw = proprio_slot_index(robot)[5]
    for now in range(1, 30):
        change = proprio_change(states[now + 1 : now + 9], now=states[now], robot=robot)
        torch.testing.assert_close(change[:, yaw], true[now + 1 : now + 9] - true[now])
        track = track_in_slots(track_of(states[1 : now + 1], states[: now + 1], num_past=8), robot)
        speeds = track.proprio[:, yaw].diff()[track.valid]
        torch.testing.assert_close(speeds, true[: now + 1].diff()[-8:])
        assert track.proprio[-1, yaw] == states[now, 5], "now stays as the robot reports it"


class Recorded(SimpleNamespace):
    """An episode; windows are distinguished by it."""

    __hash__ = object.__hash__


@pytest.mark.parametrize("unit", TURNS)
def test_statistics_of_training_have_no_jump(unit):
    """Targets, tracks and absolute actions of every moment of an episode in which the yaw wraps."""
    robot, (states, true) = robot_of(unit), turning(unit)
    episode = Recorded(actions=states[1:].float(), proprio=states.float(), info={"task": "turn"})
    windows = SimpleNamespace(
        robot_of=lambda number: robot, num_past_actions=8, moment=lambda number: (episode, number)
    )
    futures = proprio_futures(windows, [0, 1], horizon=8, slots=USUAL_SLOTS, text="words")
    yaw = proprio_slot_index(robot)[5]
    step, turn = float(true.diff()[0]), TURNS[unit]
    wanted = step * torch.arange(1.0, 9.0)
    torch.testing.assert_close(
        futures.proprio_change[..., yaw], wanted.expand(len(futures.task), 8), atol=1e-5 * turn, rtol=1e-4
    )
    assert float(futures.proprio_change[..., yaw].std(0).max()) < 1e-4 * turn
    assert float(futures.track.proprio[..., yaw].diff(dim=1).abs().max()) < 1.01 * step
    for named in (futures.actions, futures.track.actions):
        apart = named[:, 1:] - named[:, :-1]
        # The place's ways aside, a slot moves by its step, but for the end of what is padded.
        assert float(apart[8:].abs().max()) < max(1.01 * step, 1.01)


@pytest.mark.parametrize("unit", TURNS)
def test_absolute_angles_go_on_from_the_held_state_and_come_back_wrapped(unit):
    robot, (states, true) = robot_of(unit), turning(unit)
    turn = TURNS[unit]
    for now in range(30):
        actions, held = states[now + 1 : now + 9], states[now]
        slots = action_slots(actions, robot, proprio=held)
        series = torch.cat([held[5:6], slots[:, _slot(robot, "yaw")]])
        torch.testing.assert_close(series.diff(), true[now : now + 9].diff())
        back = from_action_slots(slots, robot, proprio=held)
        torch.testing.assert_close(back, actions, atol=1e-9 * turn, rtol=1e-9)
        assert float(back[:, 3:6].abs().max()) <= turn / 2
    each = action_slots(states[1:], robot, proprio=states[:-1])  # the state before every action is known
    assert float((each[:, _slot(robot, "yaw")] - states[:-1, 5]).abs().max()) < 0.021 * turn


def test_batches_of_actions_are_each_of_them():
    robot, (states, _) = robot_of("rad"), turning("rad")
    chunks = torch.stack([states[i + 1 : i + 9] for i in range(20)])
    slots = action_slots(chunks, robot, proprio=states[:20])
    for i in range(20):
        assert torch.equal(slots[i], action_slots(chunks[i], robot, proprio=states[i]))


def test_a_robot_that_turned_rests_where_it_is():
    robot, (states, _) = robot_of("rad"), turning("rad")
    rest = resting_action(states[15], robot)
    assert torch.equal(rest[:3], states[15, :3])


def test_relative_angles_are_not_unwrapped():
    """Steps of an angle have no state to go on from, and no turn to lose."""
    robot = robot_of("rad", meaning="change of the pose")
    actions, held = 3 * torch.randn(2, 8, 7), torch.full((2, 7), 3.0)
    slots = action_slots(actions, robot, proprio=held)
    assert torch.equal(slots, action_slots(actions, robot, proprio=held - 3))
    assert torch.equal(from_action_slots(slots, robot, proprio=held), actions)


@pytest.mark.parametrize(
    "spec",
    [
        [{"name": n, "unit": "m"} for n in "xyz"],
        [{"name": n} for n in ("roll", "pitch", "yaw")],  # of no unit that is known
        [{"name": n, "unit": "1"} for n in ("qw", "qx", "qy", "qz")],
        [{"name": "yaw", "unit": "rad/s"}, {"name": "dx", "unit": "0.05 rad"}],
        [{"name": n, "unit": "rad"} for n in ("gripper", "panda_finger_joint1", "left_gripper_opening")],
        None,
    ],
    ids=["places", "open units", "quaternion", "speeds and steps", "grippers", "nothing known"],
)
def test_numbers_that_are_no_angles_are_bit_equal(spec):
    values = 20 * torch.randn(3, 9, len(spec or "xyz"))
    vector = VectorSpec.from_rows(spec, width=values.shape[-1])
    for found in (unwrapped(values, vector), unwrapped_to_last(values, vector), wrapped(values, vector)):
        assert torch.equal(found, values)
    assert torch.equal(unwrapped(values, vector, start=-values[:, 0]), values)
    robot = RobotSpec(vector, vector)
    if vector.names != tuple("xyz"):  # places become ways
        wanted = into_slots(values, slots_of(vector.names, known=ACTION_SLOTS, num=16), num=16)
        assert torch.equal(action_slots(values, robot, proprio=values[:, 0]), wanted)


def test_joints_are_unwrapped_but_not_wrapped():
    """A sensor that wraps does not tear a joint's motion apart; a joint that goes beyond half a turn stays there."""
    spec = VectorSpec.from_rows([{"name": "joint7", "unit": "rad"}])
    true = torch.arange(2.8, 3.6, 0.1, dtype=torch.float64)[:, None]
    read = torch.remainder(true + math.pi, 2 * math.pi) - math.pi
    torch.testing.assert_close(unwrapped(read, spec), true)
    assert torch.equal(wrapped(true, spec), true)


@pytest.mark.parametrize("name", ["gripper", "robotiq_85_left_finger_joint", "panda_finger_joint1", "right_jaw"])
def test_a_gripper_is_no_angle(name):
    assert joint_unit(name) is None
    spec = VectorSpec.from_rows([{"name": name, "unit": "rad"}])  # as older recordings have it
    opening = torch.tensor([[0.0], [255.0], [0.0], [100.0]])
    assert torch.equal(unwrapped(opening, spec), opening) and torch.equal(wrapped(opening, spec), opening)


def test_joints_and_the_orientation_of_a_gripper_are_angles():
    assert joint_unit("shoulder_lift_joint") == joint_unit("joint1") == "rad"
    spec = VectorSpec.from_rows([{"name": "gripper_yaw", "unit": "rad"}])
    assert unwrapped(torch.tensor([[3.1], [-3.1]]), spec)[1] == pytest.approx(2 * math.pi - 3.1)


def _slot(robot, name):
    """The slot of a dimension of the action."""
    marked = torch.zeros(1, robot.action.width)
    marked[0, robot.action.names.index(name)] = 0.125
    return int(action_slots(marked, robot, proprio=torch.zeros(robot.proprio.width))[0].argmax())

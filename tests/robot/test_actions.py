"""Actions in slots: places and orientations that an action names become ways, and come back as they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from scene4d.geometry.rotation import multiply_quat, normalize_quat, quat_from_rotvec
from scene4d.robot.actions import action_slots, from_action_slots, resting_action
from scene4d.robot.spec import ActionMeaning, RobotSpec, VectorSpec
from scene4d.robot.track import track_in_slots, track_of

NAMED = ("x", "y", "z")


def named(*names, unit=None):
    return VectorSpec.from_rows([{"name": n, "unit": unit} for n in names])


PLACES = RobotSpec(named("qw", *NAMED, "gripper_open"), named("joint1", *NAMED))
WAYS = RobotSpec(named("dx", "dy", "dz", "gripper"), PLACES.proprio)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ways_stay_as_they_are():
    actions, proprio = numbers(2, 5, 4), numbers(2, 4, seed=1)
    slots = action_slots(actions, WAYS, proprio=proprio)
    assert torch.equal(slots[..., [0, 1, 2, 6]], actions) and slots[..., [3, 4, 5]].abs().max() == 0
    assert torch.equal(from_action_slots(slots, WAYS, proprio=proprio), actions)


def test_named_places_become_ways_and_come_back():
    actions, proprio = numbers(2, 5, 5), numbers(2, 4, seed=1)
    slots = action_slots(actions, PLACES, proprio=proprio)
    places = torch.cat([proprio[:, None, 1:], actions[..., 1:4]], 1)
    assert torch.allclose(slots[..., :3], places.diff(dim=1))
    assert torch.allclose(from_action_slots(slots, PLACES, proprio=proprio), actions, atol=1e-6)
    # The whole world moved: the ways are the same.
    shift = torch.tensor([1.0, -2.0, 3.0])
    moved, there = actions.clone(), proprio.clone()
    moved[..., 1:4] += shift
    there[..., 1:] += shift
    assert torch.allclose(action_slots(moved, PLACES, proprio=there), slots, atol=1e-5)


def test_a_track_of_places_has_no_ways_before_it_began():
    actions, proprio = numbers(3, 5), numbers(4, 4, seed=1)
    track = track_in_slots(track_of(actions, proprio, num_past=5), PLACES)
    assert track.actions[:2].abs().max() == 0
    assert torch.allclose(track.actions[2:, :3], actions[:, 1:4] - proprio[:3, 1:])


@pytest.mark.parametrize("names", [("delta_x", "delta_y", "delta_z"), ("rot_x", "rot_y", "rot_z"), ("dx", "dy", "dz")])
def test_ways_turns_and_what_is_said_to_be_relative_are_no_places(names):
    actions, proprio = numbers(5, 3), numbers(4, seed=1)
    robot = replace(PLACES, action=named(*names, unit="m"))
    assert torch.equal(
        from_action_slots(action_slots(actions, robot, proprio=proprio), robot, proprio=proprio), actions
    )
    assert torch.equal(action_slots(actions, robot, proprio=proprio), action_slots(actions, robot, proprio=proprio + 1))


def test_what_the_recording_says_of_its_actions_counts():
    actions, proprio = numbers(5, 5), numbers(4, seed=1)

    def moved(meaning=""):
        robot = replace(PLACES, meaning=ActionMeaning(meaning))
        return not torch.equal(
            action_slots(actions, robot, proprio=proprio), action_slots(actions, robot, proprio=proprio + 1)
        )

    assert moved() and moved("gripper pose at the next frame, absolute")
    assert not moved("change of the gripper's pose")
    turns_first = [{"name": f"rot_{a}", "unit": "rad"} for a in NAMED] + [
        {"name": f"ee_pos_{a}", "unit": "m"} for a in NAMED
    ]
    six = numbers(4, 6)
    slots = action_slots(six, replace(PLACES, action=VectorSpec.from_rows(turns_first)), proprio=proprio)
    torch.testing.assert_close(slots[:, :3].cumsum(0) + proprio[1:], six[:, 3:])


@pytest.mark.parametrize("robot", [WAYS, PLACES])
def test_a_resting_action_is_no_way_at_all(robot):
    proprio = torch.tensor([[0.1, 0.6, 0.2, 0.5], [-0.2, 0.5, 0.3, 0.1]])
    rest = resting_action(proprio, robot)
    slots = action_slots(rest[:, None], robot, proprio=proprio)
    assert torch.equal(slots, torch.zeros_like(slots))


def test_a_robot_told_places_rests_where_its_hand_is():
    proprio = torch.tensor([0.1, 0.6, 0.2, 0.5])
    assert resting_action(proprio, PLACES)[1:4].tolist() == proprio[1:].tolist()


QUATS = ("qw", "qx", "qy", "qz")
POSES = RobotSpec(named(*NAMED, *QUATS, "gripper_open"), named(*NAMED, *QUATS, "gripper_open", "joint1"))


def poses(*shape, seed=0):
    """Random poses with unit quaternions and two more numbers, [*shape 9]."""
    values = numbers(*shape, 9, seed=seed)
    values[..., 3:7] = normalize_quat(values[..., 3:7])
    return values


def test_named_orientations_become_turns_and_come_back():
    actions, proprio = poses(2, 5)[..., :8], poses(2, seed=1)
    slots = action_slots(actions, POSES, proprio=proprio)
    quats = torch.cat([proprio[:, None, 3:7], actions[..., 3:7]], 1)
    turned = multiply_quat(quat_from_rotvec(slots[..., 3:6]), quats[:, :-1])
    cosine = (turned * quats[:, 1:]).sum(-1).abs()
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    assert slots[..., 7:].abs().max() == 0, "what is told as a turn is told nowhere else"
    back = from_action_slots(slots, POSES, proprio=proprio)
    torch.testing.assert_close(back[..., [0, 1, 2, 7]], actions[..., [0, 1, 2, 7]], atol=1e-5, rtol=1e-5)
    cosine = (back[..., 3:7] * actions[..., 3:7]).sum(-1).abs()
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_orientations_stay_where_the_robot_tells_none_of_its_own():
    robot = replace(POSES, proprio=named(*NAMED, "joint1"))
    actions, proprio = poses(5)[..., :8], numbers(4, seed=1)
    slots = action_slots(actions, robot, proprio=proprio)
    assert all((slots == actions[:, dim, None]).all(0).any() for dim in range(3, 8)) and not slots[:, 3:6].any()


def test_a_robot_told_poses_rests_in_its_own():
    proprio = poses(3, seed=2)
    rest = resting_action(proprio, POSES)
    torch.testing.assert_close(rest[:, :7], proprio[:, :7])
    slots = action_slots(rest[:, None], POSES, proprio=proprio)
    torch.testing.assert_close(slots, torch.zeros_like(slots), atol=1e-6, rtol=0)

"""How far actions may go: the same for the learned simulator and for searches, by what is known of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed")

import toy_world

from scene4d.data.formats.robots.rlbench import POSE_SPEC
from scene4d.env.batched_sim import WorldConfig
from scene4d.env.vector_env import WorldVectorEnv
from scene4d.env.world_env import WorldEnv
from scene4d.errors import ConfigError, EnvError
from scene4d.robot.bounds import action_bounds, action_range, within_bounds
from scene4d.robot.spec import RobotSpec
from scene4d.sim.metaworld import ACTION_SPEC

QUICK = WorldConfig(size=8, max_steps=20)
JOINTS = [{"name": f"joint{i}", "unit": "rad"} for i in range(3)] + [{"name": "lift", "unit": "m"}]
REACHED = torch.tensor([[1.0, -2.5, 0.0, 0.4], [2.0, 0.5, 3.0, 0.6]])
RANGE = action_range([REACHED])


def bounds(width=4, *, recorded=None, **info):
    """Bounds of a robot of which `info` is recorded."""
    low, high = action_bounds(RobotSpec.from_info(info, num_actions=width).with_recorded(recorded))
    return low.tolist(), high.tolist()


def start(*, recorded=None, **info):
    start = toy_world.toy_start(**info)
    return start.replace(robot=start.robot.with_recorded(recorded))


def env_of(starts, **options):
    return WorldEnv(toy_world.ToyWorld(goal_x=9e9), starts, cameras=toy_world.cameras(), config=QUICK, **options)


def test_what_is_scaled_goes_from_minus_one_to_one():
    """Meta-World's spec counts in steps of 2 cm; what was recorded does not narrow that, but may lie beyond."""
    still = action_range([torch.zeros(5, 4)])
    for recorded in (None, still):
        assert bounds(action_spec=ACTION_SPEC, recorded=recorded) == ([-1] * 4, [1] * 4)
    low, high = bounds(action_spec=ACTION_SPEC, recorded=RANGE)
    assert low == [min(-1, x) for x, _ in RANGE] and high == [max(1, x) for _, x in RANGE]
    assert (low, high) != ([-1] * 4, [1] * 4)
    for unit in ("-1..1", "-1 to 1", "[-1, 1]", "-1.0 to 1.0", "normalised", "normalized torque", "1", "0.05 rad"):
        assert bounds(1, action_spec=[{"name": "a", "unit": unit}]) == ([-1], [1]), unit
    assert bounds(action_spec=JOINTS, action_meaning="normalised joint targets") == ([-1] * 4, [1] * 4)
    for unit in ("-1.5 to 1.5", "-10 to 10", "m", "rad/s", "not normalised", None):
        assert bounds(1, action_spec=[{"name": "a", "unit": unit}]) == ([-math.inf], [math.inf]), unit


def test_what_is_measured_goes_as_far_as_was_recorded_and_a_little_further():
    low, high = bounds(action_spec=JOINTS, recorded=RANGE)
    assert low == pytest.approx([0.9, -2.8, -0.3, 0.38]) and high == pytest.approx([2.1, 0.8, 3.3, 0.62])
    low, high = bounds(8, action_spec=POSE_SPEC, recorded=action_range([torch.full((2, 8), 0.5)]))
    assert low[:3] == pytest.approx([0.499] * 3) and low[3:] == [-1] * 5 and high[3:] == [1] * 5
    assert bounds(action_spec=JOINTS) == ([-math.inf] * 4, [math.inf] * 4)


def test_where_nothing_is_said_what_was_recorded_decides():
    vague = [{"name": str(i), "unit": None} for i in range(4)]
    low, high = bounds(action_spec=vague, recorded=RANGE)
    assert low == pytest.approx([0.9, -2.8, -0.3, -1]) and high == pytest.approx([2.1, 0.8, 3.3, 1])
    assert bounds(recorded=action_range([REACHED / 3])) == ([-1] * 4, [1] * 4)
    assert bounds() == ([-math.inf] * 4, [math.inf] * 4)


def test_what_is_declared_comes_first():
    spec = [{**JOINTS[0], "low": -3.1, "high": 3.1}, {**JOINTS[1], "low": -4.0, "high": None}, *JOINTS[2:]]
    low, high = bounds(action_spec=spec, recorded=RANGE)
    assert low == pytest.approx([-3.1, -4.0, -0.3, 0.38]) and high == pytest.approx([3.1, 0.8, 3.3, 0.62])


@pytest.mark.parametrize(
    "known",
    [
        {"action_spec": [{"low": "far"}]},
        {"action_spec": [{"low": 2.0, "high": 1.0}]},
        {"action_spec": [{"high": math.nan}]},
        {"action_spec": JOINTS},
        {"recorded": RANGE},
    ],
    ids=["text", "order", "nan", "long spec", "long range"],
)
def test_impossible_bounds_are_refused(known):
    with pytest.raises(ConfigError, match=r"action_(spec|range)") as raised:
        bounds(1, **known)
    assert raised.value.found is not None and raised.value.expected is not None


def test_range_leaves_out_what_is_not_finite():
    rows = torch.tensor([[[math.nan, 1.0], [math.nan, math.inf]], [[math.nan, -2.0], [math.nan, 0.5]]])
    found = action_range([rows, torch.zeros(0, 2), torch.full((3, 2), math.nan)])
    assert found == ((math.inf, -math.inf), (-2.0, 1.0))
    low, _ = bounds(2, action_spec=JOINTS[:2], recorded=found)
    assert low == pytest.approx([-math.inf, -2.3])


def test_a_recording_can_be_stepped_with_its_own_actions():
    """Absolute joint angles beyond 1 rad, from starts that each know but their own recording."""
    parts = [start(action_spec=JOINTS, recorded=action_range([part])) for part in REACHED.split(1)]
    for starts in ([start(action_spec=JOINTS, recorded=RANGE)], parts):
        env = env_of(starts)
        env.reset(seed=0)
        for action in REACHED:
            env.step(action.numpy())
        with pytest.raises(EnvError, match=r"action\[0\]"):
            env.step(REACHED[0] + 5)
    vector = WorldVectorEnv(toy_world.ToyWorld(), parts, num_envs=2, cameras=toy_world.cameras(), config=QUICK)
    vector.reset(seed=0)
    vector.step(REACHED)


def test_unbounded_actions_have_to_be_finite_still():
    env = env_of([start(action_spec=JOINTS)])
    assert not env.action_space.is_bounded()
    env.reset(seed=0)
    env.step(np.array([0.0, 2.0, -70.0, 1.0], np.float32))
    for wrong in (np.inf, -np.inf, np.nan):
        with pytest.raises(EnvError, match=r"action\[2\]"):
            env.step(np.array([0, 0, wrong, 0], np.float32))


@pytest.mark.parametrize(
    "action",
    [[0.0, [1.0, 2.0], 0.0, 0.0], [0.0, None, 0.0, 0.0], {"a": 1}, None, ["0", "0", "0", "0"]],
    ids=["ragged", "none inside", "mapping", "none", "texts"],
)
def test_fault_50_what_is_no_table_of_numbers_is_no_action(action):
    env = env_of([start()])
    vector = WorldVectorEnv(toy_world.ToyWorld(), [start()], num_envs=2, cameras=toy_world.cameras(), config=QUICK)
    env.reset(seed=0)
    vector.reset(seed=0)
    for step, given in ((env.step, action), (vector.step, [action, action]), (vector.step, [[0.0] * 4, [0.0] * 3])):
        with pytest.raises(EnvError, match="action") as raised:
            step(given)
        assert raised.value.field == "action" and raised.value.found is not None and raised.value.expected is not None


def test_tensors_that_carry_gradients_are_actions():
    env = env_of([start()])
    env.reset(seed=0)
    seen, *_ = env.step(torch.tensor([1.0, 0, 0, 0], requires_grad=True))
    assert seen["agent_pos"][0] == pytest.approx(toy_world.STEP_M)


def test_actions_are_held_to_the_bounds_and_keep_their_batch():
    robot = RobotSpec.from_info({"action_spec": JOINTS}, num_actions=4).with_recorded(RANGE)
    low, high = action_bounds(robot)
    inside = ((low + high) / 2).expand(2, 3, 4)
    assert within_bounds(inside, robot).equal(inside)
    assert within_bounds(inside + 100, robot).equal(high.expand(2, 3, 4))
    assert within_bounds(inside - 100, robot).equal(low.expand(2, 3, 4))

"""Closed-loop evaluation: intervals against known values, honest success, nothing but its own cameras for the agent."""

import json

import pytest
import torch

from scene4d.errors import ConfigError, NumericsError
from scene4d.eval.control.closed_loop import (
    Rollout,
    RolloutConfig,
    failure_kind,
    paired_success,
    report,
    roll_out,
    summarise,
)
from scene4d.eval.metrics.rates import paired_interval

TASK = "button-press-v3"
QUICK = RolloutConfig(size=(16, 16), max_frames=5)


def test_summary_counts():
    rollout = lambda seed, success, steps: Rollout(
        TASK, seed, success, steps, 0.1, torch.zeros(1, 4), torch.zeros(1, 4)
    )
    found = summarise([rollout(1, True, 20), rollout(2, False, 100), rollout(3, True, 30)])
    assert found["success"] == 0.6667 and found["mean_steps"] == 25 and found["failures"] == {"stuck": [2]}
    assert summarise([])["success"] is None


def some(*successes):
    numbers = torch.zeros(1, 4)
    return [Rollout(TASK, seed, bool(s), 10, 0.1, numbers, numbers) for seed, s in enumerate(successes)]


def test_pairs_are_compared_seed_by_seed():
    found = paired_success(some(1, 1, 0, 1), some(1, 0, 0, 0))
    assert found["mean"] == 0.5 and (found["only_ours"], found["only_other"]) == (2, 0)
    assert found["interval"] == pytest.approx(paired_interval(2, 0, both=1, neither=1), abs=1e-4) and found["p"] == 0.5
    for ours, other in ((some(1, 1), some(1)), ([], [])):
        with pytest.raises(ConfigError, match="same of both"):
            paired_success(ours, other)


def test_failures_are_of_several_kinds():
    walk = torch.arange(30.0)[:, None] * torch.tensor([0.01, 0, 0, 0])
    rollout = lambda proprio, **kw: Rollout(
        TASK, 1, kw.pop("success", False), 30, 0.1, torch.zeros(30, 4), proprio, **kw
    )
    assert failure_kind(rollout(walk, success=True)) is None
    assert failure_kind(rollout(walk)) == "missed"
    assert failure_kind(rollout(walk.clamp_max(0.1))) == "stuck"
    assert failure_kind(rollout(walk.clamp_max(0.1), touched_m=0.05)) == "unfinished"


class Player:
    """Plays a list of actions and notes what it was given."""

    def __init__(self, actions):
        self.actions, self.resets, self.cameras, self.goals = actions, 0, set(), []

    def reset(self):
        self.step_index, self.resets = 0, self.resets + 1

    def step(self, frames, *, proprio, task, goal=None):
        self.goals.append(goal)
        self.cameras |= set(frames)
        assert proprio.shape == (4,) and all(f.depth is not None for f in frames.values())
        self.step_index += 1
        return self.actions[min(self.step_index, len(self.actions)) - 1]


def test_idle_agent_fails_and_its_video_is_kept():
    pytest.importorskip("metaworld", reason="the simulator is not installed")
    agent = Player([torch.zeros(4)])
    rollout = roll_out(agent, TASK, seed=1001, config=QUICK, film="front")
    assert not rollout.success and rollout.num_steps == 5 and len(rollout.video) == 5
    assert rollout.touched_m < 1e-3
    assert agent.cameras == {"left", "right"} and agent.goals == [None] * 5
    assert rollout.actions.shape == (5, 4) and rollout.proprio.shape == (5, 4)


def test_an_agent_gets_the_goal_that_no_image_shows():
    """It is where success is: the hand that was put there has reached it."""
    pytest.importorskip("metaworld", reason="the simulator is not installed")
    agent = Player([torch.zeros(4)])
    roll_out(agent, "reach-v3", seed=1001, config=QUICK)
    goal = agent.goals[0]
    assert goal.shape == (3,)

    class Straight(Player):
        def step(self, frames, *, proprio, task, goal=None):
            # The hand's place is that of its wrist; success is counted where the fingers meet, a little below.
            return torch.cat([20 * (goal - proprio[:3] + torch.tensor([0, 0, 0.045])), torch.ones(1)]).clamp(-1, 1)

    assert roll_out(Straight([]), "reach-v3", seed=1001, config=RolloutConfig(size=(16, 16), max_frames=80)).success


def test_replayed_expert_succeeds():
    pytest.importorskip("metaworld", reason="the simulator is not installed")
    from scene4d.sim.metaworld import MetaWorldSim

    actions = []
    with MetaWorldSim(TASK, seed=1002, size=(16, 16), cameras=()) as sim:
        success = False
        while not success:
            actions.append(sim.expert_action())
            success = sim.step(actions[-1])[1]
    agent = Player(actions)
    rollout = roll_out(agent, TASK, seed=1002, config=RolloutConfig(size=(16, 16), max_frames=60))
    assert rollout.touched_m > 0.02 and agent.resets == 1
    result = report([rollout])
    assert result["success"] == 1.0 and result["mean_steps"] == len(actions)
    assert result["tasks"][TASK]["interval"] == result["interval"]
    assert json.loads(json.dumps(result)) == result


def test_an_agent_on_the_table_gets_the_caption():
    pytest.importorskip("mujoco", reason="the simulator is not installed")
    from scene4d.sim.recorder import open_sim

    name, tasks = "tabletop/push-red-block-to-middle", []
    with open_sim(name, seed=1002, cameras=()) as sim:
        actions, success = [], False
        while not success:
            actions.append(sim.expert_action())
            success = sim.step(actions[-1])[1]

    class Listener(Player):
        def step(self, frames, *, proprio, task, goal=None):
            tasks.append(task)
            return super().step(frames, proprio=proprio, task=task, goal=goal)

    rollout = roll_out(Listener(actions), name, seed=1002, config=RolloutConfig(size=(16, 16), max_frames=60))
    assert rollout.success and rollout.num_steps == len(actions) and rollout.touched_m > 0.03
    assert set(tasks) == {"push the red block to the middle"}


@pytest.mark.parametrize("num", [0, 251])
def test_episodes_are_as_long_as_the_simulator_allows(num):
    with pytest.raises(ConfigError, match="max_frames"):
        RolloutConfig(max_frames=num)


def test_an_agent_without_a_finite_action_has_failed_and_the_others_go_on():
    pytest.importorskip("metaworld", reason="the simulator is not installed")

    class Lost(Player):
        def step(self, frames, **state):
            if len(self.goals) == 2:
                raise NumericsError("no future is finite", field="plan")
            return super().step(frames, **state)

    rollout = roll_out(Lost([torch.zeros(4)]), TASK, seed=1003, config=QUICK)
    assert not rollout.success and failure_kind(rollout) == "gave up" and rollout.num_steps == 2
    assert report([rollout])["tasks"][TASK]["failures"] == {"gave up": [1003]}

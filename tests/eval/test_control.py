"""Closed-loop evaluation: intervals against known values, honest success, nothing but its own cameras for the agent."""

import json

import pytest
import torch

from scene4d.errors import ConfigError
from scene4d.eval.control import (
    Rollout,
    RolloutConfig,
    failure_kind,
    paired_difference,
    report,
    roll_out,
    summarise,
    wilson_interval,
)

TASK = "button-press-v3"
QUICK = RolloutConfig(size=(16, 16), max_frames=5)


@pytest.mark.parametrize(
    ("wins", "trials", "low", "high"),
    [(0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (8, 10, 0.49016, 0.94331), (263, 500, 0.48220, 0.56940)],
)
def test_wilson_interval_has_the_published_values(wins, trials, low, high):
    found = wilson_interval(wins, trials)
    assert found == pytest.approx((low, high), abs=2e-5)


def test_wilson_interval_covers_as_it_says():
    """Of many experiments with a true rate of 0.8, about 95 % of the intervals hold it."""
    wins = torch.distributions.Binomial(50, torch.tensor(0.8)).sample((4000,)).int()
    table = [wilson_interval(k, 50) for k in range(51)]
    share = sum(table[k][0] <= 0.8 <= table[k][1] for k in wins.tolist()) / 4000
    assert 0.92 < share < 0.98


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
    found = paired_difference(some(1, 1, 0, 1), some(1, 0, 0, 0))
    assert found["mean"] == 0.5 and (found["only_ours"], found["only_other"]) == (2, 0)
    # Differences 0 1 0 1: deviation 0.577, over four pairs.
    assert found["interval"] == pytest.approx([0.5 - 1.96 * 0.57735 / 2, 0.5 + 1.96 * 0.57735 / 2], abs=1e-4)
    with pytest.raises(ConfigError, match="same of both"):
        paired_difference(some(1, 1), some(1))


def test_failures_are_told_apart():
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


def test_who_acts_is_told_the_goal_that_no_picture_shows():
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

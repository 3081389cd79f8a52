"""Planning in a world whose law is known: searches against exact optima, goals given as Gaussians or as images."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import toy_world

from scene4d.errors import ConfigError, NumericsError
from scene4d.plan.cost import Approach, ImageCost, MovingObject, PointCost, SuccessCost
from scene4d.plan.goal import GoalConfig, clusters, compare_goal, features_of, hand_response, register, tracked
from scene4d.plan.goal_tracker import GoalTracker
from scene4d.plan.search import SearchConfig, best_of, cem, find_plan, held, knots_of, moved_on, mppi
from scene4d.render.render import render
from scene4d.types import Cameras

CONFIG = SearchConfig(num_samples=48, num_iterations=3)
WORLD = toy_world.ToyWorld()
HAND_ROWS, BLOCK_ROWS = torch.arange(64), torch.arange(64, 128)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def hand_cost(shift):
    return PointCost(hand=torch.tensor(shift))


@pytest.mark.parametrize("method", [cem, mppi])
def test_search_finds_the_plan_that_arithmetic_knows(method):
    """The best end of 8 steps of at most 2 cm each is known; so is that it takes one call a round."""
    state, world = toy_world.toy_state(), toy_world.ToyWorld()
    config = SearchConfig(num_samples=128, num_iterations=6, min_spread=0.03)
    plan = find_plan(world, state, method=method, cost=hand_cost((-0.08, 0.06, 0.03)), config=config)
    end = 0.02 * plan.actions[:, :3].sum(0)
    assert (end - torch.tensor([-0.08, 0.06, 0.03])).norm() < 0.02
    assert world.num_calls == config.num_iterations
    assert list(plan.costs) == sorted(plan.costs, reverse=True) and plan.costs[-1] < 0.7 * plan.costs[0]
    far = find_plan(world, state, method=method, cost=hand_cost((-9.0, 0.0, 0.0)), config=config)
    assert float(far.actions[:, 0].mean()) < -0.9 and float(far.actions.abs().max()) <= 1


def test_search_repeats_by_seed_and_starts_from_a_plan():
    state, cost = toy_world.toy_state(), hand_cost((-0.1, 0.05, 0.0))
    one, two, other = (find_plan(WORLD, state, cost=cost, config=CONFIG, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.actions, two.actions) and not torch.equal(one.actions, other.actions)
    again = find_plan(WORLD, state, cost=cost, config=CONFIG, start=other.actions, seed=1)
    assert again.cost <= other.cost + 1e-6  # the mean of the start is itself tried


@pytest.mark.parametrize("method", [cem, mppi])
def test_search_keeps_to_the_bounds_of_the_actions(method):
    """The spec decides: narrow, wide or none; starts and proposals are held to it, and they are used."""
    cost = hand_cost((-9.0, 0.0, 0.0))
    config = SearchConfig(num_samples=128, num_iterations=6, min_spread=0.03)
    rows, rest = toy_world.SPEC[1:], torch.zeros(2, 4, 4)

    def least(row, *, proposals=None, start=None):
        bounded = toy_world.toy_state(action_spec=[row, *rows])
        plan = find_plan(WORLD, bounded, method=method, cost=cost, config=config, start=start, proposals=proposals)
        assert float(plan.actions[:, 1:].abs().max()) <= 1
        return float(plan.actions[:, 0].min()), float(plan.actions[:, 0].mean())

    for bound in (0.25, 30.0):
        low, mean = least({"name": "dx", "low": -bound, "high": bound})
        assert -bound <= low <= mean < -0.5 * bound
    assert least({"name": "dx", "unit": "m"})[0] < -1.2
    narrow = {"name": "dx", "low": -0.25, "high": 0.25}
    assert -0.25 <= least(narrow, proposals=rest - 1, start=-torch.ones(8, 4))[0] < -0.24


def test_knots_hold_and_move_on():
    knots = torch.arange(8.0).reshape(4, 2)
    actions = held(knots, horizon=8)
    assert actions[:, 0].tolist() == [0, 0, 2, 2, 4, 4, 6, 6]
    assert torch.equal(knots_of(actions, num=4), knots)
    assert moved_on(actions, 3)[:, 0].tolist() == [2, 4, 4, 6, 6, 6, 6, 6]


def test_futures_that_are_not_finite_are_never_chosen():
    world = toy_world.ToyWorld(breaks_at=0.06)
    plan = find_plan(world, toy_world.toy_state(), cost=hand_cost((0.16, 0.0, 0.0)), config=CONFIG)
    assert 0.02 * float(plan.actions[:, 0].sum()) <= 0.0601 and plan.cost < float("inf")


def test_no_finite_future_is_no_plan():
    """Where the model answers NaN whatever is done, nothing is returned that looks like a plan."""
    broken, state = toy_world.ToyWorld(breaks_at=-1.0), toy_world.toy_state()
    for method in (cem, mppi):
        with pytest.raises(NumericsError, match="finite"):
            find_plan(broken, state, method=method, cost=hand_cost((0.1, 0.0, 0.0)), config=CONFIG)
    with pytest.raises(NumericsError, match="finite"):
        best_of(broken, state, proposals=torch.zeros(3, 8, 4), cost=hand_cost((0.1, 0.0, 0.0)))


def test_best_of_takes_the_proposal_that_the_model_likes():
    """Among pushes of different lengths the one that brings the block past the mark is chosen."""
    proposals = torch.zeros(4, 8, 4)
    proposals[:, :, 0] = torch.tensor([0.1, 1.0, -1.0, 0.4])[:, None]
    state = toy_world.toy_state(block=(0.31, 0.0, 0.05), hand=(0.2, 0.0, 0.05))
    plan = best_of(toy_world.ToyWorld(goal_x=0.4), state, proposals=proposals, cost=SuccessCost())
    assert torch.equal(plan.actions, proposals[1])


def test_carried_points_are_those_of_advance():
    state = toy_world.toy_state(hand=(0.1, 0.0, 0.05))
    actions = torch.zeros(1, 8, 4)
    actions[..., 0] = 0.7
    forecast = WORLD.predict(state.expand(1), actions=actions)
    moved = MovingObject(WORLD, torch.arange(278), torch.zeros(3)).displacement(state, forecast)[0, -1]
    later = WORLD.advance(state.expand(1), forecast, num_steps=8)
    places = state.anchored.gaussians.means + moved
    torch.testing.assert_close(places, later.anchored.gaussians.means[0], atol=1e-6, rtol=0)


def test_approach_comes_from_above():
    """Beside the place, lower is dearer; over it, lower is cheaper; every step across and down pays."""
    cost = PointCost(hand=None, approach=Approach(clearance=0.1, slope=15.0, radius=0.01))
    beside = cost._path_length(torch.tensor([[0.2, 0.0, 0.0], [0.2, 0.0, 0.1]]))
    over = cost._path_length(torch.tensor([[0.01, 0.0, 0.0], [0.01, 0.0, 0.1]]))
    assert beside[0] > beside[1] and over[0] < over[1] and over[0] == pytest.approx(0.01)
    across = torch.tensor([[0.02 * i, 0.0, 0.1] for i in range(10)])
    assert bool((cost._path_length(across).diff() > 0).all())


def test_an_object_is_believed_to_follow_only_the_hand_that_stays_at_it():
    """The hand is 7 cm before its place in the goal, and at it on an object that has 7 cm to go; the object is
    predicted to go 4 cm whatever the hand does."""
    away = 0.07
    cost = PointCost(
        hand=torch.tensor([away, 0.0, 0.0]), moving=MovingObject(WORLD, torch.arange(1), torch.tensor([away, 0.0, 0.0]))
    )
    moved = torch.linspace(0.01, 0.04, 4)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    still = torch.zeros_like(moved)
    lifts, along, ahead = still + still.new_tensor([0, 0, 0.05]), moved.clone(), 1.3 * moved
    hands = torch.stack([lifts, along, ahead]) - cost.hand
    believed = cost._believed(moved.expand(3, -1, -1), hands, object_shift=cost.moving.shift)[:, -1, 0]
    assert believed[0] < 1e-4 and believed[1] == pytest.approx(0.04) and 0.035 < believed[2] < 0.04


def test_a_grip_whose_angle_wraps_is_kept():
    """A wrist at half a turn that the sensor reads from the other side has hardly turned."""
    rows = [*toy_world.PROPRIO[:3], {"name": "yaw", "unit": "rad"}]
    cost = PointCost(hand=None, grip=torch.tensor([3.14]))
    costs = []
    for yaw in (-3.14, 3.1368, 0.0):
        start = toy_world.toy_start(proprio_spec=rows)
        state = WORLD.observe(start.replace(proprio=torch.cat([start.proprio[:, :3], torch.full((4, 1), yaw)], 1)))
        costs.append(float(cost(state, WORLD.predict(state.expand(1), actions=torch.zeros(1, 8, 4)))))
    assert costs[0] == pytest.approx(0.3 * (2 * math.pi - 6.28), abs=1e-5)
    assert costs[1] == pytest.approx(0.3 * 0.0032, abs=1e-5) and costs[2] == pytest.approx(0.3 * 3.14, abs=1e-5)


def test_the_hand_comes_behind_what_it_shall_move():
    part = MovingObject(WORLD, torch.arange(1), torch.tensor([0.1, 0.0, 0.0]))
    place = (
        torch.tensor([0.02, 0.0, 0.0]) + part.shift
    )  # the hand's own shift is part of the goal, in which it moved along
    coming = PointCost(hand=place, moving=part, approach=Approach(behind=0.01, radius=0.5))
    torch.testing.assert_close(coming.next_hand_shift(), torch.tensor([0.01, 0.0, 0.0]))


def test_tracking_finds_an_object_that_went_on_and_one_that_stayed():
    rows = features_of(toy_world.toy_state().anchored.gaussians, config=GoalConfig())
    part, floor = rows[BLOCK_ROWS], rows[128:]
    begins = torch.arange(-2, 5)[:, None] * torch.tensor([0.02, 0.0, 0.0])
    for shift in (torch.zeros(3), torch.tensor([0.07, 0.004, 0.0])):
        now = torch.cat([floor, part + torch.nn.functional.pad(shift, (0, 3))])
        torch.testing.assert_close(tracked(part, now, shifts=begins, limit=0.04), shift, atol=2e-3, rtol=0)


@pytest.mark.parametrize("method", [cem, mppi])
def test_what_is_proposed_is_tried(method):
    """With no luck of its own to speak of, a search finds the proposal that leads where the cost wants it."""
    config = SearchConfig(num_samples=4, num_iterations=1, spread=1e-3, min_spread=1e-3)
    proposals = torch.zeros(2, config.num_knots, 4)
    proposals[1, :, 0] = -0.5
    plan = find_plan(
        WORLD,
        toy_world.toy_state(),
        method=method,
        cost=hand_cost((-0.08, 0.0, 0.0)),
        config=config,
        proposals=proposals,
    )
    torch.testing.assert_close(plan.actions[:, 0], torch.full((8,), -0.5), atol=0.01, rtol=0)


def test_heuristic_proposals_lead_the_hand_as_far_as_the_model_says():
    tracker = GoalTracker(WORLD, toy_world.toy_state(hand=(0.05, 0.04, 0.05)).anchored.gaussians)
    state = toy_world.toy_state(hand=(0.0, 0.0, 0.05))
    cost = tracker.cost(state)
    actions = held(tracker.heuristic_proposals(cost, config=CONFIG), horizon=8)
    ends = WORLD.predict(state.expand(len(actions)), actions=actions).proprio[:, -1, :3] - state.proprio[:3]
    assert (ends - cost.hand).norm(dim=-1).min() < 0.005
    tracker.parts = replace(tracker.parts, step_per_action=torch.diag(torch.tensor([0.02, 0.0, 0.02])))
    deaf = tracker.heuristic_proposals(cost, config=CONFIG)  # a hand that does not respond along the second axis
    assert bool(deaf.isfinite().all()) and not bool(deaf[..., 1].any()) and bool(deaf[..., 0].any())


def test_what_follows_the_hand_is_the_robot():
    """The block that the hand touches follows in one direction, the hand in all."""
    state = toy_world.toy_state(hand=(0.13, 0.0, 0.05))
    robot = hand_response(WORLD, state).follows
    assert bool(robot[HAND_ROWS].all()) and not bool(robot[BLOCK_ROWS].any()) and not bool(robot[128:].any())


def test_registration_finds_a_known_shift_among_clutter():
    config, shift = GoalConfig(), torch.tensor([0.21, -0.13, 0.07])
    state = toy_world.toy_state()
    rows = features_of(state.anchored.gaussians, config=config)
    noisy = rows + torch.nn.functional.pad(shift + 0.003 * torch.randn(len(rows), 3), (0, 3))
    goal = torch.cat([rows[64:], noisy[HAND_ROWS]])[torch.randperm(len(rows))]
    found, share = register(rows[HAND_ROWS], goal, places=goal[:, :3], config=config)
    assert (found - shift).norm() < 0.01 and share > 0.8


def test_goal_is_read_from_geometry_and_colour():
    """Ids and order of the goal's rows are gone; hand and block are found where they went, the floor stays."""
    state = toy_world.toy_state()
    goal = toy_world.toy_state(hand=(0.3, 0.1, 0.05), block=(0.42, 0.0, 0.05)).anchored.gaussians
    goal = goal.pick(torch.randperm(goal.num_gaussians))
    parts = compare_goal(WORLD, state, goal=goal.replace(ids=torch.arange(goal.num_gaussians) + 5000))
    torch.testing.assert_close(parts.hand_shift, torch.tensor([0.3, 0.1, 0.0]), atol=0.01, rtol=0)
    torch.testing.assert_close(parts.object_shift, torch.tensor([0.22, 0.0, 0.0]), atol=0.01, rtol=0)
    alone = compare_goal(WORLD, state, goal=toy_world.toy_state(hand=(-0.2, 0.1, 0.1)).anchored.gaussians)
    assert alone.moved_object is None and (alone.hand_shift - torch.tensor([-0.2, 0.1, 0.05])).norm() < 0.01


def test_clusters_are_parted_by_gaps():
    points = torch.cat([torch.rand(40, 3) * 0.05, torch.rand(20, 3) * 0.05 + 0.5, torch.rand(5, 3) * 0.01 - 1])
    found = clusters(points, torch.ones(65, dtype=torch.bool), config=GoalConfig())
    assert [len(c) for c in found] == [40, 20] and int(found[0].max()) == 39


def closed_loop(state, make_cost, *, plans, propose=None):
    """Plan, do four steps of it, plan again."""
    plan = None
    for i in range(plans):
        start = None if plan is None else moved_on(plan.actions, 4)
        cost = make_cost(state)
        proposals = None if propose is None else propose(cost, config=CONFIG)
        plan = find_plan(WORLD, state, cost=cost, config=CONFIG, start=start, proposals=proposals, seed=i)
        forecast = WORLD.predict(state.expand(1), actions=plan.actions[None])
        state = WORLD.advance(state.expand(1), forecast, num_steps=4)[0]
    return state


def test_planning_reaches_a_goal_scene():
    """From a goal given as Gaussians alone: the hand goes round nothing, pushes the block and stops where it shall."""
    goal = toy_world.toy_state(hand=(0.33, 0.0, 0.05), block=(0.40, 0.0, 0.05)).anchored.gaussians
    tracker = GoalTracker(WORLD, goal)
    end = closed_loop(
        toy_world.toy_state(hand=(0.0, 0.05, 0.1)), tracker.cost, plans=16, propose=tracker.heuristic_proposals
    )
    assert abs(float(end.anchored.anchors[toy_world.BLOCK, 0]) - 0.40) < 0.03
    assert (end.anchored.anchors[toy_world.HAND] - torch.tensor([0.33, 0.0, 0.05])).norm() < 0.04


def test_planning_reaches_a_goal_image():
    cameras = Cameras.stack([c for c in toy_world.cameras().values()])
    goal = render(toy_world.toy_state(hand=(0.05, 0.12, 0.08)).anchored.gaussians, cameras)
    end = closed_loop(toy_world.toy_state(), lambda state: ImageCost(WORLD, goal), plans=6)
    assert (end.anchored.anchors[toy_world.HAND] - torch.tensor([0.05, 0.12, 0.08])).norm() < 0.03
    flat = closed_loop(toy_world.toy_state(), lambda state: ImageCost(WORLD, goal.replace(depth=None)), plans=10)
    assert (flat.anchored.anchors[toy_world.HAND] - torch.tensor([0.05, 0.12, 0.08])).norm() < 0.04


def test_a_goal_that_no_state_was_compared_with_proposes_nothing():
    tracker = GoalTracker(WORLD, toy_world.toy_state().anchored.gaussians)
    with pytest.raises(ConfigError, match="call cost first"):
        tracker.heuristic_proposals(hand_cost((0.1, 0.0, 0.0)), config=CONFIG)
    with pytest.raises(ConfigError, match="hand"):
        PointCost(hand=None).next_hand_shift()

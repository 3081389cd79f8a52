"""`scene4d eval plan`: reach goal scenes in Meta-World by planning with the world model, without any policy."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scene4d.apps.compose.action_head import head_of
from scene4d.apps.compose.models import Models, load_models, models_once
from scene4d.apps.compose.perception import new_memory
from scene4d.apps.terminal.progress import counter_shown
from scene4d.apps.training.processes import in_processes
from scene4d.apps.verbs.evaluate_policy import rollout_config
from scene4d.apps.verbs.options.evaluation import EvalPlanOptions
from scene4d.errors import ConfigError
from scene4d.eval.control.closed_loop import Rollout, RolloutConfig, roll_out, summarise
from scene4d.eval.metrics.seeds import seed_range
from scene4d.plan.cost import ImageCost, PointCost
from scene4d.plan.goal_tracker import GoalTracker
from scene4d.plan.search import Cost, Plan, SearchConfig, best_of, cem, find_plan, moved_on, mppi
from scene4d.policy.encoders import views_for
from scene4d.robot.bounds import within_bounds
from scene4d.robot.slots import hand_position
from scene4d.robot.spec import RobotSpec
from scene4d.sim.metaworld import MetaWorldSim
from scene4d.types import Cameras, Frames, Gaussians, Task
from scene4d.world.capabilities import MovesAnchors, require
from scene4d.world.contract import State
from scene4d.world.observation import Observation

HOLD_STEPS = 10
"""Steps for which an expert has to hold its success before the scene is a goal: 0.25 s."""


@dataclass(frozen=True)
class Goal:
    """Where an expert's episode ended: the memory of it, and the last frames [v] of the input cameras."""

    gaussians: Gaussians
    frames: Frames
    reached: bool
    """Whether the expert solved the task."""


def run_eval_plan(options: EvalPlanOptions) -> dict[str, Any]:
    """Returns {success, interval, num_rollouts, tasks: {name: {success, interval, ...}}, seconds_per_plan, ...}.

    Goals of experts that failed are played all the same and listed in `expert_failed` [[task, seed]].

    Raises:
        ConfigError: the seeds are an empty range, a number is below 1, or no action head is there to propose plans.
    """
    seeds = seed_range(options.seeds)
    models = load_models(options.weights)
    require(models.world, MovesAnchors, what="planning")
    rollout_config(models, max_frames=options.max_frames)
    if options.search == "policy" and models.policy is None:
        raise ConfigError("holds no action head", file=options.weights, fix="run: scene4d train configs/tiny.toml")
    jobs = [{"task": task, "seed": seed, "options": options} for task in options.tasks for seed in seeds]
    with counter_shown("planning") as count:
        played = in_processes(_play, jobs, num=options.processes, progress=count)
    rollouts = [p.rollout for p in played]
    plan_seconds = [s for p in played for s in p.plan_seconds]
    return {
        **summarise(rollouts),
        "tasks": {task: summarise([r for r in rollouts if r.task == task]) for task in options.tasks},
        "seconds_per_plan": round(sum(plan_seconds) / max(1, len(plan_seconds)), 3),
        "expert_failed": [[p.rollout.task, p.rollout.seed] for p in played if not p.expert_reached],
        "seeds": list(options.seeds),
        "search": options.search,
        "goal": options.goal,
    }


@dataclass(frozen=True)
class Played:
    """One rollout towards a goal: seconds of each plan, and whether the expert that set the goal solved the task."""

    rollout: Rollout
    plan_seconds: list[float]
    expert_reached: bool


def _play(task: str, seed: int, *, options: EvalPlanOptions) -> Played:
    models = models_once(options.weights)
    config = rollout_config(models, max_frames=options.max_frames)
    goal = goal_of_expert(task, seed=seed, config=config)
    agent = PlanningAgent(models, goal, task=task, options=options)
    return Played(roll_out(agent, task, seed=seed, config=config), agent.plan_seconds, goal.reached)


def goal_of_expert(task: str, *, seed: int, config: RolloutConfig) -> Goal:
    """What the input cameras make of a scripted expert's episode until it has held its success; no action is kept.

    At the first instant of success an episode is on the edge of it, and what still moves in a memory is a step
    behind: a goal scene is one in which a task is done.
    """
    stream, held = new_memory(), 0
    seen: Frames | None = None
    with MetaWorldSim(task, seed=seed, size=config.size, cameras=config.cameras, segments=False) as sim:
        for _ in range(config.max_frames):
            seen = _stacked(sim.observe(), config.cameras)
            stream.update(seen, time=sim.time)
            if held == HOLD_STEPS:
                break
            _, reached = sim.step(sim.expert_action())
            held = held + 1 if reached else 0
    assert seen is not None  # max_frames is at least 1
    return Goal(stream.gaussians(), seen, held > 0)


NUM_PAST = 8
"""Past actions and states that a world model gets."""


@dataclass
class PlanningAgent:
    """An `Agent` without a policy: every few steps it searches the forecasts for actions that lead to the goal."""

    models: Models
    goal: Goal
    task: str
    options: EvalPlanOptions
    plan_seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = require(self.models.world, MovesAnchors, what="planning")
        horizon = self.world.spec.horizon  # a plan looks one chunk ahead
        knots = max(1, horizon // self.options.replan_every)  # an action is held until the next plan
        samples, rounds = self.options.samples, self.options.iterations
        sim = {"action_spec": MetaWorldSim.action_spec, "proprio_spec": MetaWorldSim.proprio_spec}
        self.robot = self.world.spec.robot_like(RobotSpec.from_info({**sim, "robot": MetaWorldSim.robot}))
        self.config = SearchConfig(num_samples=samples, num_iterations=rounds, horizon=horizon, num_knots=knots)
        if self.options.goal == "scene":
            # Geometry suggests trajectories that go far towards a goal scene; the samples about them refine the last
            # centimetres.
            self.config = dataclasses.replace(self.config, spread=0.3, min_spread=0.05)
        self.reset()

    def reset(self) -> None:
        """Forget everything but the goal."""
        self.stream, self.goal_tracker = new_memory(), GoalTracker(self.world, self.goal.gaussians)
        self.num_steps = 0
        self.cameras: dict[str, Cameras] = {}
        self.actions: list[Tensor] = []
        self.proprio: list[Tensor] = []
        self.plan: Plan | None = None
        self.queue: list[Tensor] = []

    def step(self, frames: Mapping[str, Frames], *, proprio: Tensor, task: str, goal: Tensor | None = None) -> Tensor:
        """The next action [a]; the goal scene is all that is known of the goal, not the place `goal`."""
        seen = _stacked(frames, tuple(frames))
        self.stream.update(seen, time=self.world.spec.step_seconds * self.num_steps)
        self.cameras = {name: f.cameras for name, f in frames.items()}
        self.proprio = [*self.proprio, proprio][-NUM_PAST - 1 :]
        if not self.queue:
            start = time.perf_counter()
            self.plan = self._search()
            self.queue = list(self.plan.actions[: self.options.replan_every])
            self.plan_seconds.append(time.perf_counter() - start)
        self.actions = [*self.actions, self.queue.pop(0)][-NUM_PAST:]
        self.num_steps += 1
        return self.actions[-1]

    def _search(self) -> Plan:
        state, options, seed = self._state(), self.options, self.num_steps
        cost = self._cost(state)
        if options.search == "policy":
            return best_of(self.world, state, proposals=self._proposals(state), cost=cost, seed=seed)
        method = {"cem": cem, "mppi": mppi}[options.search]
        start = None if self.plan is None else moved_on(self.plan.actions, options.replan_every)
        proposals = None
        if isinstance(cost, PointCost):
            proposals = self.goal_tracker.heuristic_proposals(cost, config=self.config)
        return find_plan(
            self.world, state, cost=cost, method=method, config=self.config, start=start, proposals=proposals, seed=seed
        )

    def _proposals(self, state: State) -> Tensor:
        """Chunks [n h a] that the action head draws from views of now."""
        num, head, hand = self.options.samples, head_of(self.models), hand_position(state.proprio, state.robot)
        views = views_for(head.config, self.world.anchored(state).gaussians, hand=hand)
        many = lambda x: x.expand(num, *x.shape)
        seeds = [1000 * self.num_steps + i for i in range(num)]
        chunks = head.act(views.map(many), features=None, proprio=many(state.proprio), task=self.task, seed=seeds)
        return within_bounds(chunks, state.robot)

    def _state(self) -> State:
        robot, scene, memory = self.robot, self.stream.scene(), self.stream.gaussians()
        past = torch.stack(self.actions) if self.actions else torch.zeros(1, robot.action.width)
        states, cameras, task = torch.stack(self.proprio), self.cameras, Task(self.task)
        return self.world.observe(
            Observation(past, states, robot=robot, scene=scene, memory=memory, cameras=cameras, task=task)
        )

    def _cost(self, state: State) -> Cost:
        if self.options.goal == "image":
            return ImageCost(self.world, self.goal.frames)
        return self.goal_tracker.cost(state)


def _stacked(frames: Mapping[str, Frames], names: tuple[str, ...]) -> Frames:
    return Frames.stack([frames[name].replace(extras={}) for name in names])

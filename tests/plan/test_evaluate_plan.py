"""`scene4d eval plan`: the verb runs in closed loop, its JSON has the documented keys, nothing of the expert leaks."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

pytest.importorskip("metaworld", reason="the simulator is not installed")

from box_scene import cast_boxes

from scene4d.apps.compose.models import load_models, make_models, save_models
from scene4d.apps.verbs.evaluate_plan import EvalPlanOptions, Goal, PlanningAgent, goal_of_expert, run_eval_plan
from scene4d.errors import ConfigError
from scene4d.eval.control.closed_loop import RolloutConfig
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.lift.stream.stream import SceneStream
from scene4d.models.gaussian_flow.networks.vae import VAEConfig
from scene4d.models.gaussian_flow.settings import DynamicsConfig
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.sim.metaworld import ACTION_SPEC, PROPRIO_SPEC
from scene4d.types import Cameras

CONTEXT = {"action_spec": [dict(s) for s in ACTION_SPEC], "proprio_spec": [dict(s) for s in PROPRIO_SPEC]}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    head = ActionHeadConfig(width=32, hidden=32, heads=2, encoder_depth=1, decoder_depth=1, stem=(8, 12), view_size=16)
    models = make_models({"vae": VAEConfig(), "dynamics": DynamicsConfig()}, head)
    path = tmp_path_factory.mktemp("plan") / "weights.safetensors"
    save_models(path, models, info={"context": CONTEXT})
    save_models(
        path.with_name("headless.safetensors"), dataclasses.replace(models, policy=None), info={"context": CONTEXT}
    )
    return path


def test_the_verb_runs_and_reports(weights):
    torch.set_num_threads(1)
    tiny = {"samples": 3, "iterations": 1, "max_frames": 1}
    result = run_eval_plan(EvalPlanOptions(tasks=("reach-v3",), seeds=(3, 3), weights=weights, **tiny))
    assert json.loads(json.dumps(result)) == result
    assert result["tasks"]["reach-v3"]["num_rollouts"] == result["num_rollouts"] == 1
    assert result["success"] == 0.0 and result["expert_failed"] == [["reach-v3", 3]]  # one frame is not enough
    assert result["seconds_per_plan"] > 0 and result["search"] == "cem" and result["goal"] == "scene"


@pytest.mark.parametrize(("search", "goal"), [("cem", "scene"), ("mppi", "image"), ("policy", "scene")])
def test_agent_plans_by_every_search_and_replans(weights, search, goal):
    """Actions are in range, follow the seed alone, and a new plan is made when the last one is used up."""
    torch.set_num_threads(1)
    frames = pictures()
    options = EvalPlanOptions(search=search, goal=goal, samples=3, iterations=1, replan_every=2)
    stream = SceneStream()
    stream.update(frames, time=0.0)
    agent = PlanningAgent(
        load_models(weights), Goal(stream.gaussians(), frames, True), task="reach-v3", options=options
    )
    views, proprio = {"left": frames[0], "right": frames[1]}, torch.tensor([0.0, 0.1, 0.2, 0.08])
    runs = []
    for _ in range(2):
        agent.reset()
        runs.append(torch.stack([agent.step(views, proprio=proprio, task="reach-v3") for _ in range(3)]))
    assert torch.equal(*runs) and runs[0].shape == (3, 4) and bool(runs[0].isfinite().all())
    assert len(agent.plan_seconds) == 4
    if search != "policy":
        assert float(runs[0].abs().max()) <= 1


def test_a_long_episode_does_not_grow(weights):
    """What is kept after 20 steps is what the model looks back at, and steps are counted all the same."""
    torch.set_num_threads(1)
    frames = pictures()
    options = EvalPlanOptions(samples=2, iterations=1, replan_every=20, max_frames=20)
    agent = PlanningAgent(load_models(weights), Goal(None, frames, True), task="reach-v3", options=options)
    agent.queue = list(torch.rand(20, 4))  # a plan to be carried out: nothing is searched for here
    for _ in range(20):
        agent.step({"left": frames[0], "right": frames[1]}, proprio=torch.zeros(4), task="reach-v3")
    assert agent.num_steps == 20 and agent.stream.times[-1] == pytest.approx(19 * 0.025)
    assert len(agent.stream.times) < 8 and (len(agent.actions), len(agent.proprio)) == (8, 9)


def pictures():
    """Two views of an analytic scene."""
    centres = torch.tensor([[-0.8, -0.6, 0.7], [0.8, -0.6, 0.7]])
    Ks = intrinsics_from_fov(0.8, width=24, height=24).expand(2, 3, 3)
    cameras = Cameras(viewmats=look_at(centres, torch.zeros(2, 3)), Ks=Ks, width=24, height=24)
    return cast_boxes(cameras).replace(extras={})


def test_goal_holds_what_cameras_saw_and_no_action():
    goal = goal_of_expert("reach-v3", seed=3, config=RolloutConfig(max_frames=1, size=(24, 24)))
    assert {f.name for f in dataclasses.fields(Goal)} == {"gaussians", "frames", "reached"}
    assert goal.frames.batch_shape == (2,) and goal.gaussians.num_gaussians > 500 and not goal.reached


def test_options_that_cannot_be_meant(weights):
    with pytest.raises(ConfigError, match="seeds"):
        run_eval_plan(EvalPlanOptions(seeds=(5, 4), weights=weights))
    with pytest.raises(ConfigError, match="action head"):
        run_eval_plan(EvalPlanOptions(weights=weights.with_name("headless.safetensors"), search="policy"))

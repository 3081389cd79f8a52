"""`scene4d act`: from a .s4d file to actions with names and units, and what it says when it cannot."""

import dataclasses
import json

import pytest
import torch

from scene4d.apps.act import ActOptions, observed_part, plan_actions, run_act, spec_columns, task_from_text
from scene4d.apps.agent import AgentConfig, agent_maker
from scene4d.apps.build.models import make_models, save_models
from scene4d.errors import CheckpointError, ConfigError, DataFormatError
from scene4d.gaussians.s4d import write_s4d
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.lift.stream import SceneStream
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.policy.head import ActionHead
from scene4d.sim.synthetic import cast_boxes
from scene4d.types import Cameras

SPEC = [
    {"name": n, "unit": u} for n, u in (("dx", "0.02 m"), ("dy", "0.02 m"), ("dz", "0.02 m"), ("gripper", "effort"))
]
TASKS = ["button-press-v3", "door-open-v3", "drawer-open-v3"]
PROPRIO = (0.0, 0.1, 0.2, 0.08)


@pytest.fixture(scope="module")
def frames():
    eyes = torch.tensor([[-0.8, -0.6, 0.7], [0.8, -0.6, 0.7]])
    cameras = Cameras(
        viewmats=look_at(eyes, torch.zeros(2, 3)),
        Ks=intrinsics_from_fov(0.8, 24, 24).expand(2, 3, 3),
        width=24,
        height=24,
    )
    return cast_boxes(cameras).replace(extras={})


@pytest.fixture(scope="module")
def scene(frames):
    stream = SceneStream()
    for t in range(3):
        stream.update(frames, time=0.025 * t)
    return stream.scene()


@pytest.fixture(scope="module")
def models():
    from scene4d.dynamics.model import DynamicsConfig
    from scene4d.vae.model import VAEConfig

    size = {"width": 32, "hidden": 32, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "stem": (8, 12)}
    head = ActionHeadConfig(**size, view_size=16, told_goal=True)
    made = make_models(VAEConfig(), DynamicsConfig(), head)
    with torch.no_grad():
        for parameter in made.policy.decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    for part in (made.vae, made.dynamics, made.policy):
        part.eval()
    return dataclasses.replace(made, info={"tasks": TASKS, "policy_tasks": TASKS, "context": {"action_spec": SPEC}})


@pytest.fixture(scope="module")
def files(models, scene, tmp_path_factory):
    folder = tmp_path_factory.mktemp("act")
    save_models(folder / "weights.safetensors", models, info=models.info)
    write_s4d(
        folder / "scene.s4d", scene, actions=torch.zeros(3, 4), action_spec=SPEC, info={"proprio": [list(PROPRIO)] * 3}
    )
    return folder


@pytest.mark.parametrize("forecast", [False, True])
def test_act_prints_and_returns_a_chunk(files, capsys, forecast):
    options = ActOptions(
        files / "scene.s4d", task="open the door", weights=files / "weights.safetensors", forecast=forecast
    )
    result = run_act(options)
    assert len(result["actions"]) == 8 and all(len(row) == 4 for row in result["actions"])
    assert result["names"] == ["dx", "dy", "dz", "gripper"] and result["units"][0] == "0.02 m"
    assert result["task"] == "door-open-v3" and result["time"] == 0.05
    assert json.loads(json.dumps(result)) == result
    text = capsys.readouterr().out
    assert "gripper" in text and "0.02 m" in text and text.count("step") == 8
    again, other = run_act(options), run_act(dataclasses.replace(options, seed=1))
    assert again["actions"] == result["actions"] != other["actions"]
    told = run_act(dataclasses.replace(options, goal=(0.5, 0.0, 0.1)))
    assert told["actions"] != result["actions"]
    with pytest.raises(DataFormatError, match="goal"):
        run_act(dataclasses.replace(options, goal=(0.5, float("nan"), 0.1)))


def test_forecast_changes_nothing_in_the_past_that_is_looked_at(scene):
    """A file that ends in predicted instants is read up to the last observed one."""
    longer = scene.replace(observed=torch.tensor([True, True, False]))
    part = observed_part(longer)
    assert part.times.tolist() == scene.times[:2].tolist() and part.motion.world_from_rest.shape[0] == 2
    with pytest.raises(DataFormatError, match="observed"):
        observed_part(scene.replace(observed=torch.zeros(3, dtype=torch.bool)))


def test_tasks_are_understood_by_words():
    assert task_from_text("door-open-v3", TASKS) == "door-open-v3"
    assert task_from_text("Press the button!", TASKS) == "button-press-v3"
    assert task_from_text("open drawer", TASKS) == "drawer-open-v3"
    with pytest.raises(ConfigError, match="button-press-v3"):
        task_from_text("fold the towel", TASKS)


def test_missing_names_are_numbered():
    assert spec_columns([{"name": "dx", "unit": "m"}], width=2) == (["dx", "a1"], ["m", ""])


def test_scene_without_robot_state_says_what_to_add(files, scene):
    write_s4d(files / "bare.s4d", scene)
    options = ActOptions(files / "bare.s4d", task="door open", weights=files / "weights.safetensors", forecast=False)
    with pytest.raises(DataFormatError, match="--proprio"):
        run_act(options)
    assert run_act(dataclasses.replace(options, proprio=PROPRIO))["names"] == ["dx", "dy", "dz", "gripper"]


def test_weights_without_a_head_are_refused(files, models):
    save_models(files / "headless.safetensors", dataclasses.replace(models, policy=None), info=models.info)
    with pytest.raises(CheckpointError, match="action head"):
        run_act(ActOptions(files / "scene.s4d", task="door open", weights=files / "headless.safetensors"))


def test_a_head_of_real_cameras_is_refused(files, models):
    head = ActionHead(ActionHeadConfig(eyes="pictures", num_views=2))
    save_models(files / "pictures.safetensors", dataclasses.replace(models, policy=head), info=models.info)
    with pytest.raises(ConfigError, match="real cameras"):
        run_act(ActOptions(files / "scene.s4d", task="door open", weights=files / "pictures.safetensors"))


def test_agent_plans_as_act_does_and_replans(models, frames):
    """The agent's first chunk is the plan from the same memory; it is used `replan_every` steps long."""
    agent = agent_maker(models, forecast=False, config=AgentConfig(replan_every=2))("door-open-v3")
    views = {"left": frames[0], "right": frames[1]}
    proprio = torch.tensor(PROPRIO)
    actions = torch.stack([agent.step(views, proprio=proprio, task="door-open-v3") for _ in range(3)])
    assert agent.num_plans == 2
    stream = SceneStream()
    stream.update(frames, time=0.0)
    plan = plan_actions(models, stream.scene(), task="door-open-v3", proprio=proprio, forecast=False)
    assert (actions[:2] - torch.tensor(plan["actions"])[:2]).abs().max() < 0.05
    agent.reset()
    assert torch.equal(agent.step(views, proprio=proprio, task="door-open-v3"), actions[0])
    with pytest.raises(DataFormatError, match="right"):
        agent.step({"left": frames[0]}, proprio=proprio, task="door-open-v3")


def test_agent_with_forecast_acts(models, frames):
    agent = agent_maker(models)("drawer-open-v3")
    action = agent.step({"left": frames[0], "right": frames[1]}, proprio=torch.tensor(PROPRIO), task="drawer-open-v3")
    assert action.shape == (4,) and bool(action.isfinite().all())

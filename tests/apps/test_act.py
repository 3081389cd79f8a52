"""`scene4d act`: from a .s4d file to actions with names and units, and what it says when it cannot."""

import dataclasses
import json

import pytest
import torch
from box_scene import cast_boxes
from tiny_agent import with_info

from scene4d.apps.agent.agent import AgentConfig, agent_maker
from scene4d.apps.agent.task_names import names_and_units, task_from_text
from scene4d.apps.cli import main
from scene4d.apps.compose.models import make_models, save_models
from scene4d.apps.compose.scene_start import head_start, observed_part, start_of_file
from scene4d.apps.verbs.run_act import ActOptions, plan_actions, run_act, text_of
from scene4d.errors import CheckpointError, ConfigError, DataFormatError, NumericsError, ShapeError
from scene4d.gaussians.s4d.s4d import open_s4d, write_s4d
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.lift.stream.stream import SceneStream
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.policy.head import ActionHead
from scene4d.robot.spec import RobotSpec, VectorSpec
from scene4d.types import Cameras, Task
from scene4d.world.observation import Observation

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
        Ks=intrinsics_from_fov(0.8, width=24, height=24).expand(2, 3, 3),
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
    from scene4d.models.gaussian_flow.networks.vae import VAEConfig
    from scene4d.models.gaussian_flow.settings import DynamicsConfig

    size = {"width": 32, "hidden": 32, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "stem": (8, 12)}
    head = ActionHeadConfig(**size, view_size=16, goal_conditioned=True)
    info = {"tasks": TASKS, "policy_tasks": TASKS, "context": {"action_spec": SPEC}}
    made = make_models({"vae": VAEConfig(), "dynamics": DynamicsConfig()}, head, info=info)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for parameter in made.policy.decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    for part in made.parts().values():
        part.eval()
    return made


def known(scene, **changes) -> Observation:
    """What is known of the scene now: the robot's state, and nothing of its past or of what its numbers mean."""
    seen = Observation(
        actions=torch.zeros(0, 4),
        proprio=torch.tensor([PROPRIO]),
        robot=RobotSpec(VectorSpec.from_rows(None, width=4), VectorSpec.from_rows(None, width=4)),
        scene=scene,
        task=Task(TASKS[0]),
    )
    return seen.replace(**changes)


@pytest.fixture(scope="module")
def files(models, scene, tmp_path_factory):
    folder = tmp_path_factory.mktemp("act")
    save_models(folder / "weights.safetensors", models, info=models.info)
    write_s4d(
        folder / "scene.s4d", scene, actions=torch.zeros(3, 4), action_spec=SPEC, info={"proprio": [list(PROPRIO)] * 3}
    )
    return folder


@pytest.mark.parametrize("forecast", [False, True])
def test_act_prints_and_returns_a_chunk(files, forecast):
    options = ActOptions(
        files / "scene.s4d", task="open the door", weights=files / "weights.safetensors", forecast=forecast
    )
    result = run_act(options)
    assert len(result["actions"]) == 8 and all(len(row) == 4 for row in result["actions"])
    assert result["names"] == ["dx", "dy", "dz", "gripper"] and result["units"][0] == "0.02 m"
    assert result["task"] == "door-open-v3" and result["time"] == 0.05
    assert json.loads(json.dumps(result)) == result
    text = text_of(result)
    assert "gripper" in text and "0.02 m" in text and text.count("step ") == 8
    again, other = run_act(options), run_act(dataclasses.replace(options, seed=1))
    assert again["actions"] == result["actions"] != other["actions"]
    given = run_act(dataclasses.replace(options, goal=(0.5, 0.0, 0.1)))
    assert given["actions"] != result["actions"]
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
    assert task_from_text("Push the puck to a goal", ["push-v3", "button-press-v3"]) == "push-v3"
    # A robot must not open what it should close, nor choose between two objects.
    for text in ("fold the towel", "close the door", "press it", "open the door and the drawer", "", "v3"):
        with pytest.raises(ConfigError, match="button-press-v3"):
            task_from_text(text, TASKS)
    with pytest.raises(ConfigError):
        task_from_text("push the button", ["push-v3", "button-press-v3"])


def test_missing_names_are_numbered():
    columns = lambda rows, width: names_and_units(VectorSpec.from_rows(rows), width=width)
    assert columns([{"name": "dx", "unit": "m"}], 2) == (["dx", "a1"], ["m", ""])
    assert columns([{"name": "dx", "unit": None}], 1) == (["dx"], [""])  # as LeRobot's are read


OTHER_SPECS = {
    "metres": ([{**row, "unit": "m"} for row in SPEC], "dx \\[m\\]"),
    "names": ([{"name": f"joint_{i}", "unit": "rad"} for i in range(4)], "joint_0 \\[rad\\]"),
    "frame": ([{**row, "frame": "gripper"} for row in SPEC], "gripper"),
    "length": ([{"name": f"joint_{i}", "unit": "rad"} for i in range(7)], "joint_6 \\[rad\\]"),
}


@pytest.mark.parametrize("forecast", [False, True])
@pytest.mark.parametrize("other", OTHER_SPECS)
def test_a_scene_of_another_robot_is_refused(files, scene, models, other, forecast):
    """The head's numbers are its weights': a scene's spec neither renames them nor scales what they do."""
    spec, reply = OTHER_SPECS[other]
    context = {"action_spec": [{**row, "frame": "world"} for row in SPEC]}
    save_models(files / "framed.safetensors", models, info={**models.info, "context": context})
    path = files / f"{other}.s4d"
    write_s4d(path, scene, actions=torch.zeros(3, len(spec)), action_spec=spec, info={"proprio": [list(PROPRIO)] * 3})
    options = ActOptions(path, task="door open", weights=files / "framed.safetensors", forecast=forecast)
    with pytest.raises(ConfigError, match=f"action_spec(\\[0\\])?: .*{reply}.*dx \\[0.02 m, world\\]") as caught:
        run_act(options)
    assert caught.value.file == str(path) and caught.value.fix


def test_what_a_spec_leaves_out_is_no_difference(files, scene, models):
    """LeRobot's rows have no units, and bare numbers for names where there are none."""
    for spec in ([{"name": row["name"], "unit": None} for row in SPEC], [{"name": str(i)} for i in range(4)]):
        robot = RobotSpec.from_info({"action_spec": spec}, num_proprio=4)
        assert head_start(models, known(scene, robot=robot)).robot.action.rows() == SPEC
    strangers = [{"name": n, "unit": "rad"} for n in "abcd"]
    write_s4d(files / "joints.s4d", scene, info={"proprio": [list(PROPRIO)] * 3, "proprio_spec": strangers})
    states = [{"name": n, "unit": "m"} for n in ("hand_x", "hand_y", "hand_z", "gripper_opening")]
    knowing = with_info(models, context={"proprio_spec": states})
    given = {"scene": scene, "task": TASKS[0]}
    with pytest.raises(ConfigError, match="proprio_spec"):
        start_of_file(knowing, open_s4d(files / "joints.s4d"), **given)
    # What is typed in is in the numbers of the head.
    start = start_of_file(knowing, open_s4d(files / "joints.s4d"), **given, proprio=PROPRIO)
    assert start.robot.proprio.rows() == states
    with pytest.raises(ConfigError, match="action_spec"):
        RobotSpec.from_info({"action_spec": ["dx"] * 4}, num_actions=4)


def test_a_head_that_is_none_is_refused(files, models):
    """`check_head` guards acting from a file as it guards the agent."""
    seven = {**models.info, "context": {"action_spec": [*SPEC, *SPEC[:3]]}}
    save_models(files / "seven.safetensors", models, info=seven)
    with pytest.raises(ConfigError, match="7 numbers"):
        run_act(ActOptions(files / "scene.s4d", task="door open", weights=files / "seven.safetensors"))


def act_verb(capsys, *arguments):
    """Exit code, last line of the output, and errors of `scene4d act`."""
    code = main(["act", *map(str, arguments), "--task", "open the door", "--no-forecast"])
    captured = capsys.readouterr()
    return code, (captured.out.strip().splitlines() or [""])[-1], captured.err


@pytest.mark.parametrize("proprio", ["0 0 0", "0 0 0 0 0", "nan 0 0 0", "inf 0 0 0", "1e300 0 0 0"])
def test_a_robot_state_that_is_none_is_one_line(files, capsys, proprio):
    known = ("--weights", files / "weights.safetensors", "--proprio", *proprio.split())
    code, out, error = act_verb(capsys, files / "scene.s4d", *known)
    assert (code, out) == (3, "") and len(error.strip().splitlines()) == 1
    assert "proprio" in error and "4 finite numbers" in error


@pytest.mark.parametrize(
    "proprio",
    [
        ["a", "b", "c", "d"],
        [["0", "0", "0", "0"]] * 3,
        [[0, 0, 0, 0], [0, 0, 0]],
        [[0, 0, 0, 0]] * 2,
        [[0, 0, 0]] * 3,
        [],
        [[]],
        {"x": 0},
        "0000",
        0,
        [None] * 4,
        [1e300, 0, 0, 0],
        [[[0, 0, 0, 0]]] * 3,
    ],
)
def test_a_broken_robot_state_in_the_file_is_one_line(files, scene, capsys, proprio):
    write_s4d(files / "broken.s4d", scene, info={"proprio": proprio})
    code, _, error = act_verb(capsys, files / "broken.s4d", "--weights", files / "weights.safetensors")
    assert code == 3 and len(error.strip().splitlines()) == 1
    assert "broken.s4d: info.proprio" in error


def test_past_actions_of_another_robot_are_refused(models, scene):
    with pytest.raises(DataFormatError, match="actions"):
        head_start(models, known(scene, actions=torch.full((3, 4), torch.nan)))
    seven = RobotSpec(VectorSpec.from_rows(None, width=7), VectorSpec.from_rows(None, width=4))
    with pytest.raises(ConfigError, match="action_spec: is of another robot"):
        head_start(models, known(scene, actions=torch.zeros(3, 7), robot=seven))
    with pytest.raises(ConfigError, match="action_spec: is of another vector"):
        known(scene, actions=torch.zeros(3, 7))
    with pytest.raises(ShapeError, match="actions"):
        known(scene, actions=torch.zeros(3))
    with pytest.raises(DataFormatError, match="batch"):
        observed_part(scene.map(lambda x: x[None]))


def test_actions_that_are_not_finite_are_refused(models, scene):
    broken = ActionHead(models.policy.config).eval()
    with torch.no_grad():
        broken.task.weight.fill_(torch.nan)
    with pytest.raises(NumericsError, match="actions: are not finite"):
        plan_actions(dataclasses.replace(models, policy=broken), known(scene), task="open the door", forecast=False)


def test_a_robot_of_unknown_past_rests_where_it_is(models, scene):
    """Its last action, which the forecast goes on with, names the place of its hand now, not of where it was once."""
    spec = [{"name": n, "unit": "m"} for n in ("x", "y", "z")] + [{"name": "gripper", "unit": "1"}]
    places = [{"name": f"hand_{n}", "unit": "m"} for n in "xyz"] + [{"name": "gripper", "unit": "1"}]
    absolute = with_info(models, context={"action_spec": spec})
    path = torch.tensor([[0.0, 0, 0, 0], [0.1, 0.2, 0.3, 0.0]])
    robot = RobotSpec.from_info({"proprio_spec": places}, num_actions=4)
    start = head_start(absolute, known(scene, proprio=path, robot=robot))
    torch.testing.assert_close(start.actions[:, :3], path[1:, :3])


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
    head = ActionHead(ActionHeadConfig(modality="images", num_views=2))
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
    plan = plan_actions(models, known(stream.scene()), task="door-open-v3", forecast=False)
    assert (actions[:2] - torch.tensor(plan["actions"])[:2]).abs().max() < 0.05
    agent.reset()
    assert torch.equal(agent.step(views, proprio=proprio, task="door-open-v3"), actions[0])
    with pytest.raises(DataFormatError, match="right"):
        agent.step({"left": frames[0]}, proprio=proprio, task="door-open-v3")


def test_agent_with_forecast_acts(models, frames):
    agent = agent_maker(models)("drawer-open-v3")
    action = agent.step({"left": frames[0], "right": frames[1]}, proprio=torch.tensor(PROPRIO), task="drawer-open-v3")
    assert action.shape == (4,) and bool(action.isfinite().all())

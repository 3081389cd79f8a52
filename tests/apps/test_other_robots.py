"""Shipped weights refuse the scene of another robot, whoever asks, in one line that says what differs."""

from __future__ import annotations

import pytest
import torch
from tiny_agent import box_views

from scene4d.apps.cli import main
from scene4d.apps.compose.models import load_models
from scene4d.apps.verbs.evaluate_plan import Goal, PlanningAgent
from scene4d.apps.verbs.options.evaluation import EvalPlanOptions
from scene4d.apps.verbs.options.scenes import ViewOptions
from scene4d.apps.verbs.run_view import open_view
from scene4d.errors import ConfigError
from scene4d.gaussians.s4d.s4d import write_s4d
from scene4d.lift.stream.stream import SceneStream
from scene4d.types import Frames

JOINTS = [{"name": f"joint{i + 1}", "unit": "rad", "frame": "joint", "low": -3.0, "high": 3.0} for i in range(7)]
DIFFERENCE = "action_spec: is of another robot (found joint1 [rad, joint], joint2"
NUM = 4


@pytest.fixture(scope="module")
def franka(tmp_path_factory):
    """A scene of boxes with absolute targets of the seven joints of a Franka."""
    stream = SceneStream()
    for step in range(NUM):
        stream.update(stacked(box_views(step)), time=0.025 * step)
    path = tmp_path_factory.mktemp("franka") / "franka.s4d"
    write_s4d(
        path,
        stream.scene(),
        cameras={name: f.cameras for name, f in box_views(0).items()},
        actions=0.1 * torch.ones(NUM, 7),
        action_spec=JOINTS,
        info={
            "task": "open the door",
            "proprio": [[0.1] * 7] * NUM,
            "proprio_spec": JOINTS,
            "action_meaning": "targets of the joints, absolute",
            "robot": "franka",
        },
    )
    return path


def stacked(views) -> Frames:
    return Frames.stack([f.replace(alpha=torch.ones_like(f.depth)) for f in views.values()])


@pytest.mark.parametrize("weights", ["tiny", "small"])
@pytest.mark.parametrize(
    "words",
    [
        ("forecast", "--start", "2", "--steps", "1", "--output", "future.s4d"),
        ("act", "--task", "open the door"),
        ("act", "--task", "open the door", "--no-forecast"),
        ("view", "--task", "open the door", "--port", "0", "--seconds", "0"),
    ],
)
def test_the_verbs_refuse_it(franka, tmp_path, monkeypatch, capsys, words, weights):
    monkeypatch.chdir(tmp_path)
    verb, *options = words
    assert main([verb, str(franka), *options, "--weights", weights]) == ConfigError.exit_code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.strip().splitlines()) == 1
    assert str(franka) in captured.err and DIFFERENCE in captured.err and "dx [0.02 m, world]" in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_rollout_begun_on_the_page_is_refused(franka):
    """Without --task the scene may be looked at; what the page asks for is refused when it asks."""
    pytest.importorskip("viser", reason="viser is not installed")
    with open_view(ViewOptions(franka, port=0)) as opened:
        reply = opened.panel.roll_out("open the door", seed=0)
        assert reply.startswith("stopped") and DIFFERENCE in reply


def test_the_simulator_refuses_it(franka):
    pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    from scene4d.apps.compose.recorded_starts import make_world_env

    for num_envs in (None, 2):
        with pytest.raises(ConfigError) as caught:
            make_world_env(load_models("tiny"), [franka], num_envs=num_envs)
        assert DIFFERENCE in caught.value.line() and str(franka) in caught.value.line()


def test_planning_refuses_its_states_and_the_world_model_its_actions():
    """No specs come with them: their number alone says that they are of another robot."""
    models, views = load_models("tiny"), box_views(0)
    stream = SceneStream()
    stream.update(stacked(views), time=0.0)
    goal = Goal(stream.gaussians(), stacked(views), reached=True)
    agent = PlanningAgent(models, goal, task="door-open-v3", options=EvalPlanOptions(samples=2, iterations=1))
    seen = {name: f.replace(alpha=torch.ones_like(f.depth)) for name, f in views.items()}
    with pytest.raises(ConfigError, match=r"proprio_spec: is of another vector \(found 7 numbers, expected 4"):
        agent.step(seen, proprio=torch.zeros(7), task="door-open-v3")
    agent.reset()
    agent.actions = [torch.zeros(7)]
    with pytest.raises(ConfigError, match=r"action_spec: is of another vector \(found 7 numbers, expected 4"):
        agent.step(seen, proprio=torch.zeros(4), task="door-open-v3")


def test_a_robot_of_the_same_numbers_is_told_by_its_names(franka):
    """What differs is named by its place, however many numbers agree."""
    robot = load_models("tiny").robot
    rows = robot.action.rows()
    other = type(robot).from_info({"action_spec": [*rows[:3], {**rows[3], "unit": "m"}]})
    with pytest.raises(ConfigError, match=r"action_spec\[3\]: is of another robot \(found gripper \[m"):
        robot.check_same(other)
    robot.check_same(type(robot).from_info({}, num_actions=4))  # what is not declared is no difference

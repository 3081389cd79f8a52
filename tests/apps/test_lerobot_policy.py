"""The LeRobot interface is the agent: same actions from LeRobot's dictionaries, each robot with a memory of its own."""

import pytest
import torch
from tiny_agent import PROPRIO, SIDE, box_views, tiny_models, with_info

from scene4d.apps.agent.agent import AgentConfig, agent_maker
from scene4d.apps.plugins.lerobot_policy import LeRobotPolicy
from scene4d.errors import CalibrationError, ConfigError, DataFormatError, DepthError, NumericsError

TASK = "open the door"
CONFIG = AgentConfig()


@pytest.fixture(scope="module")
def models():
    return tiny_models()


@pytest.fixture
def policy(models):
    cameras = {name: f.cameras for name, f in box_views(0).items()}
    return LeRobotPolicy(models, cameras=cameras, forecast=False, config=CONFIG)


def batch_of(*steps, task=TASK, depth=lambda d: d):
    """Robots that are at `steps` of the same drive; the cameras travel."""
    views = [box_views(step) for step in steps]
    batch = {"observation.state": PROPRIO.expand(len(steps), 4).clone(), "task": [task] * len(steps)}
    for name in ("left", "right"):
        batch[f"observation.images.{name}"] = torch.stack([v[name].rgb.movedim(-1, 0) for v in views])
        batch[f"observation.depth.{name}"] = depth(torch.stack([v[name].depth for v in views]))
        batch[f"observation.extrinsic.{name}"] = torch.stack([v[name].cameras.viewmats for v in views])
    return batch


def alone(models, steps, *, seed=0):
    agent = agent_maker(models, forecast=False, config=AgentConfig(seed=seed))("door-open-v3")
    return [agent.step(box_views(step), proprio=PROPRIO, task="door-open-v3") for step in steps]


def test_each_robot_of_a_batch_acts_as_an_agent_of_its_own(models, policy):
    first, second = alone(models, [0, 1]), alone(models, [3, 4], seed=1_000_003)
    for i in range(2):
        actions = policy.select_action(batch_of(i, i + 3))
        assert torch.equal(actions, torch.stack([first[i], second[i]]))
    policy.reset()
    assert torch.equal(policy.select_action(batch_of(0, 3)), torch.stack([first[0], second[0]]))
    with pytest.raises(DataFormatError, match="reset"):
        policy.select_action(batch_of(1))


def test_each_robot_has_a_goal_of_its_own(models, policy):
    goals = torch.tensor([[0.5, 0.0, 0.1], [-0.5, 0.2, 0.1]])
    given = policy.select_action({**batch_of(0, 0), "observation.goal": goals})
    agent = agent_maker(models, forecast=False, config=AgentConfig())("door-open-v3")
    assert torch.equal(given[0], agent.step(box_views(0), proprio=PROPRIO, task="door-open-v3", goal=goals[0]))
    assert not torch.equal(given[0], alone(models, [0])[0])
    with pytest.raises(DataFormatError, match="goal"):
        policy.select_action({**batch_of(1, 1), "observation.goal": goals * torch.nan})


def test_without_a_batch_axis_and_in_other_units(models, policy):
    first = alone(models, [0])[0]
    single = {k: v[0] for k, v in batch_of(0).items()}
    assert torch.equal(policy.select_action(single), first)
    policy.reset()
    bytes_ = batch_of(0, depth=lambda d: d[:, None])
    for name in ("left", "right"):
        bytes_[f"observation.images.{name}"] = (bytes_[f"observation.images.{name}"] * 255).round().to(torch.uint8)
    assert torch.equal(policy.select_action(bytes_)[0], first)
    policy.reset()
    millimetres = policy.select_action(batch_of(0, depth=lambda d: (d * 1000).round().to(torch.int32).to(torch.uint16)))
    assert torch.allclose(millimetres[0], first, atol=0.3) and bool(millimetres.isfinite().all())


def test_chunks(models, policy):
    chunk = policy.predict_action_chunk(batch_of(0, 3))
    assert chunk.shape == (2, 8, 4) and torch.equal(chunk[0, 0], alone(models, [0])[0])
    policy.predict_action_chunk(batch_of(2, 5), done=chunk[:, :2])
    assert [agent.num_steps for agent in policy._agents] == [2, 2]


def test_one_bad_robot_holds_all_of_them_back(models, policy):
    """Nobody acts on a batch in which anybody's inputs are wrong, so that it can be sent again."""
    policy.select_action(batch_of(0, 3))
    nan = batch_of(1, 4)
    nan["observation.images.right"][1] = float("nan")
    with pytest.raises(DataFormatError, match=r"right\.rgb"):
        policy.select_action(nan)
    with pytest.raises(DataFormatError, match="done: is not as long"):
        policy.predict_action_chunk(batch_of(1, 4), done=torch.tensor(1.0))
    short = torch.zeros(2, 1, 3)
    with pytest.raises(DataFormatError, match="actions"):
        policy.predict_action_chunk(batch_of(1, 4), done=short)
    with pytest.raises(DataFormatError, match="done: is not as long"):
        policy.predict_action_chunk(batch_of(1, 4), done=torch.zeros(1, 1, 4))
    assert [agent.num_steps for agent in policy._agents] == [0, 0]
    again = policy.select_action(batch_of(1, 4))
    assert torch.equal(again, torch.stack([alone(models, [0, 1])[1], alone(models, [3, 4], seed=1_000_003)[1]]))


@pytest.mark.parametrize("chunks", [False, True])
def test_when_one_plan_fails_all_rest_for_a_step_and_go_on(models, policy, monkeypatch, chunks):
    """None is ahead of the others, and none is thought to have done what it was never given."""
    ask = policy.predict_action_chunk if chunks else policy.select_action
    first = ask(batch_of(0, 3, 5))
    first = first[:, 0] if chunks else first
    policy.select_action(batch_of(1, 4, 6))
    act, calls = type(models.policy).act, []

    def fail_second(self, *args, **options):
        calls.append(1)
        return act(self, *args, **options) * (torch.nan if len(calls) == 2 else 1)

    monkeypatch.setattr(type(models.policy), "act", fail_second)
    with pytest.raises(NumericsError, match="actions"):
        policy.predict_action_chunk(batch_of(2, 5, 7))
    for agent, action in zip(policy._agents, first, strict=True):
        assert (agent.num_steps, agent.chunk, len(agent.observation_builder.actions)) == (2, [], 2)
        assert torch.equal(agent.observation_builder.actions[0], action)
    answers = ask(batch_of(3, 6, 8))
    assert bool(answers.isfinite().all()) and len(answers) == 3
    for agent in policy._agents:
        assert agent.num_steps == 3 and torch.equal(agent.observation_builder.actions[-1], torch.zeros(4))


def test_a_refused_batch_does_not_say_how_many_robots_there_are(models, policy):
    nan = batch_of(0, 3)
    nan["observation.state"][1] = float("nan")
    with pytest.raises(DataFormatError, match="proprio"):
        policy.select_action(nan)
    assert torch.equal(policy.select_action(batch_of(0))[0], alone(models, [0])[0])


def test_a_robot_that_cannot_begin_lets_no_other_begin(models, policy):
    blind = batch_of(0, 3)
    for name in ("left", "right"):
        blind[f"observation.depth.{name}"][1] = 0
        blind[f"observation.images.{name}"][1] = torch.rand(3, SIDE, SIDE)  # no sky either, which is one colour
    with pytest.raises(DepthError, match="nowhere"):
        policy.select_action(blind)
    assert torch.equal(policy.select_action(batch_of(0))[0], alone(models, [0])[0])


def without_batch(batch):
    return {key: values[0] for key, values in batch.items()}


@pytest.mark.parametrize(
    "kind, field, break_it",
    [
        (DataFormatError, "task", lambda b: b | {"task": ["open the door"]}),
        (DataFormatError, "task", lambda b: b | {"task": []}),
        (DataFormatError, "task", lambda b: b | {"task": ["open the door"] * 3}),
        (DataFormatError, "task", lambda b: b | {"task": ["open the door", ""]}),
        (DataFormatError, "task", lambda b: b | {"task": 7}),
        (DataFormatError, "task", lambda b: without_batch(b) | {"task": []}),
        (DataFormatError, "observation.state", lambda b: b | {"observation.state": torch.zeros(0, 4)}),
        (DataFormatError, "observation.state", lambda b: b | {"observation.state": "nothing"}),
        (DataFormatError, "observation.images.left", lambda b: b | {"observation.images.left": torch.ones(3)}),
        (DataFormatError, "left.rgb", lambda b: b | {"observation.images.left": b["observation.images.left"] * 255}),
        (DataFormatError, "observation.goal", lambda b: b | {"observation.goal": torch.zeros(1, 3)}),
        (DepthError, "observation.depth.left", lambda b: b | {"observation.depth.left": torch.ones(2, 3, SIDE, SIDE)}),
        (DepthError, "observation.depth.left", lambda b: b | {"observation.depth.left": torch.ones(2, SIDE, SIDE - 1)}),
        (
            DepthError,
            "observation.depth.left",
            lambda b: without_batch(b) | {"observation.depth.left": torch.ones(3, SIDE, SIDE)},
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_batch_is_named(policy, kind, field, break_it):
    with pytest.raises(kind) as caught:
        policy.select_action(break_it(batch_of(0, 3)))
    assert caught.value.field == field and caught.value.found is not None and caught.value.expected is not None
    assert policy._agents == []


def test_settings_come_from_the_weights_unless_they_are_given(models):
    given = {"policy_cameras": ["right", "left"], "policy_size": 32, "step_seconds": 0.1}
    learnt = with_info(models, **given)
    cameras = {name: f.cameras for name, f in box_views(0).items()}
    config = LeRobotPolicy(learnt, cameras=cameras).config
    assert (config.input_cameras, config.size, config.seconds_per_frame) == (("right", "left"), (32, 32), 0.1)
    one = LeRobotPolicy(learnt, cameras={"left": cameras["left"]}, config=AgentConfig(size=(16, 16)))
    assert one.config.input_cameras == ("left",) and one.config.size == (16, 16)
    chosen = LeRobotPolicy(learnt, cameras=cameras, config=AgentConfig(input_cameras=("left",)))
    assert list(chosen.cameras) == ["left"]
    with pytest.raises(CalibrationError, match="top"):
        LeRobotPolicy(learnt, cameras=cameras, config=AgentConfig(input_cameras=("top",)))


def test_what_is_missing_is_named(models, policy):
    for key, kind in {
        "observation.state": DataFormatError,
        "observation.images.right": DataFormatError,
        "observation.depth.left": DepthError,
        "task": DataFormatError,
    }.items():
        with pytest.raises(kind) as caught:
            policy.select_action({k: v for k, v in batch_of(0).items() if k != key})
        assert caught.value.field == key
    with pytest.raises(ConfigError, match="drawer-open-v3"):
        policy.select_action(batch_of(0, task="fold towels"))
    wrong = batch_of(0) | {"observation.images.left": torch.zeros(1, 3, SIDE, SIDE + 1)}
    with pytest.raises(DataFormatError, match="resized"):
        policy.select_action(wrong)
    with pytest.raises(CalibrationError):
        LeRobotPolicy(models, cameras={})

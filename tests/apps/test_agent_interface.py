"""The agent as an interface: what it refuses and leaves no trace of, and what it makes of chunks, sizes and holes."""

import dataclasses
import functools
import math
from types import SimpleNamespace

import pytest
import torch
from box_scene import Box, cast_boxes
from tiny_agent import PROPRIO, SIDE, box_views, tiny_models, with_info

from scene4d.apps.agent.agent import AgentConfig, FilledAgentConfig, agent_config, agent_maker
from scene4d.apps.compose.models import load_models, make_models
from scene4d.errors import CalibrationError, CheckpointError, ConfigError, DataFormatError, DepthError, NumericsError
from scene4d.lift.stream.stream import SceneStream
from scene4d.models.gaussian_flow.settings import DynamicsConfig
from scene4d.robot.track import track_of
from scene4d.types import Frames

TASK = "door-open-v3"


@pytest.fixture(scope="module")
def models():
    return tiny_models()


def sliding_views(step):
    """Two cameras at rest, and a box that slides to and fro."""
    cameras = Frames.stack([f.replace(alpha=torch.ones_like(f.depth)) for f in box_views(0).values()]).cameras
    x = -0.1 + 0.1 * math.sin(step / 6)
    seen = cast_boxes(cameras, boxes=(Box((x, -0.05, 0.0), (x + 0.16, 0.11, 0.16)),)).replace(extras={})
    return {"left": seen[0], "right": seen[1]}


def make(models, **config):
    return agent_maker(models, forecast=False, config=AgentConfig(**config))(TASK)


def changed(views, name, **fields):
    return {**views, name: views[name].replace(**fields)}


def moved(views, name, *, mirror=False, last_row=(0, 0, 0, 1), K=None):
    """The same with another camera."""
    cameras = views[name].cameras
    viewmat = cameras.viewmats.clone()
    viewmat[0] *= -1 if mirror else 1
    viewmat[3] = torch.tensor(last_row)
    return changed(views, name, cameras=cameras.replace(viewmats=viewmat, Ks=cameras.Ks if K is None else K))


def with_horizon(models, horizon):
    """The same head beside a world model that looks `horizon` steps ahead."""
    made = make_models({"dynamics": DynamicsConfig(horizon=horizon)}, info=models.info)
    for part in made.parts().values():
        part.eval().requires_grad_(False)
    return dataclasses.replace(models, world=made.world)


def failing_once(models, monkeypatch):
    """A head whose next chunk is not finite, and the ones after that as always."""
    act = type(models.policy).act

    def fail(self, *args, **options):
        monkeypatch.setattr(type(self), "act", act)
        return act(self, *args, **options) * torch.nan

    monkeypatch.setattr(type(models.policy), "act", fail)


@pytest.mark.parametrize(
    "kind, field, break_it",
    [
        (DataFormatError, "cameras", lambda v: ({"left": v["left"]}, PROPRIO)),
        (DataFormatError, "left.rgb", lambda v: (changed(v, "left", rgb=v["left"].rgb * float("nan")), PROPRIO)),
        (DepthError, "right.depth", lambda v: (changed(v, "right", depth=None), PROPRIO)),
        (DataFormatError, "proprio", lambda v: (v, PROPRIO[:3])),
        (DataFormatError, "proprio", lambda v: (v, PROPRIO * float("inf"))),
        (
            CalibrationError,
            "left.viewmats",
            lambda v: (
                changed(v, "left", cameras=v["left"].cameras.replace(viewmats=torch.full((4, 4), float("nan")))),
                PROPRIO,
            ),
        ),
        (DataFormatError, "cameras", lambda v: ({**v, "left": box_views(side=16)["left"]}, PROPRIO)),
        (DataFormatError, "left.rgb", lambda v: (changed(v, "left", rgb=v["left"].rgb * 255), PROPRIO)),
        (DataFormatError, "left.rgb", lambda v: (changed(v, "left", rgb=v["left"].rgb - 0.5), PROPRIO)),
        (CalibrationError, "left.viewmats", lambda v: (moved(v, "left", mirror=True), PROPRIO)),
        (CalibrationError, "right.viewmats", lambda v: (moved(v, "right", last_row=(1, 2, 3, 4)), PROPRIO)),
        (CalibrationError, "right.Ks", lambda v: (moved(v, "right", K=v["right"].cameras.Ks.mT), PROPRIO)),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_remembered(models, kind, field, break_it):
    agent, other = make(models), make(models)
    first = agent.step(box_views(0), proprio=PROPRIO, task=TASK)
    frames, proprio = break_it(box_views(1))
    with pytest.raises(kind) as caught:
        agent.step(frames, proprio=proprio, task=TASK)
    assert field in caught.value.field
    assert torch.equal(first, other.step(box_views(0), proprio=PROPRIO, task=TASK))
    for step in (1, 2):
        views = box_views(step)
        assert torch.equal(agent.step(views, proprio=PROPRIO, task=TASK), other.step(views, proprio=PROPRIO, task=TASK))


def test_colours_may_be_a_rounding_beyond_their_range(models):
    views = box_views(0)
    make(models).observe(changed(views, "left", rgb=views["left"].rgb * 1.001 + 1e-3), proprio=PROPRIO)


@pytest.mark.parametrize("forecast", [False, True])
def test_after_a_failed_plan_the_episode_goes_on_a_step_of_rest_later(models, monkeypatch, forecast):
    """What could not be planned for is in the memory; the robot, told nothing, rested until the next frames."""
    agent = agent_maker(models, forecast=forecast, config=AgentConfig(replan_every=1))(TASK)
    first = agent.step(box_views(0), proprio=PROPRIO, task=TASK)
    failing_once(models, monkeypatch)
    with pytest.raises(NumericsError, match="actions"):
        agent.step(box_views(1), proprio=PROPRIO + 1, task=TASK)
    for step in (2, 3):
        action = agent.step(box_views(step), proprio=PROPRIO + step, task=TASK)
        assert action.shape == (4,) and bool(action.isfinite().all())
    assert agent.num_steps == 3 and agent.observation_builder.stream.times == pytest.approx([0.0, 0.025, 0.05, 0.075])
    carried_out = agent.observation_builder.actions
    assert torch.equal(carried_out[0], first) and torch.equal(carried_out[1], torch.zeros(4)) and len(carried_out) == 3
    assert torch.equal(torch.stack(agent.observation_builder.proprio), PROPRIO + torch.arange(4.0)[:, None])


def test_after_a_failed_chunk_what_was_done_all_the_same_can_be_told(models, monkeypatch):
    agent, chunk = make(models), torch.full((2, 4), 0.25)
    failing_once(models, monkeypatch)
    with pytest.raises(NumericsError, match="actions"):
        agent.step_chunk(box_views(0), proprio=PROPRIO, task=TASK)
    assert agent.step_chunk(box_views(1), proprio=PROPRIO, task=TASK, done=chunk).shape == (8, 4)
    assert agent.num_steps == 2 and torch.equal(agent.observation_builder.actions[-1], chunk[-1])


def test_frames_that_are_only_observed_are_steps_of_rest(models):
    """A memory may look around before it plans; where actions name places, rest is the place of the hand."""
    spec = [{"name": name, "unit": "m"} for name in ("x", "y", "z")] + [{"name": "gripper", "unit": "effort"}]
    state = [{"name": f"hand_{name}", "unit": "m"} for name in ("x", "y", "z")] + [{"name": "opening", "unit": "m"}]
    context = {"action_spec": spec, "proprio_spec": state}
    agent = make(with_info(models, context=context))
    for step in range(3):
        agent.observe(box_views(step), proprio=PROPRIO + step)
    rest = torch.stack([PROPRIO, PROPRIO + 1])
    assert torch.equal(torch.stack(agent.observation_builder.actions)[:, :3], rest[:, :3]) and agent.num_steps == 2
    agent.next_action(TASK)
    agent.withdraw()
    agent.observe(box_views(3), proprio=PROPRIO + 3)
    assert torch.equal(agent.observation_builder.actions[-1][:3], PROPRIO[:3] + 2) and agent.chunk == []


def test_a_chunk_begins_as_the_steps_do_and_time_goes_on_by_what_was_done(models):
    agent, other = make(models, replan_every=4), make(models)
    chunk = other.step_chunk(box_views(0), proprio=PROPRIO, task=TASK)
    assert torch.equal(agent.step(box_views(0), proprio=PROPRIO, task=TASK), chunk[0]) and chunk.shape == (8, 4)
    other.step_chunk(box_views(1), proprio=PROPRIO, task=TASK, done=chunk[:3])
    assert other.num_steps == 3 and other.observation_builder.stream.times == pytest.approx([0.0, 0.075])
    assert torch.equal(other.observation_builder.actions[-1], chunk[2])
    other.step_chunk(box_views(2), proprio=PROPRIO, task=TASK)
    assert other.observation_builder.stream.times[-1] == pytest.approx(0.1)
    with pytest.raises(DataFormatError, match="actions"):
        other.step_chunk(box_views(3), proprio=PROPRIO, task=TASK, done=torch.zeros(2, 7))


def test_several_actions_at_once_are_not_told_as_one(models):
    """Robot states between them were not seen: the world model's track begins anew behind them, then grows again."""
    agent, model = make(models), models.world
    chunk = agent.step_chunk(box_views(0), proprio=PROPRIO, task=TASK)

    def track():
        p = agent.observation_builder
        return track_of(torch.stack(p.actions), torch.stack(p.proprio), num_past=model.config.proprio.num_past)

    for step in (1, 2):
        agent.step_chunk(box_views(step), proprio=PROPRIO + step, task=TASK, done=chunk[step : step + 1])
    assert track().valid.sum() == 2 and torch.equal(track().actions[-2:], chunk[1:3])
    agent.step_chunk(box_views(3), proprio=PROPRIO + 6, task=TASK, done=chunk[3:7])
    assert track().valid.sum() == 0 and torch.equal(track().proprio[-1], PROPRIO + 6) and agent.num_steps == 6
    assert torch.equal(
        agent.observation_builder.actions[-1], chunk[6]
    )  # what the forecast of the head's views goes on with
    agent.step_chunk(box_views(4), proprio=PROPRIO + 7, task=TASK, done=chunk[7:8])
    assert track().valid.sum() == 1 and torch.equal(track().actions[-1], chunk[7])
    assert torch.equal(track().proprio[-2:], torch.stack([PROPRIO + 6, PROPRIO + 7]))


def test_long_episodes_do_not_grow_and_nothing_that_matters_is_forgotten(models):
    """Instants, states and actions kept are as many after 40 steps as after 20; the plan is that of a whole memory."""
    short = agent_maker(models, config=AgentConfig(replan_every=20))(TASK)
    whole = agent_maker(models, config=AgentConfig(replan_every=20))(TASK)
    kept = dataclasses.replace(short.observation_builder.stream.config, keep_instants=0)
    whole.observation_builder._make_stream = functools.partial(SceneStream, kept)
    whole.reset()
    sizes, plans = [], []
    for step in range(41):
        views, proprio = sliding_views(step), PROPRIO + 0.001 * step
        actions = [agent.step(views, proprio=proprio, task=TASK) for agent in (short, whole)]
        if step % 20 == 0:
            stream, builder = short.observation_builder.stream, short.observation_builder
            lengths = [len(stream.times), len(stream.anchors.history), len(builder.actions), len(builder.proprio)]
            sizes.append([*lengths, len(stream.memory.past)])
            plans.append(actions)
    assert len(whole.observation_builder.stream.times) == 41 and bool(
        whole.observation_builder.stream.memory.moving.any()
    )
    assert max(sizes[2][:2]) <= 8 and sizes[1][2:4] == sizes[2][2:4] == [8, 9]
    assert sizes[2][4] <= 8  # finished rows go with the instants they were seen in
    assert all(torch.equal(*pair) for pair in plans)


def test_holes_in_depth_are_holes_however_they_are_written(models):
    views = box_views(0)
    holes = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    holes[3:9, 4:12] = True
    depth = views["left"].depth
    answers = [
        make(models).step(changed(views, "left", depth=torch.where(holes, value, depth)), proprio=PROPRIO, task=TASK)
        for value in (0.0, float("nan"), -1.0, float("inf"))
    ]
    assert all(torch.equal(a, answers[0]) for a in answers)
    assert not torch.equal(answers[0], make(models).step(views, proprio=PROPRIO, task=TASK))


def test_pictures_are_brought_to_size_with_their_calibration(models):
    """Twice as large with every pixel doubled, and K with them, is the same scene."""
    views = box_views(0)
    double = lambda x: x.repeat_interleave(2, 0).repeat_interleave(2, 1)
    large = {
        name: f.replace(rgb=double(f.rgb), depth=double(f.depth), cameras=f.cameras.resized(2 * SIDE, 2 * SIDE))
        for name, f in views.items()
    }
    plain = make(models).step(views, proprio=PROPRIO, task=TASK)
    assert torch.allclose(make(models, size=(SIDE, SIDE)).step(large, proprio=PROPRIO, task=TASK), plain, atol=1e-4)


def test_settings_come_from_the_weights_unless_they_are_given(models):
    stored = {"policy_cameras": ["wrist", "top"], "policy_size": 32, "step_seconds": 0.1 + 1e-16}
    learnt = with_horizon(with_info(models, **stored), 4)
    expected = FilledAgentConfig(input_cameras=("wrist", "top"), size=(32, 32), seconds_per_frame=0.1, horizon=4)
    assert agent_config(learnt) == agent_config(learnt, AgentConfig()) == expected
    assert agent_maker(learnt)(TASK).config == expected
    given = FilledAgentConfig(
        input_cameras=("left",), size=(16, 8), seconds_per_frame=0.5, horizon=2, seed=3, replan_every=5
    )
    assert agent_config(learnt, given) == given == agent_maker(learnt, config=given)(TASK).config
    unknown = agent_config(models)
    assert unknown == FilledAgentConfig(input_cameras=("left", "right"), seconds_per_frame=0.025, horizon=8)
    assert unknown.size is None  # as they come


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_shipped_weights_run_as_they_always_did(name):
    always = FilledAgentConfig(input_cameras=("left", "right"), seconds_per_frame=0.025, size=(64, 64), horizon=8)
    assert agent_config(load_models(name)) == always


@pytest.mark.parametrize("horizon", [4, 16])
def test_the_forecast_is_as_long_as_the_world_model_was_trained(models, horizon):
    other = with_horizon(models, horizon)
    agent, asked, model = agent_maker(other)(TASK), [], other.world

    def predict(state, *, actions):
        asked.append(len(actions))
        return model.with_sampler(1).predict(state, actions=actions)

    agent.observation_builder.world_model = SimpleNamespace(
        observe=model.observe, predict=predict, scene=model.scene, embed=model.embed
    )
    action = agent.step(box_views(0), proprio=PROPRIO, task=TASK)
    assert bool(action.isfinite().all()) and asked == [horizon]
    with pytest.raises(ConfigError, match="horizon"):
        agent_maker(other, config=AgentConfig(horizon=horizon + 1))
    agent_maker(other, forecast=False, config=AgentConfig(horizon=horizon + 1))  # nothing is forecast


def test_pictures_of_any_size_are_brought_to_what_the_head_learned_at(models):
    learnt = with_info(models, policy_size=SIDE)
    large = box_views(0, side=2 * SIDE)
    answer = make(learnt).step(large, proprio=PROPRIO, task=TASK)
    assert torch.equal(answer, make(models, size=(SIDE, SIDE)).step(large, proprio=PROPRIO, task=TASK))
    assert not torch.equal(answer, make(models).step(large, proprio=PROPRIO, task=TASK))


def test_unfit_heads_are_refused_before_they_act(models):
    short = with_info(models, context={"action_spec": [{"name": "dx"}]})
    with pytest.raises(ConfigError, match="action_spec"):
        agent_maker(short)
    broken = tiny_models()
    broken.policy.action_std[1] = 0.0
    with pytest.raises(CheckpointError, match="action_std"):
        agent_maker(broken)
    with pytest.raises(CheckpointError, match="action head"):
        agent_maker(dataclasses.replace(models, policy=None))
    wild = tiny_models()
    wild.policy.action_mean[0] = 3e38
    wild.policy.action_std[0] = 3e38
    with pytest.raises(NumericsError, match="actions"):
        for step in range(4):
            make(wild).step(box_views(step), proprio=PROPRIO, task=TASK)

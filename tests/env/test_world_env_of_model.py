"""The learned simulator on the real world model: steps are the forecast's, from recorded scenes and back to them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium", reason="gymnasium is not installed")

import toy_world
from box_scene import cast_boxes

from scene4d.apps.compose.models import make_models
from scene4d.apps.compose.recorded_starts import make_world_env, recorded_starts, start_at
from scene4d.env.batched_sim import BatchedSim, WorldConfig
from scene4d.env.world_env import WorldEnv
from scene4d.errors import ConfigError, DataFormatError
from scene4d.gaussians.s4d.s4d import S4DFile, open_s4d, write_s4d
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.lift.stream.stream import SceneStream
from scene4d.models.gaussian_flow.networks.vae import VAEConfig
from scene4d.models.gaussian_flow.settings import DynamicsConfig
from scene4d.render.render import render
from scene4d.robot.bounds import action_bounds
from scene4d.types import Cameras
from scene4d.world.capabilities import sampled
from scene4d.world.rollout import predict_long


@pytest.fixture(scope="module")
def models():
    made = make_models({"vae": VAEConfig(), "dynamics": DynamicsConfig()}, None)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in made.world.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
        made.world.denoiser.out.bias[12] += 6.0  # anchors move, so that laws about motion are not empty
    made.world.codec.eval()
    made.world.eval()
    return made


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A .s4d of three frames with actions, proprio and cameras."""
    torch.set_num_threads(1)
    centres = torch.tensor([[-0.8, -0.6, 0.7], [0.8, -0.6, 0.7]])
    K = intrinsics_from_fov(0.8, width=24, height=24)
    cameras = Cameras(viewmats=look_at(centres, torch.zeros(2, 3)), Ks=K.expand(2, 3, 3), width=24, height=24)
    frames, stream = cast_boxes(cameras).replace(extras={}), SceneStream()
    for t in range(3):
        stream.update(frames, time=0.025 * t)
    path = tmp_path_factory.mktemp("recorded") / "scene.s4d"
    proprio = [[0.01 * t, 0.1, 0.2, 0.08] for t in range(3)]
    write_s4d(
        path,
        stream.scene(),
        cameras={"left": cameras[0], "right": cameras[1]},
        actions=torch.full((3, 4), 0.3),
        action_spec=toy_world.SPEC,
        info={"proprio": proprio, "proprio_spec": toy_world.PROPRIO, "task": "door-open-v3"},
    )
    return path


def test_steps_are_those_of_one_long_forecast(models, recorded):
    """Twenty actions, given one by one, have the poses, variances and proprio of `predict_long` given all at once."""
    start = recorded_starts([recorded])(np.random.default_rng(1))
    actions = torch.rand(20, 4, generator=torch.Generator().manual_seed(2)) * 2 - 1
    config = WorldConfig(size=8)
    sim = BatchedSim(models.world, toy_world.cameras(), config=config)
    sim.start({0: (start, 5)})
    for action in actions:
        sim.step(action[None])
    model = sampled(models.world, config.sampler_steps)
    log, wanted = sim.logs[0], predict_long(model, model.observe(start), actions=actions, seeds=(5,))
    assert float((wanted.world_from_now[-1, :, 4:]).abs().max()) > 1e-3
    torch.testing.assert_close(torch.stack(log.poses), wanted.world_from_now, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(torch.stack(log.proprio), wanted.proprio, atol=1e-4, rtol=1e-3)
    moved = torch.stack(log.log_var) > -15
    # Rounding grows from chunk to chunk, and how sure an odd anchor is hangs on it.
    apart = (torch.stack(log.log_var) - wanted.motion.log_var)[moved].abs()
    assert float(apart.quantile(0.99)) < 0.02 and float(apart.max()) < 0.2


def test_it_shows_what_a_forecast_would_where_nobody_looked(models, recorded):
    """A camera from the other side sees the whole forecast's scene: what is known, and what is imagined, both moved."""
    start = recorded_starts([recorded])(np.random.default_rng(1))
    K = intrinsics_from_fov(0.8, width=24, height=24)
    views = {"behind": Cameras(look_at(torch.tensor([0.3, 1.4, 0.5]), torch.zeros(3)), K, width=24, height=24)}
    model, config = copy.deepcopy(models.world), WorldConfig(size=24)
    with torch.no_grad():
        for head in (model.completion.of_anchor, model.completion.of_place):
            head.out.layers[-1].bias.unflatten(0, (-1, 14))[:, 10] = 3.0
    sim, actions = BatchedSim(model, views, num=2, config=config), torch.full((12, 4), 0.5)
    sim.start({0: (start, 5), 1: (start, 6)})
    for action in actions:
        shown = sim.step(action.expand(2, 4)).frames
    mean = sampled(model, config.sampler_steps)
    state = mean.observe(start)
    scene = mean.scene(state, predict_long(mean, state, actions=actions, seeds=(5,)))
    whole = scene.at(float(scene.times[-1])).replace(extras={})
    known = whole.pick(torch.arange(model.anchored(state).gaussians.num_gaussians))
    camera = views["behind"]
    seen, carried = (render(g, camera, background=torch.zeros(3)).rgb.clamp(0, 1) for g in (whole, known))
    torch.testing.assert_close(shown.rgb[0, 0], seen, atol=0.01, rtol=0)
    assert float((seen - carried).abs().mean()) > 0.02, "nothing is imagined, so nothing was tested"


def test_simulator_from_a_file_runs_records_and_starts_from_its_record(models, recorded, tmp_path):
    config = WorldConfig(size=16, max_steps=9)
    env = make_world_env(models, [recorded], config=config, record_to=tmp_path)
    assert isinstance(env, WorldEnv)
    seen, _ = env.reset(seed=0)
    assert seen in env.observation_space and seen["pixels"]["left"].std() > 5
    env.action_space.seed(0)
    for _ in range(9):
        seen, *_, info = env.step(env.action_space.sample())
        if info["ended"]:
            break
    again = open_s4d(tmp_path / "episode_0000.s4d")
    assert again.num_frames == len(again.actions) + 1
    second = make_world_env(models, [tmp_path / "episode_0000.s4d"], num_envs=2, config=config)
    assert second.reset(seed=0)[0] in second.observation_space
    second.step(second.action_space.sample())


def test_files_that_cannot_start_say_why(models, recorded, tmp_path):
    file = open_s4d(recorded)
    write_s4d(tmp_path / "bare.s4d", file.scene(), cameras=file.cameras)
    with pytest.raises(DataFormatError, match="actions"):
        make_world_env(models, [tmp_path / "bare.s4d"])
    write_s4d(tmp_path / "blind.s4d", file.scene(), actions=file.actions, info={"proprio": file.info["proprio"]})
    with pytest.raises(DataFormatError, match="cameras"):
        make_world_env(models, [tmp_path / "blind.s4d"])
    with pytest.raises(ConfigError, match="nothing to start from"):
        make_world_env(models, [])


def test_recordings_of_other_cameras_share_worlds_and_are_read_once(models, recorded, tmp_path, monkeypatch):
    file = open_s4d(recorded)
    other = {"elsewhere": file.cameras["left"]}
    given = {"actions": file.actions, "action_spec": toy_world.SPEC, "info": file.info}
    write_s4d(tmp_path / "other.s4d", file.scene(), cameras=other, **given)
    plain, reads = S4DFile.scene, []
    monkeypatch.setattr(S4DFile, "scene", lambda self, **options: reads.append(self.path) or plain(self, **options))
    env = make_world_env(models, [recorded, tmp_path / "other.s4d"], num_envs=4, config=WorldConfig(size=8))
    env.reset(seed=1)
    env.step(env.action_space.sample())
    assert {tuple(log.start.cameras) for log in env.sim.logs} == {("left", "right"), ("elsewhere",)}
    assert len(reads) == len(set(reads)) == 2


def test_recordings_of_two_kinds_make_no_simulator(models, recorded, tmp_path):
    """Which file it is, and what differs in it, is reported before anything begins."""
    file, joints = open_s4d(recorded), [{"name": f"joint{i}", "unit": "rad"} for i in range(4)]
    others = {
        "action_spec": {"action_spec": joints},
        "proprio_spec": {"info": {**file.info, "proprio_spec": joints}},
        "actions": {"action_spec": (), "actions": torch.zeros(3, 7)},
    }
    given = {"cameras": file.cameras, "actions": file.actions, "action_spec": toy_world.SPEC, "info": file.info}
    for name, other in others.items():
        write_s4d(tmp_path / f"{name}.s4d", file.scene(), **{**given, **other})
        with pytest.raises(ConfigError, match="action_spec" if name == "actions" else name) as raised:
            make_world_env(models, [recorded, tmp_path / f"{name}.s4d"])
        assert raised.value.file.endswith(f"{name}.s4d")


def test_actions_of_recordings_bound_those_that_nothing_else_bounds(models, recorded, tmp_path):
    """Joint angles in rad: all of both recordings can be taken, and searches know it from the state."""
    file, joints = open_s4d(recorded), [{"name": f"joint{i}", "unit": "rad"} for i in range(4)]
    angles = torch.tensor([[1.5, -2.0, 0.0, 3.0], [2.5, -1.0, 0.0, 3.0], [2.0, -1.5, 0.0, 3.0]])
    paths = [tmp_path / "one.s4d", tmp_path / "two.s4d"]
    for path, actions in zip(paths, (angles, angles - 2), strict=True):
        write_s4d(path, file.scene(), cameras=file.cameras, actions=actions, action_spec=joints, info=file.info)
    env = make_world_env(models, paths, config=WorldConfig(size=8))
    assert env.action_space.low[0] == pytest.approx(-0.8) and env.action_space.high[0] == pytest.approx(2.8)
    for action in (angles[0], angles[1] - 2):
        env.reset(seed=0)
        env.step(action)
    bounds = action_bounds(env.sim.state.robot)
    assert [b.tolist() for b in bounds] == [env.action_space.low.tolist(), env.action_space.high.tolist()]
    alone = start_at(open_s4d(paths[0]), open_s4d(paths[0]).scene(), start=1)
    assert action_bounds(alone.robot)[0][0] == pytest.approx(1.4)

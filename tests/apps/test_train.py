"""Stages are done once, resumed and redone as they should; weights survive the file; slips in a run are named."""

import copy
import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from scene4d.apps.compose.models import load_models, make_models, save_models
from scene4d.apps.training.cache import WindowCache, cache_stage, displacement_of
from scene4d.apps.training.processes import in_processes, run_stage
from scene4d.apps.training.record_episodes import record_stage
from scene4d.apps.training.run_config import CacheConfig, RecordConfig, RunConfig
from scene4d.apps.verbs.run_train import TrainOptions, run_train
from scene4d.config import load_config
from scene4d.data.load.scene_window import stack_windows
from scene4d.errors import CheckpointError, ConfigError, DataFormatError, SecurityError
from scene4d.geometry.rotation import apply_pose, compose_pose, invert_pose, pose_about
from scene4d.models.gaussian_flow.networks.vae import VAEConfig
from scene4d.models.gaussian_flow.settings import DynamicsConfig
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.sim import rig
from scene4d.train.checkpoint import load_tensors, save_tensors


def test_a_stage_is_done_once_resumed_and_redone(tmp_path):
    folder, calls = tmp_path / "stage", []

    def build(at, *, fail=False):
        calls.append(sorted(p.name for p in at.iterdir()))
        (at / "half").touch()
        if fail:
            time.sleep(0.3)
            raise RuntimeError("power cut")
        return {"value": 3}

    with pytest.raises(RuntimeError):
        run_stage(folder, lambda at: build(at, fail=True), key=[CacheConfig()])
    result = run_stage(folder, build, key=[CacheConfig()])
    assert result["skipped"] is False and 0.3 <= result["seconds"] < 5  # what the cut call took counts
    assert "half" in calls[1]  # what the cut left was there to go on from
    again = run_stage(folder, build, key=[CacheConfig()])
    assert again["skipped"] is True and again["value"] == 3 and len(calls) == 2
    with pytest.raises(ConfigError, match="--rebuild"):
        run_stage(folder, build, key=[CacheConfig(window_stride=9)])
    assert (folder / "half").exists()  # nothing is lost unasked
    assert run_stage(folder, build, key=[CacheConfig(window_stride=9)], rebuild=True)["seconds"] < 0.3
    assert "half" not in calls[2]


def _square(x):
    if x < 0:
        raise ConfigError("is negative", field="x", found=x)
    return x * x


def test_processes_keep_the_order_and_pass_errors_on():
    assert in_processes(_square, [{"x": i} for i in range(5)], num=1) == [0, 1, 4, 9, 16]
    with pytest.raises(ConfigError):
        in_processes(_square, [{"x": 1}, {"x": -1}, {"x": 2}], num=1)


def test_displacement_is_the_rigid_motion_of_the_segment():
    torch.manual_seed(0)
    centre = torch.randn(2, 3)
    now = pose_about(centre, torch.randn(2, 3), shift=torch.randn(2, 3))
    move = pose_about(centre, 0.1 * torch.randn(4, 2, 3), shift=0.1 * torch.randn(4, 2, 3))
    poses = torch.cat([now[None], compose_pose(move, now.expand(4, 2, 7))])
    points, segments = torch.randn(6, 3), torch.tensor([0, 1, 1, 0, -1, 1])
    found = displacement_of(points, segments, poses=poses)
    for n in range(6):
        if segments[n] < 0:
            assert (found[:, n] == 0).all()
            continue
        rest = apply_pose(invert_pose(poses[0, segments[n]]), points[n])
        assert torch.allclose(points[n] + found[:, n], apply_pose(poses[1:, segments[n]], rest), atol=1e-5)


@pytest.fixture(scope="module")
def models():
    dynamics = DynamicsConfig()
    vae = VAEConfig(width=32, cell_width=16, num_heads=2)
    return make_models({"vae": vae, "dynamics": dynamics}, ActionHeadConfig())


def test_weights_come_back_and_are_small(models, tmp_path):
    path = tmp_path / "w.safetensors"
    size = save_models(path, models, info={"tasks": ["a"]})
    assert size < 8_000_000
    back = load_models(path)
    assert back.info["tasks"] == ["a"] and back.world.codec.config == models.world.codec.config
    assert list(back.parts()) == ["vae", "dynamics", "policy"]
    for name, module in models.parts().items():
        before, after = module.state_dict(), back.parts()[name].state_dict()
        assert all(torch.allclose(before[k].float(), after[k].float(), atol=2e-3, rtol=2e-3) for k in before)


def test_weights_of_other_models_are_refused(models, tmp_path):
    path = tmp_path / "w.safetensors"
    codec = models.world.codec
    other = copy.copy(models.world)
    other._codec = (type(codec)(dataclasses.replace(codec.config, channels=16)),)
    save_models(path, dataclasses.replace(models, world=other), info={})
    with pytest.raises(CheckpointError) as error:
        load_models(path)
    assert "dynamics" in str(error.value) or "token" in str(error.value)
    torch.save({}, tmp_path / "w.pt")
    with pytest.raises(SecurityError):
        load_models(tmp_path / "w.pt")
    with pytest.raises(CheckpointError):
        load_models(tmp_path / "absent.safetensors")


def test_weights_name_their_family_and_old_ones_need_not(models, tmp_path):
    path, old = tmp_path / "w.safetensors", tmp_path / "old.safetensors"
    save_models(path, models, info={"tasks": ["a"]}, half=False)
    tensors, state = load_tensors(path)
    assert state["family"] == "gaussian_flow" and set(state["configs"]) == {"vae", "dynamics", "policy"}
    save_tensors(old, tensors, state={key: value for key, value in state.items() if key != "family"})
    made, back = load_models(path), load_models(old)
    assert back.family is made.family and back.info == made.info and type(back.world) is type(models.world)
    for name, module in back.parts().items():
        assert all(torch.equal(v, made.parts()[name].state_dict()[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize(("name", "family"), [("tiny", "gaussian_flow"), ("small", "gaussian_flow"), ("rssm", "rssm")])
def test_shipped_weights_name_their_family(name, family):
    models = load_models(name)
    assert models.family.name == family and models.robot.name == "sawyer" and not models.world.training


@pytest.mark.parametrize("family", ["diffusion_of_clouds", "", None, 3, ["gaussian_flow"]])
def test_weights_of_an_unknown_family_are_refused(models, tmp_path, family):
    path = tmp_path / "w.safetensors"
    save_models(path, models, info={})
    tensors, state = load_tensors(path)
    save_tensors(path, tensors, state={**state, "family": family})
    with pytest.raises(CheckpointError, match=r"family: is of no known family.*pixel_transformer") as error:
        load_models(path)
    assert error.value.file == str(path) and error.value.exit_code == 3 and "\n" not in error.value.line()


@pytest.mark.parametrize("name", ["smoke", "tiny", "small", "base", "large", "finetune", "policy", "rssm"])
def test_shipped_configurations_are_valid_and_never_touch_the_test_seeds(name, request):
    config = load_config(request.config.rootpath / "configs" / f"{name}.toml", RunConfig)
    assert config.name == name
    for first, num in (
        (config.record.first_seed, config.record.episodes),
        (config.policy.data.first_seed, config.policy.data.num_seeds),
    ):
        assert first >= 0 and first + num <= 1000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[record]\nepisods = 3", "episodes"),
        ("[record]\nnum_frames = 8", "too short"),
        ("[record]\nnum_frames = 2\nnum_tail = 40", "record.num_frames: is too short"),
        ("[record]\nnum_tail = 200", "record.num_tail"),
        ("[vae.model]\nwidth = 30", "num_heads"),
        ("[dynamics.model]\nhorizon = 9", "horizon"),
        ("[cache]\nhorizon = 9", "horizon"),
        ("[vae.train]\nsteps = 0", "steps"),
        ("[record]\nfirst_seed = 990", "validation and test"),
        ("[policy.data]\nnum_demonstrations = 300", "validation and test"),
        ("[policy.data]\ntasks = ['door-open-v3', 'soccer-v3']", "soccer-v3"),
        ("[record]\ntasks = ['door-open-v3', 'window-close-v3']", "record.tasks: are kept for reports"),
        ("[policy.data]\ntasks = ['faucet-open-v3']", "policy.data.tasks: are kept for reports"),
        ("[policy.model]\nwidth = 30", "width"),
        ("[policy.model]\nview_size = 36", "view_size"),
        ("[policy.model]\nstem = [3]", "stem"),
        ("[policy.model]\nsampler_steps = 0", "sampler_steps"),
        ("[policy.model]\nproprio_dim = 2", "proprio_dim"),
        ("[policy.model]\nfeature_dim = 35", "feature_dim"),
    ],
)
def test_slips_are_named_before_anything_runs(tmp_path, text, words):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        run_train(TrainOptions(config=path, out=tmp_path / "run"))
    assert words in str(error.value) and not (tmp_path / "run").exists()


def test_held_out_tasks_are_for_fine_tuning_alone():
    tasks = rig.HELD_OUT_TASKS
    assert RunConfig(record=RecordConfig(tasks=tasks, fine_tune=True)).record.tasks == tasks
    with pytest.raises(ConfigError, match="door-unlock-v3"):
        RunConfig(record=RecordConfig(tasks=tasks))


def test_unknown_stage_is_named(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("")
    with pytest.raises(ConfigError, match="until: is no stage") as error:
        run_train(TrainOptions(config=path, out=tmp_path / "run", until="polcy"))
    assert "dynamics" in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_record_cache_and_resume_end_to_end(tmp_path, request):
    """Two stages for real: what is cached tells the truth about the pictures, and a second call has nothing to do."""
    pytest.importorskip("metaworld")
    from scene4d.apps.training.run import Run

    path = request.config.rootpath / "configs" / "smoke.toml"
    settings = ("record.episodes=1", "record.num_frames=13", "processes=1")
    options = TrainOptions(config=path, out=tmp_path / "run", until="cache", set=settings)
    first = run_train(options)
    assert first["stages"]["cache"]["windows"] == 1 and first["weights"] is None
    assert all(stage["skipped"] for stage in run_train(options)["stages"].values())
    config = load_config(tmp_path / "run" / "config.toml", RunConfig)
    assert config.record == RecordConfig(tasks=("button-press-v3",), episodes=1, num_frames=13)
    window = Run(tmp_path / "run", config).windows().window(0)
    assert window.targets.batch_shape == (8, 4) and window.displacement_valid.all()
    moved = window.displacement[-1].norm(dim=-1)
    assert (moved[window.memory.extras["segments"][:, 0] <= 0] == 0).all()
    assert moved.max() > 0.01 and moved.median() < 1e-4  # the hand moves, the table does not


def test_episodes_with_cameras_of_their_own_are_cached(tmp_path):
    """Cameras differ between episodes; segments of the inputs are there, those of the targets are not drawn."""
    pytest.importorskip("metaworld", reason="the simulator is not installed")
    record = RecordConfig(tasks=("reach-v3",), episodes=2, num_frames=13, size=32, viewpoints=(2, 1))
    cache, folder = CacheConfig(window_stride=2), tmp_path / "record"
    result = record_stage(folder, record, processes=1)
    assert (result["episodes"], result["frames"]) == (2, 26)
    assert cache_stage(tmp_path / "cache", cache, record=record, episodes=folder, processes=1)["windows"] == 4
    windows = WindowCache(tmp_path / "cache", cache, record=record, episodes=folder)
    assert windows.cameras == ("input_0", "input_1", "target_0")
    batch = stack_windows([windows.window(number) for number in (0, 3)])
    assert batch.frames.batch_shape == (2, 3) and batch.targets.batch_shape == (2, 8, 3)
    viewmats, Ks = batch.frames.cameras.viewmats, batch.frames.cameras.Ks
    assert not torch.equal(viewmats[0], viewmats[1]) and not torch.equal(Ks[0], Ks[1])
    assert batch.displacement[:, -1].norm(dim=-1).amax(1).min() > 0.01
    episode = windows.moment(0)[0].read(0, 1)
    assert [name for name, view in episode.views.items() if view.extras] == ["input_0", "input_1"]


def test_tasks_of_the_table_are_recorded_and_cached(tmp_path):
    """Beside those of Meta-World, another robot of the same numbers; windows know them by their captions."""
    pytest.importorskip("metaworld", reason="the simulator is not installed")
    tasks = ("tabletop/put-red-block-on-blue-plate", "tabletop/put-blue-block-on-red-plate", "reach-v3")
    cameras = ("left", "right", "front")
    record = RecordConfig(tasks=tasks, episodes=1, num_frames=13, size=32, cameras=cameras, several_robots=True)
    cache, folder = CacheConfig(), tmp_path / "record"
    assert record_stage(folder, record, processes=1)["episodes"] == 3
    assert cache_stage(tmp_path / "cache", cache, record=record, episodes=folder, processes=1)["windows"] == 3
    windows = WindowCache(tmp_path / "cache", cache, record=record, episodes=folder)
    assert [robot.name for robot in windows.robots] == ["gripper", "sawyer"] and windows.robot_of(2).name == "sawyer"
    assert windows.tasks == ["put the red block on the blue plate", "put the blue block on the red plate", "reach-v3"]
    window = windows.window(0)
    moved = window.displacement[-1].norm(dim=-1)
    assert moved.max() > 0.03 and moved.median() < 1e-3  # the hand moves, the table does not


def test_a_long_future_needs_pictures_of_its_beginning_alone(tmp_path):
    """Windows of 30 frames in episodes of 6 pictures: the truth about motion is that of the whole episode."""
    pytest.importorskip("metaworld", reason="the simulator is not installed")
    record = RecordConfig(tasks=("drawer-open-v3",), episodes=1, num_frames=6, num_tail=40, size=32, noise=(0.1,))
    cache, folder = CacheConfig(window_stride=3, horizon=40), tmp_path / "record"
    assert record_stage(folder, record, processes=1)["success_rate"] == 1  # it opens the drawer in the tail
    cache_stage(tmp_path / "cache", cache, record=record, episodes=folder, processes=1)
    windows = WindowCache(tmp_path / "cache", cache, record=record, episodes=folder)
    assert [windows.moment(n)[1] for n in range(len(windows))] == [2, 5]
    window = windows.window(1, futures=False)
    assert window.displacement.shape[0] == len(window.actions) == len(window.success) == 40 and window.success.any()
    episode, drawer = windows.moment(1)[0], window.memory.extras["segments"][:, 0].long() == 10
    assert episode.info["segments"][10] == "drawer_link" and drawer.any()
    way = episode.segment_poses[45, 10, 4:] - episode.segment_poses[5, 10, 4:]  # the drawer slides, it does not turn
    assert way.norm() > 0.1 and torch.allclose(
        window.displacement[-1, drawer], way.expand(int(drawer.sum()), 3), atol=1e-4
    )
    with pytest.raises(DataFormatError, match="ends before the window"):
        windows.window(1)


def test_a_head_alone_is_trained_on_a_given_world_model(tmp_path):
    """The world model stays as it was, bit for bit, and the weights say where it is from and what the head saw."""
    pytest.importorskip("metaworld", reason="the simulator is not installed")
    path = tmp_path / "head.toml"
    path.write_text(
        'name = "head"\nstart = "tiny"\npolicy_only = true\nprocesses = 1\nthreads = 1\n'
        "[policy]\nbatch_size = 4\n[policy.train]\nsteps = 2\n"
        '[policy.data]\ntasks = ["reach-v3"]\nnum_demonstrations = 1\nnum_frames = 5\ntries = 1\nimage_size = 32\n'
        '[policy.model]\neyes = "pictures"\nnum_views = 2\nview_size = 32\nwidth = 32\nhidden = 32\nheads = 2\n'
    )
    result = run_train(TrainOptions(config=path, out=tmp_path / "run"))
    assert list(result["stages"]) == ["policy"] and result["weights"]["policy"]
    assert (result["stages"]["policy"]["demonstrations"], result["stages"]["policy"]["succeeded"]) == (1, 0)
    made, start = load_models(result["weights"]["path"]), load_models("tiny")
    assert made.tasks == ["reach-v3"] and made.policy_size == 32 and made.policy.config.modality == "images"
    assert made.info["provenance"]["start"] == start.info["provenance"]
    for part in ("vae", "dynamics"):
        theirs = start.parts()[part].state_dict()
        for name, value in made.parts()[part].state_dict().items():
            assert torch.equal(value, theirs[name]), name


def _wait_long(marker):
    marker.with_suffix(f".{os.getpid()}").touch()
    time.sleep(100)


def test_workers_end_with_a_process_that_was_killed(tmp_path):
    child = os.fork()
    if child == 0:
        jobs = [{"marker": tmp_path / str(i)} for i in range(2)]
        in_processes(_wait_long, jobs, num=2)
    deadline = time.monotonic() + 100
    while len(pids := [int(p.suffix[1:]) for p in tmp_path.iterdir()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.05)

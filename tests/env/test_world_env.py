"""The learned simulator: gymnasium's own checks, equality with long forecasts, faults, truncation, records, memory."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed")

import toy_world
from gymnasium.utils.env_checker import check_env

from scene4d.env.batched_sim import BatchedSim, WorldConfig
from scene4d.env.termination import TerminationLimits
from scene4d.env.vector_env import WorldVectorEnv
from scene4d.env.world_env import WorldEnv
from scene4d.errors import ConfigError, EnvError
from scene4d.gaussians.s4d.s4d import open_s4d
from scene4d.robot.track import track_of

QUICK = WorldConfig(size=16, max_steps=30)
RIGHT = np.array([1.0, 0, 0, 0], np.float32)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def starts():
    return [toy_world.toy_start(), toy_world.toy_start(hand=(-0.1, 0.0, 0.05), num_floor=90)]


def world_env(*, config=QUICK, world=None, **options):
    world = toy_world.ToyWorld() if world is None else world
    return WorldEnv(world, starts(), cameras=toy_world.cameras(), config=config, **options)


def vector_env(num_envs=3, *, config=QUICK, **options):
    return WorldVectorEnv(
        toy_world.ToyWorld(), starts(), num_envs=num_envs, cameras=toy_world.cameras(), config=config, **options
    )


def test_gymnasium_accepts_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*infinity")  # the state of a robot has no bounds that we know
        check_env(world_env(render_mode="rgb_array"), skip_render_check=True)


def test_render_shows_the_cameras_side_by_side():
    env = world_env(render_mode="rgb_array")
    seen, _ = env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (16, 32, 3) and picture.dtype == np.uint8 and picture.std() > 5
    assert (picture[:, 16:] == seen["pixels"]["right"]).all()
    assert world_env().render() is None


def test_vector_env_keeps_the_contract():
    env = vector_env()
    assert env.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.NEXT_STEP
    env.action_space.seed(0)
    seen, _ = env.reset(seed=3)
    assert seen in env.observation_space and env.action_space.shape == (3, 4)
    for _ in range(12):
        seen, reward, terminated, truncated, infos = env.step(env.action_space.sample())
        assert seen in env.observation_space
        assert reward.shape == terminated.shape == truncated.shape == (3,) and terminated.dtype == bool
        assert infos["uncertainty"].shape == (3,) and infos["_uncertainty"].all()


def test_vector_worlds_are_the_single_world_each():
    """World i of a vector env with seed s is WorldEnv.reset(seed=s + i), whatever its neighbours do or end on."""
    config = WorldConfig(size=16, max_steps=11)
    vector = vector_env(config=config)
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (30, 3, 4)).astype(np.float32)
    together = [vector.reset(seed=7)[0], *(vector.step(a)[0] for a in actions)]
    for i in range(3):
        env = world_env(config=config)
        alone, over = [env.reset(seed=7 + i)[0]], False
        for a in actions[:, i]:
            if over:
                seen, over = env.reset()[0], False
            else:
                seen, _, terminated, truncated, _ = env.step(a)
                over = terminated or truncated
            alone.append(seen)
        for one, many in zip(alone, together, strict=True):
            np.testing.assert_allclose(many["agent_pos"][i], one["agent_pos"], atol=1e-6)
            apart = many["pixels"]["left"][i].astype(int) - one["pixels"]["left"]
            assert np.abs(apart).max() <= 1


def test_one_forecast_serves_all_worlds():
    env = vector_env(8)
    env.reset(seed=0)
    env.sim.model.num_calls = 0
    env.step(env.action_space.sample())
    assert env.sim.model.num_calls == 1


def test_images_show_what_the_law_says():
    """Pushed for long enough, the block is where arithmetic puts it, in the pictures too."""
    env = world_env(world=toy_world.ToyWorld(goal_x=9.0))
    env.reset(seed=0, options={"start": toy_world.toy_start()})
    for _ in range(12):
        seen, *_ = env.step(RIGHT)
    hand_x = 12 * toy_world.STEP_M
    assert seen["agent_pos"][0] == pytest.approx(hand_x, abs=1e-5)
    pushed = toy_world.toy_start(hand=(hand_x, 0.0, 0.05), block=(hand_x + toy_world.REACH, 0.0, 0.05))
    other = world_env()
    wanted = other.reset(options={"start": pushed})[0]["pixels"]
    for name, picture in wanted.items():
        assert np.abs(seen["pixels"][name].astype(int) - picture).max() <= 2
    first = env.reset(options={"start": toy_world.toy_start()})[0]["pixels"]["left"]
    assert np.abs(first.astype(int) - wanted["left"]).max() > 50


def test_reward_is_the_gain_in_success_and_episodes_terminate_on_it():
    env = world_env()
    env.reset(seed=0, options={"start": toy_world.toy_start()})
    total, steps, terminated, infos = 0.0, 0, False, []
    while not terminated:
        _, reward, terminated, truncated, info = env.step(RIGHT)
        total, steps = total + reward, steps + 1
        infos.append(info)
        assert not truncated
    # The block is pushed past 0.4 m by a hand that started 0.33 m - REACH before it, 2 cm a step.
    assert steps == int(np.ceil((0.4 - toy_world.REACH) / toy_world.STEP_M - 1e-6))
    assert infos[-1]["ended"] == "success" and infos[-2]["ended"] == ""
    assert total == pytest.approx(infos[-1]["success"] - infos[0]["success"], abs=1e-6)
    with pytest.raises(EnvError, match="reset"):
        env.step(RIGHT)


def test_heads_for_reward_and_done_are_used_where_there_are():
    world = toy_world.ToyWorld(heads=("success", "proprio", "reward", "done"))
    env = world_env(world=world)
    env.reset(options={"start": toy_world.toy_start(block=(0.39, 0.0, 0.05), hand=(0.31, 0.0, 0.05))})
    _, reward, terminated, _, info = env.step(RIGHT)
    assert reward == pytest.approx(-abs(0.31 + 0.02 + 0.07 - 0.4), abs=1e-6) and not terminated
    _, _, terminated, _, info = env.step(RIGHT)
    assert terminated and info["ended"] == "done"


@pytest.mark.parametrize(
    "action",
    [np.full(4, np.nan), np.array([0, np.inf, 0, 0]), np.array([0, 0, 1.2, 0]), np.zeros(3), np.zeros((1, 4)), "go"],
    ids=["nan", "inf", "range", "short", "deep", "text"],
)
def test_fault_50_bad_actions_stop_before_the_model(action):
    env, vector = world_env(), vector_env()
    env.reset(seed=0)
    vector.reset(seed=0)
    env.sim.model.num_calls = vector.sim.model.num_calls = 0
    with pytest.raises(EnvError, match="action"):
        env.step(action)
    if not isinstance(action, str):
        with pytest.raises(EnvError, match="action"):
            vector.step(np.stack([np.zeros_like(action), action, action]))
    assert env.sim.model.num_calls == vector.sim.model.num_calls == 0
    env.step(RIGHT)  # and the episode goes on


def test_what_differs_between_starts_is_refused_or_makes_no_difference():
    """Cameras of other names make no difference, steps of another length do; a refused episode has not begun."""
    lasting = lambda seconds: toy_world.toy_start(step_seconds=seconds)
    other = lasting(0.025).replace(cameras={"elsewhere": toy_world.cameras()["left"]})
    sim = BatchedSim(toy_world.ToyWorld(), toy_world.cameras(), num=2, config=QUICK)
    sim.start({0: (lasting(0.025 + 1e-9), 0), 1: (other, 0)})
    assert set(sim.logs[1].start.cameras) == {"elsewhere"}
    with pytest.raises(ConfigError, match="step_seconds"):
        other.robot.check_same(lasting(0.1).robot)
    with pytest.raises(ConfigError, match="step_seconds"):
        sim.start({1: (lasting(0.1), 0)})
    assert sim.logs[1].start is other


def test_chunks_end_where_the_model_ends():
    for chunk in (0, 9):
        with pytest.raises(ConfigError, match="chunk"):
            world_env(config=WorldConfig(size=16, chunk=chunk))
    assert world_env(world=toy_world.ToyWorld(horizon=9), config=WorldConfig(size=16, chunk=9)).config.chunk == 9


def test_reset_has_the_infos_of_steps():
    """The keys of info are there from the first moment on, also where a world begins anew beside others."""
    env = vector_env(2, config=WorldConfig(size=16, max_steps=2))
    _, first = env.reset(seed=0)
    assert first["success"].tolist() == [0, 0] and first["ended"].tolist() == ["", ""]
    infos = [env.step(np.zeros((2, 4), np.float32))[-1] for _ in range(3)]
    assert infos[1]["ended"].tolist() == ["time"] * 2 and infos[2]["ended"].tolist() == [""] * 2
    assert all(first.keys() == info.keys() and info["_uncertainty"].all() for info in infos)
    assert env.metadata["render_fps"] == 40
    slow = [toy_world.toy_start(step_seconds=0.1)]
    single = WorldEnv(toy_world.ToyWorld(), slow, cameras=toy_world.cameras(), config=QUICK)
    assert single.metadata["render_fps"] == 10 and single.reset()[1].keys() == {"success", "uncertainty", "ended"}


def test_action_space_follows_the_spec():
    spec = [{"name": "dx", "low": -0.5, "high": 0.25}, *toy_world.SPEC[1:]]
    env = WorldEnv(
        toy_world.ToyWorld(),
        [toy_world.toy_start(action_spec=spec)],
        cameras=toy_world.cameras(),
        config=QUICK,
    )
    assert env.action_space.low[0] == -0.5 and env.action_space.high[0] == 0.25 and env.action_space.high[1] == 1
    env.reset(seed=0)
    with pytest.raises(EnvError, match=r"action\[0\]"):
        env.step(RIGHT)


def test_fault_49_actions_that_are_not_of_the_spec():
    start = toy_world.toy_start()
    with pytest.raises(ConfigError, match="action_spec") as raised:
        toy_world.toy_start(action_spec=toy_world.SPEC[:3], num_actions=4)
    assert raised.value.found == "4 numbers" and raised.value.expected == 3
    short = toy_world.toy_start(action_spec=toy_world.SPEC[:3])
    with pytest.raises(ConfigError, match="action_spec"):
        start.replace(robot=short.robot)
    other = toy_world.toy_start(action_spec=[{"name": n} for n in "abcd"])
    with pytest.raises(ConfigError, match="action_spec"):
        BatchedSim(toy_world.ToyWorld(), toy_world.cameras(), num=2, config=QUICK).start({0: (start, 0), 1: (other, 0)})
    with pytest.raises(ConfigError, match="start"):
        WorldEnv(toy_world.ToyWorld(), [], cameras=toy_world.cameras())


def test_fault_51_short_pasts_are_marked_as_short():
    """A track is as long for a robot that has just begun as for one of long ago, and what is made up is marked."""
    known = torch.arange(20.0)[:, None].expand(20, 4)
    short = track_of(known[:2], known[:3], num_past=8)
    assert short.valid.tolist() == [False] * 6 + [True] * 2
    assert short.actions[:6].eq(0).all() and torch.equal(short.actions[6:], known[:2])
    assert short.proprio[:6].eq(0).all() and torch.equal(short.proprio[6:], known[:3])
    long = track_of(known[:19], known, num_past=8)
    assert long.valid.all() and torch.equal(long.actions, known[11:19]) and torch.equal(long.proprio, known[11:])
    assert track_of(known[:5], known[4:5], num_past=8).valid.sum() == 0  # no state is known from before an action


def test_fault_52_divergence_is_flagged_truncated_and_saved(tmp_path):
    """NaN from the model: truncated, the last good picture stays, the record ends there and can be read."""
    world = toy_world.ToyWorld(goal_x=9.0, breaks_at=0.1)
    env = world_env(world=world, record_to=tmp_path)
    env.reset(seed=0, options={"start": toy_world.toy_start()})
    truncated = False
    while not truncated:
        seen, _, terminated, truncated, info = env.step(RIGHT)
        assert not terminated and seen in env.observation_space
    assert info["ended"] == "not finite"
    assert seen["agent_pos"][0] == pytest.approx(0.1, abs=1e-5) and seen["pixels"]["left"].std() > 5
    scene = open_s4d(tmp_path / "episode_0000.s4d").scene()
    assert bool(scene.motion.world_from_rest.isfinite().all()) and scene.info["ended"] == "not finite"


def test_leaving_the_workspace_and_uncertainty_truncate():
    near = WorldConfig(size=16, limits=TerminationLimits(margin=0.1))
    env = world_env(config=near)
    env.reset(seed=0, options={"start": toy_world.toy_start()})
    for _ in range(5):
        *_, truncated, info = env.step(-RIGHT)
        assert not truncated
    *_, truncated, info = env.step(-RIGHT)
    assert truncated and info["ended"] == "workspace"
    # Each chunk of 8 steps adds 8 std^2 in each of x, y, z to what moves.
    unsure = WorldConfig(size=16, limits=TerminationLimits(max_uncertainty=0.05))
    env = world_env(config=unsure, world=toy_world.ToyWorld(std=0.01))
    env.reset(seed=0, options={"start": toy_world.toy_start()})
    steps, truncated, back = 0, False, np.array([0, 0.1, 0, 0], np.float32)
    while not truncated:
        *_, truncated, info = env.step(back if steps % 2 else -2 * back)
        steps += 1
        assert info["uncertainty"] == pytest.approx((3 * steps * 0.01**2) ** 0.5, rel=1e-3)
    assert info["ended"] == "uncertainty" and steps == 9


def test_records_can_be_read_forecast_and_started_from(tmp_path):
    env = world_env(config=WorldConfig(size=16, max_steps=13), record_to=tmp_path)
    for _ in range(2):
        env.reset(seed=0, options={"start": toy_world.toy_start(time=1.5)})
        truncated = False
        while not truncated:
            seen, _, _, truncated, _ = env.step(0.5 * RIGHT)
    env.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["episode_0000.s4d", "episode_0001.s4d"]
    file = open_s4d(tmp_path / "episode_0000.s4d")
    scene = file.scene()
    assert scene.times.tolist() == pytest.approx([1.5 + 0.025 * i for i in range(14)])
    assert scene.observed.tolist() == [True] + 13 * [False] and file.actions.shape == (13, 4)
    flow, _ = scene.flow(float(scene.times[0]), float(scene.times[-1]))
    torch.testing.assert_close(flow[:64], torch.tensor([13 * 0.01, 0, 0]).expand(64, 3), atol=1e-5, rtol=0)
    assert file.info["proprio"][-1] == pytest.approx(seen["agent_pos"].tolist()) and len(file.info["rewards"]) == 13
    assert set(file.cameras) == {"left", "right"}


def test_memory_stays_flat():
    """Rows, logs and tensors do not pile up: live tensors after 100 steps are those after 40."""
    import gc

    env = vector_env(2, config=WorldConfig(size=8, max_steps=12))
    env.reset(seed=0)
    env.action_space.seed(0)
    counts = []
    for step in range(100):
        env.step(env.action_space.sample())
        if step in (39, 99):
            gc.collect()
            counts.append(sum(type(o) is torch.Tensor for o in gc.get_objects()))
    assert counts[-1] - counts[0] < 100
    assert env.sim.state.anchored.gaussians.num_gaussians == 64 + 64 + 150

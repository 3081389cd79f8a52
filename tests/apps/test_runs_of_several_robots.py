"""One run on recordings of two robots: its weights know both, say which a scene is of, and refuse a third."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mujoco", reason="the simulator is not installed")

from scene4d.apps.compose.models import load_models
from scene4d.apps.training.import_recordings import import_stage
from scene4d.apps.training.run_config import RecordConfig
from scene4d.apps.verbs.run_train import TrainOptions, run_train
from scene4d.data.formats.lerobot.lerobot import write_lerobot
from scene4d.errors import ConfigError
from scene4d.lift.reconstruct import reconstruct
from scene4d.sim.recorder import record_with
from scene4d.sim.tabletop.tabletop import TabletopSim
from scene4d.world.observation import Observation

CAMERAS, KINDS = ("left", "right", "front"), ("gripper", "pusher")
TASKS = {"gripper": "put-red-block-on-blue-plate", "pusher": "push-red-block-to-left-side", "suction": "open-drawer"}
QUICK = ("dynamics.batch_size=2", "dynamics.intent_batch_size=2", "dynamics.completion_batch_size=2")


def recorded(kind: str):
    task = f"tabletop/{kind}/{TASKS[kind]}"
    with TabletopSim(task, seed=903, size=(32, 32), cameras=CAMERAS) as sim:
        return record_with(sim, seed=903, num_frames=14)


@pytest.fixture(scope="module")
def episodes():
    return {kind: recorded(kind) for kind in TASKS}


@pytest.fixture(scope="module")
def sources(episodes, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("recordings")
    for kind in KINDS:
        write_lerobot(folder / kind, [episodes[kind]])
    return [str(folder / kind) for kind in KINDS]


def test_two_robots_are_not_mixed_unasked(sources, tmp_path):
    record = RecordConfig(sources=tuple(sources), cameras=CAMERAS, size=32)
    with pytest.raises(ConfigError) as raised:
        import_stage(tmp_path / "record", record, least=11, processes=1)
    line = raised.value.line()
    assert "pusher" in line and "record.several_robots" in line and "\n" not in line


def test_a_run_on_two_robots_knows_both_and_no_third(sources, episodes, tmp_path):
    text = f'start = "tiny"\nthreads = 1\nprocesses = 1\n[record]\nsources = {sources}\nseveral_robots = true\n'
    (tmp_path / "c.toml").write_text(text + f"size = 32\ncameras = {list(CAMERAS)}\n[cache]\nwindow_stride = 3\n")
    result = run_train(TrainOptions(tmp_path / "c.toml", out=tmp_path / "run", steps=1, set=QUICK))
    models = load_models(result["weights"]["path"])
    assert [robot.name for robot in models.world.spec.robots] == list(KINDS)
    for kind, episode in episodes.items():
        scene = reconstruct(episode[:4], cameras=CAMERAS[:2])
        known = Observation.from_episode(episode[:4], scene=scene, inputs=CAMERAS[:2])
        if kind == "suction":
            with pytest.raises(ConfigError, match="none of the robots") as raised:
                models.world.observe(known)
            assert "\n" not in raised.value.line()
            continue
        state = models.world.observe(known)
        assert state.robot.name == kind and state.robot.action.names == tuple(
            r["name"] for r in episode.info["action_spec"]
        )
        prediction = models.world.predict(state, actions=episode.actions[3:6])
        assert prediction.robot_states.shape == (3, episode.proprio.shape[-1])
        assert bool(torch.isfinite(prediction.robot_states).all())


@pytest.mark.parametrize(
    "tasks", [("reach-v3", "tabletop/open-drawer"), ("tabletop/suction/open-drawer", "tabletop/pusher/open-drawer")]
)
def test_tasks_of_several_robots_are_refused_before_they_are_recorded(tasks):
    with pytest.raises(ConfigError, match="several_robots"):
        RecordConfig(tasks=tasks)
    assert RecordConfig(tasks=tasks, several_robots=True).tasks == tasks
    assert RecordConfig(tasks=tasks[:1])

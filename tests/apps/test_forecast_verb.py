"""`scene4d forecast`: what it writes can be started from by all that start from a reconstructed scene."""

import pytest
import torch
from tiny_agent import PROPRIO, SPEC, box_views, tiny_models

from scene4d.apps.compose.models import save_models
from scene4d.apps.compose.recorded_actions import observation_and_actions
from scene4d.apps.verbs.run_act import ActOptions, run_act
from scene4d.apps.verbs.run_forecast import ForecastOptions, run_forecast
from scene4d.apps.verbs.run_view import ViewOptions, _rollout
from scene4d.errors import ConfigError
from scene4d.gaussians.s4d.s4d import open_s4d, write_s4d
from scene4d.lift.stream.stream import SceneStream
from scene4d.types import Cameras, Frames

NUM = 6
PROPRIO_SPEC = [{"name": n} for n in ("hand_x", "hand_y", "hand_z", "gripper_opening")]


@pytest.fixture(scope="module")
def models():
    """A model whose robot answers actions."""
    made = tiny_models()
    with torch.no_grad():
        made.world.proprio.effect.copy_(0.5 * torch.eye(*made.world.proprio.effect.shape))
        torch.nn.init.normal_(made.world.proprio.straight.weight, std=0.1)
    return made


@pytest.fixture(scope="module")
def future(models, tmp_path_factory):
    """future.s4d of four steps from frame 3 of a recording whose cameras move; the weights lie beside it."""
    torch.set_num_threads(1)
    folder, stream, seen = tmp_path_factory.mktemp("forecast"), SceneStream(), [box_views(t) for t in range(NUM)]
    for t, views in enumerate(seen):
        stream.update(Frames.stack([f.replace(alpha=torch.ones_like(f.depth)) for f in views.values()]), time=0.025 * t)
    save_models(folder / "weights.safetensors", models, info=models.info, half=False)
    write_s4d(
        folder / "scene.s4d",
        stream.scene(),
        cameras={n: Cameras.stack([views[n].cameras for views in seen]) for n in seen[0]},
        actions=torch.full((NUM, 4), 0.5),
        action_spec=SPEC,
        info={
            "task": "door-open-v3",
            "proprio": [(PROPRIO + 0.01 * t).tolist() for t in range(NUM)],
            "proprio_spec": PROPRIO_SPEC,
            "input_cameras": ["left"],
        },
    )
    (folder / "actions.json").write_text(str([[0.5, 0.0, 0.0, 0.0]] * 4))
    options = ForecastOptions(
        folder / "scene.s4d",
        actions=str(folder / "actions.json"),
        start=3,
        steps=4,
        output=folder / "future.s4d",
        weights=folder / "weights.safetensors",
    )
    assert run_forecast(options)["num_steps"] == 4
    return folder / "future.s4d"


def test_how_far_may_be_said_in_seconds(future, models):
    weights, folder = future.with_name("weights.safetensors"), future.parent
    options = ForecastOptions(folder / "scene.s4d", start=2, seconds=0.05, output=folder / "two.s4d", weights=weights)
    assert run_forecast(options)["num_steps"] == 2
    with pytest.raises(ConfigError, match="seconds"):
        ForecastOptions(folder / "scene.s4d", seconds=0.0)


def test_the_file_tells_of_its_own_instants(future):
    file, source = open_s4d(future), open_s4d(future.with_name("scene.s4d"))
    assert file.num_frames == 5 and file.scene().observed.tolist() == [True] + 4 * [False]
    assert file.info["task"] == "door-open-v3" and file.info["input_cameras"] == ["left"]
    assert file.info["proprio_spec"] == PROPRIO_SPEC
    proprio = torch.tensor(file.info["proprio"])
    torch.testing.assert_close(proprio[0], PROPRIO + 0.03)
    assert proprio.shape == (5, 4) and float(proprio.diff(dim=0).norm(dim=-1).min()) > 1e-5
    for name, cameras in source.cameras.items():  # frames 3, 4 and 5; then nothing is known of where it goes
        torch.testing.assert_close(file.cameras[name].viewmats, cameras.viewmats[[3, 4, 5, 5, 5]])


def test_all_verbs_go_on_from_it(future, models):
    weights = future.with_name("weights.safetensors")
    acted = run_act(ActOptions(future, task="open the door", weights=weights, forecast=False))
    assert len(acted["actions"]) == 8 and acted["time"] == pytest.approx(0.075)
    again = ForecastOptions(future, start=2, steps=2, output=future.with_name("again.s4d"), weights=weights)
    assert run_forecast(again)["start"] == 2
    known, actions = observation_and_actions(open_s4d(future), actions="recorded", start=2, num_steps=2)
    assert known.actions.shape == actions.shape == (2, 4) and known.proprio.shape == (3, 4)
    file = open_s4d(future)
    rollout = _rollout(ViewOptions(future, weights=weights), file, scene=file.scene())
    assert len(next(iter(rollout("open the door", num_steps=2, seed=0))).times) == 3


def test_the_simulator_starts_from_it(future, models):
    pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    from scene4d.apps.compose.recorded_starts import make_world_env
    from scene4d.env.batched_sim import WorldConfig

    env = make_world_env(models, [future], config=WorldConfig(size=16))
    seen, _ = env.reset(seed=0)
    assert set(seen["pixels"]) == {"left"} and seen["pixels"]["left"].std() > 5
    torch.testing.assert_close(torch.from_numpy(seen["agent_pos"]), PROPRIO + 0.03)
    env.step(env.action_space.sample())

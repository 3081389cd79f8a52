import json
import math

import pytest
import torch

pytest.importorskip("metaworld")

from scene4d.apps.cli import main
from scene4d.apps.verbs.options.recordings import ConvertOptions
from scene4d.apps.verbs.run_convert import run_convert
from scene4d.apps.verbs.run_record import RecordOptions, run_record
from scene4d.data.formats.lerobot.lerobot import open_lerobot
from scene4d.errors import ConfigError, ResourceError
from scene4d.sim.recorder import record_episode
from scene4d.sim.viewpoints import Viewpoints, drawn_names


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    options = RecordOptions(
        output=tmp_path_factory.mktemp("recorded") / "set",
        tasks=("button-press-v3", "reach-v3"),
        episodes=1,
        first_seed=4,
        noise=(0.2,),
        frames=28,
        cameras=("left", "gripper"),
    )
    return options, run_record(options)


def test_what_was_simulated_is_what_is_read(recorded):
    options, result = recorded
    recordings = open_lerobot(options.output)
    assert [r.info["task"] for r in recordings] == list(options.tasks)
    assert {"output", "episodes", "frames", "bytes", "success_rate", "success", "ms_per_frame"} <= set(result)
    assert (result["episodes"], result["frames"]) == (2, 56) and result["success"]["reach-v3"] == 1.0
    truth = record_episode("reach-v3", seed=4, noise=0.2, num_frames=28, cameras=options.cameras)
    back = recordings[1].read()
    assert back.info["seed"] == 4 and back.info["noise"] == 0.2 and back.info["segments"][0] == "world"
    for name in ("times", "actions", "proprio", "rewards", "success", "segment_poses"):
        assert torch.equal(getattr(back, name), getattr(truth, name)), name
    for name, frames in truth.views.items():
        got = back.views[name]
        assert -10 * math.log10(float(((got.rgb - frames.rgb) ** 2).mean())) > 40
        assert (got.depth - frames.depth).abs().max() < 0.6e-4
        assert torch.equal(got.extras["segments"], frames.extras["segments"])
        assert torch.equal(got.cameras.viewmats, frames.cameras.viewmats)
    hand = back.views["gripper"].cameras.viewmats
    assert not torch.equal(hand[0], hand[-1])  # the camera on the hand moves


def test_drawn_cameras_are_stored_with_each_episode_and_survive_conversion(tmp_path):
    options = RecordOptions(
        output=tmp_path / "set", tasks=("reach-v3",), episodes=2, noise=(0.2,), frames=3, viewpoints=(2, 3), size=16
    )
    run_record(options)
    run_convert(ConvertOptions(source=options.output, output=tmp_path / "again", workers=1))
    for folder in (options.output, tmp_path / "again"):
        recordings = open_lerobot(folder)
        for seed, recording in enumerate(recordings):
            assert recording.cameras == drawn_names(2, 3) and recording.info["seed"] == seed
            drawn = Viewpoints().episode("reach-v3", seed=seed, num_inputs=2, num_targets=3)
            truth = record_episode("reach-v3", seed=seed, noise=0.2, num_frames=3, cameras=drawn, size=(16, 16))
            for name, frames in recording.read().views.items():
                own = truth.views[name]
                assert torch.equal(frames.cameras.viewmats, own.cameras.viewmats)
                assert torch.equal(frames.cameras.Ks, own.cameras.Ks)
                assert (frames.depth - own.depth).abs().max() < 0.6e-3
                assert recording.info["viewpoints"][name]["fov_y_deg"] == drawn[name].fov_y_deg
        first, second = (r.read().views["input_0"].cameras for r in recordings)
        assert not torch.equal(first.Ks, second.Ks) and not torch.equal(first.viewmats, second.viewmats)


def test_the_table_is_recorded_with_its_caption_and_its_truth(tmp_path):
    task, cameras = "tabletop/pusher/push-red-block-onto-blue-plate", ("front",)
    options = RecordOptions(
        output=tmp_path / "set", tasks=(task,), episodes=1, frames=44, noise=(0.1,), size=32, cameras=cameras
    )
    assert run_record(options)["success"] == {task: 1.0}
    back = open_lerobot(options.output)[0].read()
    assert back.info["task"] == "push the red block onto the blue plate" and back.info["task_name"] == task
    assert back.info["phrases"][0] == {"verb": "push", "object": "red block", "relation": "onto", "place": "blue plate"}
    assert set(back.info["mass_kg"]) >= {"red block", "drawer"} and back.info["robot"] == "pusher"
    truth = record_episode(task, seed=0, noise=0.1, num_frames=44, size=(32, 32), cameras=cameras)
    for name in ("actions", "proprio", "rewards", "success", "segment_poses"):
        assert torch.equal(getattr(back, name), getattr(truth, name)), name
    red = back.info["segments"].index("red block")
    assert (back.segment_poses[-1, red] - back.segment_poses[0, red]).norm() > 0.1
    assert (back.views["front"].extras["segments"] == red).any()


def test_robots_are_not_mixed_in_one_data_set(tmp_path):
    tasks = ("tabletop/suction/open-drawer", "tabletop/pusher/open-drawer")
    with pytest.raises(ConfigError, match="pusher, suction"):
        run_record(RecordOptions(output=tmp_path / "set", tasks=tasks))
    with pytest.raises(ConfigError, match="pink"):
        run_record(RecordOptions(output=tmp_path / "set", tasks=("tabletop/put-pink-block-on-blue-plate",)))
    assert not list(tmp_path.iterdir())


def test_the_verb_ends_with_one_json_line(tmp_path, capsys):
    task = ["--tasks", "reach-v3", "--episodes", "1", "--noise", "0.1"]
    arguments = [*task, "--frames", "2", "--size", "16", "--cameras", "top"]
    assert main(["record", "-o", str(tmp_path / "set"), *arguments]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["frames"] == 2 and len(open_lerobot(result["output"])) == 1


def test_impossible_options_are_refused_before_any_work(tmp_path):
    for wrong in ({"viewpoints": (-1, 2)}, {"episodes": 0}, {"frames": 251}, {"size": 0}, {"tasks": ()}, {"noise": ()}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            RecordOptions(output=tmp_path / "set", **wrong)
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(ResourceError, match="exists"):
        run_record(RecordOptions(output=tmp_path))
    with pytest.raises(ConfigError, match="fly-v3"):
        run_record(RecordOptions(output=tmp_path / "set", tasks=("fly-v3",)))
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]

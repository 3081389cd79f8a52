"""Episodes to scenes: the right path is taken, gaps close, rows seen late existed before, errors are plain."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from turning_box import TurningBox

from scene4d.errors import ConfigError, DataFormatError, DepthError
from scene4d.lift.moving_camera.layered_views import LayeredViewsConfig
from scene4d.lift.moving_camera.layered_views_fit import LayeredViewsFitConfig
from scene4d.lift.reconstruct import ReconstructConfig, reconstruct
from scene4d.lift.refine.fit import FitConfig
from scene4d.lift.rgb.sparse_view_fit import SparseViewFitConfig
from scene4d.lift.rgb.splat_trainer import SplatConfig
from scene4d.lift.rgbd.fuse import FuseConfig
from scene4d.lift.stream.stream import StreamConfig
from scene4d.render.render import render

DATA = Path(__file__).parents[2].parent / "shared" / "data"
BOX = TurningBox()
QUICK = ReconstructConfig(stream=StreamConfig(polish_first=4), num_backdrop=50)


@pytest.fixture(scope="module")
def moving():
    episode = BOX.episode(8)
    return episode, reconstruct(episode, config=QUICK)


def test_fixed_cameras_find_motion(moving):
    episode, scene = moving
    assert scene.times.tolist() == episode.times.tolist() and bool(scene.observed.all())
    rows = (scene.motion.skin_weights != 0).any(-1)
    segments = scene.base.extras["segments"][:, 0]
    assert int((rows & (segments == 1)).sum()) > 500
    assert float((segments[rows] == 1).float().mean()) > 0.95


def test_one_moving_camera_shows_the_frames_round_each_instant():
    episode = BOX.episode(3, moving_camera=True)
    scene = reconstruct(episode)
    assert not bool((scene.motion.skin_weights != 0).any())
    frames = next(iter(episode.views.values()))
    for time, k in ((0.0, 0), (0.2, 2), (5.0, 2)):
        drawn = render(scene.at(time), frames.cameras[k])
        assert drawn.alpha.mean() > 0.98
        assert float(-10 * torch.log10(((drawn.rgb - frames.rgb[k]) ** 2).mean())) > 22


def test_scenes_tell_how_many_steps_refined_them():
    episode = dataclasses.replace(BOX, size=24).episode(2, moving_camera=True)
    for config, seconds, steps in (
        (ReconstructConfig(between=LayeredViewsConfig(fit=LayeredViewsFitConfig(rounds=2))), None, 2),
        (ReconstructConfig(between=LayeredViewsConfig(fit=LayeredViewsFitConfig(rounds=2))), 0.0, 0),
        (ReconstructConfig(fused=FuseConfig(max_gaussians=500, num_backdrop=50)), None, 3),
    ):
        fit = FitConfig(steps=3, max_seconds=seconds)
        assert reconstruct(episode, config=dataclasses.replace(config, fit=fit)).info["steps"] == steps
    assert "steps" not in reconstruct(episode).info


def test_no_clock_decides_unless_it_is_asked_to():
    for config in (FitConfig, LayeredViewsFitConfig, SplatConfig, SparseViewFitConfig):
        assert config().max_seconds is None, config


def test_a_still_scene_can_be_one_set_for_all_instants():
    episode = BOX.episode(3, moving_camera=True)
    config = ReconstructConfig(fused=FuseConfig(max_gaussians=3000, num_backdrop=500))
    scene = reconstruct(episode, config=config)
    assert scene.base.num_gaussians <= 3000 < reconstruct(episode).base.num_gaussians
    assert bool(torch.isinf(scene.alive).all())
    frames = next(iter(episode.views.values()))
    drawn = render(scene.at(0.1), frames.cameras[1])
    assert float(-10 * torch.log10(((drawn.rgb - frames.rgb[1]) ** 2).mean())) > 18


def test_between_two_instants_nothing_is_missing(moving):
    _, scene = moving
    step = 0.1
    for t in (2, 4):
        before, between = (int((scene.at(time).opacities > 0).sum()) for time in (step * t, step * (t + 0.5)))
        assert between > 0.98 * before
    frames = BOX.frames(4.5)
    drawn = render(scene.at(0.45), frames.cameras)
    assert float(-10 * torch.log10(((drawn.rgb - frames.rgb) ** 2).mean())) > 20


def test_table_seen_late_was_there_before(moving):
    _, scene = moving
    late = (scene.motion.skin_weights == 0).all(-1) & (scene.base.extras["segments"][:, 0] == 0)
    assert float((scene.alive[late, 0] <= 0).float().mean()) > 0.97


def test_progress_and_padding():
    episode = BOX.episode(4)
    episode = episode.replace(valid=torch.tensor([True, True, True, False]))
    calls = []
    scene = reconstruct(episode, config=QUICK, progress=lambda done, total: calls.append((done, total)))
    passes = 3 * QUICK.polish.passes
    assert calls == [(1, 3), (2, 3), (3, 3), *((k + 1, passes) for k in range(passes))], "frames, then polishing"
    assert len(scene.times) == 3


def test_errors_name_what_is_missing():
    episode = BOX.episode(2)
    with pytest.raises(DataFormatError, match="no such camera"):
        reconstruct(episode, cameras=["z"])
    blind = episode.replace(views={n: f.replace(depth=None) for n, f in episode.views.items()})
    with pytest.raises(DepthError, match="has no depth"):
        reconstruct(blind)


@pytest.mark.skipif(not (DATA / "sim_rlbench_open_drawer").exists(), reason="needs ../shared/data")
def test_the_verb_writes_a_scene_and_a_report(tmp_path):
    from scene4d.apps.verbs.run_reconstruct import ReconstructOptions, run_reconstruct
    from scene4d.gaussians.s4d.s4d import open_s4d

    source, output = DATA / "sim_rlbench_open_drawer", tmp_path / "scene.s4d"
    options = dict(source=source, output=output, max_frames=3, size=32)
    result = run_reconstruct(ReconstructOptions(**options, holdout="overhead"))
    json.dumps(result)
    keys = {"psnr", "psnr_sensor", "psnr_sensor_gain", "ssim", "depth_absrel", "views"}
    assert set(result["holdout"]) == keys
    assert all(set(result["baseline"][name]) == keys for name in ("three_nearest", "lift"))
    assert "overhead" not in result["cameras"] and result["num_frames"] == 3
    file = open_s4d(output)
    assert file.num_frames == 3 and "overhead" in file.cameras and file.actions is not None
    assert len(file.info["proprio"]) == 3
    with pytest.raises(ConfigError, match="cannot hold out"):
        run_reconstruct(ReconstructOptions(**options, holdout="nobody"))
    with pytest.raises(ConfigError, match="no such episode"):
        run_reconstruct(ReconstructOptions(**options, episode=9))


@pytest.mark.parametrize("pictures", [False, True])
def test_the_verb_sets_the_bounds_on_seconds(tmp_path, monkeypatch, pictures):
    """What the library leaves open the verb decides: nobody waits for hours."""
    from data_fixtures import rgbd_folder

    from scene4d.apps.verbs import run_reconstruct as verb

    asked = []

    def stop(*_, config, **__):
        asked.append(config)
        raise KeyboardInterrupt

    for name in ("reconstruct", "reconstruct_pictures"):
        monkeypatch.setattr(verb, name, stop)
    rgbd_folder(tmp_path / "set")
    source, output = tmp_path / "set", tmp_path / "a.s4d"
    with pytest.raises(KeyboardInterrupt):
        verb.run_reconstruct(verb.ReconstructOptions(source, output, fit=not pictures, from_pictures=pictures))
    (config,) = asked
    assert config.splats.max_seconds == 840 and (pictures or config.fit.max_seconds == 240)

"""Intervals against errors of known spread, drift that is there and drift that is not, futures found and missed."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from scene4d.errors import ConfigError, ShapeError
from scene4d.eval.forecast.checks.diversity import HANDS_APART_M, both_futures_found, forked_pair
from scene4d.eval.forecast.checks.interval_coverage import FLOOR_M, Calibration, point_variance
from scene4d.eval.forecast.checks.model_checks import check_codec, check_futures, long_rollout
from scene4d.eval.forecast.ground_truth import VisibleRows
from scene4d.eval.forecast.window_scores import ForecastEvalConfig
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.scene import Motion, Scene4D
from scene4d.types import Cameras, Episode, Frames, Gaussians

STEPS = 3


def points(num: int, *, seed: int = 0) -> torch.Tensor:
    """Places [n 3] on a square of 40 cm."""
    return torch.rand(num, 3, generator=torch.Generator().manual_seed(seed)) * torch.tensor([0.4, 0.4, 0.0])


def scene_of(means: torch.Tensor, shift: torch.Tensor, *, log_var: torch.Tensor | None = None) -> Scene4D:
    """Rows [n] with ids from 10 on, each its own anchor, gone by shift [n 3] at the last of STEPS steps."""
    num = len(means)
    share = torch.arange(STEPS + 1.0)[:, None, None] / STEPS
    turn = torch.tensor([1.0, 0, 0, 0]).expand(STEPS + 1, num, 4)
    times = 0.025 * torch.arange(STEPS + 1, dtype=torch.float64)
    return Scene4D(
        base=Gaussians(
            means=means,
            quats=torch.tensor([1.0, 0, 0, 0]).expand(num, 4),
            scales=torch.full((num, 3), 0.01),
            opacities=torch.full((num,), 0.9),
            sh=torch.zeros(num, 1, 3),
            ids=torch.arange(num) + 10,
        ),
        motion=Motion(
            anchors=means,
            world_from_rest=torch.cat([turn, share * shift], -1),
            skin_index=torch.arange(num)[:, None],
            skin_weights=torch.ones(num, 1),
            log_var=log_var,
        ),
        alive=torch.stack([times[0], times[-1]]).expand(num, 2),
        times=times,
        observed=torch.arange(STEPS + 1) == 0,
    )


def recording(num_frames: int, *, speed: float) -> Episode:
    """One camera above a flat ground; segment 1 is its right half, which goes along x by `speed` m a frame."""
    camera = Cameras(
        viewmats=look_at(torch.tensor([0.2, 0.2, 1.0]), torch.tensor([0.2, 0.2, 0.0])),
        Ks=intrinsics_from_fov(0.8, width=16, height=16),
        width=16,
        height=16,
    )
    segments = (torch.arange(16) >= 8).long().expand(16, 16)[..., None]
    frame = Frames(
        rgb=torch.zeros(16, 16, 3), depth=torch.ones(16, 16), alpha=None, cameras=camera, extras={"segments": segments}
    )
    poses = torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).repeat(num_frames, 2, 1)
    poses[:, 1, 4] = speed * torch.arange(num_frames)
    return Episode(
        views={"left": Frames.stack([frame] * num_frames)},
        times=0.025 * torch.arange(num_frames, dtype=torch.float64),
        valid=torch.ones(num_frames, dtype=torch.bool),
        actions=torch.zeros(num_frames, 4),
        proprio=torch.zeros(num_frames, 4),
        segment_poses=poses,
        info={"task": "slide", "seed": 0},
    )


class Still:
    """Stands for a forecaster whose scene is given: samples [s n 3] of where its rows have gone at the last step."""

    def __init__(self, means, samples):
        self.scenes = [scene_of(means, shift) for shift in samples]
        known = SimpleNamespace(memory=self.scenes[0].base)
        self.past_stream = SimpleNamespace(inputs=("left",), remember=lambda past: known)
        self.model, self.spec = self, None

    def observe(self, observation, *, state=None):
        raise AssertionError("it is given its states")

    def predict(self, state, *, actions, seeds=(0,)):
        raise AssertionError("nobody gives it actions")

    def advance(self, state, prediction, *, num_steps):
        raise AssertionError("one chunk is enough")

    def scene(self, past, prediction=None, *, actions=None, seed=0):
        return self.scenes[prediction if prediction is not None else 0]

    def state(self, past):
        return SimpleNamespace(expand=lambda num: num)

    def propose(self, state, *, seeds=(0,)):
        assert state == len(seeds)
        return list(range(len(seeds)))


def calibration(predicted_m: float, true_m: float, *, speed: float = 0.02) -> dict:
    """The report for errors of spread `true_m` where `predicted_m` was predicted, along each axis."""
    num, torch_seed = 4000, torch.Generator().manual_seed(3)
    means = points(num)
    truth = torch.tensor([speed * STEPS, 0.0, 0.0]).expand(num, 3)
    error = true_m * torch.randn(num, 3, generator=torch_seed)
    variance = torch.cat(
        [torch.full((STEPS + 1, num, 3), -40.0), torch.full((STEPS + 1, num, 3), 2 * math.log(predicted_m))], -1
    )
    scene = scene_of(means, truth + error, log_var=variance)
    rows = VisibleRows(scene.base.ids, means, torch.ones(num, dtype=torch.int64))
    out = Calibration()
    out.add(scene, rows, episode=recording(STEPS + 1, speed=speed), start=0, horizons=(STEPS,))
    return out.report().get(str(STEPS))


def test_honest_intervals_cover_nine_in_ten():
    honest = calibration(0.01, 0.01)
    assert honest["coverage_90"] == pytest.approx(0.9, abs=0.01)
    assert honest["nll"] == pytest.approx(honest["nll_constant"], abs=0.01)
    assert honest["error_m"] == pytest.approx(0.01, rel=0.03) and honest["sigma_m"] == pytest.approx(0.01, rel=0.03)


def test_boasting_and_shyness_cost():
    boast, shy = calibration(0.003, 0.01), calibration(0.03, 0.01)
    assert boast["coverage_90"] < 0.5 and shy["coverage_90"] > 0.99
    assert boast["nll"] > boast["nll_constant"] + 1 and shy["nll"] > shy["nll_constant"] + 0.3


def test_only_what_moves_is_asked():
    assert calibration(0.01, 0.01, speed=0.001) is None


def test_variance_of_a_turn_grows_with_the_arm():
    """Against many turns drawn about each axis."""
    means = torch.tensor([[0.1, 0.2, -0.05]])
    sigma = torch.tensor([0.02, 0.05, 0.01])
    log_var = torch.full((STEPS + 1, 1, 6), -40.0)
    log_var[..., :3] = 2 * sigma.log()
    scene = scene_of(means, torch.zeros(1, 3), log_var=log_var)
    scene = scene.replace(motion=scene.motion.replace(anchors=torch.zeros(1, 3)))
    turns = sigma * torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0))
    drawn = torch.linalg.cross(turns, means.expand(200_000, 3)).var(0)
    torch.testing.assert_close(point_variance(scene, 1, ids=torch.tensor([10]))[0], drawn, rtol=0.02, atol=0)
    assert not point_variance(scene, 1, ids=torch.tensor([99])).any()  # who is not there is not uncertain
    with pytest.raises(ShapeError):
        point_variance(scene_of(means, torch.zeros(1, 3)), 1, ids=torch.tensor([10]))
    assert FLOOR_M < 0.002


@pytest.mark.parametrize("drift", [0.0, 0.007])
def test_drift_of_what_rests_is_measured(drift):
    means = points(500, seed=1)
    on_moving_half = means[:, 0] > 0.2
    shift = torch.where(on_moving_half[:, None], torch.tensor([0.3, 0.0, 0.0]), torch.tensor([0.0, drift, 0.0]))
    report = long_rollout(Still(means, [shift]), recording(STEPS + 2, speed=0.1), start=1, num_steps=STEPS)
    assert report["static_drift_m"] == pytest.approx(drift, abs=1e-5) and report["finite"]
    assert report["static_rows"] == pytest.approx(float((~on_moving_half).sum()), rel=0.1)
    broken = torch.where(on_moving_half[:, None], torch.tensor(float("nan")), shift)
    assert not long_rollout(Still(means, [broken]), recording(STEPS + 2, speed=0.1), start=1, num_steps=STEPS)["finite"]


def test_both_futures_must_be_among_the_samples():
    means = points(300, seed=2)
    go = lambda x: torch.where((means[:, 0] > 0.2)[:, None], torch.tensor([x, 0.0, 0.0]), torch.zeros(3))
    branches = [recording(STEPS + 2, speed=0.02), recording(STEPS + 2, speed=-0.02)]
    found = lambda *samples: both_futures_found(
        Still(means, [go(s) for s in samples]), branches, now=1, horizon=STEPS, num_samples=len(samples)
    )
    assert found(0.05, -0.07)["found"] == [True, True]
    assert found(0.05, 0.07)["found"] == [True, False]
    mean = found(0.0, 0.0)
    assert mean["found"] == [False, False] and mean["apart_m"] == pytest.approx(0.12, abs=1e-3)
    assert mean["spread_m"] == 0.0  # a mean is no future
    with pytest.raises(ConfigError):
        both_futures_found(Still(means, [go(0.0)]), [branches[0]] * 2, now=1, horizon=STEPS, num_samples=1)


def test_a_model_that_needs_the_actions_has_no_futures_to_choose_among():
    given = SimpleNamespace(spec=None, predict=lambda state, *, actions, seeds=(0,): None)
    given.observe = given.advance = lambda *_, **options: None
    assert check_futures(given, None) is None


def test_a_codec_that_keeps_everything_is_perfect_and_one_that_shifts_it_is_not():
    class Shifts:
        """A world model whose codec gives back what it was shown, shifted and without its backdrop."""

        def __init__(self, shift):
            self.codec, self.shift = self, torch.tensor([shift, 0.0, 0.0])

        def observe(self, observation):
            memory = observation.memory
            self.shown = memory.pick(memory.extras["confidence"][:, 0] > 0)
            return SimpleNamespace(latent=None)

        def decode(self, latent):
            return self.shown.replace(means=self.shown.means + self.shift)

    def striped(task, **_):
        episode = recording(6, speed=0.0)
        bars = (torch.arange(16) % 4 < 2).float()[:, None].expand(6, 16, 16, 3)
        return episode.replace(views={"left": episode.views["left"].replace(rgb=bars)})

    config = ForecastEvalConfig(tasks=("a",), seeds=(0,), starts=(4,), horizons=(1,), inputs=("left",), novel=("left",))
    kept, moved = (check_codec(Shifts(x), config, record=striped) for x in (0.0, 0.1))
    assert kept["psnr"] > 100 and kept["psnr_full"] > 100 and kept["views"] == 1
    assert moved["psnr"] < 25


@pytest.mark.slow
def test_branches_share_their_past_bit_for_bit():
    pytest.importorskip("metaworld")
    one, two = forked_pair("reach-v3", seed=1500, fork=3, horizon=6)
    for name in one.views:
        assert torch.equal(one.views[name].rgb[:4], two.views[name].rgb[:4])
    assert torch.equal(one.actions[:3], two.actions[:3]) and not torch.equal(one.actions[3], two.actions[3])
    assert (one.proprio[9, :3] - two.proprio[9, :3]).norm() > HANDS_APART_M

"""Estimated depth against truth: unknown scales and shifts are found again; a tiny random model runs end to end."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from scene4d.errors import CheckpointError, ConfigError, DepthError, EnvError, SecurityError
from scene4d.lift.depth.alignment import AlignConfig, align_depth
from scene4d.lift.depth.estimate import DepthEstimator, EstimatedDepthConfig, episode_with_depth, estimate_depth
from scene4d.lift.depth.photo_consistency import warp_between
from scene4d.types import Episode

QUICK = AlignConfig(width=64, coarse_width=48, num_neighbours=2, near=0.3, far=5.0)
AZIMUTHS = (0.0, 14.0, 28.0)


@pytest.fixture
def pictures(table):
    frames = table(*AZIMUTHS, size=64, wavelength=0.2)
    return frames, frames.replace(depth=None, alpha=None, extras={})


def bent(depth, *, kind):
    """The depth as an estimator might say it: every view with a scale, and a shift, of its own."""
    scale = torch.tensor([30.0, 3.0, 8.0])[:, None, None]
    return scale * depth if kind == "metric" else scale / depth + torch.tensor([-4.0, 2.0, 7.0])[:, None, None]


def relative_error(depth, truth):
    return ((depth - truth).abs() / truth).mean((-2, -1))


@pytest.mark.parametrize("kind", ["relative", "metric"])
def test_scale_and_shift_are_found_from_cameras_alone(pictures, kind):
    frames, blind = pictures
    aligned = align_depth(bent(frames.depth, kind=kind), blind, kind=kind, config=QUICK)
    assert float(relative_error(aligned.depth, frames.depth).max()) < 0.03
    assert float(aligned.agreement.min()) > 0.8


def test_light_may_differ_between_views(pictures):
    frames, blind = pictures
    gains = torch.tensor([0.6, 1.0, 0.8])[:, None, None, None]
    aligned = align_depth(
        bent(frames.depth, kind="metric"), blind.replace(rgb=gains * blind.rgb + 0.1), kind="metric", config=QUICK
    )
    assert float(relative_error(aligned.depth, frames.depth).max()) < 0.03


def test_the_wrong_poses_agree_less(pictures):
    frames, blind = pictures
    predicted = bent(frames.depth, kind="metric")
    swapped = blind.replace(cameras=blind.cameras[torch.tensor([1, 0, 2])])
    wrong = align_depth(predicted, swapped, kind="metric", config=QUICK).agreement
    assert float(wrong.mean()) < 0.6 * float(
        align_depth(predicted, blind, kind="metric", config=QUICK).agreement.mean()
    )


def test_a_few_measured_pixels_are_enough_and_outliers_do_no_harm(pictures):
    frames, blind = pictures
    measured = torch.zeros_like(frames.depth)
    measured[:, 5::12, 5::12] = frames.depth[:, 5::12, 5::12]
    measured[:, 5, 5] = 9.0
    measured[:, 17, 5] = 0.05
    aligned = align_depth(bent(frames.depth, kind="relative"), blind.replace(depth=measured), kind="relative")
    assert float(relative_error(aligned.depth, frames.depth).max()) < 0.002


def test_points_of_another_tool_are_enough(pictures):
    from scene4d.geometry.camera import unproject

    frames, blind = pictures
    points = unproject(frames.depth, frames.cameras.viewmats, Ks=frames.cameras.Ks)[:, 4::9, 4::9].reshape(-1, 3)
    aligned = align_depth(bent(frames.depth, kind="relative"), blind, kind="relative", points=points, config=QUICK)
    assert float(relative_error(aligned.depth, frames.depth).max()) < 0.02


def test_the_warp_is_unproject_and_project(pictures):
    from scene4d.geometry.camera import project, unproject

    frames, _ = pictures
    cameras = frames.cameras
    pixels, inside = warp_between(cameras, here=0, there=2).pixels(1 / frames.depth[0])
    points = unproject(frames.depth[0], cameras.viewmats[0], Ks=cameras.Ks[0]).reshape(-1, 3)
    expected, _ = project(points, cameras.viewmats[2], Ks=cameras.Ks[2])
    torch.testing.assert_close(pixels.reshape(-1, 2), expected, atol=2e-3, rtol=0)
    assert 0.3 < float(inside.float().mean()) <= 1.0


def test_one_fixed_camera_says_what_is_missing(pictures):
    frames, blind = pictures
    still = blind.map(lambda x: x[:1].expand(3, *x.shape[1:]))
    with pytest.raises(DepthError, match="no other camera"):
        align_depth(frames.depth, still, kind="metric", config=QUICK)
    groups = torch.arange(3)
    with pytest.raises(DepthError, match="no other camera"):
        align_depth(frames.depth, blind, kind="metric", groups=groups, config=QUICK)


def test_an_episode_keeps_what_sensors_measured(pictures):
    frames, _ = pictures
    truth = {"a": frames[:1], "b": frames[1:2], "c": frames[2:]}
    views = {n: f.replace(depth=None, alpha=None, extras={}) for n, f in truth.items()}
    views["a"] = views["a"].replace(depth=truth["a"].depth)
    episode = Episode(
        views=views,
        times=torch.zeros(1, dtype=torch.float64),
        valid=torch.ones(1, dtype=torch.bool),
        actions=torch.zeros(1, 0),
        proprio=torch.zeros(1, 0),
    )
    predicted = bent(frames.depth, kind="metric")
    done = episode_with_depth(episode, lambda rgb: predicted, kind="metric", config=EstimatedDepthConfig(align=QUICK))
    assert torch.equal(done.views["a"].depth, truth["a"].depth)
    for name in "bc":
        assert float(relative_error(done.views[name].depth, truth[name].depth)) < 0.03


def test_an_estimate_that_fits_nothing_is_refused(pictures):
    frames, blind = pictures
    noise = torch.rand(frames.depth.shape, generator=torch.Generator().manual_seed(0)) + 0.01
    config = EstimatedDepthConfig(align=QUICK, min_agreement=0.9)
    with pytest.raises(DepthError, match="fits neither"):
        estimate_depth(frames, lambda rgb: noise, kind="metric", config=config)
    with pytest.raises(ConfigError, match="is not known"):
        estimate_depth(blind, lambda rgb: noise)


def test_missing_package_and_missing_weights_are_plain(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="no weights are named"):
        DepthEstimator(None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(EnvError, match=r'pip install "scene4d\[depth\]"'):
        DepthEstimator(tmp_path)


def test_a_folder_without_weights_or_with_a_pickle_is_refused(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", type(sys)("transformers"))
    with pytest.raises(CheckpointError, match="no such folder"):
        DepthEstimator(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        DepthEstimator(tmp_path)
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text(json.dumps({"model_type": "dpt"}))
    with pytest.raises(CheckpointError, match="holds no weights"):
        DepthEstimator(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(SecurityError, match="pickle"):
        DepthEstimator(tmp_path)


@pytest.fixture
def tiny_model(tmp_path):
    """A function: the folder of a Depth Anything model with random weights, of a given kind."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")

    def make(kind):
        torch.manual_seed(0)
        backbone = transformers.Dinov2Config(
            hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=14,
            out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False, apply_layernorm=True,
        )  # fmt: skip
        config = transformers.DepthAnythingConfig(
            backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
            head_hidden_size=8, depth_estimation_type=kind, max_depth=4,
        )  # fmt: skip
        folder = tmp_path / kind
        model = transformers.DepthAnythingForDepthEstimation(config)
        for weights in model.parameters():
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=0.1)  # as made they say the same of every pixel
        model.save_pretrained(folder)
        preprocessing = {
            "image_processor_type": "DPTImageProcessor", "do_resize": True, "size": {"height": 56, "width": 56},
            "ensure_multiple_of": 14, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        }  # fmt: skip
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
        return folder

    return make


@pytest.mark.parametrize("kind", ["relative", "metric"])
def test_a_tiny_model_runs_end_to_end(pictures, tiny_model, kind):
    frames, _ = pictures
    estimator = DepthEstimator(tiny_model(kind))
    assert estimator.kind == kind
    predicted = estimator(frames.rgb)
    assert predicted.shape == frames.depth.shape and bool(predicted.isfinite().all()) and float(predicted.std()) > 0
    assert torch.equal(estimator(frames.rgb[1:2])[0], predicted[1])
    sparse = torch.zeros_like(frames.depth)
    sparse[:, ::6, ::6] = frames.depth[:, ::6, ::6]
    done = estimate_depth(frames.replace(depth=sparse), estimator, config=EstimatedDepthConfig(min_agreement=0.0))
    assert torch.equal(done.depth[sparse > 0], frames.depth[sparse > 0])
    # Random weights know nothing, but the scale of what they say is that of the sensor.
    assert 0.7 < float(done.depth.median() / frames.depth.median()) < 1.4

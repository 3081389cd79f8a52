"""Captures of the field, each against the healthy one that it was made from: geometry, pictures, depth, findings."""

import numpy as np
import pytest
import torch

from scene4d.apps.verbs.run_check import CheckOptions, run_check
from scene4d.data.detect import open_recordings
from scene4d.types import Frames

# Findings of `check`, by case; what is read in full has none.
FINDINGS = {
    "control": [],
    "tj_rational": [],
    "cm_two_models": ["other_models"],
    "cm_mixed_sizes": [],
    "tj_one_depth_missing": ["missing_depth"],
    "tj_mask_missing": ["missing_masks"],
    "o3d_unpadded": [],
    "tj_exif3": ["orientation_tags"],
    "tj_lidar_small_depth": [],
    "tj_depth_npy": [],
    "tj_depth_tif": [],
    "cm_spaces": [],
    "cm_only_images_2": [],
    "tj_backslash": [],
    "tj_nan_pose": ["lost_poses"],
    "polycam": [],
    "strayscanner": [],
}
WITH_DEPTH = [name for name in FINDINGS if not name.startswith("cm_") and name != "tj_exif3"]
LOST = {"tj_nan_pose": [4]}


@pytest.fixture
def field(shared_data):
    if not (shared_data / "field").is_dir():
        pytest.skip("the captures of the field are not here")
    return shared_data / "field"


def frames_of(folder) -> Frames:
    if str(folder.name).startswith("cm_"):
        pytest.importorskip("pycolmap")
    recordings = open_recordings(folder)
    assert len(recordings) == 1
    return recordings[0].read().views["camera"]


def relative(viewmats):
    """Pose of each camera as the first one sees it: what a turn of the world leaves alone."""
    return viewmats.double() @ torch.linalg.inv(viewmats[0].double())


@pytest.mark.parametrize("case", FINDINGS)
def test_check_finds_what_is_not_read_in_full(field, case):
    if case.startswith("cm_"):
        pytest.importorskip("pycolmap")
    result = run_check(CheckOptions(source=str(field / case)))
    assert [finding["kind"] for finding in result["findings"]] == FINDINGS[case]
    assert result["num_recordings"] == 1 and result["num_frames"] == 12 - len(LOST.get(case, []))


@pytest.mark.parametrize("case", FINDINGS)
def test_cameras_stand_where_they_stood(field, case):
    true, seen = frames_of(field / "control"), frames_of(field / case)
    kept = [i for i in range(12) if i not in LOST.get(case, [])]
    apart = relative(seen.cameras.viewmats) - relative(true.cameras.viewmats[kept])
    assert apart.abs().max() < 2e-5
    scale = 2 if case == "tj_lidar_small_depth" else 1  # its pictures are twice as large
    focal = seen.cameras.Ks[:, [0, 1], [0, 1]] / scale
    torch.testing.assert_close(focal, true.cameras.Ks[kept][:, [0, 1], [0, 1]])


@pytest.mark.parametrize("case", WITH_DEPTH)
def test_depth_agrees_with_the_healthy_capture(field, case):
    true = open_recordings(field / "control")[0].read().views["camera"]
    seen = open_recordings(field / case)[0].read(size=(160, 120)).views["camera"]
    kept = [i for i in range(12) if i not in LOST.get(case, [])]
    assert seen.depth is not None and true.depth is not None
    for k, i in enumerate(kept):
        both = (seen.depth[k] > 0) if seen.alpha is None else (seen.depth[k] > 0) & (seen.alpha[k] > 0.99)
        if case == "tj_one_depth_missing" and i == 3:
            assert not both.any()
            continue
        assert both.float().mean() > 0.7
        apart = (seen.depth[k] - true.depth[i]).abs()[both]
        assert apart.median() < (0.012 if case in ("tj_rational", "tj_lidar_small_depth") else 6e-4)


def test_the_rational_lens_is_removed(field):
    true, seen = frames_of(field / "control"), frames_of(field / "tj_rational")
    inside = seen.alpha > 0.99
    error = ((true.rgb - seen.rgb) ** 2).mean(-1)[inside].mean()
    assert -10 * torch.log10(error) > 30


def test_natural_order_shows_the_same_pictures(field):
    true, seen = frames_of(field / "control"), frames_of(field / "o3d_unpadded")
    assert (true.rgb - seen.rgb).abs().max() < 0.5 / 255 + 1e-6


def test_a_missing_mask_takes_nothing(field):
    seen = frames_of(field / "tj_mask_missing")
    shares = seen.alpha.mean((1, 2)).numpy()
    assert shares[2] == 1 and (np.delete(shares, 2) < 1).all()


def test_pictures_of_mixed_sizes_keep_their_pixels(field):
    frames = frames_of(field / "cm_mixed_sizes")
    areas = {int(area) for area in frames.alpha.sum((1, 2)).tolist()}
    assert {160 * 120, 161 * 121, 159 * 119, 160 * 122} <= areas
    assert (frames.rgb * (1 - frames.alpha[..., None])).abs().max() == 0


def test_the_other_model_can_be_chosen(field):
    pytest.importorskip("pycolmap")
    chosen = open_recordings(field / "cm_two_models" / "sparse" / "0")[0]
    assert chosen.num_frames == 2 and chosen.read().info["frames"] == ["0000.png", "0001.png"]

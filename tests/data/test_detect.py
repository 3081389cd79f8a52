import json
import os

import pytest
import torch

from scene4d.data.cameras.sidecar import find_cameras
from scene4d.data.detect import TEMPLATE, open_recordings
from scene4d.errors import CalibrationError, DataFormatError


def test_droid_says_what_is_missing_and_how_to_supply_it(shared_data):
    for folder in (shared_data / "robot_droid", shared_data / "robot_droid" / "droid_subset"):
        with pytest.raises(CalibrationError, match="no calibration") as caught:
            open_recordings(folder)
        error = caught.value
        assert error.exit_code == 3 and error.file.startswith(str(folder)) and ".mp4" in error.found
        assert "cameras.json" in error.fix and str(TEMPLATE) in error.fix and "viewmat" in error.fix


def test_template_is_a_calibration_that_the_reader_takes(tmp_path):
    sizes = {"observation.images.front": (640, 480)}
    cameras, _ = find_cameras([TEMPLATE], sizes=sizes, columns=["observation.images.front_depth"])
    assert cameras["front"].depth == "observation.images.front_depth"


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("dyn_pose2sim_4cam", CalibrationError, "another image size"),
        ("mv_gsplat_garden", DataFormatError, "no recording"),
        ("robot_bridge_octo_debug", CalibrationError, "no calibration"),
        ("robot_droid", CalibrationError, "no calibration"),
        ("sim_lerobot_gr1", CalibrationError, "no calibration"),
        ("splats", DataFormatError, "no recording"),
    ],
)
def test_real_folders_that_cannot_be_used(shared_data, name, error, words):
    with pytest.raises(error, match=words) as caught:
        open_recordings(shared_data / name)
    assert caught.value.exit_code == 3 and caught.value.fix


@pytest.mark.parametrize(
    ("name", "recordings", "frames", "cameras", "depth"),
    [
        ("dyn_pose2sim_4cam", 1, 100, 4, 0),
        ("mv_fox", 1, 50, 1, 0),
        ("rgbd_box_tabletop", 1, 25, 1, 1),
        ("rgbd_hololens_kitchen", 1, 61, 1, 1),
        ("robot_agibot_calibrated", 3, 3, 5, 0),
        ("robot_bridge_octo_debug", 18, 180, 72, 0),
        ("robot_droid", 14, 1414, 42, 0),
        ("robot_gsdynamics_rope_4cam", 1, 1, 4, 0),
        ("sim_lerobot_gr1", 2, 798, 2, 0),
        ("sim_rlbench_open_drawer", 2, 116, 8, 8),
    ],
)
def test_every_real_folder_reads(shared_data, name, recordings, frames, cameras, depth):
    """Where calibration is missing or does not fit, with what the caller adds."""
    found = open_recordings(shared_data / name, fov_deg=60, fit="crop")
    counted = (len(found), sum(r.num_frames for r in found))
    assert (*counted, sum(len(r.cameras) for r in found), sum(len(r.depth_cameras) for r in found)) == (
        recordings,
        frames,
        cameras,
        depth,
    )
    for recording in found:
        assert json.dumps(recording.info) and recording.info["source"] and recording.fps > 0
        assert set(recording.sizes) == set(recording.cameras)
    first = found[0].read(0, 1, size=(48, 32))
    assert len(found[0].info["action_spec"]) == first.actions.shape[1]
    assert len(found[0].info["proprio_spec"]) == first.proprio.shape[1]
    for frames in first.views.values():
        assert (frames.rgb.shape == (1, 32, 48, 3) and frames.rgb.std() > 0) or name == "robot_bridge_octo_debug"
        assert torch.isfinite(frames.cameras.viewmats).all()


def test_empty_missing_and_plain_files(tmp_path):
    with pytest.raises(DataFormatError, match="an empty folder"):
        open_recordings(tmp_path)
    with pytest.raises(DataFormatError, match="does not exist"):
        open_recordings(tmp_path / "none")
    (tmp_path / "scene.s4d").write_bytes(b"x")
    with pytest.raises(DataFormatError, match="is a file"):
        open_recordings(tmp_path / "scene.s4d")


def test_loops_of_links_and_odd_names_do_no_harm(tmp_path):
    folder = tmp_path / "weird ä %s {x}"
    folder.mkdir()
    os.symlink(tmp_path, folder / "loop")
    (folder / "a.mp4").write_bytes(b"")
    with pytest.raises(CalibrationError, match="no intrinsics, no poses, no depth"):
        open_recordings(tmp_path)


def test_everything_there_but_in_an_unknown_order(tmp_path):
    for name in ("a.png", "depth_a.png", "intrinsics.json", "poses.csv"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataFormatError, match="unknown layout"):
        open_recordings(tmp_path)

import os

import pytest

from scene4d.data.detect import TEMPLATE, open_recordings
from scene4d.errors import CalibrationError, DataFormatError, DepthError, VersionError


def test_droid_says_what_is_missing_and_how_to_supply_it(shared_data):
    for folder in (shared_data / "robot_droid", shared_data / "robot_droid" / "droid_subset"):
        with pytest.raises(CalibrationError, match="no intrinsics, no poses, no depth") as caught:
            open_recordings(folder)
        error = caught.value
        assert error.exit_code == 3 and error.file == str(folder) and ".mp4" in error.found
        assert "cameras.json" in error.fix and str(TEMPLATE) in error.fix and "depth" in error.fix


def test_template_is_a_calibration_that_the_reader_takes(tmp_path):
    layout = pytest.importorskip("scene4d.data.lerobot_layout")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "cameras.json").write_text(TEMPLATE.read_text())
    image = {"dtype": "video", "shape": [480, 640, 3]}
    features = {"observation.images.front": image, "observation.images.front_depth": image}
    cameras = layout.read_cameras(tmp_path, {"features": features})
    assert cameras["front"].depth == "observation.images.front_depth"


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("mv_fox", DepthError, "no depth"),
        ("robot_agibot_calibrated", DepthError, "no depth"),
        ("dyn_pose2sim_4cam", DepthError, "no depth"),
        ("robot_bridge_octo_debug", DataFormatError, "tfrecord"),
        ("splats", DataFormatError, "no recording"),
        ("sim_lerobot_gr1", VersionError, "v2.0"),
    ],
)
def test_real_folders_that_cannot_be_used(shared_data, name, error, words):
    with pytest.raises(error, match=words) as caught:
        open_recordings(shared_data / name)
    assert caught.value.exit_code == 3 and caught.value.fix


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

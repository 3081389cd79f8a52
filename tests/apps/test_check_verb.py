import json

import numpy as np
import pytest
from PIL import Image
from synthetic_folder import fingerprint, write_images, write_set

from scene4d.apps.verbs.run_check import CheckOptions, run_check, text_of
from scene4d.errors import ConfigError, DataFormatError

KEYS = {"source", "format", "num_recordings", "num_frames", "recordings", "findings", "ok"}
FINDING = {"kind", "camera", "field", "found", "expected", "fix", "mendable", "score", "recordings"}


def test_what_is_in_a_sound_recording(tmp_path):
    write_set(tmp_path / "set")
    before = fingerprint(tmp_path)
    report = run_check(CheckOptions(tmp_path / "set", calibration=True, deep=True, samples=2))
    assert set(report) == KEYS and json.loads(json.dumps(report)) == report
    assert report["ok"] and report["findings"] == [] and report["format"] == "LeRobot v3.0"
    assert report["num_recordings"] == 3 and [r["index"] for r in report["recordings"]] == [0, 2]
    facts = report["recordings"][0]
    assert (facts["num_frames"], facts["fps"], facts["up"], facts["units"]) == (8, 10.0, "+z", "m")
    hand = facts["cameras"]["hand"]
    assert (hand["width"], hand["height"], hand["moving"], hand["depth"]) == (96, 72, True, True)
    assert hand["fov_deg"] == pytest.approx(2 * np.degrees(np.arctan(np.tan(0.4) * 96 / 72)), abs=0.1)
    near, median, far = hand["depth_m"]
    assert 0.2 < near < median < far <= 3
    assert facts["actions"] == [
        {"name": "forward", "unit": "m", "min": 0.0, "max": 0.7},
        {"name": "turn", "unit": "rad", "min": -1.4, "max": 0.0},
    ]
    assert facts["calibration"]["pairs"] > 3 and facts["calibration"]["agreement"] > 0.7
    text = text_of(report)
    assert "nothing wrong was found" in text and "camera hand: 96x72" in text and "actions forward" in text
    assert fingerprint(tmp_path) == before


def test_wrong_axes_are_found_with_a_command_that_mends_them(tmp_path):
    write_images(tmp_path / "walk", opengl=True)
    report = run_check(CheckOptions(tmp_path / "walk", calibration=True))
    (finding,) = report["findings"]
    assert not report["ok"] and set(finding) == FINDING
    assert (finding["kind"], finding["field"], finding["fix"], finding["mendable"]) == (
        "camera_axes", "pose", "opengl", True,
    )  # fmt: skip
    assert finding["score"]["before"] < 0.5 < finding["score"]["after"] and finding["recordings"] == [0]
    assert f"scene4d convert {tmp_path / 'walk'} -o COPY --fix opengl" in text_of(report)


def test_calibration_is_tested_only_when_asked(tmp_path):
    write_images(tmp_path / "walk", opengl=True)
    report = run_check(CheckOptions(tmp_path / "walk"))
    assert report["ok"] and "calibration" not in report["recordings"][0]


def test_what_a_reader_refuses_is_reported_and_the_rest_is_shown(tmp_path):
    write_set(tmp_path / "set")
    (tmp_path / "set" / "meta" / "cameras.json").unlink()
    report = run_check(CheckOptions(tmp_path / "set", calibration=True))
    (finding,) = report["findings"]
    assert finding["kind"] == "CalibrationError" and "cameras.json" in finding["found"] and not finding["mendable"]
    assert report["recordings"][0]["cameras"]["hand"]["width"] == 96 and report["recordings"][0]["up"] is None
    assert "cameras.json as" in text_of(report)
    with pytest.raises(DataFormatError):
        run_check(CheckOptions(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    report = run_check(CheckOptions(tmp_path / "empty"))
    assert not report["ok"] and report["format"] is None and report["findings"][0]["kind"] == "DataFormatError"
    with pytest.raises(ConfigError):
        CheckOptions(tmp_path, samples=-1)


def test_damage_deep_inside_is_found_only_by_a_deep_look(tmp_path):
    write_images(tmp_path / "walk", length=70)
    images = tmp_path / "walk" / "images"
    (images / "045.png").write_bytes((images / "045.png").read_bytes()[:200])
    Image.fromarray(np.zeros((72, 96, 3), np.uint8)).save(images / "005.png")
    for k in (11, 12, 13):
        (images / f"{k:03d}.png").write_bytes((images / "010.png").read_bytes())
    kinds = [f["kind"] for f in run_check(CheckOptions(tmp_path / "walk", deep=True))["findings"]]
    assert sorted(set(kinds)) == ["DataFormatError", "black_frames", "frozen_frames"]


def test_traps_of_real_recordings_are_found(shared_data):
    def kinds(name, samples=0):
        return {f["kind"]: f for f in run_check(CheckOptions(shared_data / name, samples=samples))["findings"]}

    assert kinds("mv_fox")["missing_images"]["found"].startswith("17: images/0005.jpg")
    assert "(1088, 1920)" in kinds("dyn_pose2sim_4cam")["CalibrationError"]["found"]
    droid = kinds("robot_droid/droid_new_setup")
    assert "CalibrationError" in droid and droid["frame_counts"]["recordings"]
    assert not kinds("robot_gsdynamics_rope_4cam"), "that its world was turned is listed, and no fault"
    assert kinds("robot_agibot_calibrated", samples=1)["non_square_pixels"]["camera"]

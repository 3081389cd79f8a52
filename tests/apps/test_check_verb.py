import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_folder import fingerprint, write_images, write_set

import scene4d
from scene4d.apps.verbs.run_check import CheckOptions, run_check, text_of
from scene4d.apps.verbs.run_convert import ConvertOptions, run_convert
from scene4d.data.detect import open_recordings
from scene4d.data.video.video import encode_video
from scene4d.errors import CalibrationError, ConfigError, DataFormatError

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
    finding, unused = report["findings"]
    assert (unused["kind"], unused["found"].split(";")[0]) == ("depth_without_camera", "1: observation.depth.hand")
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


def test_a_guess_is_never_a_fact(tmp_path):
    write_set(tmp_path / "set")
    (tmp_path / "set" / "meta" / "cameras.json").unlink()
    report = run_check(CheckOptions(tmp_path / "set", calibration=True, samples=1))
    (facts,) = report["recordings"]
    assert facts["calibration_note"] == "unknown" and facts["up"] is None and "calibration" not in facts
    for camera in facts["cameras"].values():
        assert (camera["moving"], camera["fov_deg"], camera["pixel_aspect"]) == (None, None, None)
    text = text_of(report)
    assert "field of view unknown" in text and "stands still" not in text and "60" not in text.split("WRONG")[0]
    assert "--fov" in text


def test_a_field_of_view_makes_colour_alone_readable_and_is_remembered(tmp_path):
    (tmp_path / "clip").mkdir()
    pictures = [np.full((48, 64, 3), 20 * k + 20, np.uint8) for k in range(8)]
    encode_video(tmp_path / "clip" / "front.mp4", pictures, fps=10)
    with pytest.raises(CalibrationError, match="--fov"):
        run_convert(ConvertOptions(tmp_path / "clip", tmp_path / "copy"))
    report = run_check(CheckOptions(tmp_path / "clip", calibration=True, fov=70.0))
    assert report["ok"] and "70 deg" in report["recordings"][0]["calibration_note"]
    assert run_convert(ConvertOptions(tmp_path / "clip", tmp_path / "copy", fov=70.0))["frames"] == 8
    (copy,) = open_recordings(tmp_path / "copy")
    assert copy.info["calibration"].startswith("approximate: a guess of 70 deg")
    camera = copy.read(0, 1).views["front"].cameras
    assert 2 * np.degrees(np.arctan(32 / float(camera.Ks[0, 0, 0]))) == pytest.approx(70, rel=1e-4)
    again = run_check(CheckOptions(tmp_path / "copy", calibration=True))
    assert again["ok"] and again["recordings"][0]["cameras"]["front"]["fov_deg"] is None
    assert "calibration is approximate" in text_of(again) and "stands still" not in text_of(again)


@pytest.mark.parametrize("fov", [-1.0, 0.5, 180.0, float("nan")])
def test_no_field_of_view(tmp_path, fov):
    for options in (CheckOptions, ConvertOptions):
        with pytest.raises(ConfigError, match="field of view"):
            options(tmp_path, fov=fov)


def test_the_share_that_agrees_is_shown_on_its_scale(tmp_path):
    write_images(tmp_path / "walk")
    report = run_check(CheckOptions(tmp_path / "walk", calibration=True))
    figures = report["recordings"][0]["calibration"]
    assert 0 < figures["scale"]["poor"] < figures["scale"]["good"] < figures["agreement"] and figures["relative"] < 0.01
    text = text_of(report)
    assert "of the pixels seen twice agree (good: 45 % and more; poor: under 25 %)" in text and "% of the depth" in text


FRAMES_MOVED = re.compile(r"fps_mode (cfr|vfr|drop)|vsync|-r RATE|\bfps=\d|-vf fps", re.I)


def test_no_words_of_a_fix_change_which_state_belongs_to_which_frame():
    """Every text in the package: none gives a command that doubles or drops frames."""
    package = Path(scene4d.__file__).parent
    texts = {
        (file.name, node.value)
        for file in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    commands = [(name, text) for name, text in texts if "ffmpeg" in text]
    assert commands and not [entry for entry in texts if FRAMES_MOVED.search(entry[1])]

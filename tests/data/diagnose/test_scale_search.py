"""Any factor between positions and depth is estimated, and the finding has the right direction."""

import functools
import random
import re

import memory_recording as spoil
import pytest
import torch
from memory_recording import MemoryRecording

from scene4d.data.detect import open_recordings
from scene4d.data.diagnose.calibration.calibration_check import check_calibration, pairs_of
from scene4d.data.diagnose.calibration.reprojection import agreement
from scene4d.data.diagnose.calibration.sample import read_sample, rows_of, views_of
from scene4d.data.diagnose.repair.mend import MendedRecording

RATIOS = {"walk": (0.0371, 0.37, 0.9, 2.5, 39.37, 1000.0), "pair": (0.37, 39.37)}
CASES = [(k, r) for k, ratios in RATIOS.items() for r in (*ratios, 10 ** random.Random(k).uniform(-3, 3))]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # the tensors are small: a second thread only waits


@functools.lru_cache(maxsize=2)
def made(kind):
    if kind == "walk":
        return spoil.episode_of({"hand": spoil.camera_walk(12)})
    # Of different heights: what two cameras of one height see of a floor is the same at any distance.
    right = spoil.camera_walk(8, start=-0.7, fov=0.7).map(lambda x: x.flip(0))
    cameras = {"left": spoil.camera_walk(8, start=-0.2, fov=0.7), "right": right}
    return spoil.episode_of({n: spoil.standing(c, 8) for n, c in cameras.items()})


def with_positions(frames, ratio):
    viewmats = frames.cameras.viewmats.clone()
    viewmats[:, :3, 3] *= ratio
    return spoil.posed(frames, viewmats)


def only_finding(episode):
    recording = MemoryRecording(episode)
    report = check_calibration(read_sample(recording))
    assert len(report.findings) == 1, report.findings
    return recording, report.findings[0]


def direction(text):
    """(small or large, the factor) that words say."""
    found = re.search(r"too (small|large).*: (\S+) of what", text)
    return found.group(1), float(found.group(2))


@pytest.mark.parametrize(("kind", "ratio"), CASES)
def test_any_ratio_of_positions_is_estimated(kind, ratio):
    truth = made(kind)
    spoiled = spoil.changed(truth, lambda f: with_positions(f, ratio))
    recording, finding = only_finding(spoiled)
    (mend,) = finding.mends
    assert (finding.kind, finding.field, mend.name) == ("position_scale", "pose", "position_scale")
    assert mend.value[0] == pytest.approx(1 / ratio, rel=0.01)
    size, factor = direction(finding.found)
    assert finding.found.startswith("camera positions are") and "depth" in finding.expected
    assert size == ("small" if ratio < 1 else "large") and factor == pytest.approx(ratio, rel=0.01)
    mended = MendedRecording(recording, finding.mends)
    sample = read_sample(mended)
    result = agreement(views_of(sample), pairs_of(rows_of(sample), moving=sample.moving()))
    assert float(result.relative[result.covered].abs().median()) < 0.005
    # What the finding calls too small has grown, and the reverse.
    length = lambda r: float(r.read().views[truth_camera(kind)].cameras.viewmats[:, :3, 3].norm())
    assert (length(mended) > length(recording)) == (size == "small")


def truth_camera(kind):
    return next(iter(made(kind).views))


@pytest.mark.parametrize("ratio", [1000.0, 0.001, 39.37])
def test_depth_of_no_room_is_depth_in_another_unit(ratio):
    spoiled = spoil.changed(made("walk"), lambda f: f.replace(depth=f.depth * ratio))
    recording, finding = only_finding(spoiled)
    (mend,) = finding.mends
    assert (finding.kind, finding.field, mend.name) == ("depth_unit", "depth", "depth_scale")
    assert mend.value[0] == pytest.approx(1 / ratio, rel=0.01)
    size, factor = direction(finding.found)
    assert size == ("large" if ratio > 1 else "small") and factor == pytest.approx(ratio, rel=0.01)
    assert "or camera positions" in finding.expected
    depth = MendedRecording(recording, finding.mends).read().views["hand"].depth
    torch.testing.assert_close(depth, made("walk").views["hand"].depth, rtol=0.01, atol=0)


@pytest.mark.parametrize("ratio", [0.43, 3.3])
@pytest.mark.parametrize("what", ["depth", "positions"])
def test_one_camera_of_three_has_a_scale_of_its_own(ratio, what):
    walks = {n: spoil.camera_walk(8, start=a, fov=0.7) for n, a in (("a", 0.6), ("b", -0.2), ("c", 0.2))}
    truth = spoil.episode_of({n: spoil.standing(c, 8) for n, c in walks.items()})
    change = (lambda f: f.replace(depth=f.depth * ratio)) if what == "depth" else (lambda f: with_positions(f, ratio))
    _, finding = only_finding(spoil.changed(truth, change, cameras=("b",)))
    (mend,) = finding.mends
    name, kind = ("depth_scale", "depth_unit") if what == "depth" else ("position_scale", "position_scale")
    assert (finding.camera, finding.kind, mend.name, mend.cameras) == ("b", kind, name, ("b",))
    assert mend.value[0] == pytest.approx(1 / ratio, rel=0.01)
    assert direction(finding.found)[0] == ("small" if ratio < 1 else "large")


def test_axes_and_any_scale_at_once():
    spoiled = spoil.changed(made("walk"), lambda f: with_positions(spoil.as_opengl(f), 0.37))
    report = check_calibration(read_sample(MemoryRecording(spoiled)))
    mends = {m.name: m.value for f in report.findings for m in f.mends}
    assert set(mends) == {"opengl", "position_scale"}
    assert mends["position_scale"][0] == pytest.approx(1 / 0.37, rel=0.01)


def test_the_field_case_agrees_like_the_sound_recording_once_mended(shared_data):
    control = check_calibration(read_sample(open_recordings(shared_data / "field" / "control")[0]))
    assert control.findings == ()
    recording = open_recordings(shared_data / "field" / "tj_pose_scale_not_depth")[0]
    (finding,) = check_calibration(read_sample(recording)).findings
    assert finding.mends[0].value[0] == pytest.approx(2.703, rel=0.001)
    mended = check_calibration(read_sample(MendedRecording(recording, finding.mends)))
    assert mended.findings == ()
    assert mended.agreement == pytest.approx(control.agreement, abs=0.01)
    assert mended.median_mm == pytest.approx(control.median_mm, abs=0.05)

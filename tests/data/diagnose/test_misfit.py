"""Calibration that fits nowhere is a finding, though no single mistake explains it; sound recordings are left alone."""

import memory_recording as spoil
import pytest
import torch
from memory_recording import MemoryRecording

from scene4d.data.diagnose.calibration.calibration_check import check_calibration
from scene4d.data.diagnose.calibration.sample import read_sample
from scene4d.geometry.camera import look_at


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # the tensors are small: a second thread only waits


def findings_of(episode):
    return check_calibration(read_sample(MemoryRecording(episode))).findings


def invented(frames, seed=0):
    """Poses that belong to another recording."""
    numbers = torch.rand(len(frames.cameras.viewmats), 6, generator=torch.Generator().manual_seed(seed))
    eye, target = numbers[:, :3] * 1.6 - 0.8, numbers[:, 3:] * 0.4 - 0.2
    eye[:, 2] = 0.3 + 0.5 * numbers[:, 2]
    return spoil.posed(frames, look_at(eye, target))


def test_poses_of_another_recording_fit_nowhere():
    walk = spoil.episode_of({"hand": spoil.camera_walk(10)})
    findings = findings_of(spoil.changed(walk, invented))
    (finding,) = [f for f in findings if f.kind == "does_not_fit"]
    assert finding.field == "pose" and not finding.mends and finding.camera is None
    assert "%" in finding.found and finding.fix


def test_one_camera_that_fits_no_other_is_named():
    walks = {n: spoil.camera_walk(8, start=a, fov=0.7) for n, a in (("a", 0.6), ("b", -0.2), ("c", 0.2))}
    rig = spoil.episode_of({n: spoil.standing(c, 8) for n, c in walks.items()})
    wrong = lambda f: spoil.posed(
        f, look_at(torch.tensor([[-0.5, 0.5, 0.7]]), torch.tensor([[0.1, 0.1, 0.0]])).expand(8, 4, 4)
    )
    findings = findings_of(spoil.changed(rig, wrong, cameras=("b",)))
    assert [(f.kind, f.camera) for f in findings if not f.mends] == [("does_not_fit", "b")]
    assert findings_of(rig) == ()


@pytest.mark.parametrize("part", ["", "rgb", "depth"])
@pytest.mark.parametrize(
    ("dims", "kind", "mend"),
    [((1,), "upside_down", "flip_vertical"), ((2,), "mirrored", "flip_horizontal"), ((1, 2), "turned", "turn=180")],
)
def test_pictures_that_lie_otherwise(part, dims, kind, mend):
    def laid(frames):
        rgb = frames.rgb if part == "depth" else frames.rgb.flip(dims)
        return frames.replace(rgb=rgb, depth=frames.depth if part == "rgb" else frames.depth.flip(dims))

    (finding,) = findings_of(spoil.changed(spoil.episode_of({"hand": spoil.camera_walk(10)}), laid))
    joint = "," if "=" in mend else "="
    assert (finding.kind, str(finding.mends[0])) == (kind, mend + (joint + part if part else ""))
    assert {"": "pictures", "rgb": "colour", "depth": "depth"}[part] in finding.found

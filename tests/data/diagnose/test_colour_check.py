"""Calibration without depth: points found in two pictures, and pictures that move or do not."""

import functools

import memory_recording as spoil
import pytest
import torch
from memory_recording import MemoryRecording
from torch.nn.functional import grid_sample, interpolate

from scene4d.data.detect import open_recordings
from scene4d.data.diagnose.calibration.calibration_check import check_calibration
from scene4d.data.diagnose.calibration.sample import read_sample
from scene4d.data.diagnose.colour.colour_check import ColourReport, check_colour
from scene4d.data.diagnose.repair.mend import MendedRecording
from scene4d.geometry.camera import look_at, pixel_centres
from scene4d.types import Cameras, Episode, Frames

SIZE = (240, 180)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # the tensors are small: a second thread only waits


@functools.cache
def texture():
    """Blots of many sizes [1 3 h w]."""
    generator = torch.Generator().manual_seed(4)
    noise = lambda side: interpolate(
        torch.rand(1, 3, side, side, generator=generator), size=(512, 512), mode="bilinear"
    )
    return (0.5 * noise(96) + 0.3 * noise(48) + 0.2 * noise(16) - 0.25).clamp(0, 0.5) * 2


def seen_by(cameras: Cameras) -> Frames:
    """Colour alone: a patterned floor, and a patterned board above a part of it."""
    world_from_cam = torch.linalg.inv(cameras.viewmats)
    pixels = pixel_centres(cameras.width, cameras.height, like=cameras.Ks)
    rays = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1) @ torch.linalg.inv(cameras.Ks)[:, None].mT
    rays = (world_from_cam[:, None, None, :3, :3] @ rays[..., None])[..., 0]
    eye = world_from_cam[:, None, None, :3, 3]
    on_plane = lambda z: (eye + rays * ((z - eye[..., 2:]) / rays[..., 2:].clamp(max=-1e-3)))[..., :2]
    look = lambda places: grid_sample(texture().expand(len(places), -1, -1, -1), places, align_corners=False)
    floor, board = on_plane(0.0), on_plane(0.15)
    above = (board.abs() < 0.22).all(-1)[:, None]
    rgb = torch.where(above, look(board + 0.4), look(floor * 0.7)).movedim(1, -1)
    return Frames(rgb=rgb, depth=None, alpha=None, cameras=cameras)


def recorded(cameras: dict[str, Cameras]) -> Episode:
    length = len(next(iter(cameras.values())).viewmats)
    none, times = torch.zeros(length, 0), torch.arange(length, dtype=torch.float64) / 10
    views = {name: seen_by(c) for name, c in cameras.items()}
    valid = torch.ones(length, dtype=torch.bool)
    return Episode(views=views, times=times, valid=valid, actions=none, proprio=none, info={"task": "look"})


def walk(length=24, **options):
    return spoil.camera_walk(length, **options).resized(*SIZE)


@functools.cache
def walked():
    return recorded({"hand": walk()})


def checked(episode, moving=("hand",)):
    return check_colour(MemoryRecording(episode), moving=moving)


def test_points_of_a_sound_recording_lie_where_the_camera_says():
    report = checked(walked())
    assert report.findings == () and report.num_pairs >= 3 and report.error_px < 1


@pytest.mark.parametrize(
    ("change", "kind", "mend"),
    [
        (spoil.as_inverse, "camera_axes", "inverted"),
        (lambda f: f.replace(rgb=f.rgb.flip(1)), "upside_down", "flip_vertical"),
        (lambda f: f.replace(rgb=f.rgb.flip((1, 2))), "turned", "turn=180"),
    ],
)
def test_a_mistake_is_named_and_its_mend_puts_it_right(change, kind, mend):
    spoiled = MemoryRecording(spoil.changed(walked(), change))
    (finding,) = check_colour(spoiled, moving=("hand",)).findings
    assert (finding.kind, " ".join(map(str, finding.mends))) == (kind, mend) and "px" in finding.found
    mended = check_colour(MendedRecording(spoiled, finding.mends), moving=("hand",))
    assert mended.findings == () and mended.error_px < 1


def test_invented_poses_are_found():
    def invented(frames):
        numbers = torch.rand(len(frames.rgb), 6, generator=torch.Generator().manual_seed(1))
        return spoil.posed(frames, look_at(numbers[:, :3] * 2 - 1, numbers[:, 3:] * 0.4 - 0.2))

    (finding,) = checked(spoil.changed(walked(), invented)).findings
    assert (finding.kind, finding.field, finding.mends) == ("does_not_fit", "pose", ()) and finding.fix


def rig():
    cameras = {n: spoil.standing(walk(8, start=a, fov=0.8), 8) for n, a in (("left", 0.2), ("right", -0.05))}
    return {**cameras, "hand": walk(8)}


def test_a_camera_declared_still_whose_picture_moves():
    truth = recorded(rig())
    wrong = lambda f: spoil.posed(f, f.cameras.viewmats[:1].expand_as(f.cameras.viewmats))
    (finding,) = checked(spoil.changed(truth, wrong, cameras=("hand",)), moving=()).findings
    assert (finding.kind, finding.camera, finding.field) == ("picture_moves", "hand", "pose")
    assert "declared still, but its picture moves" in finding.found
    assert checked(truth).findings == ()


def test_a_camera_declared_moving_whose_picture_stands_still():
    truth = recorded(rig())
    poses = walk(8).viewmats
    (finding,) = checked(
        spoil.changed(truth, lambda f: spoil.posed(f, poses), cameras=("left",)), ("hand", "left")
    ).findings
    assert (finding.kind, finding.camera) == ("picture_stands_still", "left")
    assert "declared moving, but its picture stands still" in finding.found


def test_two_still_cameras_with_a_wrong_pose():
    truth = recorded({n: c for n, c in rig().items() if n != "hand"})
    assert checked(truth, moving=()).findings == () and checked(truth, moving=()).num_pairs == 1
    elsewhere = look_at(torch.tensor([[-0.4, 0.7, 0.6]]), torch.tensor([[0.1, 0.0, 0.0]])).expand(8, 4, 4)
    (finding,) = checked(spoil.changed(truth, lambda f: spoil.posed(f, elsewhere), cameras=("left",)), ()).findings
    assert finding.kind == "does_not_fit"


def test_too_few_points_say_nothing():
    grey = spoil.changed(walked(), lambda f: f.replace(rgb=torch.full_like(f.rgb, 0.5)))
    assert checked(grey) == ColourReport()


def test_colour_is_looked_at_where_there_is_no_depth():
    report = check_calibration(read_sample(MemoryRecording(walked())))
    assert report.findings == () and report.untested == "no depth" and report.colour.error_px < 1
    spoiled = spoil.changed(walked(), lambda f: f.replace(rgb=f.rgb.flip(1)))
    assert [f.kind for f in check_calibration(read_sample(MemoryRecording(spoiled))).findings] == ["upside_down"]


@pytest.mark.parametrize("name", ["mv_fox", "robot_gsdynamics_rope_4cam"])
def test_sound_recordings_of_colour_alone(shared_data, name):
    recording = open_recordings(shared_data / name)[0]
    moving = ("camera",) if name == "mv_fox" else ()
    report = check_colour(recording, moving=moving)
    assert report.findings == () and report.num_pairs and report.error_px < 1.5


def test_the_invented_cameras_of_the_field(shared_data):
    recording = open_recordings(shared_data / "field" / "droid_wrong_ext")[0]
    report = check_calibration(read_sample(recording))
    assert ("picture_moves", "2") in [(f.kind, f.camera) for f in report.findings]

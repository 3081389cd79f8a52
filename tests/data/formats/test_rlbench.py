import itertools
import shutil

import numpy as np
import pytest
import torch
from floor_scene import assert_refused_when_spoiled
from left_out_names import left_out_names
from PIL import Image

from scene4d.data.detect import open_recordings
from scene4d.data.diagnose.inspect import ledger_findings
from scene4d.data.formats.robots.rlbench import MAX_CODE, open_rlbench
from scene4d.errors import CalibrationError, DataFormatError, DepthError, Scene4DError, SecurityError
from scene4d.geometry.camera import project, unproject
from scene4d.ledger import left_out

SIZE, STEPS, KEPT = 16, 8, [0, 2, 4, 6]
NEAR, FAR = 0.1, 3.1


def depth_picture(metres: np.ndarray) -> np.ndarray:
    codes = np.round((metres - NEAR) / (FAR - NEAR) * MAX_CODE).astype(np.int64)
    return np.stack([codes >> 16, (codes >> 8) & 255, codes & 255], -1).astype(np.uint8)


def table() -> dict[str, np.ndarray]:
    poses = np.tile(np.eye(4), (STEPS, 1, 1))
    poses[:, 0, 3] = np.arange(STEPS)
    grip = np.tile([0.1, 0.2, 0.3, 0.0, 0.0, 0.6, 0.8], (STEPS, 1))
    grip[:, 0] = np.arange(STEPS)
    grip[4:, 3:] *= -1  # the same rotation
    return {
        "kept_frames": np.asarray(KEPT),
        "gripper_pose": grip,
        "gripper_open": np.linspace(0, 1, STEPS),
        "joint_positions": np.ones((STEPS, 7)),
        "front_intrinsics": np.array([[-20.0, 0, 8], [0, -20.0, 8], [0, 0, 1]]),
        "front_extrinsics_c2w": poses,
        "front_near_far": np.array([NEAR, FAR]),
    }


@pytest.fixture
def episode_folder(tmp_path):
    folder = tmp_path / "episode7"
    metres = np.full((SIZE, SIZE), 1.5)
    metres[0] = FAR
    for kind in ("rgb", "depth", "mask"):
        (folder / f"front_{kind}").mkdir(parents=True)
    for step in KEPT:
        name = f"{step:03d}.png"
        Image.fromarray(np.full((SIZE, SIZE, 3), step, np.uint8)).save(folder / "front_rgb" / name)
        Image.fromarray(depth_picture(metres)).save(folder / "front_depth" / name)
        Image.fromarray(np.full((SIZE, SIZE, 3), (5, 1, 0), np.uint8)).save(folder / "front_mask" / name)
    np.savez(folder / "low_dim.npz", **table())
    (folder / "instruction.txt").write_text("open the drawer\n")
    return folder


def test_foreign_conventions_end_here(episode_folder):
    recording = open_rlbench(episode_folder)
    episode = recording.read()
    frames = episode.views["front"]
    torch.testing.assert_close(frames.depth[0, 1:], torch.full((SIZE - 1, SIZE), 1.5), atol=1e-6, rtol=0)
    assert (frames.depth[:, 0] == 0).all(), "the far plane is no surface"
    assert (frames.cameras.Ks[:, [0, 1], [0, 1]] > 0).all() and frames.cameras.Ks[0, 0, 2] == 8.5
    # The negative focal lengths and z forward: a point at +x of the camera lands left of the centre.
    point = torch.tensor([[2.0 + 0.5, 0.25, 1.0]])
    pixels, z = project(point, frames.cameras.viewmats[1], Ks=frames.cameras.Ks[1])
    torch.testing.assert_close(pixels[0], torch.tensor([8.5 - 10, 8.5 - 5]))
    assert z[0] == 1 and torch.linalg.det(frames.cameras.viewmats[0, :3, :3]) > 0.999
    assert (frames.extras["segments"] == 5 + 256).all() and frames.extras["segments"].shape == (4, SIZE, SIZE, 1)
    assert episode.info["task"] == "open the drawer" and recording.fps == 10
    torch.testing.assert_close(episode.times, torch.arange(4).double() / 10)


def test_actions_are_the_pose_at_the_next_frame_read(episode_folder):
    recording = open_rlbench(episode_folder)
    for stride, following in ((1, [2, 4, 6, 6]), (2, [4, 6])):
        episode = recording.read(stride=stride)
        assert episode.actions[:, 0].tolist() == following
        assert episode.proprio[:, 0].tolist() == [0, 2, 4, 6][::stride]
    assert recording.read(0, 1, stride=2).actions[:, 0].tolist() == [4]
    torch.testing.assert_close(episode.actions[:, 3:7], torch.tensor([[0.8, 0, 0, 0.6]]).expand(2, 4))
    spec = recording.info["action_spec"]
    assert len(spec) == episode.actions.shape[1] and len(recording.info["proprio_spec"]) == episode.proprio.shape[1]
    assert spec[0] == {"name": "x", "unit": "m", "frame": "world"} and spec[3]["name"] == "qw"


def test_resizing_keeps_labels_and_depth_whole(episode_folder):
    frames = open_rlbench(episode_folder).read(size=(8, 8)).views["front"]
    assert set(frames.extras["segments"].unique().tolist()) == {261} and frames.rgb.shape == (4, 8, 8, 3)
    assert torch.allclose(frames.cameras.Ks[0, :2] * 2, torch.tensor([[20.0, 0, 8.5], [0, 20.0, 8.5]]))


def changed(**columns):
    def spoil(folder):
        arrays = {k: v for k, v in (table() | columns).items() if v is not None}
        np.savez(folder / "low_dim.npz", **arrays)

    return spoil


def no_rotation(folder):
    poses = table()["front_extrinsics_c2w"]
    poses[2, 0, 0] = -1
    changed(front_extrinsics_c2w=poses)(folder)


FAULTS = {
    "no table": (lambda f: (f / "low_dim.npz").unlink(), DataFormatError, "is missing"),
    "truncated table": (lambda f: (f / "low_dim.npz").write_bytes(b"PK\x03\x04abc"), DataFormatError, "cannot be read"),
    "pickled table": (changed(extra=np.array([{"a": 1}], object)), SecurityError, "pickled objects"),
    "no calibration": (changed(front_intrinsics=None), CalibrationError, "front: no calibration"),
    "K is a vector": (changed(front_intrinsics=np.ones(4)), DataFormatError, "front_intrinsics"),
    "poses of other steps": (changed(front_extrinsics_c2w=np.ones((3, 4, 4))), CalibrationError, "no camera pose"),
    "mirrored pose": (no_rotation, CalibrationError, "frame 2: .*det -1"),
    "near beyond far": (changed(front_near_far=np.array([3.0, 1.0])), CalibrationError, "near and far"),
    "near, far missing": (changed(front_near_far=None), DataFormatError, "front_near_far: is missing"),
    "NaN in proprio": (changed(joint_positions=np.full((STEPS, 7), np.nan)), DataFormatError, "not finite"),
    "steps too many": (changed(kept_frames=np.arange(5)), DataFormatError, "4 images, 5 kept_frames"),
    "steps out of range": (changed(kept_frames=np.array([0, 2, 4, 99])), DataFormatError, "kept_frames"),
    "an image missing": (lambda f: (f / "front_depth/004.png").unlink(), DataFormatError, "004.png"),
    "no images": (lambda f: [p.unlink() for p in (f / "front_rgb").iterdir()], DataFormatError, "0 images"),
    "no depth": (lambda f: shutil.rmtree(f / "front_depth"), DepthError, "no depth"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(episode_folder, name):
    assert_refused_when_spoiled(episode_folder, FAULTS[name])


def test_depth_of_the_wrong_kind(episode_folder):
    Image.fromarray(np.full((SIZE, SIZE), 900, np.uint16)).save(episode_folder / "front_depth/002.png")
    with pytest.raises(DepthError, match="not coded in RGB"):
        open_rlbench(episode_folder).read()
    with pytest.raises(Scene4DError):
        open_rlbench(episode_folder).read(cameras=["left"])


def test_real_cameras_agree(shared_data):
    recordings = open_recordings(shared_data / "sim_rlbench_open_drawer")
    assert [r.num_frames for r in recordings] == [63, 53]
    assert recordings[0].cameras == ("front", "left_shoulder", "overhead", "wrist")
    episode = recordings[0].read(0, 61, stride=30)
    assert "segments" in episode.views["front"].extras
    differences, in_front = [], []
    for (a, b), t in itertools.product(itertools.permutations(("front", "left_shoulder", "overhead"), 2), range(3)):
        A, B = episode.views[a][t], episode.views[b][t]
        points = unproject(A.depth, A.cameras.viewmats, Ks=A.cameras.Ks)[A.depth > 0]
        pixels, z = project(points, B.cameras.viewmats, Ks=B.cameras.Ks)
        grid = (pixels / 64 - 1)[None, None]
        seen = torch.nn.functional.grid_sample(B.depth[None, None], grid, align_corners=False)[0, 0, 0]
        usable = (z > 0) & (grid[0, 0].abs() < 0.98).all(1) & (seen > 0)
        nearest = -torch.nn.functional.max_pool2d(-B.depth[None, None], 3, stride=1, padding=1)
        nearest = torch.nn.functional.grid_sample(nearest, grid, mode="nearest", align_corners=False)[0, 0, 0]
        apart = (z - seen)[usable]
        differences.append(apart[apart.abs() < 0.03].abs().mean())
        in_front.append((z < nearest - 0.03)[usable].float().mean())
    assert torch.stack(differences).mean() < 0.002, "half a pixel of the centre is worth 2 mm"
    assert torch.stack(in_front).max() < 0.01, "nothing floats in space that another camera sees to be free"


def test_what_is_not_read_is_listed(episode_folder):
    np.savez(episode_folder / "low_dim.npz", **table(), joint_forces=np.ones((STEPS, 7)))
    (episode_folder / "variation_descriptions.pkl").write_bytes(b"x")
    recording = open_rlbench(episode_folder)
    assert left_out_names(recording, "other_files") == ["variation_descriptions.pkl"]
    assert left_out_names(recording, "unused_columns") == ["joint_forces"]
    assert left_out_names(recording, "steps") == ["4 of 8 steps"] and not ledger_findings(left_out(recording.info))
    shutil.copy(episode_folder / "front_mask/000.png", episode_folder / "front_mask/099.png")
    assert left_out_names(open_rlbench(episode_folder), "unused_images") == ["front_mask/099.png"]

import numpy as np
import pytest
import torch
from left_out_names import left_out_names
from PIL import Image

from scene4d.data.detect import open_recordings
from scene4d.errors import CalibrationError, DataFormatError, DepthError, Scene4DError
from scene4d.geometry.camera import project, unproject
from scene4d.types import Episode

WIDTH, HEIGHT = 32, 24
K = np.array([[30.0, 0, 16], [0, 30.0, 12], [0, 0, 1]])


def pose(angle: float, *, x: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[0, 3] = x
    return matrix


def codes(index: int) -> np.ndarray:
    depth = np.full((HEIGHT, WIDTH), 1000 + index, np.uint16)
    depth[0, 0], depth[0, 1] = 0, 65535
    return depth


def save_pictures(color, depth, index: int) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 10 * index, np.uint8)).save(color)
    Image.fromarray(codes(index)).save(depth)


@pytest.fixture
def seven_scenes(tmp_path):
    folder = tmp_path / "seq-01"
    folder.mkdir()
    for i in range(5):
        stem = folder / f"frame-{2 * i:06d}"
        save_pictures(f"{stem}.color.png", f"{stem}.depth.png", i)
        np.savetxt(f"{stem}.pose.txt", pose(0.1 * i, x=i))
    np.savetxt(tmp_path / "camera-intrinsics.txt", K)
    return folder


@pytest.fixture
def images_depth(tmp_path):
    for name in ("images", "depth"):
        (tmp_path / name).mkdir()
    for i in range(5):
        save_pictures(tmp_path / "images" / f"{i:03d}.png", tmp_path / "depth" / f"{i:03d}.png", i)
    np.savetxt(tmp_path / "K.txt", K)
    np.savetxt(tmp_path / "poses.txt", np.stack([pose(0.1 * i, x=i).ravel() for i in range(5)]))
    return tmp_path


@pytest.mark.parametrize("layout", ["seven_scenes", "images_depth"])
def test_conventions(request, layout):
    recording = open_recordings(request.getfixturevalue(layout))[0]
    episode = recording.read(1, 4)
    frames = episode.views["camera"]
    assert recording.num_frames == 5 and recording.cameras == ("camera",) and episode.batch_shape == (3,)
    assert frames.depth[0, 0, 0] == 0 and frames.depth[0, 0, 1] == 0, "0 and 65535 are not measured"
    torch.testing.assert_close(frames.depth[:, 5, 5], torch.tensor([1.001, 1.002, 1.003]))
    torch.testing.assert_close(frames.rgb[:, 0, 0, 0] * 255, torch.tensor([10.0, 20.0, 30.0]))
    world_from_cam = torch.linalg.inv(frames.cameras.viewmats)
    torch.testing.assert_close(world_from_cam[2], torch.from_numpy(pose(0.3, x=3)).float())
    assert episode.times[0] == recording.read().times[1] > 0 and episode.times.dtype == torch.float64
    torch.testing.assert_close(frames.cameras.Ks[0], torch.from_numpy(K).float())


def test_times_follow_frame_numbers(seven_scenes):
    recording = open_recordings(seven_scenes)[0]
    torch.testing.assert_close(recording.read().times, torch.arange(5).double() * 2 / 30)
    assert recording.fps == pytest.approx(15)


def test_resize_and_stride_scale_the_intrinsics(images_depth):
    episode = open_recordings(images_depth)[0].read(0, 5, stride=2, size=(16, 12))
    frames = episode.views["camera"]
    assert frames.rgb.shape == (3, 12, 16, 3) and frames.depth.shape == (3, 12, 16)
    torch.testing.assert_close(frames.cameras.Ks[0, :2], torch.from_numpy(K[:2] / 2).float())
    assert episode.info["frames"] == ["000", "002", "004"]


def test_recordings_are_found_below_the_root(seven_scenes):
    assert [r.path for r in open_recordings(seven_scenes.parent)] == [str(seven_scenes)]


def test_frames_txt_orders_the_images(images_depth):
    (images_depth / "frames.txt").write_text("004.png\n001.png\n002.png\n003.png\n000.png\n")
    recording = open_recordings(images_depth)[0]
    first = recording.read(0, 1)
    assert first.info["frames"] == ["004"] and first.views["camera"].rgb[0, 0, 0, 0] * 255 == 40
    (images_depth / "frames.txt").write_text("../K.txt\n" * 5)
    with pytest.raises(DataFormatError, match="plain file names"):
        open_recordings(images_depth)


def remove(*names):
    return lambda folder: [(folder / n).unlink() for n in names]


def poses_with(change):
    def spoil(folder):
        matrices = np.stack([pose(0.1 * i, x=i) for i in range(5)])
        change(matrices)
        np.savetxt(folder / "poses.txt", matrices.reshape(5, 16))

    return spoil


def k_with(matrix):
    return lambda folder: np.savetxt(folder / "K.txt", np.asarray(matrix))


def mirrored(m):
    m[2, :3, 0] *= -1


def scaled(m):
    m[3, :3, :3] *= 1.01


def last_row(m):
    m[1, 3, 0] = 1


def lost(m):
    m[:2] = np.nan


OPENING_FAULTS = {
    "no K": (remove("K.txt"), CalibrationError, "no intrinsics; write K.txt"),
    "no poses": (remove("poses.txt"), CalibrationError, "no poses; write poses.txt"),
    "no K no poses": (remove("K.txt", "poses.txt"), CalibrationError, "no intrinsics, no poses"),
    "no depth file": (lambda f: [p.unlink() for p in (f / "depth").iterdir()], DepthError, "no depth for 5 of 5"),
    "one pose less": (lambda f: np.savetxt(f / "poses.txt", np.ones((4, 16))), CalibrationError, "differ in number"),
    "ragged poses": (lambda f: (f / "poses.txt").write_text("1 2 3\n4 5\n"), DataFormatError, "ragged"),
    "words for poses": (lambda f: (f / "poses.txt").write_text("a b c\n"), DataFormatError, "numbers"),
    "empty poses": (lambda f: (f / "poses.txt").write_text(""), DataFormatError, "empty"),
    "quaternions for poses": (lambda f: np.savetxt(f / "poses.txt", np.ones((5, 7))), CalibrationError, "7 numbers"),
    "mirrored pose": (poses_with(mirrored), CalibrationError, "frame 002: .*det -1.0000"),
    "scaled pose": (poses_with(scaled), CalibrationError, "frame 003: .*residual 0.02"),
    "last row": (poses_with(last_row), CalibrationError, "frame 001"),
    "lost tracking": (poses_with(lost), CalibrationError, r"frame 000\.\.001: 2 of 5 poses are not finite"),
    "negative focal": (k_with([[-30, 0, 16], [0, -30, 12], [0, 0, 1]]), CalibrationError, "positive"),
    "transposed K": (k_with(K.T), CalibrationError, "transposed"),
    "K of another size": (k_with([[60, 0, 32], [0, 60, 24], [0, 0, 1]]), CalibrationError, "K for about 64x48"),
    "K of half size": (k_with([[15, 0, 8], [0, 15, 6], [0, 0, 1]]), CalibrationError, "K for about 16x12"),
    "NaN in K": (k_with([[np.nan, 0, 16], [0, 30, 12], [0, 0, 1]]), CalibrationError, "finite"),
    "skewed K": (k_with([[30, 5, 16], [0, 30, 12], [0, 0, 1]]), CalibrationError, "skewed"),
    "vector for K": (k_with([[30, 30, 16, 12]]), CalibrationError, "3x3"),
    "first image broken": (lambda f: (f / "images/000.png").write_bytes(b"x"), DataFormatError, "000.png"),
}


@pytest.mark.parametrize("name", OPENING_FAULTS)
def test_faults_seen_when_opening(images_depth, name):
    spoil, error, words = OPENING_FAULTS[name]
    spoil(images_depth)
    with pytest.raises(error, match=words) as caught:
        open_recordings(images_depth)
    assert caught.value.exit_code == 3 and str(images_depth) in str(caught.value)


def truncate(path):
    path.write_bytes(path.read_bytes()[:60])


def save_depth(array):
    return lambda folder: Image.fromarray(array).save(folder / "depth" / "002.png")


READING_FAULTS = {
    "truncated colour": (lambda f: truncate(f / "images/002.png"), DataFormatError, "cannot be decoded"),
    "truncated depth": (lambda f: truncate(f / "depth/002.png"), DataFormatError, "cannot be decoded"),
    "empty depth file": (lambda f: (f / "depth/002.png").write_bytes(b""), DataFormatError, "cannot be decoded"),
    "8-bit depth": (save_depth(np.ones((HEIGHT, WIDTH), np.uint8)), DepthError, "mode L"),
    "coloured depth": (save_depth(np.ones((HEIGHT, WIDTH, 3), np.uint8)), DepthError, "mode RGB"),
    "depth of another size": (save_depth(np.full((16, 16), 1000, np.uint16)), CalibrationError, "register"),
    "no depth measured": (save_depth(np.zeros((HEIGHT, WIDTH), np.uint16)), DepthError, "100.0 % of the depth"),
    "depth in metres": (save_depth(np.full((HEIGHT, WIDTH), 2, np.uint16)), DepthError, "another unit"),
    "another image size": (
        lambda f: Image.fromarray(np.ones((9, 9, 3), np.uint8)).save(f / "images/002.png"),
        CalibrationError,
        "one size",
    ),
}


@pytest.mark.parametrize("name", READING_FAULTS)
def test_faults_seen_when_reading(images_depth, name):
    spoil, error, words = READING_FAULTS[name]
    spoil(images_depth)
    recording = open_recordings(images_depth)[0]
    assert recording.read(0, 2).batch_shape == (2,), "the good frames are still there"
    with pytest.raises(error, match=words) as caught:
        recording.read()
    assert "002.png" in str(caught.value)


def test_small_flaws_are_mended_and_reported(images_depth):
    def flaw(m):
        m[1, :3, :3] *= 1 + 4e-4
        m[4] = -np.inf

    poses_with(flaw)(images_depth)
    recording = open_recordings(images_depth)[0]
    assert recording.num_frames == 4 and left_out_names(recording, "lost_poses") == ["004"]
    viewmats = recording.read().views["camera"].cameras.viewmats[:, :3, :3]
    torch.testing.assert_close(viewmats @ viewmats.transpose(1, 2), torch.eye(3).expand(4, 3, 3))


@pytest.mark.parametrize("spoil", [remove("camera-intrinsics.txt"), remove("seq-01/frame-000004.pose.txt")])
def test_missing_parts_of_seven_scenes(seven_scenes, spoil):
    spoil(seven_scenes.parent)
    with pytest.raises(CalibrationError) as caught:
        open_recordings(seven_scenes)
    assert caught.value.fix


@pytest.mark.parametrize("arguments", [{"start": 9}, {"stride": 0}, {"start": -1}, {"stop": 0}, {"cameras": ["left"]}])
def test_reading_what_is_not_there(images_depth, arguments):
    with pytest.raises(Scene4DError) as caught:
        open_recordings(images_depth)[0].read(**arguments)
    assert caught.value.exit_code == 3


def reprojection_error(episode: Episode, *, gap: int) -> float:
    """Median over frame pairs of the median difference in m between measured and reprojected depth."""
    f, errors = episode.views["camera"], []
    for i in range(len(episode.times) - gap):
        points = unproject(f.depth[i], f.cameras.viewmats[i], Ks=f.cameras.Ks[i])[f.depth[i] > 0][::11]
        pixels, z = project(points, f.cameras.viewmats[i + gap], Ks=f.cameras.Ks[i + gap])
        cell = pixels.floor().long()
        inside = (z > 0) & (cell >= 0).all(1) & (cell[:, 0] < f.cameras.width) & (cell[:, 1] < f.cameras.height)
        measured = f.depth[i + gap][cell[inside, 1], cell[inside, 0]]
        both = measured > 0
        if both.sum() > 100:
            errors.append((measured[both] - z[inside][both]).abs().median())
    return float(torch.stack(errors).median())


def test_kitchen_reprojects(shared_data):
    recording = open_recordings(shared_data / "rgbd_hololens_kitchen")[0]
    assert recording.num_frames == 61 and recording.sizes == {"camera": (540, 360)}
    # Every 2nd original frame is kept: 8 of ours are 16 of theirs.
    episode = recording.read(stride=8)
    assert 0.005 < reprojection_error(episode, gap=1) < 0.014


def test_box_reprojects(shared_data):
    recording = open_recordings(shared_data / "rgbd_box_tabletop")[0]
    assert recording.num_frames == 25
    episode = recording.read(stride=5)
    assert 0.0015 < reprojection_error(episode, gap=1) < 0.005

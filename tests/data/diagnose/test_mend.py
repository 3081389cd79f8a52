import memory_recording as spoil
import pytest
import torch
from memory_recording import MemoryRecording

from scene4d.data.diagnose.calibration.sample import read_sample
from scene4d.data.diagnose.repair.mend import MENDS, Mend, MendedRecording, apply_mend, parse_mend
from scene4d.data.diagnose.world_axis import up_axis
from scene4d.errors import ConfigError, DataFormatError
from scene4d.geometry.camera import unproject

SPELLED = (
    "opengl",
    "inverted@left,right",
    "position_scale=0.001",
    "depth_scale=1000@left",
    "depth_hole=65.535",
    "ray_depth",
    "depth_shift=0.0125,-0.02",
    "K_scale=0.5",
    "K_scale=0.5,0.4@right",
    "swap=left/right",
    "lag=-1@left",
    "up=-z",
    "flip_vertical",
    "flip_vertical=depth@left",
    "flip_horizontal=rgb",
    "turn=180",
    "turn=90,depth@left",
)


@pytest.fixture(scope="module")
def recording():
    left, right = (spoil.camera_walk(7, start=a) for a in (0.5, -0.5))
    return MemoryRecording(spoil.episode_of({"left": left, "right": right}))


def test_spelling_comes_back():
    assert [str(parse_mend(text)) for text in SPELLED] == list(SPELLED)
    assert {parse_mend(text).name for text in SPELLED} == set(MENDS)


@pytest.mark.parametrize(
    "text",
    ["", "magic", "opengl=1", "depth_scale", "depth_scale=0", "depth_scale=-1", "K_scale=nan", "depth_scale=a", "up=w",
     "lag=0.5", "swap=left", "depth_shift=1", "flip_vertical=left", "turn", "turn=45", "turn=depth", "turn=90,180"],
)  # fmt: skip
def test_what_is_no_mend_is_refused(text):
    with pytest.raises(ConfigError):
        parse_mend(text)


@pytest.mark.parametrize("text", ["opengl@top", "swap=left/top", "lag=1@top"])
def test_unknown_cameras_are_refused(recording, text):
    with pytest.raises((ConfigError, DataFormatError), match="top"):
        MendedRecording(recording, (parse_mend(text),)).read()


@pytest.mark.parametrize(
    ("change", "mends"),
    [
        (spoil.as_opengl, "opengl"),
        (spoil.as_inverse, "inverted"),
        (spoil.as_opengl_inverse, "inverted opengl"),
        (spoil.in_millimetres, "depth_scale=0.001"),
        (spoil.with_large_K, "K_scale=0.5"),
        (spoil.with_ray_depth, "ray_depth"),
    ],
)
def test_a_mend_undoes_its_mistake_for_the_cameras_it_names(recording, change, mends):
    spoiled = MemoryRecording(spoil.changed(recording.episode, change, cameras=("left",)))
    named = tuple(parse_mend(f"{m}@left") for m in mends.split())
    mended = MendedRecording(spoiled, named).read()
    for name in ("left", "right"):
        got, truth = mended.views[name], recording.episode.views[name]
        torch.testing.assert_close(got.cameras.viewmats, truth.cameras.viewmats, rtol=0, atol=1e-6)
        torch.testing.assert_close(got.cameras.Ks, truth.cameras.Ks)
        torch.testing.assert_close(got.depth, truth.depth)
        assert torch.equal(got.rgb, truth.rgb)


@pytest.mark.parametrize("lag", [1, -1, 2])
def test_a_lag_takes_the_pose_from_its_frame(recording, lag):
    whole, mended = recording.episode, MendedRecording(recording, (parse_mend(f"lag={lag}@left"),))
    first, count = max(0, -lag), 7 - abs(lag)
    assert mended.num_frames == count
    read = mended.read()
    assert torch.equal(read.views["left"].rgb, whole.views["left"].rgb[first : first + count])
    expected = whole.views["left"].cameras.viewmats[first + lag : first + lag + count]
    assert torch.equal(read.views["left"].cameras.viewmats, expected)
    assert torch.equal(read.views["right"].cameras.viewmats, whole.views["right"].cameras.viewmats[first:][:count])
    assert read.times[0] == 0 and read.info["mends"] == [f"lag={lag}@left"]
    part = mended.read(1, count, stride=2, cameras=["left"])
    assert torch.equal(part.views["left"].cameras.viewmats, expected[1::2])
    torch.testing.assert_close(part.times, read.times[1::2])
    with pytest.raises(ConfigError, match="no frame"):
        MendedRecording(recording, (parse_mend("lag=7"),))


def test_a_swap_reads_the_other_camera_too(recording):
    mended = MendedRecording(recording, (parse_mend("swap=left/right"),)).read(cameras=["left"])
    assert list(mended.views) == ["left"]
    truth = recording.episode.views
    assert torch.equal(mended.views["left"].cameras.viewmats, truth["right"].cameras.viewmats)
    assert torch.equal(mended.views["left"].rgb, truth["left"].rgb)


def test_mended_depth_moves_by_shares_of_the_picture(recording):
    depth = recording.episode.views["left"].depth
    moved = apply_mend(Mend("depth_shift", (2 / 128, -1 / 96)), recording.episode).views["left"].depth
    assert torch.equal(moved[:, :-1, 2:], depth[:, 1:, :-2])
    assert not moved[:, -1].any() and not moved[:, :, :2].any()
    small = recording.read(size=(64, 48))
    assert torch.equal(apply_mend(Mend("depth_shift", (2 / 128, 0)), small).views["left"].depth[..., 1:],
                       small.views["left"].depth[..., :-1])  # fmt: skip


def test_pictures_are_turned_and_calibration_stays(recording):
    whole = recording.episode.views["left"]
    marked = whole.replace(alpha=whole.rgb[..., 0], extras={"segments": whole.rgb[..., 1:2]})
    episode = recording.episode.replace(views={"left": marked, "right": marked})
    for text, dims in (("flip_vertical@left", (1,)), ("flip_horizontal@left", (2,)), ("turn=180@left", (1, 2))):
        left, right = apply_mend(parse_mend(text), episode).views.values()
        assert torch.equal(left.rgb, marked.rgb.flip(dims)) and torch.equal(left.depth, marked.depth.flip(dims))
        assert torch.equal(left.alpha, marked.alpha.flip(dims))
        assert torch.equal(left.extras["segments"], marked.extras["segments"].flip(dims))
        assert torch.equal(left.cameras.viewmats, marked.cameras.viewmats)
        assert torch.equal(left.cameras.Ks, marked.cameras.Ks) and torch.equal(right.rgb, marked.rgb)
    only = apply_mend(parse_mend("flip_vertical=depth"), episode).views["left"]
    assert torch.equal(only.rgb, marked.rgb) and torch.equal(only.depth, marked.depth.flip(1))
    only = apply_mend(parse_mend("flip_vertical=rgb"), episode).views["left"]
    assert torch.equal(only.rgb, marked.rgb.flip(1)) and torch.equal(only.depth, marked.depth)
    with pytest.raises(ConfigError, match="size"):
        apply_mend(parse_mend("turn=90"), episode)


def test_a_quarter_turn_is_clockwise():
    square = spoil.episode_of({"one": spoil.camera_walk(2)})
    crop = square.views["one"]
    rgb, depth = crop.rgb[:, :, :96], crop.depth[:, :, :96]
    cameras = crop.cameras.replace(width=96)
    episode = square.replace(views={"one": crop.replace(rgb=rgb, depth=depth, cameras=cameras)})
    turned = apply_mend(parse_mend("turn=90"), episode).views["one"]
    assert torch.equal(turned.rgb[:, 0, -1], rgb[:, 0, 0]) and torch.equal(turned.depth[:, -1, -1], depth[:, 0, -1])


@pytest.mark.parametrize("axis", ["-z", "+x", "-y"])
def test_the_world_is_turned_as_a_whole(recording, axis):
    row = {"x": 0, "y": 1, "z": 2}[axis[1]]
    turn = torch.eye(4)
    turn[:3, :3] = torch.linalg.qr(torch.randn(3, 3))[0]
    turn[2, :3] = 0
    turn[2, row] = 1.0 if axis[0] == "+" else -1.0
    others = [k for k in range(3) if k != row]
    turn[:2, :3] = 0
    turn[0, others[0]] = 1
    turn[1, :3] = torch.linalg.cross(turn[2, :3], turn[0, :3])
    fallen = spoil.changed(recording.episode, lambda f: spoil.posed(f, f.cameras.viewmats @ turn))
    assert up_axis(read_sample(MemoryRecording(fallen))) == axis
    upright = MendedRecording(MemoryRecording(fallen), (parse_mend(f"up={axis}"),))
    assert up_axis(read_sample(upright)) == "+z"
    frames, truth = upright.read().views["left"], recording.episode.views["left"]
    points = unproject(frames.depth, frames.cameras.viewmats, Ks=frames.cameras.Ks)
    expected = unproject(truth.depth, truth.cameras.viewmats, Ks=truth.cameras.Ks)
    torch.testing.assert_close(points[..., 2], expected[..., 2], rtol=0, atol=1e-5)


def test_the_world_is_not_turned_under_a_robot(recording):
    robot = recording.episode.replace(actions=torch.zeros(7, 3))
    with pytest.raises(ConfigError, match="robot"):
        MendedRecording(MemoryRecording(robot), (parse_mend("up=-z"),)).read()

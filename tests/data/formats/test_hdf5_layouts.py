"""HDF5 in the layout of ALOHA, what a cameras.json says of known layouts, and what is not read."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from left_out_names import left_out_names
from PIL import Image

h5py = pytest.importorskip("h5py")

from scene4d.data.detect import open_recordings
from scene4d.data.diagnose.inspect import ledger_findings
from scene4d.errors import CalibrationError, DataFormatError, ResourceError
from scene4d.geometry.camera import unproject
from scene4d.ledger import left_out

T, WIDTH, HEIGHT = 6, 32, 24
ORANGE = (220, 60, 20)
CAMERAS = ("cam_high", "cam_low")


def jpegs(color):
    """One JPEG a frame, each with a length of its own; grey bars tell the frame."""
    files = []
    for i in range(T):
        picture = np.full((HEIGHT, WIDTH, 3), color, np.uint8)
        picture[:, : 2 * i] = 128
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "jpeg", quality=95, subsampling=0)
        files.append(np.frombuffer(buffer.getvalue(), np.uint8))
    return files


def store_raw(file, name, color):
    file[name] = np.full((T, HEIGHT, WIDTH, 3), color, np.uint8)


def store_padded(file, name, color):
    files = jpegs(color)
    longest = max(map(len, files))
    file[name] = np.stack([np.pad(f, (0, longest - len(f))) for f in files])
    file.require_dataset("compress_len", (2, T), np.int64)[:] = [[len(f) for f in files]] * 2


def store_runs(file, name, color):
    array = file.create_dataset(name, (T,), h5py.vlen_dtype(np.uint8))
    for i, data in enumerate(jpegs(color)):
        array[i] = data


def store_texts(file, name, color):
    file[name] = np.array([f.tobytes() for f in jpegs(color)])


STORES = {"raw": store_raw, "padded": store_padded, "runs": store_runs, "texts": store_texts}


def episode(folder, store, *, color=ORANGE, name="episode_0.hdf5"):
    with h5py.File(folder / name, "w") as file:
        file.attrs["sim"] = False
        file["action"] = np.arange(T * 14, dtype=np.float32).reshape(T, 14)
        for key in ("qpos", "qvel", "effort"):
            file[f"observations/{key}"] = np.full((T, 14), len(key), np.float32)
        file["base_action"] = np.zeros((T, 2))
        for camera in CAMERAS:
            store(file, f"observations/images/{camera}", color)
    return folder / name


def calibrate(folder, **fields):
    entry = {
        "width": WIDTH,
        "height": HEIGHT,
        "K": [[30, 0, 16], [0, 30, 12], [0, 0, 1]],
        "viewmat": np.eye(4).tolist(),
    }
    cameras = {name: entry | {"rgb": f"observations/images/{name}"} for name in CAMERAS}
    table = {"cameras": cameras} | ({"fields": fields} if fields else {})
    (folder / "cameras.json").write_text(json.dumps(table))


def shown(recording, camera="cam_high"):
    return (recording.read().views[camera].rgb[0, 2:-2, -6:-2].mean((0, 1)) * 255).round().tolist()


@pytest.mark.parametrize("kind", STORES)
def test_aloha(tmp_path, kind):
    path = episode(tmp_path, STORES[kind])
    with pytest.raises(CalibrationError, match=r"no calibration.*cam_high \(32x24\)"):
        open_recordings(path)
    calibrate(tmp_path)
    recording = open_recordings(path)[0]
    assert recording.info["source"] == "ALOHA" and recording.fps == 50 and recording.cameras == CAMERAS
    assert shown(recording) == pytest.approx(ORANGE, abs=4)
    read = recording.read(1, 4)
    assert read.actions[:, 0].tolist() == [14, 28, 42] and read.proprio.shape == (3, 28)
    assert recording.info["action_spec"][6] == {"name": "left_gripper", "unit": "1", "frame": "joint"}
    assert [s["unit"] for s in recording.info["proprio_spec"]].count("rad/s") == 12
    unused = left_out_names(recording, "unused_columns")
    assert {"base_action", "observations/effort"} <= set(unused)
    assert left_out_names(recording, "color_order") == ([] if kind == "raw" else list(CAMERAS))
    assert not ledger_findings(left_out(recording.info))
    guessed = open_recordings(path, cameras=None, fov_deg=60)[0]
    assert guessed.cameras == CAMERAS


@pytest.mark.parametrize("kind", STORES)
def test_color_order(tmp_path, kind):
    episode(tmp_path, STORES[kind], color=ORANGE[::-1])
    calibrate(tmp_path, color_order="bgr")
    recording = open_recordings(tmp_path)[0]
    assert shown(recording) == pytest.approx(ORANGE, abs=4) and not left_out_names(recording, "color_order")
    calibrate(tmp_path, color_order={"cam_low": "bgr"})
    recording = open_recordings(tmp_path)[0]
    assert shown(recording) == pytest.approx(ORANGE[::-1], abs=4)
    assert shown(recording, "cam_low") == pytest.approx(ORANGE, abs=4)


def test_fields_without_cameras_go_with_a_field_of_view(tmp_path):
    episode(tmp_path, store_padded, color=ORANGE[::-1])
    (tmp_path / "cameras.json").write_text(json.dumps({"fields": {"color_order": "bgr", "fps": 25, "task": "fold"}}))
    recording = open_recordings(tmp_path, fov_deg=70)[0]
    assert shown(recording) == pytest.approx(ORANGE, abs=4)
    assert recording.fps == 25 and recording.info["task"] == "fold"
    with pytest.raises(CalibrationError, match="no calibration"):
        open_recordings(tmp_path)


def test_episodes_of_a_folder(tmp_path):
    for name in ("episode_10.hdf5", "episode_2.hdf5"):
        episode(tmp_path, store_raw, name=name)
    calibrate(tmp_path)
    assert [Path(r.path.split("#")[0]).stem for r in open_recordings(tmp_path)] == ["episode_2", "episode_10"]


def shorter(folder):
    with h5py.File(folder / "episode_0.hdf5", "a") as file:
        del file["observations/qpos"]
        file["observations/qpos"] = np.zeros((T - 2, 14), np.float32)


def test_fewer_states_than_pictures_are_a_finding(tmp_path):
    episode(tmp_path, store_raw)
    calibrate(tmp_path)
    shorter(tmp_path)
    recording = open_recordings(tmp_path)[0]
    assert recording.num_frames == T - 2 and f"observations/qpos {T - 2}" in left_out_names(recording, "frame_counts")
    assert [f.kind for f in ledger_findings(left_out(recording.info))] == ["frame_counts"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"color_order": "gbr"}, "fields.color_order"),
        ({"color_order": {"cam_side": "bgr"}}, "fields.color_order"),
        ({"colour_order": "bgr"}, "fields"),
        ({"upside_down": "yes"}, "fields.upside_down"),
        ({"fps": "fast"}, "fps"),
    ],
)
def test_fields_that_mean_nothing_are_refused(tmp_path, fields, field):
    episode(tmp_path, store_raw)
    calibrate(tmp_path, **fields)
    with pytest.raises(DataFormatError) as caught:
        open_recordings(tmp_path)
    assert caught.value.field == field and caught.value.file.endswith("cameras.json") and caught.value.exit_code == 3


def test_a_run_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr("scene4d.data.formats.hdf5.hdf5_guard.MAX_RUNS", 300)
    episode(tmp_path, store_runs)
    with pytest.raises(ResourceError, match="impossibly large"):
        open_recordings(tmp_path, fov_deg=60)


def test_runs_that_are_no_pictures(tmp_path):
    path = episode(tmp_path, store_runs)
    with h5py.File(path, "a") as file:
        file["observations/images/cam_high"][3] = np.zeros(10, np.uint8)
    with pytest.raises(DataFormatError, match=r"frame 3.*cannot be decoded"):
        open_recordings(path, fov_deg=60)[0].read()


def demos(folder, *, picture, attributes=(), ending="rgb"):
    model = '<mujoco><worldbody><camera name="front" pos="0 -1 1" euler="60 0 0"/></worldbody></mujoco>'
    with h5py.File(folder / "demo.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs.update(dict(attributes))
        for name in ("demo_0", "warmup"):
            demo = data.create_group(name)
            demo.attrs["model_file"] = model
            demo["actions"], demo["states"] = np.ones((T, 7)), np.ones((T, 9))
            demo[f"obs/front_{ending}"] = np.repeat(picture[None], T, 0)
            demo["next_obs/a"], demo["next_obs/b"] = np.zeros((T, 2)), np.zeros((T, 2))
        file["mask/train"] = np.array([b"demo_0"])
    return folder


def test_which_end_is_up(tmp_path):
    """By what the file says of itself, then by what LIBERO does, then by what the user says; never by a name alone."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[: HEIGHT // 2] = 200

    def top(name, **given):
        folder = tmp_path / name
        folder.mkdir()
        if "fields" in given:
            (folder / "cameras.json").write_text(json.dumps({"fields": given.pop("fields")}))
        return float(open_recordings(demos(folder, picture=picture, **given))[0].read().views["front"].rgb[0, 0].mean())

    libero = {"problem_info": json.dumps({"language_instruction": "x"})}
    assert top("no key") > 0.5
    assert top("opengl", attributes={"macros_image_convention": "opengl"}) < 0.5
    assert top("libero", attributes=libero) < 0.5
    assert top("opencv", attributes=libero | {"macros_image_convention": "opencv"}) > 0.5
    assert top("given", fields={"upside_down": True}) < 0.5


def test_what_robomimic_files_hold_beyond_is_listed(tmp_path):
    recording = open_recordings(demos(tmp_path, picture=np.zeros((HEIGHT, WIDTH, 3), np.uint8)))[0]
    assert left_out_names(recording, "other_groups") == ["mask"]
    assert left_out_names(recording, "unused_columns") == ["next_obs/*", "states"]
    assert left_out_names(recording, "other_episodes") == ["warmup"]
    assert [f.kind for f in ledger_findings(left_out(recording.info))] == ["other_episodes"]


def test_field_robomimic(shared_data):
    recording = open_recordings(shared_data / "field/robomimic_ok_image")[0]
    frames = recording.read(0, 1).views
    for name, axis in (("agentview", (-0.76, 0, -0.65)), ("sideview", (0, -0.82, -0.57))):
        assert frames[name].cameras.viewmats[0, 2, :3].tolist() == pytest.approx(axis, abs=0.005)
        cameras = frames[name].cameras
        points = unproject(frames[name].depth, cameras.viewmats, Ks=cameras.Ks)
        assert float((points[..., 2].abs() < 0.01).float().mean()) > 0.4, "the floor is at z = 0"
        assert float(frames[name].depth.max()) < 39, "the sky at the far plane is no surface"
    assert not ledger_findings(left_out(recording.info))


def test_field_aloha(shared_data, tmp_path):
    source = shared_data / "field/aloha_bgr"
    table = json.loads((source / "cameras.json").read_text())
    table["fields"]["color_order"] = "bgr"
    (tmp_path / "cameras.json").write_text(json.dumps(table))
    recording = open_recordings(source, cameras=tmp_path / "cameras.json")[0]
    assert recording.num_frames == 20
    for frames in recording.read().views.values():
        background = (frames.rgb[0].flatten(0, 1).median(0).values * 255).tolist()
        assert background == pytest.approx([220, 60, 20], abs=6)
    asked = open_recordings(source)[0]
    assert left_out_names(asked, "color_order") == ["cam_high", "cam_left_wrist"]
    assert "observations/qvel" in left_out_names(asked, "unused_columns")

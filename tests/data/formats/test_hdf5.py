"""HDF5 files written by h5py in the layouts of ManiSkill, robomimic, LIBERO and ALOHA, and what may be wrong."""

import io
import json
import pickle
import sys

import numpy as np
import pytest
from floor_scene import (
    HEIGHT,
    WIDTH,
    K,
    assert_refused_when_spoiled,
    assert_true_to_the_floor,
    photograph,
    pose,
)
from PIL import Image
from scipy.spatial.transform import Rotation

h5py = pytest.importorskip("h5py")

from left_out_names import left_out_names

from scene4d.data.cameras.sidecar import Supplied, find_cameras
from scene4d.data.detect import open_recordings
from scene4d.errors import (
    CalibrationError,
    DataFormatError,
    DepthError,
    EnvError,
    ResourceError,
    SecurityError,
)

T = 5
CENTRED = np.array([[32.0, 0, WIDTH / 2], [0, 32.0, HEIGHT / 2], [0, 0, 1]])
FOVY = float(np.degrees(2 * np.arctan(0.5 * HEIGHT / 32)))


def maniskill(folder):
    shots = [photograph(0.3 * i) for i in range(T + 1)]
    with h5py.File(folder / "trajectory.rgbd.h5", "w") as file:
        for name in ("traj_10", "traj_2"):
            group = file.create_group(name)
            group["actions"] = np.arange(T * 3, dtype=np.float32).reshape(T, 3)
            group["success"] = np.arange(T) > 3
            group["obs/agent/qpos"] = np.full((T + 1, 2), int(name[5:]), np.float32)
            images, parameters = group.create_group("obs/sensor_data/cam"), group.create_group("obs/sensor_param/cam")
            images["rgb"] = np.stack([p for p, _ in shots])
            images["depth"] = np.stack([np.round(d * 1000) for _, d in shots]).astype(np.int16)[..., None]
            images["segmentation"] = np.full((T + 1, HEIGHT, WIDTH, 1), 7, np.int16)
            parameters["intrinsic_cv"] = np.stack([K] * (T + 1))
            parameters["extrinsic_cv"] = np.stack([np.linalg.inv(pose(0.3 * i))[:3] for i in range(T + 1)])
    env = {"env_id": "PickCube-v1", "env_kwargs": {"control_mode": "pd_ee_delta_pose", "control_freq": 20}}
    (folder / "trajectory.rgbd.json").write_text(json.dumps({"env_info": env}))


def model(index, *, extent=2.0):
    world_from_cam = pose(index) * np.array([1.0, -1.0, -1.0, 1.0])
    x, y, z, w = Rotation.from_matrix(world_from_cam[:3, :3]).as_quat()
    where = " ".join(f"{v:.9f}" for v in world_from_cam[:3, 3])
    return (
        f'<mujoco><statistic extent="{extent}"/><visual><map znear="0.01" zfar="50"/></visual><worldbody>'
        f'<camera mode="fixed" name="agentview" pos="{where}" quat="{w:.9f} {x:.9f} {y:.9f} {z:.9f}" fovy="{FOVY}"/>'
        '<body name="hand"><joint/><camera mode="fixed" name="robot0_eye_in_hand" pos="0 0 0"/></body>'
        "</worldbody></mujoco>"
    )


def robomimic(folder, *, libero=False, depth=None):
    flip = slice(None, None, -1) if libero else slice(None)
    ending = "rgb" if libero else "image"
    picture, metres = photograph(1, matrix=CENTRED)
    with h5py.File(folder / "demo.hdf5", "w") as file:
        env = {"env_name": "Lift", "env_kwargs": {"control_freq": 10}}
        file.create_group("data").attrs["env_args"] = json.dumps(env)
        if libero:
            file["data"].attrs["problem_info"] = json.dumps({"language_instruction": "lift the cube"})
        for name in ("demo_10", "demo_2"):
            demo = file.create_group(f"data/{name}")
            demo.attrs["model_file"] = model(1)
            demo["actions"], demo["rewards"] = np.ones((T, 7)), np.arange(T, dtype=float)
            demo[f"obs/agentview_{ending}"] = np.repeat(picture[None, flip], T, 0)
            demo[f"obs/robot0_eye_in_hand_{ending}"] = np.zeros((T, HEIGHT, WIDTH, 3), np.uint8)
            state = "ee_states" if libero else "robot0_eef_pos"
            demo[f"obs/{state}"] = np.full((T, 3), int(name[5:]), float)
            if depth is not None:
                demo["obs/agentview_depth"] = np.repeat(depth(metres)[None, flip, :, None], T, 0)


def test_maniskill(tmp_path):
    maniskill(tmp_path)
    recordings = open_recordings(tmp_path)
    assert [r.path.split("#")[1] for r in recordings] == ["traj_2", "traj_10"] and recordings[0].fps == 20
    assert recordings[0].depth_cameras == ("cam",) and recordings[0].info["task"] == "PickCube-v1"
    episode = pickle.loads(pickle.dumps(recordings[0])).read()
    assert_true_to_the_floor(episode)
    assert episode.actions[:, 0].tolist() == [0, 3, 6, 9, 12] and (episode.proprio == 2).all()
    assert episode.success.tolist() == [False] * 4 + [True] and (episode.views["cam"].extras["segments"] == 7).all()
    assert recordings[0].info["action_spec"][1] == {"name": "actions1", "unit": None, "frame": "pd_ee_delta_pose"}


@pytest.mark.parametrize("libero", [False, True])
def test_robomimic_takes_its_camera_from_the_model(tmp_path, libero):
    robomimic(tmp_path, libero=libero)
    recordings = open_recordings(tmp_path / "demo.hdf5")
    assert [r.path.split("#")[1] for r in recordings] == ["data/demo_2", "data/demo_10"] and recordings[0].fps == 10
    assert recordings[0].cameras == ("agentview",)
    assert left_out_names(recordings[0], "no_calibration") == [f"obs/robot0_eye_in_hand_{'rgb' if libero else 'image'}"]
    assert recordings[0].info["task"] == ("lift the cube" if libero else "Lift")
    episode = recordings[0].read()
    assert_true_to_the_floor(episode)
    assert (episode.proprio == 2).all() and episode.rewards.tolist() == [0, 1, 2, 3, 4]


def z_buffer(metres, near=0.02, far=100.0):
    return np.where(metres > 0, (1 - near / np.maximum(metres, near)) / (1 - near / far), 1.0).astype(np.float32)


@pytest.mark.parametrize("depth", [lambda m: m, z_buffer], ids=["metres", "z-buffer"])
def test_robosuite_depth(tmp_path, depth):
    robomimic(tmp_path, libero=True, depth=depth)
    episode = open_recordings(tmp_path)[0].read()
    assert episode.views["agentview"].depth is not None
    assert_true_to_the_floor(episode)


def test_z_buffer_without_its_planes_is_refused(tmp_path):
    robomimic(tmp_path, depth=z_buffer)
    with h5py.File(tmp_path / "demo.hdf5", "a") as file:
        file["data/demo_2"].attrs["model_file"] = model(1, extent="")
    with pytest.raises(DepthError, match=r"z-buffer.*near_far"):
        open_recordings(tmp_path)[0].read()


def aloha(folder, **fields):
    with h5py.File(folder / "episode_0.hdf5", "w") as file:
        file["action"], file["observations/qpos"] = np.ones((T, 2)), np.zeros((T, 3))
        encoded = []
        for _ in range(T):
            buffer = io.BytesIO()
            Image.fromarray(photograph(2)[0]).save(buffer, "png")
            encoded.append(np.frombuffer(buffer.getvalue(), np.uint8))
        padded = np.stack([np.pad(e, (0, 9)) for e in encoded])
        file["observations/images/high"] = padded
    viewmat = np.linalg.inv(pose(2)).tolist()
    entry = {"width": WIDTH, "height": HEIGHT, "K": K.tolist(), "viewmat": viewmat, "rgb": "observations/images/high"}
    known = {"actions": "action", "proprio": "observations/qpos", "fps": 50, "task": "insert"}
    table = {"cameras": {"high": entry}, "fields": {**known, **fields}}
    (folder / "cameras.json").write_text(json.dumps(table))


def test_field_map_with_encoded_images(tmp_path):
    aloha(tmp_path)
    recording = open_recordings(tmp_path)[0]
    assert recording.fps == 50 and recording.num_frames == T and recording.info["task"] == "insert"
    episode = recording.read(0, 5, stride=2)
    assert_true_to_the_floor(episode)
    assert episode.actions.shape == (3, 2) and episode.proprio.shape == (3, 3)


def edited(make, change):
    def spoil(folder):
        make(folder)
        with h5py.File(next(p for p in folder.iterdir() if p.suffix in (".h5", ".hdf5")), "a") as file:
            change(file)

    return spoil


def replaced(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return change


def modelled(text):
    return lambda file: file["data/demo_2"].attrs.__setitem__("model_file", text)


def cut(make):
    def spoil(folder):
        make(folder)
        file = next(p for p in folder.iterdir() if p.suffix in (".h5", ".hdf5"))
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return spoil


def huge(file):
    del file["traj_2/obs/sensor_data/cam/rgb"]
    file.create_dataset("traj_2/obs/sensor_data/cam/rgb", (T, 30000, 30000, 3), np.uint8, chunks=(1, 64, 64, 3))


FAULTS = {
    "truncated": (cut(maniskill), DataFormatError, "cannot be opened as HDF5|is damaged"),
    "external link": (
        edited(maniskill, replaced("traj_2/actions", h5py.ExternalLink("/etc/passwd", "/"))),
        SecurityError,
        "another file",
    ),
    "objects": (
        edited(maniskill, replaced("traj_2/actions", np.array([b"a", b"bc"] * T, object))),
        DataFormatError,
        "no array of numbers",
    ),
    "dangling link": (
        edited(maniskill, replaced("traj_2/actions", h5py.SoftLink("/nowhere"))),
        DataFormatError,
        "leads nowhere",
    ),
    "huge frames": (edited(maniskill, huge), ResourceError, "impossibly large"),
    "NaN action": (
        edited(maniskill, replaced("traj_2/actions", np.full((T, 3), np.nan))),
        DataFormatError,
        "actions: frame 0: is not finite",
    ),
    "state too short": (
        edited(maniskill, replaced("traj_2/obs/agent/qpos", np.ones((2, 2)))),
        DataFormatError,
        "numbers of frames differ",
    ),
    "K transposed": (
        edited(maniskill, replaced("traj_2/obs/sensor_param/cam/intrinsic_cv", np.stack([K.T] * (T + 1)))),
        CalibrationError,
        "transposed",
    ),
    "poses scaled": (
        edited(maniskill, replaced("traj_2/obs/sensor_param/cam/extrinsic_cv", np.ones((T + 1, 3, 4)))),
        CalibrationError,
        "no rigid motion",
    ),
    "no images": (
        edited(robomimic, lambda f: [f[f"data/{d}"].pop("obs") for d in ("demo_2", "demo_10")]),
        DataFormatError,
        "holds no images",
    ),
    "no calibration": (
        edited(robomimic, lambda f: [f[f"data/{d}"].attrs.pop("model_file") for d in ("demo_2", "demo_10")]),
        CalibrationError,
        r"no calibration.*agentview_image \(40x30\)",
    ),
    "broken model": (
        edited(robomimic, modelled("<mujoco>")),
        CalibrationError,
        "no XML",
    ),
    "model of words": (
        edited(robomimic, modelled(model(1).replace('fovy="', 'fovy="wide '))),
        CalibrationError,
        "agentview fovy",
    ),
    "model with entities": (
        edited(robomimic, modelled("<!DOCTYPE a [<!ENTITY b 'c'>]><a/>")),
        SecurityError,
        "entities",
    ),
    "unknown layout": (
        edited(robomimic, lambda f: f.move("data", "something")),
        DataFormatError,
        r"unknown layout.*something/demo.*fields",
    ),
    "no such episodes": (lambda f: aloha(f, episodes="runs/*"), DataFormatError, "no group matches"),
    "no rate": (lambda f: aloha(f, fps=None), DataFormatError, "fps"),
    "no such action": (lambda f: aloha(f, actions="act"), DataFormatError, "act: is missing"),
    "broken image": (
        edited(aloha, replaced("observations/images/high", np.zeros((T, 50), np.uint8))),
        DataFormatError,
        "cannot be decoded",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults(tmp_path, name):
    assert_refused_when_spoiled(tmp_path, FAULTS[name], codes=(3, 4))


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    maniskill(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(EnvError, match=r'pip install "scene4d\[hdf5\]"') as caught:
        open_recordings(tmp_path)
    assert caught.value.field == "h5py"


def test_a_guess_lets_images_be_seen(tmp_path):
    aloha(tmp_path)
    cameras, known = find_cameras(
        [tmp_path / "none.json"],
        sizes={"obs/a_rgb": (WIDTH, HEIGHT), "obs/b_rgb": (WIDTH, HEIGHT)},
        columns=(),
        supplied=Supplied(fov_deg=90),
    )
    assert list(cameras) == ["a_rgb", "b_rgb"] and cameras["a_rgb"].K[0, 0] == pytest.approx(WIDTH / 2)
    assert known["calibration"].startswith("approximate")

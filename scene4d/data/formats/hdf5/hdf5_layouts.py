"""The HDF5 layouts of ManiSkill and robomimic / LIBERO; others are in `hdf5_aloha` and `hdf5_fields`.

ManiSkill stores calibration (OpenCV) with every frame. robomimic and LIBERO store the simulator's model, from which the
cameras fixed to the world are taken; cameras on the robot need a cameras.json. LIBERO's images are upside down.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import checked_intrinsics
from scene4d.data.cameras.sidecar import CameraEntry, Supplied
from scene4d.data.cameras.stated import Stated, stated_beside
from scene4d.data.files.json_files import number_in, read_json
from scene4d.data.formats.hdf5.hdf5 import H5Episode, array, first_row, frame_size, looks_like_z_buffer, open_h5
from scene4d.data.formats.hdf5.hdf5_aloha import is_aloha, open_aloha
from scene4d.data.formats.hdf5.hdf5_fields import open_mapped
from scene4d.data.formats.hdf5.hdf5_guard import H5Group
from scene4d.data.formats.hdf5.hdf5_parts import (
    contents,
    group_of,
    recording_of_episode,
    shared_length,
    specs,
)
from scene4d.data.formats.hdf5.mujoco_model import ModelCameras, fixed_cameras
from scene4d.data.timeline.frame_table import TableRecording
from scene4d.errors import DataFormatError
from scene4d.ledger import LeftOut, uncalibrated, with_left_out

CONTROL_FPS = 20.0
MANISKILL2_UNIT = 1 / 1024
DEMO = re.compile(r"(demo|traj|episode)_?(\d+)$")
STATES = (
    ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "robot0_joint_pos"),
    ("ee_states", "gripper_states", "joint_states"),
)


def open_hdf5(path: Path, *, supplied: Supplied) -> list[TableRecording]:
    """The episodes of an HDF5 file; only shapes and calibration are read.

    Raises:
        DataFormatError: damaged, or of no known layout (the message names what is in it and how to describe it).
        CalibrationError: no calibration, or an impossible one. SecurityError: it links to other files.
        EnvError: h5py is not installed.
    """
    file = open_h5(path)
    stated = stated_beside(path, supplied)
    if stated.is_map:
        return open_mapped(file, path, stated=stated)
    if is_aloha(file):
        return [open_aloha(file, path, stated=stated)]
    names = _demos(file)
    if any(_maniskill_cameras(file, name) for name in names[:1]):
        entries = _other_groups(file, names, what="the trajectories")
        return [_maniskill(file, path, name=name, stated=stated, entries=entries) for name in names]
    group = file.group("data")
    if group is not None and (demos := _demos(group)):
        entries = [*_other_groups(file, ["data"], what="the demos"), *_other_groups(group, demos, what="the demos")]
        return [_robomimic(group, path, name=name, stated=stated, entries=entries) for name in demos]
    if stated.fields is not None:
        return open_mapped(file, path, stated=stated)
    example = '{"cameras": {...}, "fields": {"episodes": "data/*", "actions": "a", "proprio": ["p"], "fps": 20}}'
    fix = f"describe it in {stated.places[0]}: {example}"
    raise DataFormatError("has an unknown layout", file=path, found=contents(file) or "nothing", fix=fix)


def _demos(group: H5Group | None) -> list[str]:
    """The names in a group that number an episode, in order."""
    found = [match for name in group or () if (match := DEMO.match(name))]
    return [match.string for match in sorted(found, key=lambda match: int(match.group(2)))]


def _other_groups(file: H5Group, used: list[str], *, what: str) -> list[LeftOut]:
    """What lies beside the episodes: lists such as masks, and groups that hold pictures too, which are lost."""
    others = [name for name in file if name not in used]
    lost = [name for name in others if (group := file.group(name)) is not None and group.group("obs") is not None]
    listed = [name for name in others if name not in lost]
    fix = "number them like the others (demo_7), or describe them by a field map"
    return [
        LeftOut("other_episodes", "episodes", tuple(lost), f"are not named like {what}, and are not read", fix),
        LeftOut("other_groups", "columns", tuple(listed), f"lie beside {what}, and are not read", lost=False),
    ]


def _maniskill_cameras(file: H5Group, name: str) -> dict[str, tuple[str, str]]:
    """(images, parameters) of each camera, for either generation of the format."""
    for images, parameters in (("obs/sensor_data", "obs/sensor_param"), ("obs/image", "obs/camera_param")):
        group = file.group(f"{name}/{images}")
        if group is not None and file.group(f"{name}/{parameters}") is not None:
            return {camera: (f"{images}/{camera}", f"{parameters}/{camera}") for camera in group}
    return {}


def _maniskill(file: H5Group, path: Path, *, name: str, stated: Stated, entries: list[LeftOut]) -> TableRecording:
    group = group_of(file, name, path=path)
    cameras = {}
    for camera, (images, parameters) in _maniskill_cameras(file, name).items():
        rgb = next((f"{images}/{k}" for k in ("rgb", "Color") if group.get(f"{images}/{k}") is not None), None)
        if rgb is None:
            continue
        parts = {k: f"{images}/{k}" for k in ("depth", "segmentation") if group.get(f"{images}/{k}") is not None}
        width, height = frame_size(group, rgb, path=path)
        K = np.asarray(first_row(group, f"{parameters}/intrinsic_cv", path=path, width=(3, 3)), np.float64)
        cameras[camera] = CameraEntry(
            width=width,
            height=height,
            K=checked_intrinsics(K, width=width, height=height, file=path, camera=f"{name}/{camera}"),
            viewmat=None,
            viewmats=f"{parameters}/extrinsic_cv",
            rgb=rgb,
            depth=parts.get("depth"),
            depth_unit=0.001 if images.startswith("obs/sensor_data") else MANISKILL2_UNIT,
            segments=parts.get("segmentation"),
        )
    if not cameras:
        fix = "replay the trajectories with --obs-mode rgbd"
        raise DataFormatError("holds no images", file=path, field=name, found=sorted(group), fix=fix)
    # One observation more than actions: the last has nothing that leads on from it.
    length = min(len(array(group, n, path=path)) for n in ("actions", *(e.rgb for e in cameras.values())))
    proprio = [f"obs/agent/{k}" for k in ("qpos", "qvel") if group.get(f"obs/agent/{k}") is not None]
    beside = path.with_suffix(".json")
    facts = read_json(beside, fix="copy it again") if beside.is_file() else {}
    env = _table_in(facts, "env_info")
    kwargs = _table_in(env, "env_kwargs")
    episode = H5Episode(
        path=path,
        group=name,
        length=length,
        fps=stated.number("fps", default=number_in(kwargs, "control_freq", file=beside, default=CONTROL_FPS)),
        cameras=cameras,
        actions="actions",
        proprio=proprio,
        upside_down=stated.flag("upside_down", default=False),
        bgr=stated.bgr(cameras),
        rewards="rewards" if group.get("rewards") is not None else None,
        success="success" if group.get("success") is not None else None,
    )
    names = specs(group, path, actions="actions", proprio=proprio, frame=kwargs.get("control_mode"))
    info = {"source": "ManiSkill", "task": str(env.get("env_id", "")), **names}
    used = [f"{e.viewmats.rsplit('/', 1)[0]}/intrinsic_cv" for e in cameras.values()]
    return recording_of_episode(episode, group, info=info, stated=stated, entries=entries, used=used)


def _table_in(facts: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = facts.get(key)
    return found if isinstance(found, dict) else {}


def _robomimic(group: H5Group, path: Path, *, name: str, stated: Stated, entries: list[LeftOut]) -> TableRecording:
    demo = group_of(group, name, path=path)
    obs = demo.group("obs") or H5Group(demo.file, f"{demo.name}/obs", keys=())
    images = [k for k in obs if k.endswith(("_image", "_rgb"))]
    if not images:
        fix = "extract observations with images (robomimic: dataset_states_to_obs.py --camera_names ...)"
        raise DataFormatError("holds no images", file=path, field=f"data/{name}/obs", found=sorted(obs), fix=fix)
    env = _json_attribute(group, "env_args")
    kwargs = _table_in(env, "env_kwargs")
    problem = _json_attribute(group, "problem_info")
    sizes = {f"obs/{k}": frame_size(obs, k, path=path) for k in images}
    depths = {f"obs/{k}" for k in obs if k.endswith("_depth")}
    modelled = ModelCameras() if stated.calibrates else fixed_cameras(demo.text("model_file"), file=path)
    cameras, known = _model_cameras(demo, sizes, depths=depths, file=path, modelled=modelled), {}
    if not cameras:
        cameras, known = stated.cameras(sizes, columns=depths, what="robomimic's format")
    else:
        known = with_left_out({}, *_without_pose(sizes, cameras, modelled=modelled))
    proprio = [f"obs/{k}" for k in next((s for s in STATES if s[0] in obs), ()) if k in obs]
    upside_down = stated.flag("upside_down", default=_is_upside_down(group, images, problem=problem))
    counts = {n: len(array(demo, n, path=path)) for n in ("actions", *(e.rgb for e in cameras.values()))}
    length, differ = shared_length(counts)
    episode = H5Episode(
        path=path,
        group=f"data/{name}",
        length=length,
        fps=stated.number("fps", default=number_in(kwargs, "control_freq", file=path, default=CONTROL_FPS)),
        cameras=cameras,
        actions="actions",
        proprio=proprio,
        rewards="rewards" if "rewards" in demo else None,
        upside_down=upside_down,
        far=_far_planes(cameras, modelled),
        bgr=stated.bgr(cameras),
    )
    task = problem.get("language_instruction") or env.get("env_name") or ""
    source = "LIBERO" if problem else "robomimic"
    info = {"source": source, "task": str(task), **specs(demo, path, actions="actions", proprio=proprio), **known}
    return recording_of_episode(episode, demo, info=info, stated=stated, entries=[*entries, *differ])


def _is_upside_down(group: H5Group, images: list[str], *, problem: Mapping[str, Any]) -> bool:
    """Whether rows run from the bottom up, as OpenGL draws: the file's own word for it, or what LIBERO does."""
    convention = group.text("macros_image_convention")
    return convention == "opengl" if convention else bool(problem) and any(k.endswith("_rgb") for k in images)


def _without_pose(
    sizes: Mapping[str, tuple[int, int]], cameras: Mapping[str, CameraEntry], *, modelled: ModelCameras
) -> list[LeftOut]:
    """Pictures whose camera has no pose in the model, with the reason that the model gives."""
    why = {
        name: modelled.others.get(_camera_of(name)) for name in sorted(set(sizes) - {e.rgb for e in cameras.values()})
    }
    known = [
        LeftOut("no_calibration", "cameras", (name,), f"{reason}; its pictures are left out", "add it to cameras.json")
        for name, reason in why.items()
        if reason
    ]
    return [uncalibrated([name for name, reason in why.items() if not reason]), *known]


def _far_planes(cameras: Mapping[str, CameraEntry], modelled: ModelCameras) -> dict[str, float]:
    """The model's far plane, for cameras of it whose depth is in metres."""
    if modelled.near_far is None:
        return {}
    return {name: modelled.near_far[1] for name, e in cameras.items() if e.depth and e.near_far is None}


def _camera_of(name: str) -> str:
    """The camera that pictures are named after."""
    return name.removeprefix("obs/").removesuffix("_image").removesuffix("_rgb")


def _json_attribute(group: H5Group, name: str) -> dict[str, Any]:
    text = group.text(name)
    try:
        value = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError):
        value = {}
    return value if isinstance(value, dict) else {}


def _model_cameras(
    demo: H5Group, sizes: Mapping[str, tuple[int, int]], *, depths: set[str], file: Path, modelled: ModelCameras
) -> dict[str, CameraEntry]:
    """Cameras that the stored simulator model fixes to the world (MuJoCo: OpenGL axes, vertical field of view)."""
    cameras = {}
    for name, camera in modelled.fixed.items():
        rgb = next((s for s in sizes if _camera_of(s) == name), None)
        if rgb is None:
            continue
        width, height = sizes[rgb]
        K = camera.intrinsics(width=width, height=height)
        depth = f"obs/{name}_depth" if f"obs/{name}_depth" in depths else None
        coded = depth is not None and looks_like_z_buffer(first_row(demo, depth, path=file).astype(np.float64))
        cameras[name] = CameraEntry(
            width=width,
            height=height,
            K=checked_intrinsics(K, width=width, height=height, file=file, camera=name),
            viewmat=camera.viewmat,
            viewmats="",
            rgb=rgb,
            depth=depth,
            near_far=modelled.near_far if coded else None,
        )
    return cameras

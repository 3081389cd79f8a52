"""The HDF5 layouts of ManiSkill, robomimic / LIBERO, and any other that a field map describes.

ManiSkill stores calibration (OpenCV) with every frame. robomimic and LIBERO store the simulator's model, from which the
cameras fixed to the world are taken; cameras on the robot need a cameras.json. LIBERO's images are upside down. A field
map is cameras.json with "fields": {"episodes": "data/*", "actions", "proprio": [..], "rewards", "success", "fps",
"upside_down", "task"}.
"""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import checked_intrinsics
from scene4d.data.cameras.sidecar import CameraEntry, Supplied, find_cameras
from scene4d.data.files.json_files import number_in, read_json
from scene4d.data.files.paths import natural_order
from scene4d.data.formats.hdf5.hdf5 import H5Episode, array, first_row, frame_size, looks_like_z_buffer, open_h5
from scene4d.data.formats.hdf5.hdf5_guard import H5Group
from scene4d.data.formats.hdf5.mujoco_model import fixed_cameras
from scene4d.data.ledger import uncalibrated, with_left_out
from scene4d.data.timeline.frame_table import TableRecording
from scene4d.errors import DataFormatError

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
    fields, places = _fields(path, supplied)
    if fields is not None:
        return _mapped(file, path, fields=fields, places=places, supplied=supplied)
    names = _demos(file)
    if any(_maniskill_cameras(file, name) for name in names[:1]):
        return [_maniskill(file, path, name=name) for name in names]
    group = file.group("data")
    if group is not None and (demos := _demos(group)):
        return [_robomimic(group, path, name=name, places=places, supplied=supplied) for name in demos]
    example = '{"cameras": {...}, "fields": {"episodes": "data/*", "actions": "a", "proprio": ["p"], "fps": 20}}'
    fix = f"describe it in {places[0]}: {example}"
    raise DataFormatError("has an unknown layout", file=path, found=_contents(file) or "nothing", fix=fix)


def _group(file: H5Group, name: str, *, path: Path) -> H5Group:
    group = file.group(name)
    if group is None:
        raise DataFormatError("is no group", file=path, field=name)
    return group


def _demos(group: H5Group | None) -> list[str]:
    """The names in a group that number an episode, in order."""
    found = [match for name in group or () if (match := DEMO.match(name))]
    return [match.string for match in sorted(found, key=lambda match: int(match.group(2)))]


def _contents(file: H5Group) -> str:
    """The first arrays of a file with their shapes."""
    return ", ".join(f"{name} {item.shape}" for name, item in file.arrays(most=12).items())


def _fields(path: Path, supplied: Supplied) -> tuple[dict[str, Any] | None, list[Path]]:
    """The field map, if there is one, and where calibration may lie."""
    places = [path.with_name(f"{path.stem}.cameras.json"), path.with_name("cameras.json")]
    file = supplied.cameras or next((p for p in places if p.is_file()), None)
    if file is None:
        return None, places
    fields = read_json(file, fix="write it as JSON").get("fields")
    if fields is not None and not isinstance(fields, dict):
        raise DataFormatError("is no field map", file=file, field="fields", found=type(fields).__name__)
    return fields, places


def _recording(episode: H5Episode, *, source: str, info: Mapping[str, Any]) -> TableRecording:
    return TableRecording(
        path=f"{episode.path}#{episode.group}",
        num_frames=episode.length,
        fps=episode.fps,
        sizes={name: (e.width, e.height) for name, e in episode.cameras.items()},
        depth_cameras=tuple(name for name, e in episode.cameras.items() if e.depth),
        info={"source": source, "task": "", "units": "m", "action_spec": [], "proprio_spec": [], **info},
        load=episode,
    )


def _maniskill_cameras(file: H5Group, name: str) -> dict[str, tuple[str, str]]:
    """(images, parameters) of each camera, for either generation of the format."""
    for images, parameters in (("obs/sensor_data", "obs/sensor_param"), ("obs/image", "obs/camera_param")):
        group = file.group(f"{name}/{images}")
        if group is not None and file.group(f"{name}/{parameters}") is not None:
            return {camera: (f"{images}/{camera}", f"{parameters}/{camera}") for camera in group}
    return {}


def _maniskill(file: H5Group, path: Path, *, name: str) -> TableRecording:
    group = _group(file, name, path=path)
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
        fps=number_in(kwargs, "control_freq", file=beside, default=CONTROL_FPS),
        cameras=cameras,
        actions="actions",
        proprio=proprio,
        rewards="rewards" if group.get("rewards") is not None else None,
        success="success" if group.get("success") is not None else None,
    )
    specs = _specs(group, path, actions="actions", proprio=proprio, frame=kwargs.get("control_mode"))
    return _recording(episode, source="ManiSkill", info={"task": str(env.get("env_id", "")), **specs})


def _table_in(facts: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = facts.get(key)
    return found if isinstance(found, dict) else {}


def _specs(
    group: H5Group, path: Path, *, actions: str | None, proprio: Sequence[str], frame: Any = None
) -> dict[str, Any]:
    """Names of action and proprio columns, by the arrays that they come from."""

    def rows(name: str, frame: Any) -> list[dict[str, Any]]:
        width = math.prod(array(group, name, path=path).shape[1:])
        return [{"name": f"{name.split('/')[-1]}{i}", "unit": None, "frame": frame} for i in range(width)]

    action_spec = [] if actions is None else rows(actions, frame)
    return {"action_spec": action_spec, "proprio_spec": [row for name in proprio for row in rows(name, None)]}


def _robomimic(group: H5Group, path: Path, *, name: str, places: list[Path], supplied: Supplied) -> TableRecording:
    demo = _group(group, name, path=path)
    obs = demo.group("obs") or H5Group(demo.file, f"{demo.name}/obs", keys=())
    images = [k for k in obs if k.endswith(("_image", "_rgb"))]
    if not images:
        fix = "extract observations with images (robomimic: dataset_states_to_obs.py --camera_names ...)"
        raise DataFormatError("holds no images", file=path, field=f"data/{name}/obs", found=sorted(obs), fix=fix)
    env = _json_attribute(group, "env_args")
    kwargs = _table_in(env, "env_kwargs")
    sizes = {f"obs/{k}": frame_size(obs, k, path=path) for k in images}
    depths = {f"obs/{k}" for k in obs if k.endswith("_depth")}
    upside_down = any(k.endswith("_rgb") for k in images)
    modelled = _model_cameras(demo, sizes, depths=depths, file=path)
    given = supplied.cameras is not None or any(p.is_file() for p in places)
    if given or not modelled:
        cameras, known = find_cameras(places, sizes=sizes, columns=depths, supplied=supplied, what="robomimic's format")
    else:
        left_out = sorted(set(sizes) - {e.rgb for e in modelled.values()})
        cameras, known = modelled, with_left_out({}, uncalibrated(left_out))
    proprio = [f"obs/{k}" for k in next((s for s in STATES if s[0] in obs), ()) if k in obs]
    problem = _json_attribute(group, "problem_info")
    task = problem.get("language_instruction") or env.get("env_name") or ""
    episode = H5Episode(
        path=path,
        group=f"data/{name}",
        length=len(array(demo, "actions", path=path)),
        fps=number_in(kwargs, "control_freq", file=path, default=CONTROL_FPS),
        cameras=cameras,
        actions="actions",
        proprio=proprio,
        rewards="rewards" if "rewards" in demo else None,
        upside_down=upside_down,
    )
    info = {"task": str(task), **_specs(demo, path, actions="actions", proprio=proprio), **known}
    return _recording(episode, source="LIBERO" if upside_down else "robomimic", info=info)


def _json_attribute(group: H5Group, name: str) -> dict[str, Any]:
    text = group.text(name)
    try:
        value = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError):
        value = {}
    return value if isinstance(value, dict) else {}


def _model_cameras(
    demo: H5Group, sizes: Mapping[str, tuple[int, int]], *, depths: set[str], file: Path
) -> dict[str, CameraEntry]:
    """Cameras that the stored simulator model fixes to the world (MuJoCo: OpenGL axes, vertical field of view)."""
    found, near_far = fixed_cameras(demo.text("model_file"), file=file)
    cameras = {}
    for name, camera in found.items():
        rgb = next((s for s in sizes if s.removesuffix("_image").removesuffix("_rgb") == f"obs/{name}"), None)
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
            near_far=near_far if coded else None,
        )
    return cameras


def _mapped(
    file: H5Group, path: Path, *, fields: Mapping[str, Any], places: list[Path], supplied: Supplied
) -> list[TableRecording]:
    """Episodes as a field map describes them."""
    pattern = str(fields.get("episodes", ""))
    proprio = fields.get("proprio") or []
    proprio = [proprio] if isinstance(proprio, str) else list(proprio)
    recordings = []
    for name in _matching(file, pattern):
        group = _group(file, name, path=path)
        arrays = group.arrays()
        images = {k for k, item in arrays.items() if item.dtype == np.uint8 and item.ndim in (2, 4)}
        sizes = {k: frame_size(group, k, path=path) for k in images}
        cameras, known = find_cameras(places, sizes=sizes, columns=arrays, supplied=supplied, what="HDF5")
        actions = fields.get("actions")
        counted = [*([actions] if actions else []), *(e.rgb for e in cameras.values())]
        length = min(len(array(group, n, path=path)) for n in counted)
        fps = number_in(fields, "fps", file=places[0])
        episode = H5Episode(
            path=path, group=name or "/", length=length, fps=fps, cameras=cameras, actions=actions, proprio=proprio,
            rewards=fields.get("rewards"), success=fields.get("success"), upside_down=bool(fields.get("upside_down")),
        )  # fmt: skip
        specs = _specs(group, path, actions=actions, proprio=proprio)
        info = {"task": str(fields.get("task", "")), **specs, **known}
        recordings.append(_recording(episode, source="HDF5", info=info))
    if not recordings:
        where = {"file": path, "field": "fields.episodes"}
        raise DataFormatError("no group matches", **where, found=_contents(file), expected=pattern)
    return recordings


def _matching(file: H5Group, pattern: str) -> list[str]:
    """Groups that a pattern such as data/demo_* names, in natural order; "" is the whole file."""
    found = [""]
    for step in [s for s in pattern.split("/") if s]:
        deeper = []
        for name in found:
            group = file.group(name)
            keys = sorted((k for k in group or () if fnmatch.fnmatchcase(k, step)), key=natural_order)
            deeper += [whole for k in keys if file.group(whole := f"{name}/{k}".lstrip("/")) is not None]
        found = deeper
    return found

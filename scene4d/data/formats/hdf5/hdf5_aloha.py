"""ALOHA and ACT episodes: one HDF5 file an episode, observations/images/CAMERA, observations/qpos and qvel, action.

Pictures are arrays [t h w 3], JPEG bytes padded to one length (compress_len tells the lengths, which decoders do not
need), or JPEG bytes with a length each. The format has no calibration: cameras.json beside the file supplies it.
Source: the recorders of ALOHA, Mobile ALOHA and ACT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scene4d.data.cameras.stated import Stated
from scene4d.data.formats.hdf5.hdf5 import H5Episode, array
from scene4d.data.formats.hdf5.hdf5_guard import H5Group
from scene4d.data.formats.hdf5.hdf5_parts import picture_sizes, recording_of_episode, shared_length, specs
from scene4d.data.timeline.frame_table import TableRecording
from scene4d.errors import DataFormatError

IMAGES, ACTIONS, STATES = "observations/images", "action", ("observations/qpos", "observations/qvel")
FPS = 50.0
JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
BOTH_ARMS = [f"{side}_{joint}" for side in ("left", "right") for joint in JOINTS]


def is_aloha(file: H5Group) -> bool:
    """Whether a file holds one episode of this layout."""
    return file.group(IMAGES) is not None and file.get(ACTIONS) is not None


def open_aloha(file: H5Group, path: Path, *, stated: Stated) -> TableRecording:
    """The episode of a file; actions[t] are the joint positions that step t asks for.

    Raises:
        DataFormatError: no pictures, or states of another length. CalibrationError: no calibration, or impossible.
    """
    arrays = file.arrays()
    stored = {name: item for name, item in arrays.items() if name.startswith(f"{IMAGES}/")}
    sizes = picture_sizes(file, stored, path=path, named=set(stored))
    if not sizes:
        raise DataFormatError("holds no images", file=path, field=IMAGES, found=sorted(arrays)[:12])
    cameras, known = stated.cameras(sizes, columns=arrays, what="ALOHA's format")
    proprio = [name for name in STATES if name in arrays]
    length, entries = shared_length({n: len(array(file, n, path=path)) for n in (ACTIONS, *proprio, *sizes)})
    episode = H5Episode(
        path=path,
        group="/",
        length=length,
        fps=stated.number("fps", default=FPS),
        cameras=cameras,
        actions=ACTIONS,
        proprio=proprio,
        upside_down=stated.flag("upside_down", default=False),
        bgr=stated.bgr(cameras),
    )
    names = specs(file, path, actions=ACTIONS, proprio=proprio, frame="joint")
    info = {"source": "ALOHA", "robot": "ALOHA", **_joint_names(names), **known}
    return recording_of_episode(episode, file, info=info, stated=stated, entries=entries)


def _joint_names(found: dict[str, Any]) -> dict[str, Any]:
    """Columns by the names of the joints, where there are as many as two arms have."""

    def rows(stem: str, unit: str, *, gripper: str) -> list[dict[str, Any]]:
        units = [gripper if name.endswith("gripper") else unit for name in BOTH_ARMS]
        return [
            {"name": f"{stem}{name}", "unit": u, "frame": "joint"} for name, u in zip(BOTH_ARMS, units, strict=True)
        ]

    count = len(BOTH_ARMS)
    goals, states = found["action_spec"], found["proprio_spec"]
    if len(goals) == count:
        goals = rows("", "rad", gripper="1")
    if len(states) == 2 * count:
        states = [*rows("", "rad", gripper="1"), *rows("velocity_", "rad/s", gripper="1/s")]
    elif len(states) == count:
        states = rows("", "rad", gripper="1")
    return {"action_spec": goals, "proprio_spec": states}

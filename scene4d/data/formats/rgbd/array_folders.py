"""Images of one instant with their calibration in NumPy files, as two robot projects publish them.

gs-dynamics: img_N.png, mask_N.png, intr_list.npy, R_list.npy, t_list.npy (camera-to-world rotation and centre, OpenCV).
AgiBot world models: frame.png with intrinsics.npy and extrinsics.npy (camera to robot base), or <camera>_color/N.png
with intrinsic_<camera>.npy and extrinsic_<camera>.npy a step; flange poses in action.npy or actions.npy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import checked_intrinsics, checked_poses, inverse_poses
from scene4d.data.files.json_files import has_shape
from scene4d.data.files.paths import listed_files, natural_order, regular_file
from scene4d.data.timeline.frame_table import FrameTable, TableRecording, View, recording_of
from scene4d.data.video.images import image_size, open_image
from scene4d.data.video.pictures import ColorFiles
from scene4d.errors import CalibrationError, DataFormatError, SecurityError
from scene4d.files import require_regular
from scene4d.ledger import LeftOut, with_left_out
from scene4d.unreadable import NPY_ERRORS

HALF_TURN = np.diag([1.0, -1.0, -1.0, 1.0])  # about x: z down becomes z up
ARM_SPEC = [
    *({"name": axis, "unit": "m", "frame": "robot base"} for axis in "xyz"),
    *({"name": f"q{axis}", "unit": "1", "frame": "robot base"} for axis in "wxyz"),
    {"name": "gripper", "unit": None, "frame": None},
]
BOTH_ARMS = [{**row, "name": f"{side}_{row['name']}"} for side in ("left", "right") for row in ARM_SPEC]
# Files hold x y z, quaternion x y z w, gripper of the left arm, then of the right one.
WXYZ = [0, 1, 2, 6, 3, 4, 5, 7, 8, 9, 10, 14, 11, 12, 13, 15]


@dataclass(frozen=True)
class _Mask:
    """Segment 1 where a grey image is bright, else 0."""

    path: Path

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        for _ in frames:
            yield (np.asarray(open_image(self.path).convert("L")) > 127).astype(np.int64)


def is_array_folder(folder: Path) -> bool:
    """Whether a folder holds images with calibration in NumPy files."""
    return any((folder / name).is_file() for name in ("intr_list.npy", "intrinsics.npy")) or bool(_tracked(folder))


def open_array_folder(folder: Path) -> TableRecording:
    """The instant that a folder shows, with every camera in it.

    Raises:
        DataFormatError: arrays or images are missing or do not fit. SecurityError: an array holds pickled objects.
        CalibrationError: impossible intrinsics or poses.
    """
    if (folder / "intr_list.npy").is_file():
        return _listed(folder)
    names = _tracked(folder)
    if not names:
        K = _array(folder / "intrinsics.npy", shape=(3, 3))
        pose = _array(folder / "extrinsics.npy", shape=(4, 4))
        views = {"head": _view(folder / "frame.png", K, pose=pose, folder=folder, camera="head")}
        return _recording(folder, views, notes={})
    views, history = {}, 0
    for name in names:
        images, _ = listed_files(folder / f"{name}_color", root=folder, suffixes=(".png",))
        if not images:
            raise DataFormatError("holds no images", file=folder / f"{name}_color", expected="0.png, 1.png, ...")
        K = _array(folder / f"intrinsic_{name}.npy", shape=(3, 3))
        poses = _array(folder / f"extrinsic_{name}.npy", shape=(None, 4, 4))
        # The poses begin where the images end: the earlier ones are history whose place in time is not recorded.
        views[name] = _view(images[-1], K, pose=poses[0], folder=folder, camera=name)
        history = max(history, len(images) - 1)
    return _recording(folder, views, notes={"history_images": f"{history} a camera, of untold times: left out"})


def _tracked(folder: Path) -> list[str]:
    """Cameras of which there is an intrinsic_<camera>.npy."""
    names = [p.stem.removeprefix("intrinsic_") for p in folder.glob("intrinsic_*.npy")]
    found = sorted(names, key=natural_order)
    return [name for name in found if (folder / f"{name}_color").is_dir()]


def _listed(folder: Path) -> TableRecording:
    listed, _ = listed_files(folder, root=folder, suffixes=(".png",))
    images = [p for p in listed if re.fullmatch(r"img_[0-9]+", p.stem)]
    Ks = _array(folder / "intr_list.npy", shape=(None, 3, 3))
    turns = _array(folder / "R_list.npy", shape=(len(Ks), 3, 3))
    centres = _array(folder / "t_list.npy", shape=(len(Ks), 3))
    if len(images) != len(Ks):
        found, where = f"{len(images)} images, {len(Ks)} cameras", folder / "intr_list.npy"
        raise DataFormatError("images and cameras differ in number", file=where, found=found)
    poses = np.tile(np.eye(4), (len(Ks), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = turns, centres
    notes = {}
    if (-poses[:, 2, 1] < -0.2).all():  # the images' up (camera -y) has a negative z in every camera
        poses = HALF_TURN @ poses
        turned = "z pointed down: the world is turned half a turn about x"
        notes = with_left_out({}, LeftOut("world_axis", "pose", ("world",), turned, lost=False))
    views = {}
    for k, image in enumerate(images):
        mask = folder / f"mask_{image.stem[4:]}.png"
        mask = mask if regular_file(mask, root=folder) else None
        view = _view(image, Ks[k], pose=poses[k], folder=folder, camera=image.stem, mask=mask)
        views[f"camera{image.stem[4:]}"] = view
    return _recording(folder, views, notes=notes)


def _view(image: Path, K: np.ndarray, *, pose: np.ndarray, folder: Path, camera: str, mask: Path | None = None) -> View:
    size = image_size(image)
    rigid, usable = checked_poses(pose[None], names=[camera], file=folder)
    if not usable.all():
        raise CalibrationError("the pose is not finite", file=folder, field=f"pose of {camera}")
    return View(
        size=size,
        Ks=checked_intrinsics(K, width=size[0], height=size[1], file=folder, camera=camera),
        viewmats=inverse_poses(rigid[0]),
        color=ColorFiles([image], size=size),
        segments=None if mask is None else _Mask(mask),
    )


def _recording(folder: Path, views: dict[str, View], *, notes: dict[str, Any]) -> TableRecording:
    """One instant; where there are flange poses, the first is the state and the second what it leads to."""
    path = next((folder / name for name in ("action.npy", "actions.npy") if (folder / name).is_file()), None)
    actions = proprio = None
    info: dict[str, Any] = {"source": "images with NumPy calibration", "units": "m", **notes}
    if path is not None:
        poses = _array(path, shape=(None, 16))[:, WXYZ]
        proprio, actions = poses[:1], poses[min(1, len(poses) - 1)][None]
        info |= {"action_spec": BOTH_ARMS, "proprio_spec": BOTH_ARMS, "robot": "AgiBot", "action_steps": len(poses)}
    table = FrameTable(views=views, times=np.zeros(1), actions=actions, proprio=proprio)
    return recording_of(table, path=folder, info=info)


def _array(path: Path, *, shape: tuple[int | None, ...]) -> np.ndarray:
    """A finite float64 array of that shape; None is any size above 0."""
    try:
        require_regular(path)
        values = np.load(path, allow_pickle=False, mmap_mode="r")
    except FileNotFoundError as error:
        raise DataFormatError("is missing", file=path, fix="copy the whole folder") from error
    except NPY_ERRORS as error:
        if "pickle" in str(error).lower() or "object" in str(error).lower():
            fix = "save plain numeric arrays"
            raise SecurityError("holds pickled objects; not opened", file=path, fix=fix) from error
        raise DataFormatError("cannot be read", file=path, found=str(error)[:80], fix="copy it again") from error
    if not has_shape(values, shape) or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        found = f"{values.dtype} {values.shape}"
        raise DataFormatError("is no array of finite numbers of that shape", file=path, found=found, expected=shape)
    return np.asarray(values, np.float64)

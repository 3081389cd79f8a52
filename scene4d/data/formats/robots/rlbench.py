"""RLBench episode folders: <camera>_rgb, <camera>_depth and perhaps <camera>_mask images, with low_dim.npz.

What is foreign here ends here: depth is coded in RGB as a fraction of near..far, K has negative focal lengths (the
CoppeliaSim image is turned by half a turn) and counts pixels by their corner index (our centre is half a pixel further:
the cameras then agree to 2 mm instead of 4), quaternions are xyzw, masks are object handles coded in RGB.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scene4d.data.cameras.calibration import PIXEL_CENTRE, checked_intrinsics, checked_poses, inverse_poses
from scene4d.data.files.json_files import has_shape
from scene4d.data.timeline.frame_table import FrameTable, TableRecording, View, recording_of
from scene4d.data.video.images import checked_depth, image_size, open_image
from scene4d.data.video.pictures import ColorFiles
from scene4d.errors import CalibrationError, DataFormatError, DepthError, ResourceError, SecurityError
from scene4d.ledger import LeftOut, with_left_out
from scene4d.unreadable import NPY_ERRORS

STEPS_PER_SECOND = 20.0
MAX_TABLE_BYTES = 1 << 30
MAX_CODE = 2**24 - 1
POSE_SPEC = [
    *({"name": axis, "unit": "m", "frame": "world"} for axis in "xyz"),
    *({"name": f"q{axis}", "unit": "1", "frame": "world"} for axis in "wxyz"),
    {"name": "gripper_open", "unit": "1", "frame": "0 closed, 1 open"},
]
JOINT_SPEC = [{"name": f"joint{i + 1}", "unit": "rad", "frame": "joint"} for i in range(7)]
HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class _Depth:
    """z-depth of images that code a fraction of near..far in RGB; the far plane means that nothing was hit."""

    paths: Sequence[Path]
    near_far: np.ndarray

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        near, far = self.near_far
        for i in frames:
            metres = near + _rgb_codes(self.paths[i], low_first=False) / MAX_CODE * (far - near)
            missed = metres > 0.999 * far
            yield checked_depth(np.where(missed, 0, metres), file=self.paths[i], frame=self.paths[i].name)


@dataclass(frozen=True)
class _Handles:
    """Object handles coded in RGB."""

    paths: Sequence[Path]

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        for i in frames:
            yield _rgb_codes(self.paths[i], low_first=True, error=DataFormatError)


def is_rlbench(folder: Path) -> bool:
    """Whether a folder looks like an episode: <camera>_rgb folders, and depth folders or low_dim.npz."""
    return any(folder.glob("*_rgb")) and (any(folder.glob("*_depth")) or (folder / "low_dim.npz").exists())


def open_rlbench(folder: Path) -> TableRecording:
    """Open one episode folder; actions[t] is the gripper pose and opening at the next frame that is read.

    Raises:
        DataFormatError: low_dim.npz or images are missing or do not fit. DepthError: a camera has no depth.
        CalibrationError: no or impossible intrinsics or poses. SecurityError: low_dim.npz holds pickles.
    """
    table = _read_table(folder / "low_dim.npz")
    cameras = tuple(sorted(p.name.removesuffix("_rgb") for p in folder.glob("*_rgb") if p.is_dir()))
    steps = _column(table, "kept_frames", folder=folder, shape=(None,)).astype(np.int64)
    files = sorted((p.name for p in (folder / f"{cameras[0]}_rgb").glob("*.png")), key=lambda n: (len(n), n))
    grip = _column(table, "gripper_pose", folder=folder, shape=(None, 7))
    num_steps = len(grip)
    if not files or len(files) != len(steps) or not (steps.min() >= 0 and steps.max() < num_steps):
        found = f"{len(files)} images, {len(steps)} kept_frames, {num_steps} steps"
        raise DataFormatError("images and steps differ", file=folder / "low_dim.npz", field="kept_frames", found=found)
    views = {camera: _view(camera, table, folder=folder, files=files, steps=steps) for camera in cameras}
    xyz_xyzw = grip[steps]
    opening = _column(table, "gripper_open", folder=folder, shape=(num_steps,))[steps, None]
    gripper = np.concatenate([xyz_xyzw[:, :3], _same_sign(xyz_xyzw[:, [6, 3, 4, 5]]), opening], 1)
    joints = _column(table, "joint_positions", folder=folder, shape=(num_steps, 7))[steps]
    instruction = folder / "instruction.txt"
    info = {
        "source": "RLBench",
        "task": instruction.read_text(errors="replace").strip() if instruction.is_file() else "",
        "robot": "Franka Panda",
        "units": "m",
        "depth": "24-bit colour code of near..far",
        "action_spec": POSE_SPEC,
        "action_meaning": "gripper pose and opening at the next frame, absolute",
        "proprio_spec": [*POSE_SPEC, *JOINT_SPEC],
    }
    whole = FrameTable(
        views=views,
        times=(steps - steps[0]) / STEPS_PER_SECOND,
        actions=gripper,
        goals=True,
        proprio=np.concatenate([gripper, joints], 1),
        names=tuple(files),
    )
    info = with_left_out(info, *_left_out(folder, table, cameras=cameras, files=files, num_steps=num_steps))
    return recording_of(whole, path=folder, info=info, fps=STEPS_PER_SECOND if len(files) == 1 else None)


def _left_out(
    folder: Path, table: Mapping[str, np.ndarray], *, cameras: Sequence[str], files: Sequence[str], num_steps: int
) -> list[LeftOut]:
    """Pictures, files and columns that are not read."""
    kinds = ("rgb", "depth", "mask")
    known = {f"{camera}_{kind}" for camera in cameras for kind in kinds} | {"low_dim.npz", "instruction.txt"}
    others = sorted(p.name for p in folder.iterdir() if p.name not in known)
    more = sorted(
        f"{path.parent.name}/{path.name}"
        for camera in cameras
        for kind in kinds
        for path in (folder / f"{camera}_{kind}").glob("*.png")
        if path.name not in files
    )
    used = {"kept_frames", "gripper_pose", "gripper_open", "joint_positions"}
    used |= {f"{camera}_{part}" for camera in cameras for part in ("intrinsics", "extrinsics_c2w", "near_far")}
    steps = [f"{num_steps - len(files)} of {num_steps} steps"] if num_steps > len(files) else []
    return [
        LeftOut(
            "unused_images", "images", tuple(more), f"the first camera ({cameras[0]}) has no such picture", "copy them"
        ),
        LeftOut("other_files", "files", tuple(others), "no part of this format", lost=False),
        LeftOut("unused_columns", "columns", tuple(sorted(set(table) - used)), "not read", lost=False),
        LeftOut("steps", "frames", tuple(steps), "no pictures were kept of these steps", lost=False),
    ]


def _view(
    camera: str, table: Mapping[str, np.ndarray], *, folder: Path, files: Sequence[str], steps: np.ndarray
) -> View:
    if not (folder / f"{camera}_depth").is_dir():
        fix = "record it again with depth, or remove the camera"
        raise DepthError("no depth", file=folder / f"{camera}_depth", field=camera, fix=fix)
    masked = (folder / f"{camera}_mask").is_dir()
    kinds = ("rgb", "depth", "mask") if masked else ("rgb", "depth")
    paths = {kind: [folder / f"{camera}_{kind}" / name for name in files] for kind in kinds}
    missing = [p.name for kind in kinds for p in paths[kind] if not p.is_file()]
    if missing:
        found = f"{len(missing)}: {missing[:3]}"
        raise DataFormatError("images are missing", file=folder, field=camera, found=found)
    poses, K = _calibration(table, camera, steps=steps, folder=folder, image=paths["rgb"][0])
    near_far = _column(table, f"{camera}_near_far", folder=folder, shape=(2,))
    if not 0 <= near_far[0] < near_far[1]:
        found = near_far.tolist()
        raise CalibrationError("near and far are no range", file=folder / "low_dim.npz", field=camera, found=found)
    return View(
        size=image_size(paths["rgb"][0]),
        Ks=K,
        viewmats=inverse_poses(poses),
        color=ColorFiles(paths["rgb"]),
        depth=_Depth(paths["depth"], near_far),
        segments=_Handles(paths["mask"]) if masked else None,
    )


def _calibration(
    table: Mapping[str, np.ndarray], camera: str, *, steps: np.ndarray, folder: Path, image: Path
) -> tuple[np.ndarray, np.ndarray]:
    """World-from-camera [t 4 4] and K [3 3] with positive focal lengths."""
    if f"{camera}_intrinsics" not in table or f"{camera}_extrinsics_c2w" not in table:
        fix = f"low_dim.npz needs {camera}_intrinsics [3 3] and {camera}_extrinsics_c2w [steps 4 4]"
        raise CalibrationError("no calibration", file=folder / "low_dim.npz", field=camera, fix=fix)
    K = _column(table, f"{camera}_intrinsics", folder=folder, shape=(3, 3)).astype(np.float64)
    matrices = table[f"{camera}_extrinsics_c2w"]
    if matrices.shape not in ((4, 4), (len(table["gripper_pose"]), 4, 4)) or matrices.dtype.kind != "f":
        found = f"{matrices.dtype} {matrices.shape}"
        problem = "is no camera pose"
        raise CalibrationError(problem, file=folder / "low_dim.npz", field=f"{camera}_extrinsics_c2w", found=found)
    matrices = np.broadcast_to(matrices, (len(table["gripper_pose"]), 4, 4))[steps]
    if K[0, 0] < 0 and K[1, 1] < 0:
        # Pixels keep their place: (-f) X / Z = f (-X) / Z, which is the same camera turned half round about z.
        K = K @ np.diag([-1.0, -1.0, 1.0])
        matrices = matrices @ HALF_TURN
    width, height = image_size(image)
    K = checked_intrinsics(K + PIXEL_CENTRE, width=width, height=height, file=folder / "low_dim.npz", camera=camera)
    names = [str(s) for s in steps]
    rigid, usable = checked_poses(matrices.astype(np.float64), names=names, file=folder / "low_dim.npz")
    if not usable.all():
        frame = names[int((~usable).argmax())]
        raise CalibrationError("a pose is not finite", file=folder / "low_dim.npz", field=camera, frame=frame)
    return rigid, K


def _same_sign(quats: np.ndarray) -> np.ndarray:
    """Unit quaternions [t 4] where none jumps to the other sign of the same rotation."""
    quats = quats / np.linalg.norm(quats, axis=1, keepdims=True).clip(1e-12)
    jumps = np.sign((quats[1:] * quats[:-1]).sum(1))
    return quats * np.concatenate([[1.0], np.cumprod(np.where(jumps == 0, 1.0, jumps))])[:, None]


def _rgb_codes(path: Path, *, low_first: bool, error: type = DepthError) -> np.ndarray:
    """24-bit codes [h w] of an 8-bit RGB image."""
    image = open_image(path)
    if image.mode != "RGB":
        found = f"mode {image.mode}"
        raise error("is not coded in RGB", file=path, found=found, expected="8-bit RGB", fix="use the original images")
    digits = np.asarray(image).astype(np.int64)
    return digits @ np.array([1, 256, 65536] if low_first else [65536, 256, 1])


def _read_table(path: Path) -> dict[str, np.ndarray]:
    fix = "write per-step arrays with numpy.savez from the episode's low_dim_obs (names as in the documentation)"
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > MAX_TABLE_BYTES:
            raise ResourceError("is too large", file=path, found=f"{claimed} bytes", expected=f"<= {MAX_TABLE_BYTES}")
        with np.load(path, allow_pickle=False) as table:
            return {name: table[name] for name in table.files}
    except FileNotFoundError as error:
        raise DataFormatError("is missing", file=path, field="low_dim.npz", fix=fix) from error
    except (*NPY_ERRORS, zipfile.BadZipFile, KeyError, NotImplementedError) as error:
        if isinstance(error, ValueError) and "pickle" in str(error).lower():
            fix = "save plain numeric arrays"
            raise SecurityError("holds pickled objects; not opened", file=path, fix=fix) from error
        raise DataFormatError("cannot be read", file=path, found=str(error)[:80], fix=fix) from error


def _column(table: Mapping[str, np.ndarray], name: str, *, folder: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    """A finite numeric array of the table; None in `shape` is any size above 0."""
    where = {"file": folder / "low_dim.npz", "field": name}
    values = table.get(name)
    if values is None:
        raise DataFormatError("is missing", **where, found=sorted(table)[:12])
    if not has_shape(values, shape) or values.dtype.kind not in "fiub":
        found = f"{values.dtype} {values.shape}"
        raise DataFormatError("has the wrong shape or type", **where, found=found, expected=shape)
    if not np.isfinite(values).all():
        raise DataFormatError("is not finite", **where, fix="leave out the broken steps")
    return values

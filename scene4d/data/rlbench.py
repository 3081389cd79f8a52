"""RLBench episode folders: <camera>_rgb, <camera>_depth and perhaps <camera>_mask images, with low_dim.npz.

What is foreign here ends here: depth is coded in RGB as a fraction of near..far, K has negative focal lengths (the
CoppeliaSim image is turned by half a turn) and counts pixels by their corner index (our centre is half a pixel further:
the cameras then agree to 2 mm instead of 4), quaternions are xyzw, masks are object handles coded in RGB.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scene4d.data.calibration import checked_intrinsics, checked_poses
from scene4d.data.images import (
    checked_depth,
    chosen_cameras,
    chosen_frames,
    image_size,
    open_image,
    read_color,
    sample_nearest,
)
from scene4d.errors import CalibrationError, DataFormatError, DepthError, ResourceError, SecurityError
from scene4d.geometry.camera import invert_rigid
from scene4d.types import Cameras, Episode, Frames

STEPS_PER_SECOND = 20.0
MAX_TABLE_BYTES = 1 << 30
MAX_CODE = 2**24 - 1
POSE_SPEC = [
    *({"name": axis, "unit": "m", "frame": "world"} for axis in "xyz"),
    *({"name": f"q{axis}", "unit": "1", "frame": "world"} for axis in "wxyz"),
    {"name": "gripper_open", "unit": "1", "frame": "0 closed, 1 open"},
]
JOINT_SPEC = [{"name": f"joint{i + 1}", "unit": "rad", "frame": "joint"} for i in range(7)]
PIXEL_CENTRE = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class RLBenchRecording:
    """One episode on disk (a `Recording`); open it with `open_rlbench`."""

    path: str
    """The episode's folder."""
    cameras: tuple[str, ...]
    """Camera names."""
    files: tuple[str, ...]
    """Image name of each kept step, the same in every image folder."""
    steps: np.ndarray
    """[t] simulation step of each kept image."""
    poses: Mapping[str, np.ndarray]
    """World-from-camera [t 4 4] of each camera, OpenCV."""
    Ks: Mapping[str, np.ndarray]
    """K [3 3] of each camera, positive focal lengths."""
    near_far: Mapping[str, np.ndarray]
    """Near and far plane in m of each camera's depth code."""
    gripper: np.ndarray
    """[t 8] xyz, quaternion wxyz, opening."""
    joints: np.ndarray
    """[t 7] rad."""
    info: Mapping[str, Any]
    """Task, specs, source."""

    @property
    def num_frames(self) -> int:
        """Kept steps."""
        return len(self.files)

    @property
    def fps(self) -> float:
        """Kept frames a second."""
        return float(STEPS_PER_SECOND / np.median(np.diff(self.steps))) if self.num_frames > 1 else STEPS_PER_SECOND

    def read(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        stride: int = 1,
        cameras: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Episode:
        """Frames start, start + stride, ... below stop, resized to (width, height) if `size` is given.

        actions[t] is the gripper pose and opening at the next frame that is read; the last one aims at the frame a
        stride later, or at the end.

        Raises:
            DataFormatError: no frames, no such camera, or a broken image. DepthError: impossible depth.
        """
        chosen = chosen_frames(self.num_frames, start=start, stop=stop, stride=stride, path=self.path)
        names = chosen_cameras(self.cameras, cameras, path=self.path)
        following = [*chosen[1:], min(chosen[-1] + stride, self.num_frames - 1)]
        times = (self.steps[chosen] - self.steps[chosen[0]]) / STEPS_PER_SECOND
        return Episode(
            views={name: self._frames(name, chosen, size) for name in names},
            times=torch.from_numpy(times),
            valid=torch.ones(len(chosen), dtype=torch.bool),
            actions=torch.from_numpy(self.gripper[following]).float(),
            proprio=torch.from_numpy(np.concatenate([self.gripper, self.joints], 1)[chosen]).float(),
            info={**self.info, "frames": [self.files[i] for i in chosen]},
        )

    def _frames(self, camera: str, chosen: list[int], size: tuple[int, int] | None) -> Frames:
        folder = Path(self.path)
        rgb = np.stack([read_color(folder / f"{camera}_rgb" / self.files[i], size=size) for i in chosen])
        depth = np.stack([sample_nearest(self._depth(camera, i), size) for i in chosen])
        width, height = image_size(folder / f"{camera}_rgb" / self.files[0])
        extras = {}
        if (folder / f"{camera}_mask").is_dir():
            masks = [sample_nearest(_handles(folder / f"{camera}_mask" / self.files[i]), size) for i in chosen]
            extras["segments"] = torch.from_numpy(np.stack(masks))[..., None]
        if depth.shape != rgb.shape[:3]:
            found, fix = depth.shape[1:], "register depth to the colour camera first"
            raise CalibrationError("depth and colour differ in size", file=folder, field=camera, found=found, fix=fix)
        native = Cameras(
            viewmats=invert_rigid(torch.from_numpy(self.poses[camera][chosen])).float(),
            Ks=torch.from_numpy(self.Ks[camera]).float().expand(len(chosen), 3, 3),
            width=width,
            height=height,
        )
        return Frames(
            rgb=torch.from_numpy(rgb).float() / 255,
            depth=torch.from_numpy(depth),
            alpha=torch.ones(()).expand(depth.shape),
            cameras=native.resized(rgb.shape[2], rgb.shape[1]),
            extras=extras,
        )

    def _depth(self, camera: str, index: int) -> np.ndarray:
        """z-depth in m; the far plane means that nothing was hit."""
        path = Path(self.path) / f"{camera}_depth" / self.files[index]
        near, far = self.near_far[camera]
        codes = _rgb_codes(path, low_first=False)
        metres = near + codes / MAX_CODE * (far - near)
        return checked_depth(np.where(metres > 0.999 * far, 0, metres), file=path, frame=self.files[index])


def is_rlbench(folder: Path) -> bool:
    """Whether a folder looks like an episode: <camera>_rgb folders, and depth folders or low_dim.npz."""
    return any(folder.glob("*_rgb")) and (any(folder.glob("*_depth")) or (folder / "low_dim.npz").exists())


def open_rlbench(folder: Path) -> RLBenchRecording:
    """Open one episode folder.

    Raises:
        DataFormatError: low_dim.npz or images are missing or do not fit. DepthError: a camera has no depth.
        CalibrationError: no or impossible intrinsics or poses. SecurityError: low_dim.npz holds pickles.
    """
    table = _read_table(folder / "low_dim.npz")
    cameras = tuple(sorted(p.name.removesuffix("_rgb") for p in folder.glob("*_rgb") if p.is_dir()))
    steps = _column(table, "kept_frames", folder, shape=(None,)).astype(np.int64)
    files = sorted((p.name for p in (folder / f"{cameras[0]}_rgb").glob("*.png")), key=lambda n: (len(n), n))
    grip = _column(table, "gripper_pose", folder, shape=(None, 7))
    num_steps = len(grip)
    if not files or len(files) != len(steps) or not (steps.min() >= 0 and steps.max() < num_steps):
        found = f"{len(files)} images, {len(steps)} kept_frames, {num_steps} steps"
        raise DataFormatError("images and steps differ", file=folder / "low_dim.npz", field="kept_frames", found=found)
    poses, Ks, near_far = {}, {}, {}
    for camera in cameras:
        if not (folder / f"{camera}_depth").is_dir():
            fix = "record it again with depth, or remove the camera"
            raise DepthError("no depth", file=folder / f"{camera}_depth", field=camera, fix=fix)
        parts = [folder / f"{camera}_{kind}" / name for kind in ("rgb", "depth") for name in files]
        missing = [p.name for p in parts if not p.is_file()]
        if missing:
            raise DataFormatError(
                "images are missing", file=folder, field=camera, found=f"{len(missing)}: {missing[:3]}"
            )
        poses[camera], Ks[camera] = _calibration(table, camera, steps, folder=folder, image=parts[0])
        near_far[camera] = _column(table, f"{camera}_near_far", folder, shape=(2,))
        if not 0 <= near_far[camera][0] < near_far[camera][1]:
            found = near_far[camera].tolist()
            raise CalibrationError("near and far are no range", file=folder / "low_dim.npz", field=camera, found=found)
    xyz_xyzw = grip[steps]
    opening = _column(table, "gripper_open", folder, shape=(num_steps,))[steps, None]
    instruction = folder / "instruction.txt"
    task = instruction.read_text(errors="replace").strip() if instruction.is_file() else ""
    return RLBenchRecording(
        path=str(folder),
        cameras=cameras,
        files=tuple(files),
        steps=steps,
        poses=poses,
        Ks=Ks,
        near_far=near_far,
        gripper=np.concatenate([xyz_xyzw[:, :3], _same_sign(xyz_xyzw[:, [6, 3, 4, 5]]), opening], 1),
        joints=_column(table, "joint_positions", folder, shape=(num_steps, 7))[steps],
        info={
            "source": "RLBench",
            "task": task,
            "robot": "Franka Panda",
            "action_spec": POSE_SPEC,
            "action_meaning": "gripper pose and opening at the next frame, absolute",
            "proprio_spec": [*POSE_SPEC, *JOINT_SPEC],
        },
    )


def _calibration(
    table: Mapping[str, np.ndarray], camera: str, steps: np.ndarray, *, folder: Path, image: Path
) -> tuple[np.ndarray, np.ndarray]:
    """World-from-camera [t 4 4] and K [3 3] with positive focal lengths."""
    if f"{camera}_intrinsics" not in table or f"{camera}_extrinsics_c2w" not in table:
        fix = f"low_dim.npz needs {camera}_intrinsics [3 3] and {camera}_extrinsics_c2w [steps 4 4]"
        raise CalibrationError("no calibration", file=folder / "low_dim.npz", field=camera, fix=fix)
    K = _column(table, f"{camera}_intrinsics", folder, shape=(3, 3)).astype(np.float64)
    matrices = table[f"{camera}_extrinsics_c2w"]
    if matrices.shape not in ((4, 4), (len(table["gripper_pose"]), 4, 4)) or matrices.dtype.kind != "f":
        found = f"{matrices.dtype} {matrices.shape}"
        raise CalibrationError(
            "is no camera pose", file=folder / "low_dim.npz", field=f"{camera}_extrinsics_c2w", found=found
        )
    matrices = np.broadcast_to(matrices, (len(table["gripper_pose"]), 4, 4))[steps]
    if K[0, 0] < 0 and K[1, 1] < 0:
        # Pixels keep their place: (-f) X / Z = f (-X) / Z, which is the same camera turned half way about z.
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
        raise DepthError(
            "is not coded in RGB", file=path, found=found, expected="8-bit RGB", fix="use the original images"
        )
    digits = np.asarray(image).astype(np.int64)
    return digits @ np.array([1, 256, 65536] if low_first else [65536, 256, 1])


def _handles(path: Path) -> np.ndarray:
    return _rgb_codes(path, low_first=True, error=DataFormatError)


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
    except ValueError as error:
        if "allow_pickle" in str(error) or "pickle" in str(error).lower():
            raise SecurityError(
                "holds pickled objects; not opened", file=path, fix="save plain numeric arrays"
            ) from error
        raise DataFormatError("cannot be read", file=path, found=str(error)[:80], fix=fix) from error
    except (OSError, zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, MemoryError) as error:
        raise DataFormatError("cannot be read", file=path, found=str(error)[:80], fix=fix) from error


def _column(table: Mapping[str, np.ndarray], name: str, folder: Path, *, shape: tuple[int | None, ...]) -> np.ndarray:
    """A finite numeric array of the table; None in `shape` is any size above 0."""
    where = {"file": folder / "low_dim.npz", "field": name}
    values = table.get(name)
    if values is None:
        raise DataFormatError("is missing", **where, found=sorted(table)[:12])
    fits = values.ndim == len(shape) and all(
        a == b or (b is None and a) for a, b in zip(values.shape, shape, strict=True)
    )
    if not fits or values.dtype.kind not in "fiub":
        raise DataFormatError(
            "has the wrong shape or type", **where, found=f"{values.dtype} {values.shape}", expected=shape
        )
    if not np.isfinite(values).all():
        raise DataFormatError("is not finite", **where, fix="leave out the broken steps")
    return values

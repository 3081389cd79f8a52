"""COLMAP reconstructions (.bin or .txt) with their images, through pycolmap.

Poses are camera-from-world with OpenCV axes and pixel centres at +0.5, as ours; scale and orientation of the world are
arbitrary, and stay so. Lenses are removed when pictures are read. Images that are not there are named in `info`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import checked_intrinsics, checked_poses
from scene4d.data.cameras.lens import Lens, checked_lens, lens_from_names, stacked_lenses
from scene4d.data.files.paths import inside_folder
from scene4d.data.ledger import lost_poses, missing_images, with_left_out
from scene4d.data.timeline.frame_table import NOMINAL_FPS, FrameTable, TableRecording, View, recording_of
from scene4d.data.video.images import image_size
from scene4d.data.video.pictures import ColorFiles
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.extras import optional

MODELS = ("sparse/0", "sparse", "colmap/sparse/0", "")
IMAGE_FOLDERS = ("images", "input", "image")
PLAIN = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
FISHEYE = ("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE")
# Smallest record of each binary table: a count that needs more than the file has is a lie.
RECORD_BYTES = {"cameras.bin": 24, "images.bin": 64, "points3D.bin": 43}


def is_colmap(folder: Path) -> bool:
    """Whether a folder holds a COLMAP model and images."""
    return _model(folder) is not None


def open_colmap(folder: Path) -> list[TableRecording]:
    """The registered images of a reconstruction; images of one size are a recording, in the order of their names.

    Raises:
        DataFormatError: the model is damaged, or none of its images is there. EnvError: pycolmap is not installed.
        CalibrationError: an unknown lens, impossible intrinsics or poses, or images of another size.
        SecurityError: an image lies outside the folder.
    """
    model = _model(folder)
    if model is None:
        raise DataFormatError("holds no COLMAP model", file=folder, expected="sparse/0/cameras.bin, images.bin")
    scene = _read(model)
    root = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), folder)
    groups: dict[tuple[int, int], list[tuple[str, Path, Any]]] = {}
    missing: list[str] = []
    for image in sorted((scene.images[i] for i in scene.reg_image_ids()), key=lambda image: image.name):
        path = inside_folder(root, image.name, file=model, field="image name")
        if path.is_file():
            groups.setdefault(image_size(path), []).append((image.name, path, image))
        else:
            missing.append(image.name)
    if not groups:
        found = f"{len(missing)} registered images, such as {missing[:1]}"
        raise DataFormatError("none of the registered images is there", file=root, field="images", found=found)
    info: dict[str, Any] = {
        "source": "COLMAP",
        "units": "arbitrary scale and orientation",
        "times": f"nominal: {NOMINAL_FPS:g} images a second",
        "num_points": int(scene.num_points3D()),
    }
    info = with_left_out(info, missing_images(missing))
    return [_recording(folder, model, scene=scene, group=group, size=size, info=info) for size, group in groups.items()]


def _model(folder: Path) -> Path | None:
    for name in MODELS:
        for suffix in (".bin", ".txt"):
            if all((folder / name / f"{part}{suffix}").is_file() for part in ("cameras", "images")):
                return folder / name
    return None


def _read(model: Path) -> Any:
    pycolmap = optional("pycolmap", extra="colmap", what="reading COLMAP models")
    for name, smallest in RECORD_BYTES.items():
        path = model / name
        if path.is_file():
            data = path.open("rb").read(8)
            count = struct.unpack("<Q", data)[0] if len(data) == 8 else -1
            if not 0 <= count * smallest <= path.stat().st_size:
                found = f"{count} records in {path.stat().st_size} bytes"
                fix = "copy it again"
                raise DataFormatError("is cut short, or lies about its size", file=path, found=found, fix=fix)
    try:
        return pycolmap.Reconstruction(str(model))
    except (RuntimeError, ValueError, IndexError, KeyError, MemoryError, OSError) as error:
        raise DataFormatError("is no COLMAP model", file=model, found=str(error)[-100:], fix="copy it again") from error


def _recording(
    folder: Path, model: Path, *, scene: Any, group: list[tuple[str, Path, Any]], size: tuple[int, int], info: Mapping
) -> TableRecording:
    names = [name for name, _, _ in group]
    viewmats = np.stack([_viewmat(image) for _, _, image in group])
    rigid, usable = checked_poses(viewmats, names=names, file=model)
    kept = np.flatnonzero(usable)
    cameras = {i: _camera(scene.cameras[i], size=size, file=model) for i in {g[2].camera_id for g in group}}
    Ks, lenses = zip(*(cameras[group[i][2].camera_id] for i in kept), strict=True)
    alone = len(cameras) == 1
    view = View(
        size=size,
        Ks=Ks[0] if alone else np.stack(Ks),
        viewmats=rigid[kept],
        color=ColorFiles([group[i][1] for i in kept], size=size),
        lens=lenses[0] if alone else stacked_lenses(lenses, file=model),
    )
    table = FrameTable(views={"camera": view}, times=np.arange(len(kept)) / NOMINAL_FPS, names=[names[i] for i in kept])
    skipped = [names[i] for i in np.flatnonzero(~usable)]
    return recording_of(table, path=folder, info=with_left_out(info, lost_poses(skipped)), fps=NOMINAL_FPS)


def _viewmat(image: Any) -> np.ndarray:
    pose: Any = image.cam_from_world() if callable(image.cam_from_world) else image.cam_from_world
    matrix = np.eye(4)
    matrix[:3] = pose.matrix()
    return matrix


def _camera(camera: Any, *, size: tuple[int, int], file: Path) -> tuple[np.ndarray, Lens | None]:
    """K and lens for images of `size`, which may be a smaller copy of what was reconstructed."""
    name, model = f"camera {camera.camera_id}", getattr(camera.model, "name", str(camera.model))
    where = {"file": file, "field": name}
    if model not in (*PLAIN, *FISHEYE):
        fix = "undistort the images: colmap image_undistorter"
        raise CalibrationError("is no known lens", **where, found=model, expected=[*PLAIN, *FISHEYE], fix=fix)
    keys = [key.strip() for key in camera.params_info.split(",")]
    values = dict(zip(keys, map(float, camera.params), strict=True))
    if not (camera.width > 0 and camera.height > 0) or abs(camera.width / camera.height * size[1] / size[0] - 1) > 0.01:
        problem = "the calibration is for another image size"
        fix = "give the images that were reconstructed, or copies of one scale"
        raise CalibrationError(problem, **where, found=(camera.width, camera.height), expected=size, fix=fix)
    fx, fy = values.get("fx", values.get("f", 0.0)), values.get("fy", values.get("f", 0.0))
    scale = np.array([[size[0] / camera.width], [size[1] / camera.height], [1.0]])
    K = np.array([[fx, 0, values["cx"]], [0, fy, values["cy"]], [0, 0, 1]]) * scale
    K = checked_intrinsics(K, width=size[0], height=size[1], file=file, camera=name)
    lens = lens_from_names({"k1": values.get("k", 0.0), **values}, fisheye=model in FISHEYE)
    return K, checked_lens(lens, K, size=size, file=file, camera=name)

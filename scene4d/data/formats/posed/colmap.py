"""COLMAP reconstructions (.bin or .txt) with their images, through pycolmap.

Poses are camera-from-world with OpenCV axes and pixel centres at +0.5, as ours; scale and orientation of the world are
arbitrary, and stay so. Lenses are removed when pictures are read. Images that are not there are named in `info`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import checked_intrinsics, checked_poses
from scene4d.data.cameras.lens import Lens, checked_lens, lens_from_names, stacked_lenses
from scene4d.data.files.paths import inside_folder, natural_order, regular_file
from scene4d.data.files.text_files import text_lines
from scene4d.data.formats.posed.picture_sizes import grouped_sizes, sizes_entry
from scene4d.data.timeline.frame_table import NOMINAL_FPS, FrameTable, TableRecording, View, recording_of
from scene4d.data.video.images import image_header
from scene4d.data.video.pictures import Canvas, ColorFiles
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.extras import optional
from scene4d.ledger import LeftOut, lost_poses, missing_images, missing_masks, turned_pictures, with_left_out

MODELS = ("sparse", "colmap/sparse", "")  # models lie there, or in numbered folders inside
IMAGE_FOLDERS = (
    "images",
    "input",
    "image",
    "images_2",
    "images_4",
    "images_8",
)  # the last are copies of half the size..
PLAIN = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
FISHEYE = ("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE")
# Smallest record of each binary table: a count that needs more than the file has is a lie.
MAX_POINTS_BYTES, MAX_TABLE_BYTES = 1 << 24, 1 << 31  # of images.txt: the points of an image, and all
RECORD_BYTES = {"cameras.bin": 24, "images.bin": 64, "points3D.bin": 43}


def is_colmap(folder: Path) -> bool:
    """Whether a folder holds a COLMAP model."""
    return bool(_models(folder))


def open_colmap(folder: Path) -> list[TableRecording]:
    """The registered images of a reconstruction, in the natural order of their names.

    Of several models (COLMAP makes one for each part that it cannot join) the one with the most images is read, and the
    others are named; a model's own folder, such as sparse/1, is read where that is given. Images that differ a little
    in size are one recording, on one canvas.

    Raises:
        DataFormatError: the model is damaged, or none of its images is there. EnvError: pycolmap is not installed.
        CalibrationError: an unknown lens, impossible intrinsics or poses, or images of another size.
        SecurityError: an image lies outside the folder.
    """
    models = _models(folder)
    if not models:
        raise DataFormatError("holds no COLMAP model", file=folder, expected="sparse/0/cameras.bin, images.bin")
    scenes = {model: _read(model) for model in models}
    model = max(models, key=lambda m: len(scenes[m].reg_image_ids()))
    known = _image_names(model)
    images = {i: scenes[model].images[i] for i in scenes[model].reg_image_ids()}
    named = [(known.get(i, str(image.name)), image) for i, image in images.items()]
    named.sort(key=lambda pair: (natural_order(pair[0]), pair[0]))
    names = [name for name, _ in named]
    scene = _scene_folder(folder)
    root, scale = _images_of(scene, names, model=model)
    shots = [
        _Shot(name, path, image) for name, image in named if (path := _there(root, name, model=model, scene=scene))
    ]
    if not shots:
        found = f"{len(names)} registered images, such as {names[:1]}"
        raise DataFormatError("none of the registered images is there", file=root, field="images", found=found)
    info: dict[str, Any] = {
        "source": "COLMAP",
        "units": "arbitrary scale and orientation",
        "times": f"nominal: {NOMINAL_FPS:g} images a second",
        "num_points": int(scenes[model].num_points3D()),
    }
    others = [f"{_place(m, folder)}: {len(s.reg_image_ids())} images" for m, s in scenes.items() if m != model]
    missing = sorted({*names} - {shot.name for shot in shots}, key=natural_order)
    info = with_left_out(
        info,
        missing_images(missing),
        _other_models(others, chosen=f"{_place(model, folder)}: {len(names)} images"),
        scale,
    )
    masks = _masks(scene, shots)
    headers = [image_header(shot.path) for shot in shots]
    recordings = []
    for group in grouped_sizes([size for size, _ in headers]):
        chosen = [shots[i] for i in group]
        facts = with_left_out(info, turned_pictures([shots[i].name for i in group if headers[i][1] != 1]))
        sizes, paths = [headers[i][0] for i in group], [masks[i] for i in group]
        recordings.append(
            _recording(folder, model, scene=scenes[model], shots=chosen, sizes=sizes, masks=paths, info=facts)
        )
    return recordings


@dataclass(frozen=True)
class _Shot:
    """One registered image."""

    name: str
    path: Path
    image: Any


def _image_names(model: Path) -> dict[int, str]:
    """Names by image id where they are text: COLMAP itself ends them at their first space."""
    path = model / "images.txt"
    if (model / "images.bin").is_file():
        return {}
    try:
        names, lines = {}, text_lines(path, longest=MAX_POINTS_BYTES, most=MAX_TABLE_BYTES)
        for line in lines:
            row = line.split(maxsplit=9)
            if row and row[0][0] != "#":
                names[int(row[0])] = row[9].strip()
                next(lines, None)  # its points
        return names
    except (OSError, ValueError, IndexError) as error:
        found = str(error)[:80]
        raise DataFormatError("is no list of images", file=path, found=found, fix="copy it again") from error


def _models(folder: Path) -> list[Path]:
    """The folders of the models of a scene, or of this one alone where it is a model's own."""
    if _is_model(folder):
        return [folder]
    found = []
    for place in (folder / name for name in MODELS if name):
        numbered = sorted(place.iterdir(), key=lambda p: natural_order(p.name)) if place.is_dir() else []
        found += [p for p in (*numbered, place) if p.is_dir() and _is_model(p)]
    return found


def _is_model(folder: Path) -> bool:
    parts = ("cameras", "images")
    return any(all((folder / f"{part}{suffix}").is_file() for part in parts) for suffix in (".bin", ".txt"))


def _scene_folder(folder: Path) -> Path:
    """The folder of the scene: that of a model's own folder, sparse/N or sparse, is above it."""
    if not _is_model(folder) or any((folder / name).is_dir() for name in IMAGE_FOLDERS):
        return folder
    above = [p for p in folder.absolute().parents[:3] if any((p / name).is_dir() for name in IMAGE_FOLDERS)]
    return above[0] if above else folder


def _place(model: Path, folder: Path) -> str:
    return str(model.relative_to(folder)) if model != folder else model.name


def _other_models(names: list[str], *, chosen: str) -> LeftOut:
    reason = f"the reconstruction fell into parts: the one with the most images is read ({chosen})"
    fix = "give the folder of another model to read it, such as SCENE/sparse/0"
    return LeftOut("other_models", "model", tuple(names), reason, fix)


def _images_of(scene: Path, names: list[str], *, model: Path) -> tuple[Path, LeftOut]:
    """The folder that holds the most registered images, the earliest of `IMAGE_FOLDERS` where several do."""
    places = [scene / name for name in IMAGE_FOLDERS if (scene / name).is_dir()] or [scene]
    counts = [sum(_there(place, name, model=model, scene=scene) is not None for name in names) for place in places]
    root = places[int(np.argmax(counts))]
    smaller = (root.name,) if root.name.startswith("images_") else ()
    reason = "smaller copies of the images that were reconstructed: K is scaled to them"
    return root, LeftOut("smaller_images", "images", smaller, reason, lost=False)


def _there(root: Path, name: str, *, model: Path, scene: Path) -> Path | None:
    """The regular file of an image's name; None where there is none."""
    for spelling in (name, name.replace("\\", "/")):
        path = inside_folder(root, spelling, file=model, field="image name")
        if regular_file(path, root=scene):
            return path
    return None


def _masks(scene: Path, shots: list[_Shot]) -> list[Path | None]:
    """masks/NAME.png or masks/NAME without its own ending: black is not used, as COLMAP has it."""
    root = scene / "masks"
    if not root.is_dir():
        return [None] * len(shots)
    spellings = [(f"{s.name}.png", str(Path(s.name).with_suffix(".png"))) for s in shots]
    places = [[inside_folder(root, n, file=root, field="mask name") for n in names] for names in spellings]
    return [next((p for p in paths if regular_file(p, root=scene)), None) for paths in places]


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
    folder: Path,
    model: Path,
    *,
    scene: Any,
    shots: list[_Shot],
    sizes: list[tuple[int, int]],
    masks: list[Path | None],
    info: Mapping[str, Any],
) -> TableRecording:
    names = [shot.name for shot in shots]
    viewmats = np.stack([_viewmat(shot.image) for shot in shots])
    rigid, usable = checked_poses(viewmats, names=names, file=model)
    kept = np.flatnonzero(usable).tolist()
    wanted = {(shots[i].image.camera_id, sizes[i]) for i in kept}
    cameras = {(c, size): _camera(scene.cameras[c], size=size, file=model) for c, size in wanted}
    Ks, lenses = zip(*(cameras[shots[i].image.camera_id, sizes[i]] for i in kept), strict=True)
    alone = len(cameras) == 1
    canvas = Canvas([sizes[i] for i in kept]) if len({sizes[i] for i in kept}) > 1 else None
    used = [masks[i] for i in kept]
    color = ColorFiles(
        [shots[i].path for i in kept], size=sizes[kept[0]], masks=used if any(used) else (), canvas=canvas
    )
    view = View(
        size=sizes[kept[0]] if canvas is None else canvas.size,
        Ks=Ks[0] if alone else np.stack(Ks),
        viewmats=rigid[kept],
        color=color,
        lens=lenses[0] if alone else stacked_lenses(lenses, file=model),
    )
    table = FrameTable(views={"camera": view}, times=np.arange(len(kept)) / NOMINAL_FPS, names=[names[i] for i in kept])
    lost = lost_poses([names[i] for i in np.flatnonzero(~usable)])
    unmasked = missing_masks([names[i] for i in kept if masks[i] is None] if any(used) else [])
    entries = (lost, unmasked, sizes_entry([sizes[i] for i in kept], camera="camera"))
    return recording_of(table, path=folder, info=with_left_out(info, *entries), fps=NOMINAL_FPS)


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

"""RGB-D folders of one camera: the 7-Scenes layout, and "images + depth + K + poses".

Both: z-depth as 16-bit PNG in millimetres registered to colour (0 and 65535 = not measured), or as floats in metres;
poses are camera-to-world with OpenCV axes in metres. Neither layout has time stamps: frame numbers at a nominal rate
stand in for them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import checked_intrinsics, checked_poses, inverse_poses, read_numbers
from scene4d.data.cameras.lens import Lens, checked_lens
from scene4d.data.files.paths import listed_files, regular_file
from scene4d.data.files.text_files import text_lines
from scene4d.data.timeline.frame_table import NOMINAL_FPS, FrameTable, TableRecording, View, recording_of
from scene4d.data.video.depth_files import depth_file, depth_size
from scene4d.data.video.images import image_header, image_size
from scene4d.data.video.pictures import ColorFiles, DepthFiles
from scene4d.errors import CalibrationError, DataFormatError, DepthError
from scene4d.ledger import (
    LeftOut,
    lost_poses,
    missing_depth,
    no_regular_files,
    resized_depth,
    turned_pictures,
    with_left_out,
)

SEVEN_SCENES = re.compile(r"frame-(\d+)\.color\.(png|jpg|jpeg)")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
TAGGED = (".jpg", ".jpeg", ".webp", ".tif", ".tiff")  # kinds of images that may say how to turn them
IMAGE_FOLDERS = ("images", "rgb", "color")
K_FILES = ("K.txt", "intrinsics.txt", "camera-intrinsics.txt")
SUPPLY = {
    "intrinsics": "write K.txt: fx 0 cx / 0 fy cy / 0 0 1 in pixels",
    "poses": "write poses.txt: one camera-to-world matrix a line (16 numbers, row by row, OpenCV axes, metres)",
    "depth": "add depth/NAME.png for each image: 16-bit, millimetres, registered to colour",
}
KINECT_HINT = "write fx 0 cx / 0 fy cy / 0 0 1 in pixels (7-Scenes itself: 585 0 320 / 0 585 240 / 0 0 1)"


@dataclass(frozen=True)
class RGBDFiles:
    """What an RGB-D layout comes down to: files and a pose for each frame of one camera."""

    names: Sequence[str]  # name of each frame
    colors: Sequence[Path]  # colour image of each frame
    depths: Sequence[Path | None]  # depth file of each frame, registered to colour; None where it is missing
    world_from_cam: np.ndarray  # [t 4 4] OpenCV, metres; a pose that is not finite drops its frame
    unit: float = 0.001  # metres a step of depth
    times: np.ndarray | None = None  # [t] s; frame numbers at a nominal rate where None
    depth_size: tuple[int, int] | None = None  # (width, height) of smaller depth: colour is reduced to it, K is its own
    passed_over: Sequence[str] = ()  # names of what looks like a picture and is no regular file


def rgbd_recording(
    folder: Path, files: RGBDFiles, *, K: np.ndarray, K_file: Path, source: str, lens: Lens | None = None
) -> TableRecording:
    """The recording of one RGB-D camera; frames whose pose is not finite are left out and named in `info`.

    Raises:
        DataFormatError: the first image cannot be read. CalibrationError: impossible K, distortion or poses.
    """
    colored = image_size(files.colors[0])
    size = files.depth_size or colored
    K = checked_intrinsics(K, width=size[0], height=size[1], file=K_file)
    poses, usable = checked_poses(files.world_from_cam, names=files.names, file=folder)
    kept = np.flatnonzero(usable).tolist()
    colors, depths = [files.colors[i] for i in kept], [files.depths[i] for i in kept]
    resize = None if size == colored else size
    view = View(
        size=size,
        Ks=K,
        viewmats=inverse_poses(poses[kept]),
        color=ColorFiles(colors, size=colored, resize=resize),
        depth=DepthFiles(depths, unit=files.unit, size=size),
        lens=checked_lens(lens, K, size=size, file=K_file, camera="camera"),
    )
    times = nominal_times(files.names) if files.times is None else files.times
    info: dict[str, Any] = {"source": source, "units": "m", "depth": f"integers count {files.unit:.6g} m, floats are m"}
    if files.times is None:
        info["times"] = f"nominal: frame numbers at {NOMINAL_FPS:g} a second"
    lost = lost_poses([files.names[i] for i in np.flatnonzero(~usable).tolist()])
    info = with_left_out(
        info, lost, no_regular_files(tuple(files.passed_over)), *_picture_entries(files, kept, size=size)
    )
    times = times[kept] - times[kept[0]]
    table = FrameTable(views={"camera": view}, times=times, names=tuple(files.names[i] for i in kept))
    return recording_of(table, path=folder, info=info)


def _picture_entries(files: RGBDFiles, kept: list[int], *, size: tuple[int, int]) -> list[LeftOut]:
    """Depth that is missing or of another scale, and pictures that viewers show turned."""
    depths = [d for i in kept if (d := files.depths[i]) is not None]
    entries = [missing_depth([files.names[i] for i in kept if files.depths[i] is None])]
    entries += [resized_depth(depth_size(depths[0]), size)] if depths else []
    tagged = [files.names[i] for i in kept if files.colors[i].suffix.lower() in TAGGED and _is_turned(files.colors[i])]
    return [*entries, turned_pictures(tagged)]


def _is_turned(path: Path) -> bool:
    try:
        return image_header(path)[1] != 1
    except DataFormatError:  # reading the frame says what is wrong with it
        return False


def nominal_times(names: Sequence[str]) -> np.ndarray:
    """Seconds [t] from the numbers that end the names (their order, where those do not increase)."""
    numbers = [int(m.group()) for n in names if (m := re.search(r"[0-9]+$", n))]
    counted = len(numbers) == len(names) and all(a < b < 1 << 53 for a, b in itertools.pairwise(numbers))
    return np.asarray(numbers if counted else range(len(names)), np.float64) / NOMINAL_FPS


def is_seven_scenes(folder: Path) -> bool:
    """Whether a folder holds frame-XXXXXX.color.png files."""
    return any(SEVEN_SCENES.fullmatch(p.name) for p in folder.iterdir())


def open_seven_scenes(folder: Path) -> TableRecording:
    """Open frame-XXXXXX.{color,depth}.png + .pose.txt, with camera-intrinsics.txt in the folder or the one above.

    Raises:
        DataFormatError: no frames. DepthError: no depth. CalibrationError: no or impossible intrinsics or poses.
    """
    listed, passed = listed_files(folder, root=folder, suffixes=IMAGE_SUFFIXES)
    found = [p for p in listed if SEVEN_SCENES.fullmatch(p.name)]
    if not found:
        fix = "check the path"
        raise DataFormatError("holds no frames", file=folder, expected="frame-000000.color.png ...", fix=fix)
    stems = [p.name.split(".color.")[0] for p in found]
    poses = [folder / f"{s}.pose.txt" for s in stems]
    fix = "add 16-bit PNG depth in mm beside each colour image"
    depths = those_there([depth_file(folder, f"{s}.depth") for s in stems], folder, fix=fix)
    need_all(poses, folder, error=CalibrationError, what="pose", fix="add a 4x4 camera-to-world matrix for each frame")
    places = [place / name for place in (folder, folder.parent) for name in K_FILES]
    matrices = np.stack([pose_from(p) for p in poses])
    K_file = next((file for file in places if regular_file(file, root=file.parent)), None)
    if K_file is None:
        raise CalibrationError("no intrinsics", file=places[0], field="K of camera", fix=KINECT_HINT)
    passed = [name for name in passed if SEVEN_SCENES.fullmatch(name)]
    files = RGBDFiles(names=stems, colors=found, depths=depths, world_from_cam=matrices, passed_over=passed)
    return rgbd_recording(folder, files, K=read_numbers(K_file, what="3x3"), K_file=K_file, source="7-Scenes")


def is_images_depth(folder: Path) -> bool:
    """Whether a folder has an image folder and at least one of depth/, K.txt, poses.txt."""
    parts = [folder / "depth", folder / "poses.txt", *(folder / n for n in K_FILES)]
    return image_folder(folder) is not None and any(p.exists() for p in parts)


def open_images_depth(folder: Path) -> TableRecording:
    """Open images/ (or rgb/, color/), depth/, K.txt, poses.txt (16 or 12 numbers a line) and, if there, frames.txt.

    frames.txt names the image of each pose; without it the images in natural order are meant, one a line.

    Raises:
        DataFormatError: no images. DepthError: no depth. CalibrationError: no or impossible intrinsics or poses.
    """
    images = image_folder(folder)
    if images is None:
        raise DataFormatError("holds no images", file=folder, expected=list(IMAGE_FOLDERS), fix="check the path")
    K_file = next((folder / name for name in K_FILES if regular_file(folder / name, root=folder)), None)
    parts = {"intrinsics": K_file is not None, "poses": regular_file(folder / "poses.txt", root=folder)}
    parts["depth"] = (folder / "depth").is_dir()
    missing = [part for part, there in parts.items() if not there]
    if missing or K_file is None:
        problem, fix = ", ".join(f"no {m}" for m in missing), "; ".join(SUPPLY[m] for m in missing)
        raise (DepthError if missing == ["depth"] else CalibrationError)(problem, file=folder, field="camera", fix=fix)
    rows = read_numbers(folder / "poses.txt", what="16 numbers a line")
    if rows.shape[1] not in (12, 16):
        found = f"{rows.shape[1]} numbers a line"
        raise CalibrationError("is no list of matrices", file=folder / "poses.txt", found=found, expected="16 (or 12)")
    bottom = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(rows), 4))
    matrices = (rows if rows.shape[1] == 16 else np.concatenate([rows, bottom], 1)).reshape(-1, 4, 4)
    colors, passed = _listed_images(folder, images)
    if len(colors) != len(matrices):
        problem, found = "images and poses differ in number", f"{len(matrices)} poses"
        expected, fix = f"{len(colors)} (one an image)", "name the image of each line in frames.txt"
        raise CalibrationError(problem, file=folder / "poses.txt", found=found, expected=expected, fix=fix)
    need_all(colors, folder, error=DataFormatError, what="image", fix="frames.txt names images that do not exist")
    fix = "add 16-bit PNG depth in mm for each image"
    depths = those_there([depth_file(folder / "depth", p.stem) for p in colors], folder, fix=fix)
    names, K = [p.stem for p in colors], read_numbers(K_file, what="3x3")
    files = RGBDFiles(names=names, colors=colors, depths=depths, world_from_cam=matrices, passed_over=passed)
    return rgbd_recording(folder, files, K=K, K_file=K_file, source="images + depth + K + poses")


def pose_from(path: Path) -> np.ndarray:
    """The 4x4 matrix of a text file."""
    numbers = read_numbers(path, what="4x4")
    if numbers.shape != (4, 4):
        raise CalibrationError("is no 4x4 matrix", file=path, field="pose", found=numbers.shape, expected=(4, 4))
    return numbers


def image_folder(folder: Path) -> Path | None:
    """images/, rgb/ or color/."""
    return next((folder / n for n in IMAGE_FOLDERS if (folder / n).is_dir()), None)


def _listed_images(folder: Path, images: Path) -> tuple[list[Path], list[str]]:
    """The images that poses are of, and the names of what is no regular file."""
    listing = folder / "frames.txt"
    if not regular_file(listing, root=folder):
        return listed_files(images, root=folder, suffixes=IMAGE_SUFFIXES)
    try:
        names = [word for line in text_lines(listing) for word in line.split()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataFormatError("cannot be read", file=listing, found=str(error)[:80]) from error
    for name in names:
        if Path(name).name != name:
            fix = f"name files in {images}"
            raise DataFormatError("names must be plain file names", file=listing, found=name, fix=fix)
    return [images / name for name in names], []


def need_all(paths: Sequence[Path], folder: Path, *, error: type, what: str, fix: str) -> None:
    """Every file must be there, inside the folder; the error names the first that are not."""
    missing = [p.name for p in paths if not regular_file(p, root=folder)]
    if missing:
        problem = f"no {what} for {len(missing)} of {len(paths)} frames"
        raise error(problem, file=folder, field=what, found=f"no {missing[:3]}", fix=fix)
    if not paths:
        raise DataFormatError(f"no {what} at all", file=folder, field=what, fix=fix)


def those_there(paths: Sequence[Path], folder: Path, *, fix: str) -> list[Path | None]:
    """The depth files of frames, None where one is missing; not all may be. Raises as `need_all`."""
    there = [path if regular_file(path, root=folder) else None for path in paths]
    if not any(there):
        need_all(paths, folder, error=DepthError, what="depth", fix=fix)
    return there

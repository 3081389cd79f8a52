"""RGB-D folders of one camera: the 7-Scenes layout, and "images + depth + K + poses".

Both: z-depth as 16-bit PNG in millimetres registered to colour (0 and 65535 = not measured), poses are camera-to-world
with OpenCV axes in metres. Neither layout has time stamps: frame numbers at a nominal rate stand in for them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scene4d.data.calibration import checked_intrinsics, checked_poses, read_numbers
from scene4d.data.images import (
    checked_depth,
    chosen_cameras,
    chosen_frames,
    color_from_image,
    image_size,
    open_image,
    read_depth_codes,
    sample_nearest,
)
from scene4d.errors import CalibrationError, DataFormatError, DepthError
from scene4d.geometry.camera import invert_rigid
from scene4d.types import Cameras, Episode, Frames

NOMINAL_FPS = 30.0
METRES_PER_CODE = 0.001
NOT_MEASURED = 65535
SEVEN_SCENES = re.compile(r"frame-(\d+)\.color\.(png|jpg|jpeg)")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
IMAGE_FOLDERS = ("images", "rgb", "color")
K_FILES = ("K.txt", "intrinsics.txt", "camera-intrinsics.txt")
SUPPLY = {
    "intrinsics": "write K.txt: fx 0 cx / 0 fy cy / 0 0 1 in pixels",
    "poses": "write poses.txt: one camera-to-world matrix a line (16 numbers, row by row, OpenCV axes, metres)",
    "depth": "add depth/NAME.png for each image: 16-bit, millimetres, registered to colour",
}
KINECT_HINT = "write fx 0 cx / 0 fy cy / 0 0 1 in pixels (7-Scenes itself: 585 0 320 / 0 585 240 / 0 0 1)"


@dataclass(frozen=True)
class RGBDRecording:
    """One moving RGB-D camera on disk (a `Recording`); open it with `open_seven_scenes` or `open_images_depth`."""

    path: str
    """The folder."""
    names: tuple[str, ...]
    """Name of each usable frame."""
    colors: tuple[Path, ...]
    """Colour image of each frame."""
    depths: tuple[Path, ...]
    """Depth image of each frame."""
    world_from_cam: np.ndarray
    """[t 4 4] rigid, OpenCV, metres."""
    K: np.ndarray
    """[3 3] px."""
    image_size: tuple[int, int]
    """(width, height) px."""
    times: np.ndarray
    """[t] s from the first frame."""
    info: Mapping[str, Any]
    """Layout, skipped frames, empty action and proprio specs."""
    cameras: tuple[str, ...] = ("camera",)
    """The one camera's name."""

    @property
    def num_frames(self) -> int:
        """Usable frames."""
        return len(self.names)

    @property
    def fps(self) -> float:
        """Frames a second, from the median step."""
        return float(1 / np.median(np.diff(self.times))) if self.num_frames > 1 else NOMINAL_FPS

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

        Raises:
            DataFormatError: no frames, no such camera, or a broken image.
            DepthError: depth of the wrong kind or unit, or hardly any.
            CalibrationError: depth and colour differ in size.
        """
        chosen = chosen_frames(self.num_frames, start=start, stop=stop, stride=stride, path=self.path)
        name = chosen_cameras(self.cameras, cameras, path=self.path)[0]
        rgb = np.stack([self._color(i, size) for i in chosen])
        depth = np.stack([self._depth(i, size) for i in chosen])
        world_from_cam = torch.from_numpy(self.world_from_cam[chosen])
        frames = Frames(
            rgb=torch.from_numpy(rgb).float() / 255,
            depth=torch.from_numpy(depth),
            alpha=torch.ones(()).expand(depth.shape),
            cameras=Cameras(
                viewmats=invert_rigid(world_from_cam).float(),
                Ks=torch.from_numpy(self.K).float().expand(len(chosen), 3, 3),
                width=self.image_size[0],
                height=self.image_size[1],
            ).resized(rgb.shape[2], rgb.shape[1]),
        )
        return Episode(
            views={name: frames},
            times=torch.from_numpy(self.times[chosen] - self.times[chosen[0]]),
            valid=torch.ones(len(chosen), dtype=torch.bool),
            actions=torch.zeros(len(chosen), 0),
            proprio=torch.zeros(len(chosen), 0),
            info={**self.info, "frames": [self.names[i] for i in chosen]},
        )

    def _color(self, index: int, size: tuple[int, int] | None) -> np.ndarray:
        image = open_image(self.colors[index])
        if image.size != self.image_size:
            where = {"file": self.colors[index], "found": image.size, "expected": self.image_size}
            raise CalibrationError("has another size", **where, fix="all images of a recording must have one size")
        return color_from_image(image, file=self.colors[index], size=size)

    def _depth(self, index: int, size: tuple[int, int] | None) -> np.ndarray:
        path = self.depths[index]
        codes = read_depth_codes(path)
        if codes.shape[::-1] != self.image_size:
            raise CalibrationError(
                "depth and colour differ in size",
                file=path,
                field="depth",
                found=codes.shape[::-1],
                expected=self.image_size,
                fix="register depth to the colour camera first",
            )
        metres = codes * np.float32(METRES_PER_CODE)
        metres[codes == NOT_MEASURED] = 0
        return sample_nearest(checked_depth(metres, file=path, frame=self.names[index]), size)


def is_seven_scenes(folder: Path) -> bool:
    """Whether a folder holds frame-XXXXXX.color.png files."""
    return any(SEVEN_SCENES.fullmatch(p.name) for p in folder.iterdir())


def open_seven_scenes(folder: Path) -> RGBDRecording:
    """Open frame-XXXXXX.{color,depth}.png + .pose.txt, with camera-intrinsics.txt in the folder or the one above.

    Raises:
        DataFormatError: no frames. DepthError: no depth. CalibrationError: no or impossible intrinsics or poses.
    """
    found = sorted(p for p in folder.iterdir() if SEVEN_SCENES.fullmatch(p.name))
    if not found:
        raise DataFormatError(
            "holds no frames", file=folder, expected="frame-000000.color.png ...", fix="check the path"
        )
    stems = [p.name.split(".color.")[0] for p in found]
    depths = [folder / f"{s}.depth.png" for s in stems]
    poses = [folder / f"{s}.pose.txt" for s in stems]
    _need_all(depths, folder, error=DepthError, what="depth", fix="add 16-bit PNG depth in mm beside each colour image")
    _need_all(poses, folder, error=CalibrationError, what="pose", fix="add a 4x4 camera-to-world matrix for each frame")
    files = [place / name for place in (folder, folder.parent) for name in K_FILES]
    matrices = np.stack([_pose_from(p) for p in poses])
    return _recording(folder, stems, found, depths, matrices=matrices, K_file=_first(files, folder), layout="7-Scenes")


def is_images_depth(folder: Path) -> bool:
    """Whether a folder has an image folder and at least one of depth/, K.txt, poses.txt."""
    parts = [folder / "depth", folder / "poses.txt", *(folder / n for n in K_FILES)]
    return _image_folder(folder) is not None and any(p.exists() for p in parts)


def open_images_depth(folder: Path) -> RGBDRecording:
    """Open images/ (or rgb/, color/), depth/, K.txt, poses.txt (16 or 12 numbers a line) and, if there, frames.txt.

    frames.txt names the image of each pose; without it the sorted images are meant, one a line.

    Raises:
        DataFormatError: no images. DepthError: no depth. CalibrationError: no or impossible intrinsics or poses.
    """
    images = _image_folder(folder)
    if images is None:
        raise DataFormatError("holds no images", file=folder, expected=list(IMAGE_FOLDERS), fix="check the path")
    K_file = next((folder / name for name in K_FILES if (folder / name).is_file()), None)
    parts = {"intrinsics": K_file is not None, "poses": (folder / "poses.txt").is_file()}
    parts["depth"] = (folder / "depth").is_dir()
    missing = [part for part, there in parts.items() if not there]
    if missing:
        problem, fix = ", ".join(f"no {m}" for m in missing), "; ".join(SUPPLY[m] for m in missing)
        raise (DepthError if missing == ["depth"] else CalibrationError)(problem, file=folder, field="camera", fix=fix)
    rows = read_numbers(folder / "poses.txt", what="16 numbers a line")
    if rows.shape[1] not in (12, 16):
        found = f"{rows.shape[1]} numbers a line"
        raise CalibrationError("is no list of matrices", file=folder / "poses.txt", found=found, expected="16 (or 12)")
    bottom = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(rows), 4))
    matrices = (rows if rows.shape[1] == 16 else np.concatenate([rows, bottom], 1)).reshape(-1, 4, 4)
    colors = _listed_images(folder, images)
    if len(colors) != len(matrices):
        raise CalibrationError(
            "images and poses differ in number",
            file=folder / "poses.txt",
            found=f"{len(matrices)} poses",
            expected=f"{len(colors)} (one an image)",
            fix="name the image of each line in frames.txt",
        )
    depths = [folder / "depth" / f"{p.stem}.png" for p in colors]
    _need_all(colors, folder, error=DataFormatError, what="image", fix="frames.txt names images that do not exist")
    _need_all(depths, folder, error=DepthError, what="depth", fix="add 16-bit PNG depth in mm for each image")
    names = [p.stem for p in colors]
    return _recording(
        folder, names, colors, depths, matrices=matrices, K_file=K_file, layout="images + depth + K + poses"
    )


def _recording(
    folder: Path, names: Sequence[str], colors: Sequence[Path], depths: Sequence[Path], *,
    matrices: np.ndarray, K_file: Path, layout: str,
) -> RGBDRecording:  # fmt: skip
    size = image_size(colors[0])
    K = checked_intrinsics(read_numbers(K_file, what="3x3"), width=size[0], height=size[1], file=K_file)
    poses, usable = checked_poses(matrices, names=names, file=folder)
    kept = np.flatnonzero(usable)
    numbers = [int(m.group()) if (m := re.search(r"\d+$", n)) else None for n in names]
    counted = all(n is not None for n in numbers) and all(a < b for a, b in itertools.pairwise(numbers))
    ticks = np.asarray(numbers if counted else range(len(names)), np.float64)[kept]
    info = {
        "source": layout,
        "task": "",
        "action_spec": [],
        "proprio_spec": [],
        "times": f"nominal: frame numbers at {NOMINAL_FPS:g} a second",
        "skipped_frames": [names[i] for i in np.flatnonzero(~usable)],
    }
    return RGBDRecording(
        path=str(folder),
        names=tuple(names[i] for i in kept),
        colors=tuple(colors[i] for i in kept),
        depths=tuple(depths[i] for i in kept),
        world_from_cam=poses[kept],
        K=K,
        image_size=size,
        times=(ticks - ticks[0]) / NOMINAL_FPS,
        info=info,
    )


def _pose_from(path: Path) -> np.ndarray:
    numbers = read_numbers(path, what="4x4")
    if numbers.shape != (4, 4):
        raise CalibrationError("is no 4x4 matrix", file=path, field="pose", found=numbers.shape, expected=(4, 4))
    return numbers


def _image_folder(folder: Path) -> Path | None:
    return next((folder / n for n in IMAGE_FOLDERS if (folder / n).is_dir()), None)


def _listed_images(folder: Path, images: Path) -> list[Path]:
    listing = folder / "frames.txt"
    if not listing.is_file():
        return sorted(p for p in images.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    try:
        names = listing.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataFormatError("cannot be read", file=listing, found=str(error)[:80]) from error
    for name in names:
        if Path(name).name != name:
            raise DataFormatError(
                "names must be plain file names", file=listing, found=name, fix=f"name files in {images}"
            )
    return [images / name for name in names]


def _first(files: Sequence[Path], folder: Path) -> Path:
    for file in files:
        if file.is_file():
            return file
    raise CalibrationError("no intrinsics", file=folder / files[0].name, field="K of camera", fix=KINECT_HINT)


def _need_all(paths: Sequence[Path], folder: Path, *, error: type, what: str, fix: str) -> None:
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        raise error(
            f"no {what} for {len(missing)} of {len(paths)} frames",
            file=folder,
            field=what,
            found=f"no {missing[:3]}",
            fix=fix,
        )
    if not paths:
        raise DataFormatError(f"no {what} at all", file=folder, field=what, fix=fix)

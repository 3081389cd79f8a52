"""Which known format a folder or file has; where it has none, what was found, what is missing, how to supply it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scene4d.data.cameras.sidecar import TEMPLATE, Supplied
from scene4d.data.files.paths import natural_order, refuse_protocol
from scene4d.data.formats.phones.polycam import is_polycam, open_polycam
from scene4d.data.formats.phones.record3d import is_record3d, open_record3d
from scene4d.data.formats.phones.stray_scanner import is_stray_scanner, open_stray_scanner
from scene4d.data.formats.posed.colmap import is_colmap, open_colmap
from scene4d.data.formats.posed.transforms import is_transforms, open_transforms, open_transforms_file
from scene4d.data.formats.rgbd.array_folders import is_array_folder, open_array_folder
from scene4d.data.formats.rgbd.rgbd import is_images_depth, is_seven_scenes, open_images_depth, open_seven_scenes
from scene4d.data.formats.rgbd.rgbd_open3d import is_open3d, open_open3d
from scene4d.data.formats.rgbd.rgbd_replica import is_replica, open_replica
from scene4d.data.formats.rgbd.rgbd_scannet import is_scannet, open_scannet
from scene4d.data.formats.rgbd.rgbd_tum import is_tum, open_tum
from scene4d.data.formats.robots.agibot import is_agibot, open_agibot
from scene4d.data.formats.robots.droid import is_droid, open_droid
from scene4d.data.formats.robots.rig_folder import VIDEOS, is_rig, open_rig
from scene4d.data.formats.robots.rlbench import is_rlbench, open_rlbench
from scene4d.data.formats.robots.rlds import is_tfrecord, open_rlds
from scene4d.data.formats.robots.zarr_buffer import is_zarr_file, open_zarr
from scene4d.data.formats.robots.zarr_store import is_zarr_folder
from scene4d.data.formats.ros.rosbag_log import is_bag_folder
from scene4d.data.timeline.frame_table import TableReader
from scene4d.data.timeline.resync import ResyncedRecording
from scene4d.disk_errors import reading
from scene4d.errors import CalibrationError, ConfigError, DataFormatError, DepthError
from scene4d.unreadable import naming_pointers

LAYOUTS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Any]], ...] = (
    (is_transforms, open_transforms),
    (is_polycam, open_polycam),
    (is_stray_scanner, open_stray_scanner),
    (is_record3d, open_record3d),
    (is_rlbench, open_rlbench),
    (is_seven_scenes, open_seven_scenes),
    (is_tum, open_tum),
    (is_scannet, open_scannet),
    (is_replica, open_replica),
    (is_open3d, open_open3d),
    (is_images_depth, open_images_depth),
    (is_array_folder, open_array_folder),
)
MAX_DEPTH = 3
MAX_ENTRIES = 50_000
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
TABLES = (".json", ".txt", ".npy", ".npz", ".csv", ".xml", ".yaml", ".yml")
PARTS = {
    "intrinsics": re.compile(r"^k\.txt$|intr|camera|calib|transforms\.json", re.I),
    "poses": re.compile(r"pose|extr|c2w|w2c|[rt]_list|camera|calib|transforms\.json", re.I),
    "depth": re.compile(r"depth", re.I),
}
PACKED = {".r3d": "export as EXR + RGB in Record3D, and give that folder: depth in .r3d is compressed by LZFSE"}
KNOWN = (
    "LeRobot v2.0 to v3.0, RGB-D folders (7-Scenes, TUM, ScanNet, Replica, Open3D, images + depth + K + poses), "
    "transforms.json (nerfstudio, instant-ngp, Blender, D-NeRF), COLMAP, Polycam, Stray Scanner, Record3D, "
    "RLBench episodes, videos with cameras.json, "
    "HDF5 (ManiSkill, robomimic, LIBERO, ALOHA, field map), zarr replay buffers, DROID and AgiBot World episodes, "
    "RLDS TFRecord, MCAP, ROS bags (.bag, .db3, folders)"
)


@naming_pointers()
def open_recordings(
    path: str | os.PathLike,
    *,
    cameras: str | os.PathLike | None = None,
    fov_deg: float | None = None,
    fit: str | None = None,
    resync: str | None = None,
) -> list[TableReader]:
    """Every recording in a folder of a known layout (or in the folders inside it) or in a file, metadata only.

    Args:
        cameras: a cameras.json for formats that have no place for calibration, where it does not lie beside them.
        fov_deg: where there is no calibration, assume this horizontal field of view and cameras at the origin, so that
            images can be used (info["calibration"] notes it).
        fit: what to do with calibration of another image size: "scale" or "crop"; None refuses it.
        resync: "nearest" puts every recording on an even grid at the rate of the first (`ResyncedRecording`); None
            takes times as they are, and refuses impossible ones.
    Raises:
        ConfigError: `resync` is unknown. SecurityError: a path names a protocol, such as http.
        DataFormatError: no such folder, or nothing known in it. CalibrationError, DepthError: images without what
            places them in space; each names what is missing and how to supply it. EnvError: a format whose library is
            not installed. ResourceError: memory, threads or descriptors ran out. What the readers raise.
    """
    root = Path(path)
    if resync not in (None, "nearest"):
        raise ConfigError("is unknown", field="resync", found=resync, expected=["nearest"])
    file = None if cameras is None else Path(cameras)
    for field, given in (("source", path), ("cameras", cameras)):
        if given is not None:
            refuse_protocol(str(given), path=Path(given), file=given, field=field)
    supplied = Supplied(cameras=file, fov_deg=fov_deg, fit=fit, loose_times=resync is not None)
    with reading(root):
        recordings = _found(root, supplied)
    if resync is None:
        return recordings
    rate = float(f"{recordings[0].fps:.9g}")
    return [ResyncedRecording(r, rate) for r in recordings]


def _found(root: Path, supplied: Supplied) -> list[TableReader]:
    if root.is_file():
        found = _open_file(root, supplied)
        if found is None:
            fix = PACKED.get(root.suffix.lower(), "give the folder of a recording, or a file of a known kind")
            raise DataFormatError("is a file of an unknown kind", file=root, expected=KNOWN, fix=fix)
        return list(found)
    if not root.is_dir():
        raise DataFormatError("does not exist", file=root, expected=KNOWN, fix="check the path")
    folders, entries = _walk(root)
    recordings: list[TableReader] = []
    opened: list[Path] = []
    for folder in folders:
        if any(folder.is_relative_to(o) for o in opened):
            continue
        found = _open_folder(folder, supplied)
        if found is not None:
            opened.append(folder)
            recordings += found
    if not recordings:
        raise _what_is_missing(root, entries)
    return recordings


def _open_folder(folder: Path, supplied: Supplied) -> Sequence[TableReader] | None:
    """The recordings of exactly this folder, or None when its layout is unknown.

    Where one layout could be taken for another, the stricter one comes first. Readers that need
    libraries of their own load only where they are needed.
    """
    if (folder / "meta" / "info.json").is_file():
        from scene4d.data.formats.lerobot.lerobot import open_lerobot

        return open_lerobot(folder, supplied=supplied)
    if is_bag_folder(folder):
        from scene4d.data.formats.ros.ros_recording import open_bag

        return open_bag(folder, loose_times=supplied.loose_times)
    for known, opened in LAYOUTS:
        if known(folder):
            found = opened(folder)
            return found if isinstance(found, list) else [found]
    if is_droid(folder):
        return [open_droid(folder, supplied=supplied)]
    if is_agibot(folder):
        return open_agibot(folder, supplied=supplied)
    if is_zarr_folder(folder):
        return open_zarr(folder, supplied=supplied)
    if is_colmap(folder):
        return open_colmap(folder)
    if is_rig(folder, alone=supplied.fov_deg is not None):
        return [open_rig(folder, supplied=supplied)]
    files = sorted((p for p in folder.iterdir() if p.is_file()), key=lambda p: natural_order(p.name))
    opened = [_open_file(path, supplied) for path in files]
    return [r for found in opened if found is not None for r in found] or None


def _open_file(path: Path, supplied: Supplied) -> Sequence[TableReader] | None:
    """The recordings of a file, or None when its kind is unknown."""
    if path.suffix.lower() in (".h5", ".hdf5"):
        from scene4d.data.formats.hdf5.hdf5_layouts import open_hdf5

        return open_hdf5(path, supplied=supplied)
    if path.suffix.lower() == ".mcap":
        from scene4d.data.formats.ros.ros_recording import open_mcap

        return open_mcap(path, loose_times=supplied.loose_times)
    if path.suffix.lower() in (".bag", ".db3"):
        from scene4d.data.formats.ros.ros_recording import open_bag

        return open_bag(path, loose_times=supplied.loose_times)
    if path.name.startswith("transforms") and path.suffix == ".json":
        return open_transforms_file(path)
    if is_zarr_file(path):
        return open_zarr(path, supplied=supplied)
    if is_tfrecord(path):
        return open_rlds(path, supplied=supplied)
    return None


def _walk(root: Path) -> tuple[list[Path], list[Path]]:
    """Folders (root first, in natural order) and files, at most `MAX_DEPTH` deep, links to folders not followed."""
    folders, files, level = [root], [], [root]
    for _ in range(MAX_DEPTH):
        deeper: list[Path] = []
        for folder in level:
            try:
                entries = sorted(os.scandir(folder), key=lambda e: natural_order(e.name))
            except OSError as error:
                fix = "check permissions"
                raise DataFormatError(f"cannot be listed: {error.strerror}", file=folder, fix=fix) from error
            for entry in entries[: MAX_ENTRIES - len(files)]:
                if entry.is_dir(follow_symlinks=False):
                    deeper.append(Path(entry.path))
                elif Path(entry.path).is_file():  # also of a link to itself, which a directory entry would raise for
                    files.append(Path(entry.path))
        folders += deeper
        level = deeper
    return folders, files


def _what_is_missing(root: Path, files: Sequence[Path]) -> Exception:
    kinds = Counter(p.suffix.lower() or p.name for p in files)
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(6)) or "an empty folder"
    pictures = [p for p in files if p.suffix.lower() in IMAGES + VIDEOS]
    if not pictures:
        fix = f"give one of: {KNOWN}"
        return DataFormatError("holds no recording that can be read", file=root, found=found, fix=fix)
    # A part is there when a table is named after it, or (depth) when any picture or folder is.
    names = [str(p.relative_to(root)) for p in files]
    tables = [Path(n).name for n, p in zip(names, files, strict=True) if p.suffix.lower() in TABLES]
    searched = {"intrinsics": tables, "poses": tables, "depth": names}
    missing = [part for part, pattern in PARTS.items() if not any(pattern.search(n) for n in searched[part])]
    if not missing:
        fix = _how_to_supply(root)
        return DataFormatError("has an unknown layout", file=root, found=found, expected=KNOWN, fix=fix)
    problem = ", ".join(f"no {part}" for part in missing)
    kind = DepthError if missing == ["depth"] else CalibrationError
    example = ", ".join(str(p.relative_to(root)) for p in pictures[:3])
    return kind(problem, file=root, field="cameras", found=f"{found}, such as {example}", fix=_how_to_supply(root))


def _how_to_supply(root: Path) -> str:
    return (
        "supply them as (1) for each camera a folder with images/NAME.png, depth/NAME.png (16-bit, "
        "millimetres, registered to colour), K.txt (3x3 in pixels) and poses.txt (16 numbers a line, camera-to-world, "
        f"OpenCV axes, metres); (2) a LeRobot v3 data set with a depth feature and {root.name}/meta/cameras.json, "
        f"filled in from the template {TEMPLATE}; (3) for videos without geometry, a field of view (--fov)"
    )

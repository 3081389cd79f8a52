"""Which known layout a folder has; where it has none, what was found, what is missing and how to supply it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from scene4d.data.rgbd import is_images_depth, is_seven_scenes, open_images_depth, open_seven_scenes
from scene4d.data.rlbench import is_rlbench, open_rlbench
from scene4d.errors import CalibrationError, DataFormatError, DepthError
from scene4d.types import Recording

MAX_DEPTH = 3
MAX_ENTRIES = 50_000
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
TABLES = (".json", ".txt", ".npy", ".npz", ".csv", ".xml", ".yaml", ".yml")
TEMPLATE = Path(__file__).with_name("cameras_template.json")
PARTS = {
    "intrinsics": re.compile(r"^k\.txt$|intr|camera|calib|transforms\.json", re.I),
    "poses": re.compile(r"pose|extr|c2w|w2c|[rt]_list|camera|calib|transforms\.json", re.I),
    "depth": re.compile(r"depth", re.I),
}
KNOWN = (
    "7-Scenes (frame-000000.color.png, .depth.png, .pose.txt, camera-intrinsics.txt), "
    "images/ + depth/ + K.txt + poses.txt, RLBench episodes, or LeRobot v3 with meta/cameras.json"
)


def open_recordings(path: str | os.PathLike) -> list[Recording]:
    """Every recording in a folder of a known layout (or in the folders inside it), metadata only.

    Raises:
        DataFormatError: no such folder, or nothing known in it. CalibrationError, DepthError: images without what
            places them in space; each names what is missing and how to supply it. What the readers raise.
    """
    root = Path(path)
    if not root.is_dir():
        problem = "does not exist" if not root.exists() else "is a file, not the folder of a recording"
        raise DataFormatError(problem, file=root, expected=KNOWN, fix="check the path")
    folders, entries = _walk(root)
    recordings: list[Recording] = []
    opened: list[Path] = []
    for folder in folders:
        if any(folder.is_relative_to(o) for o in opened):
            continue
        found = _open_folder(folder)
        if found is not None:
            opened.append(folder)
            recordings += found
    if not recordings:
        raise _what_is_missing(root, entries)
    return recordings


def _open_folder(folder: Path) -> Sequence[Recording] | None:
    """The recordings of exactly this folder, or None when its layout is unknown."""
    if (folder / "meta" / "info.json").is_file():
        from scene4d.data.lerobot import open_lerobot  # pyarrow and av load only where they are needed

        return open_lerobot(folder)
    if is_rlbench(folder):
        return [open_rlbench(folder)]
    if is_seven_scenes(folder):
        return [open_seven_scenes(folder)]
    if is_images_depth(folder):
        return [open_images_depth(folder)]
    return None


def _walk(root: Path) -> tuple[list[Path], list[Path]]:
    """Folders (root first, in natural order) and files, at most `MAX_DEPTH` deep, links to folders not followed."""
    folders, files, level = [root], [], [root]
    for _ in range(MAX_DEPTH):
        deeper: list[Path] = []
        for folder in level:
            try:
                entries = sorted(os.scandir(folder), key=lambda e: _natural(e.name))
            except OSError as error:
                raise DataFormatError(
                    f"cannot be listed: {error.strerror}", file=folder, fix="check permissions"
                ) from error
            for entry in entries[: MAX_ENTRIES - len(files)]:
                if entry.is_dir(follow_symlinks=False):
                    deeper.append(Path(entry.path))
                elif entry.is_file():
                    files.append(Path(entry.path))
        folders += deeper
        level = deeper
    return folders, files


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts episode2 before episode10."""
    return [(0, int(w), "") if w.isdigit() else (1, 0, w) for w in re.findall(r"[0-9]+|[^0-9]+", name)]


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
        return DataFormatError(
            "has an unknown layout", file=root, found=found, expected=KNOWN, fix=_how_to_supply(root)
        )
    problem = ", ".join(f"no {part}" for part in missing)
    kind = DepthError if missing == ["depth"] else CalibrationError
    example = ", ".join(str(p.relative_to(root)) for p in pictures[:3])
    return kind(problem, file=root, field="cameras", found=f"{found}, such as {example}", fix=_how_to_supply(root))


def _how_to_supply(root: Path) -> str:
    return (
        "supply them in one of two ways: (1) for each camera a folder with images/NAME.png, depth/NAME.png (16-bit, "
        "millimetres, registered to colour), K.txt (3x3 in pixels) and poses.txt (16 numbers a line, camera-to-world, "
        f"OpenCV axes, metres); (2) a LeRobot v3 data set with a depth feature and {root.name}/meta/cameras.json, "
        f"filled in from the template {TEMPLATE}"
    )

"""Splats in any format that others write: what a file is, its content says, and its name where content does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from scene4d.errors import DataFormatError
from scene4d.files import open_regular
from scene4d.gaussians.formats.ksplat import read_ksplat
from scene4d.gaussians.formats.ply import read_ply_splats
from scene4d.gaussians.formats.sog import read_sog
from scene4d.gaussians.formats.sog_parts import META
from scene4d.gaussians.formats.splat_notes import Splats
from scene4d.gaussians.formats.splat_rows import read_splat
from scene4d.gaussians.formats.spz import read_spz

SUFFIXES = (".ply", ".splat", ".spz", ".ksplat", ".sog")
KNOWN = ".ply (INRIA, 2DGS, compressed), .splat, .spz, .ksplat, .sog or a folder with SOG's meta.json"
Reader = Callable[..., Splats]
BY_CONTENT: tuple[tuple[bytes, Reader], ...] = (
    (b"ply", read_ply_splats),
    (b"NGSP", read_spz),
    (b"\x1f\x8b\x08", read_spz),
    (b"PK\x03\x04", read_sog),
)
BY_NAME: dict[str, Reader] = {
    ".ply": read_ply_splats,
    ".splat": read_splat,
    ".spz": read_spz,
    ".ksplat": read_ksplat,
    ".sog": read_sog,
}


def is_splats(path: str | os.PathLike) -> bool:
    """Whether `open_splats` is meant to read this: a file of a known name or content, or a folder of SOG."""
    path = Path(path)
    if path.is_dir():
        return (path / META).is_file() and (path / "means_l.webp").is_file()
    if path.name == META:
        return is_splats(path.parent)
    if path.suffix.lower() in SUFFIXES:
        return True
    return path.is_file() and _head(path).startswith((b"ply\n", b"ply\r\n", b"NGSP"))


def open_splats(path: str | os.PathLike, *, strict: bool = False) -> Splats:
    """Splats of a file or folder in any format of `KNOWN`.

    Axes are those of the data; .spz, which defines its own, comes in the axes of .ply files (`read_spz`).

    Raises:
        DataFormatError: none of them, or broken. VersionError, SecurityError: what is not read. GaussianError: `strict`
        and a value is impossible.
    """
    path = Path(path)
    return _reader(path)(path, strict=strict)


def _reader(path: Path) -> Reader:
    if path.is_dir() or path.name == META:
        return read_sog
    head = _head(path)
    if head.startswith(b"version https://git-lfs"):
        problem, fix = "is a pointer of Git LFS, not the file itself", "git lfs pull"
        raise DataFormatError(problem, file=path, field="header", fix=fix)
    for magic, reader in BY_CONTENT:
        if head.startswith(magic):
            return reader
    if path.suffix.lower() not in BY_NAME:
        found = f"{path.suffix or 'no suffix'}, begins with {head[:8]!r}"
        raise DataFormatError("is no file of splats", file=path, found=found, expected=KNOWN, fix="check the path")
    return BY_NAME[path.suffix.lower()]


def _head(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(64)
    except OSError as error:
        raise DataFormatError(f"cannot be read: {error.strerror}", file=path, fix="check the path") from error

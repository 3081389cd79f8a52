"""One depth picture from a file: 16-bit PNG or TIFF in steps, or metres as floats (.npy, .npz, float TIFF, EXR)."""

from __future__ import annotations

import contextlib
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.video.images import MAX_PIXELS, open_image, read_depth_codes
from scene4d.data.video.images import image_size as picture_size
from scene4d.errors import DataFormatError, DepthError, SecurityError
from scene4d.extras import optional
from scene4d.files import require_regular
from scene4d.unreadable import NPY_ERRORS

SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".npz", ".exr")
CHANNELS = ("Z", "depth.Z", "Depth.Z", "depth.V", "V", "Y", "R")  # of EXR, as renderers and phones name depth
NOT_MEASURED = 65535


def depth_file(folder: Path, stem: str) -> Path:
    """The depth file of that stem in any kind; the PNG where there is none."""
    return next((p for s in SUFFIXES if (p := folder / f"{stem}{s}").exists()), folder / f"{stem}.png")


def read_depth(path: Path, *, unit: float) -> np.ndarray:
    """z-depth [h w] float32 m, not yet checked: integers count steps of `unit` metres, floats are metres.

    Raises:
        DepthError: it holds no depth. DataFormatError: it cannot be decoded. SecurityError: pickled objects.
        EnvError: EXR without its library.
    """
    values = _values(path)
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    metres = values * np.float32(unit)
    metres[values >= NOT_MEASURED] = 0
    return metres


def depth_size(path: Path) -> tuple[int, int]:
    """(width, height) of a depth file, from its header where the kind has one. Raises as `read_depth`."""
    match path.suffix.lower():
        case ".npy":
            return _plane(_loaded(path, lambda: np.load(path, allow_pickle=False, mmap_mode="r")), path).shape[::-1]
        case ".npz" | ".exr":
            return _values(path).shape[::-1]
    return picture_size(path)


def _values(path: Path) -> np.ndarray:
    """Integers or floats [h w]."""
    match path.suffix.lower():
        case ".npy":
            loaded = _loaded(path, lambda: np.load(path, allow_pickle=False, mmap_mode="r"))
            return np.array(_plane(loaded, path))
        case ".npz":
            return _plane(_loaded(path, lambda: _only_array(path)), path)
        case ".exr":
            return _plane(_exr(path), path)
        case ".tif" | ".tiff":
            image = open_image(path)
            if image.mode == "F":
                return np.asarray(image)
    return read_depth_codes(path)


def _loaded(path: Path, load: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        require_regular(path)
        return load()
    except FileNotFoundError as error:
        raise DepthError("is missing", file=path, field="depth", fix="copy the whole folder") from error
    except (*NPY_ERRORS, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if "pickle" in str(error).lower() or "object" in str(error).lower():
            fix = "save plain numbers"
            raise SecurityError("holds pickled objects; not opened", file=path, field="depth", fix=fix) from error
        found, fix = str(error)[:80], "copy the file again"
        raise DataFormatError("cannot be read", file=path, field="depth", found=found, fix=fix) from error


def _only_array(path: Path) -> np.ndarray:
    """The one array of an archive, or the one of the name depth; its size is known before it is unpacked."""
    with zipfile.ZipFile(path) as archive:
        names = {Path(m.filename).stem: m for m in archive.infolist()}
        if "depth" not in names and len(names) != 1:
            raise ValueError(f"{len(names)} arrays, none of them depth")
        member = names.get("depth") or next(iter(names.values()))
        if member.file_size > MAX_PIXELS * 8:
            raise ValueError(f"{member.file_size} bytes are more than {MAX_PIXELS} pixels")
        with archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def _plane(values: np.ndarray, path: Path) -> np.ndarray:
    """[h w] of an array that is one plane of numbers."""
    shape = tuple(n for n in values.shape if n != 1)
    if values.dtype.kind not in "fiu" or len(shape) != 2 or values.size > MAX_PIXELS:
        found, expected = f"{values.dtype} {values.shape}", "numbers [height width]"
        raise DepthError("is no depth picture", file=path, field="depth", found=found, expected=expected)
    return values.reshape(shape)


def _exr(path: Path) -> np.ndarray:
    """The channel of an EXR picture that is depth, metres."""
    library = optional("OpenEXR", extra="exr", what="reading EXR depth")
    with _exr_errors(path), contextlib.redirect_stdout(sys.stderr):  # where the library prints what it found wrong
        require_regular(path)
        low, high = library.File(str(path), header_only=True).header()["dataWindow"]
        width, height = (int(b) - int(a) + 1 for a, b in zip(low, high, strict=True))
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} are more than {MAX_PIXELS} pixels")
        channels: dict[str, Any] = library.File(str(path), separate_channels=True).channels()
        name = next((n for n in CHANNELS if n in channels), next(iter(channels)) if len(channels) == 1 else None)
        if name is None:
            raise ValueError(f"channels {sorted(channels)[:6]}, none of them depth")
        return np.asarray(channels[name].pixels)


@contextlib.contextmanager
def _exr_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, LookupError, TypeError, MemoryError, OSError) as error:
        found, fix = str(error)[:80], "copy the file again"
        raise DataFormatError("is no EXR depth picture", file=path, field="depth", found=found, fix=fix) from error

"""Colour, depth and label images from files: decoded, checked, resized; every failure names the file.

Every picture is opened here, by its content and by no decoder but those of `FORMATS`: others start foreign programs.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from scene4d.errors import DataFormatError, DepthError
from scene4d.files import require_regular

DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
MAX_PIXELS = 1 << 26  # 8192 x 8192: what a decoded picture may need of memory is known from its header
MAX_INVALID = 0.95
DEPTH_RANGE = (0.02, 100.0)


# MAX_PIXELS refuses more than Pillow warns of.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def open_image(path: Path) -> Image.Image:
    """A decoded image.

    Raises:
        DataFormatError: missing, truncated, too large, no image, or no regular file.
    """
    try:
        with _opened(path) as image:
            image.load()
            return image
    except DECODE_ERRORS as error:
        problem = "is missing" if isinstance(error, FileNotFoundError) else "cannot be decoded"
        fix = "copy the file again, or leave the frame out"
        raise DataFormatError(problem, file=path, found=str(error)[:80], fix=fix) from error


@contextlib.contextmanager
def image_from_bytes(
    data: bytes, *, file: str | os.PathLike, field: str | None = None, frame: int | str | None = None
) -> Iterator[Image.Image]:
    """An encoded image, whose header is read at once and whose pixels when they are asked for.

    Raises:
        DataFormatError: it cannot be decoded, also while the block lasts.
    """
    try:
        with _opened(io.BytesIO(data)) as image:
            yield image
    except DECODE_ERRORS as error:
        found = str(error)[:80]
        raise DataFormatError("an image cannot be decoded", file=file, field=field, frame=frame, found=found) from error


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) from the header only. Raises as `image_header`."""
    return image_header(path)[0]


def image_header(path: Path) -> tuple[tuple[int, int], int]:
    """(width, height) as the pixels lie, and the orientation tag: 1 where there is none, 2 to 8 to be shown turned.

    Raises:
        DataFormatError: missing, too large, no image, or no regular file.
    """
    try:
        with _opened(path) as image:
            return image.size, _orientation(image)
    except DECODE_ERRORS as error:
        fix = "copy the file again, or leave the frame out"
        raise DataFormatError("is no image", file=path, found=str(error)[:80], fix=fix) from error


def _opened(source: Path | io.BytesIO) -> Image.Image:
    """An image whose header is read, by its content; errors are those of `DECODE_ERRORS`."""
    if isinstance(source, Path):
        require_regular(source)  # a pipe would wait for ever
    image = Image.open(source, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(f"{image.width} x {image.height} are more than {MAX_PIXELS} pixels")
    return image


def _orientation(image: Image.Image) -> int:
    """From the header alone: PNG is asked for the chunk that lies before its pixels."""
    exif = image.getexif() if image.format in ("JPEG", "MPO", "WEBP", "TIFF") else Image.Exif()
    if image.format == "PNG" and isinstance(image.info.get("exif"), bytes):
        exif.load(image.info["exif"])
    tag = exif.get(ExifTags.Base.Orientation, 1)
    return tag if isinstance(tag, int) and 1 <= tag <= 8 else 1


def read_depth_codes(path: Path) -> np.ndarray:
    """Integer depth codes [h w] of a 16-bit (or 32-bit) single-channel image, as int32.

    Raises:
        DepthError: colour or 8-bit images.
    """
    image = open_image(path)
    if image.mode not in ("I;16", "I;16L", "I;16B", "I"):
        found = f"mode {image.mode}"
        expected, fix = "16-bit grey PNG", "save depth as 16-bit PNG in millimetres, not as a colour picture"
        raise DepthError("is no depth image", file=path, field="depth", found=found, expected=expected, fix=fix)
    return np.asarray(image).astype(np.int32)


def checked_depth(depth: np.ndarray, *, file: Path, frame: str) -> np.ndarray:
    """z-depth [h w] m float32 with what was not measured at 0.

    Raises:
        DepthError: almost nothing measured, or values that look like another unit.
    """
    valid = np.isfinite(depth) & (depth > 0)
    share = float(valid.mean())
    if share < 1 - MAX_INVALID:
        problem, fix = f"{100 * (1 - share):.1f} % of the depth is not measured", "leave the frame out"
        raise DepthError(problem, file=file, frame=frame, expected=f"at most {100 * MAX_INVALID:.0f} %", fix=fix)
    median = float(np.median(depth[valid][::16]))  # every 16th pixel tells the unit
    if not DEPTH_RANGE[0] < median < DEPTH_RANGE[1]:
        found = f"median {median:.4g} m"
        expected, fix = f"{DEPTH_RANGE[0]} to {DEPTH_RANGE[1]} m", "save depth in millimetres (16-bit PNG)"
        raise DepthError("depth is in another unit", file=file, frame=frame, found=found, expected=expected, fix=fix)
    return np.where(valid, depth, 0).astype(np.float32)


def sample_nearest(values: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Values [h w ...] at the nearest pixel centres of a `size` (width, height) image, for what cannot be averaged."""
    height, width = values.shape[:2]
    if size is None or (width, height) == tuple(size):
        return values
    rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(int).clip(0, height - 1)
    cols = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(int).clip(0, width - 1)
    return values[rows[:, None], cols[None]]


def chosen_frames(num_frames: int, *, start: int, stop: int | None, stride: int, path: str) -> range:
    """start, start + stride, ... below stop.

    Raises:
        DataFormatError: none is left, or the stride is not positive.
    """
    if stride < 1 or start < 0:
        found = (start, stride)
        raise DataFormatError("no such frames", file=path, field="start, stride", found=found, expected=">= 0, >= 1")
    frames = range(start, num_frames if stop is None else min(stop, num_frames), stride)
    if not frames:
        found = f"{start}:{stop}:{stride}"
        expected = f"within 0:{num_frames}"
        raise DataFormatError("no frames are left", file=path, field="start, stop", found=found, expected=expected)
    return frames


def chosen_cameras(available: Sequence[str], names: Sequence[str] | None, *, path: str) -> list[str]:
    """The named cameras, all by default.

    Raises:
        DataFormatError: one does not exist.
    """
    names = list(available if names is None else names)
    missing = [n for n in names if n not in available]
    if missing or not names:
        raise DataFormatError("no such camera", file=path, field="cameras", found=missing, expected=list(available))
    return names

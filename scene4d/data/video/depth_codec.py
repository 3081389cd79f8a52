"""Depth and segment ids as 16-bit PNG bytes, exact up to the unit step of depth."""

from __future__ import annotations

import io
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from scene4d.data.video.images import image_from_bytes
from scene4d.errors import DataFormatError, DepthError

DEPTH_UNIT = 1e-4  # m a step: rounds by at most 0.05 mm, reaches 6.5535 m
_LARGEST, _LARGEST_LOG = 65535, 4095
HOLE_CODES = 4  # lossy video moves code 0 (a hole) by a few; the nearest millimetres it costs nobody measures


def encode_depth(depth: np.ndarray, *, unit: float = DEPTH_UNIT) -> bytes:
    """PNG of z-depth [h w] in m; 0, negative and not finite become 0 (not measured).

    Raises:
        DepthError: a depth is too large for the unit.
    """
    valid = np.isfinite(depth) & (depth > 0)
    steps = np.rint(np.where(valid, depth, 0).astype(np.float64) / unit)
    if steps.max(initial=0) > _LARGEST:
        enough = 10.0 ** np.ceil(np.log10(depth[valid].max() / _LARGEST))
        fix = f"write with depth_unit={enough:g}, or mask what is too far to be used"
        found, expected = f"{depth[valid].max():.2f} m", f"<= {_LARGEST * unit:.2f} m"
        raise DepthError("is too large for the depth unit", field="depth", found=found, expected=expected, fix=fix)
    return _png(steps.astype(np.uint16))


def decode_depth(data: bytes, *, unit: float, size: tuple[int, int], file: str | os.PathLike) -> np.ndarray:
    """z-depth [h w] float32 m of `encode_depth`'s bytes, or of a TIFF of whole or broken numbers of `unit` m; 0 = hole.

    size = (width, height).
    """
    values = _array(data, size=size, file=file).astype(np.float64)
    return np.where(np.isfinite(values) & (values > 0), values * unit, 0).astype(np.float32)


@dataclass(frozen=True)
class LogDepth:
    """How LeRobot puts depth into 12-bit video: code q is depth_min at 0 and depth_max at 4095, evenly in log or not.

    Source: LeRobot, DepthEncoderConfig; not measured is written as what lies below depth_min, that is as code 0.
    """

    depth_min: float = 0.01
    depth_max: float = 10.0
    shift: float = 3.5
    use_log: bool = True

    def encode(self, depth: np.ndarray) -> np.ndarray:
        """Codes [h w] uint16 of z-depth [h w] m; what is no hole never gets a code that is read as one.

        Raises:
            DepthError: a depth lies beyond `depth_max`.
        """
        valid = np.isfinite(depth) & (depth > 0)
        far = float(depth[valid].max(initial=0))
        if far > self.depth_max:
            fix = "give a larger depth_max, keep depth as PNG, or mask what is too far to be used"
            where = {"field": "depth", "found": f"{far:.2f} m", "expected": f"<= {self.depth_max:g} m"}
            raise DepthError("lies beyond the range of the depth video", **where, fix=fix)
        low, high = self._ends()
        metres = np.where(valid, depth, self.depth_min).astype(np.float64)
        metres = np.log(metres + self.shift) if self.use_log else metres
        codes = np.rint((metres - low) / (high - low) * _LARGEST_LOG).clip(HOLE_CODES + 1, _LARGEST_LOG)
        return np.where(valid, codes, 0).astype(np.uint16)

    def entry(self) -> dict[str, Any]:
        """What info.json tells of it."""
        return {f"video.{name}": value for name, value in asdict(self).items()}

    def _ends(self) -> tuple[float, float]:
        ends = np.array([self.depth_min, self.depth_max])
        low, high = np.log(ends + self.shift) if self.use_log else ends
        return float(low), float(high)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """z-depth [h w] float32 m of codes [h w]; holes are 0."""
        share = codes.astype(np.float64) / _LARGEST_LOG
        low, high = self._ends()
        metres = low + share * (high - low)
        metres = np.exp(metres) - self.shift if self.use_log else metres
        return np.where(codes <= HOLE_CODES, 0, metres).astype(np.float32)


def encode_segments(segments: np.ndarray) -> bytes:
    """PNG of segment ids [h w] >= -1, stored plus one so that 0 is "nothing there".

    Raises:
        DataFormatError: an id is out of range.
    """
    codes = segments.astype(np.int64) + 1
    if codes.min(initial=0) < 0 or codes.max(initial=0) > _LARGEST:
        found, expected = [segments.min(), segments.max()], f"-1..{_LARGEST - 1}"
        raise DataFormatError("segment ids are out of range", field="segments", found=found, expected=expected)
    return _png(codes.astype(np.uint8 if codes.max(initial=0) < 256 else np.uint16))


def decode_segments(data: bytes, *, size: tuple[int, int], file: str | os.PathLike) -> np.ndarray:
    """Segment ids [h w] int64 of `encode_segments`'s bytes."""
    return _array(data, size=size, file=file).astype(np.int64) - 1


def decode_color(data: bytes, *, size: tuple[int, int], file: str | os.PathLike) -> np.ndarray:
    """An image's bytes as uint8 [h w 3]."""
    return _array(data, size=size, file=file, mode="RGB")


def _png(values: np.ndarray) -> bytes:
    # Filtered but not deflated: what holds many frames compresses them together, and still parts cost nothing then.
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "png", compress_level=0)
    return buffer.getvalue()


def _array(data: bytes, *, size: tuple[int, int], file: str | os.PathLike, mode: str | None = None) -> np.ndarray:
    with image_from_bytes(data, file=file) as image:
        if image.size != tuple(size):  # the header is read before any pixel: a lie about the size costs nothing
            raise DataFormatError("an image has the wrong size", file=file, found=image.size, expected=tuple(size))
        return np.asarray(image if mode is None else image.convert(mode))

"""Lossless WebP pictures that hold tables: four bytes a pixel, a splat a pixel."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from scene4d.errors import DataFormatError, SecurityError

MOST_RATIO = 1032
ALLOWANCE = 1 << 24
"""Bytes that a picture may always have, however well it is packed."""
FIX = "copy or export it again"


def read_webp_table(data: bytes, *, file: Path, field: str) -> np.ndarray:
    """Pixels [h w 4] uint8 (red, green, blue, alpha) of a lossless WebP; its size is checked before it is decoded.

    Raises:
        DataFormatError: no WebP, a lossy or moving one, or damaged. SecurityError: far larger than its bytes can hold.
    """
    width, height = _size(data, file=file, field=field)
    if 4 * width * height > MOST_RATIO * len(data) + ALLOWANCE:
        found = f"{width} x {height} pixels in {len(data)} bytes"
        raise SecurityError("claims more than it can hold", file=file, field=field, found=found)
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as picture:
            pixels = np.asarray(picture.convert("RGBA"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataFormatError("is damaged", file=file, field=field, found=str(error)[:80], fix=FIX) from error
    if pixels.shape != (height, width, 4):
        raise DataFormatError("is damaged", file=file, field=field, found=pixels.shape, fix=FIX)
    return pixels


def _size(data: bytes, *, file: Path, field: str) -> tuple[int, int]:
    """Width and height as the lossless picture inside says."""
    where = {"file": file, "field": field, "expected": "a lossless WebP", "fix": FIX}
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise DataFormatError("is no WebP", found=repr(data[:12]), **where)
    at = 12
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        if name == b"VP8L" and data[at + 8 : at + 9] == b"\x2f" and at + 13 <= len(data):
            bits = int.from_bytes(data[at + 9 : at + 13], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if name in (b"VP8 ", b"ANIM", b"ANMF"):
            raise DataFormatError("is lossy or moving: its numbers are not those that were stored", **where)
        at += 8 + length + length % 2
    raise DataFormatError("holds no lossless picture", **where)

"""ROS image and camera messages as arrays: encodings, row padding, compressed depth, lenses."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import PIXEL_CENTRE
from scene4d.data.cameras.lens import Lens, lens_or_none
from scene4d.data.video.images import checked_depth, image_from_bytes
from scene4d.data.video.pictures import depth_of_codes, picture_from_bytes, size_from_bytes
from scene4d.errors import CalibrationError, DataFormatError

# Channels, and the order that makes them R G B.
COLORS = {
    "rgb8": (3, [0, 1, 2]),
    "bgr8": (3, [2, 1, 0]),
    "8UC3": (3, [2, 1, 0]),
    "rgba8": (4, [0, 1, 2]),
    "bgra8": (4, [2, 1, 0]),
    "mono8": (1, [0, 0, 0]),
    "8UC1": (1, [0, 0, 0]),
}
DEPTHS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
COMPRESSED_DEPTH_HEADER = struct.Struct("<iff")  # format, and of floats the two numbers of their inverse
PNG = b"\x89PNG"


def is_depth(message: Any) -> bool:
    """Whether an Image or CompressedImage holds depth."""
    if hasattr(message, "format"):
        return "compressedDepth" in message.format or message.format.startswith(("16UC1", "32FC1"))
    return message.encoding in DEPTHS


def size_of(message: Any, *, file: Path, topic: str) -> tuple[int, int]:
    """(width, height) of an image message.

    Raises:
        DataFormatError: pictures of this kind are not read.
    """
    if not hasattr(message, "format"):
        known = {*COLORS, *DEPTHS}
        if message.encoding not in known or not message.width or not message.height:
            found = f"{message.encoding} {message.width}x{message.height}"
            raise DataFormatError("is no image", file=file, field=topic, found=found, expected=sorted(known))
        return int(message.width), int(message.height)
    return size_from_bytes(_payload(message), file=file, field=topic)


def color_of(message: Any, *, file: Path, topic: str, frame: int) -> np.ndarray:
    """Colour [h w 3] uint8.

    Raises:
        DataFormatError: another encoding, or too little data.
    """
    if hasattr(message, "format"):
        return picture_from_bytes(_payload(message), file=file, field=topic, frame=frame)
    if message.encoding not in COLORS:
        where = {"file": file, "field": topic, "frame": frame}
        raise DataFormatError("is no known colour", **where, found=message.encoding, expected=sorted(COLORS))
    channels, order = COLORS[message.encoding]
    rows = _rows(message, "u1", channels=channels, file=file, topic=topic, frame=frame)
    return np.ascontiguousarray(rows[..., order])


def depth_of(message: Any, *, file: Path, topic: str, frame: int) -> np.ndarray:
    """z-depth [h w] float32 m: 16-bit codes are millimetres, floats are metres.

    Raises:
        DataFormatError: another encoding, or too little data. DepthError: hardly any, or in another unit.
    """
    where = {"file": file, "field": topic, "frame": frame}
    if hasattr(message, "format"):
        with image_from_bytes(_payload(message), file=file, field=topic, frame=frame) as image:
            codes = np.asarray(image).astype(np.int64)
        if codes.ndim != 2:
            raise DataFormatError("is no known depth", **where, found=message.format, expected="one channel")
        if message.format.startswith("32FC1"):
            if len(message.data) < COMPRESSED_DEPTH_HEADER.size or bytes(message.data[:4]) == PNG:
                raise DataFormatError("floats in compressed depth lack their header", **where, found=message.format)
            return checked_depth(_from_inverse(codes, bytes(message.data)), file=file, frame=f"{topic} {frame}")
        return depth_of_codes(codes, unit=0.001, file=file, frame=f"{topic} {frame}")
    kind = DEPTHS.get(message.encoding)
    if kind is None:
        raise DataFormatError("is no known depth", **where, found=message.encoding, expected=sorted(DEPTHS))
    values = _rows(message, kind, channels=1, file=file, topic=topic, frame=frame)[..., 0]
    if kind == "f4":
        return checked_depth(values, file=file, frame=f"{topic} {frame}")
    return depth_of_codes(values.astype(np.int64), unit=0.001, file=file, frame=f"{topic} {frame}")


def camera_of(message: Any, *, rectified: bool, file: Path, topic: str) -> tuple[np.ndarray, Lens | None]:
    """K (pixel centres moved to +0.5) and lens of a CameraInfo; of the rectified image where `rectified`.

    Raises:
        CalibrationError: not calibrated, or an unknown lens.
    """
    if len(message.k) != 9 or len(message.p) != 12:
        found, expected = f"{len(message.k)}, {len(message.p)} numbers", "k of 9, p of 12"
        raise DataFormatError("is no CameraInfo", file=file, field=topic, found=found, expected=expected)
    K = np.asarray(message.p if rectified else message.k, np.float64).reshape(3, -1)[:, :3]
    if not K.any():
        fix = "calibrate the camera"
        raise CalibrationError("is not calibrated", file=file, field=topic, found="K is zero", fix=fix)
    coefficients = np.asarray(message.d, np.float64)
    if rectified or not coefficients.any():
        return K + PIXEL_CENTRE, None
    terms = 4 if message.distortion_model == "equidistant" else 8
    if coefficients[terms:].any():
        found, fix = f"{len(coefficients)} coefficients", f"calibrate with {terms} coefficients, or record image_rect"
        where = {"file": file, "field": f"{topic}.d", "found": found, "expected": f"at most {terms}"}
        raise CalibrationError("the lens has terms that are not read", **where, fix=fix)
    match message.distortion_model:
        case "plumb_bob" | "rational_polynomial" | "":
            lens = lens_or_none(coefficients[:8])
        case "equidistant":
            lens = Lens("fisheye", np.pad(coefficients, (0, 4))[:4])
        case other:
            expected = "plumb_bob, rational_polynomial or equidistant"
            raise CalibrationError("is no known lens", file=file, field=topic, found=other, expected=expected)
    return K + PIXEL_CENTRE, lens


def _payload(message: Any) -> bytes:
    """The encoded image of a CompressedImage; that of compressed depth has a header of its own in front."""
    data = bytes(message.data)
    cut = COMPRESSED_DEPTH_HEADER.size if "compressedDepth" in message.format and not data.startswith(PNG) else 0
    return data[cut:]


def _from_inverse(codes: np.ndarray, data: bytes) -> np.ndarray:
    """Metres [h w] of floats in compressed depth, whose codes count their inverse; code 0 is a hole."""
    _, scale, shift = COMPRESSED_DEPTH_HEADER.unpack_from(data)
    measured = (codes > 0) & (codes != shift)
    return np.where(measured, scale / np.where(measured, codes - shift, 1), 0).astype(np.float32)


def _rows(message: Any, kind: str, *, channels: int, file: Path, topic: str, frame: int) -> np.ndarray:
    """Pixels [h w c] without the padding of the rows."""
    kind = (">" if message.is_bigendian else "<") + kind
    width = message.width * channels * np.dtype(kind).itemsize
    data = np.frombuffer(bytes(message.data), np.uint8)
    if message.step < width or len(data) < message.step * message.height:
        found, expected = f"{len(data)} bytes, rows of {message.step}", f"{message.height} rows of {width}"
        where = {"file": file, "field": topic, "frame": frame}
        raise DataFormatError("an image has too little data", **where, found=found, expected=expected)
    rows = data[: message.step * message.height].reshape(message.height, message.step)[:, :width]
    return np.ascontiguousarray(rows).view(kind).reshape(message.height, message.width, channels)

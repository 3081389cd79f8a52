"""Packed chunks, messages and files of ROS, unpacked within bounds."""

from __future__ import annotations

import bz2
import contextlib
import functools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scene4d.disk_errors import writing
from scene4d.errors import DataFormatError, ResourceError, Scene4DError
from scene4d.extras import optional
from scene4d.files import require_regular

MAX_UNPACKED = 1 << 27  # bytes of one chunk or message
MAX_RATIO = 1000  # of a file to what it unpacks to
ZSTD = b"\x28\xb5\x2f\xfd"
_WHAT = "reading packed bags of ROS"
_FOLDERS: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


@contextlib.contextmanager
def named_damage(path: Path, *, fix: str) -> Iterator[None]:
    """What libraries raise of a damaged file, as DataFormatError."""
    try:
        yield
    except (Scene4DError, MemoryError):
        raise
    except Exception as error:  # they raise what the bytes make them raise
        found = f"{type(error).__name__}: {error}"[:100]
        raise DataFormatError("is damaged or cut short", file=path, found=found, fix=fix) from error


def from_bz2(data: bytes) -> bytes:
    """What a chunk of ROS 1 holds. Raises ValueError: too much, or cut short."""
    unpack = bz2.BZ2Decompressor()
    return _limited(unpack.decompress(data, MAX_UNPACKED + 1), whole=unpack.eof)


def from_lz4(data: bytes) -> bytes:
    """As `from_bz2`."""
    unpack = optional("lz4.frame", extra="rosbag", what=_WHAT).LZ4FrameDecompressor()
    return _limited(unpack.decompress(data, max_length=MAX_UNPACKED + 1), whole=unpack.eof)


def message_unpacked(data: bytes) -> bytes:
    """A message of ROS 2 that may be packed on its own; the same where it is not. Raises ValueError as `from_bz2`."""
    if not data.startswith(ZSTD):
        return data
    unpack = _zstd().ZstdDecompressor()
    return _limited(unpack.decompress(data, MAX_UNPACKED + 1), whole=unpack.eof)


def _limited(data: bytes, *, whole: bool) -> bytes:
    if len(data) > MAX_UNPACKED:
        raise ValueError(f"a chunk unpacks to more than {MAX_UNPACKED} bytes")
    if not whole:
        raise ValueError("a packed chunk is cut short")
    return data


def _zstd() -> Any:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return optional(name, extra="rosbag", what=_WHAT)


@functools.lru_cache(maxsize=32)
def file_unpacked(path: Path, *, changed: int) -> Path:
    """A packed file unpacked into a folder that goes with this process; `changed` tells versions of it apart.

    Raises:
        DataFormatError: damaged. ResourceError: it is far larger than it looks, or there is no room.
    """
    limit, done = MAX_RATIO * require_regular(path).st_size, 0
    folder = tempfile.TemporaryDirectory(prefix="scene4d-bag-")
    _FOLDERS.append(folder)
    target = Path(folder.name, path.name.removesuffix(".zstd"))
    packed = _zstd().open(path, "rb")
    with named_damage(path, fix="copy it again"), packed, writing(target), target.open("wb") as file:
        while part := packed.read(1 << 20):
            done += len(part)
            if done > limit:
                raise ResourceError("unpacks to far more than it is", file=path, expected=f"<= {limit} bytes")
            file.write(part)
    return target

""".spz files of Niantic: versions 1 to 3, packed with gzip, and 4, packed with Zstandard in streams."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from scene4d.errors import DataFormatError, SecurityError, VersionError
from scene4d.gaussians.formats.splat_axes import SYSTEMS, in_ply_axes
from scene4d.gaussians.formats.splat_notes import (
    Splats,
    antialiased_note,
    check_size,
    checked_splats,
    read_whole,
)
from scene4d.ledger import LeftOut
from scene4d.types import Gaussians

MAGIC, GZIP = b"NGSP", b"\x1f\x8b"
HEAD = struct.Struct("<4sIIBBBB")  # magic, version, count, SH degree, bits below the point, flags, streams (4)
MOST_RATIO = 1032
"""Bytes that deflate makes of one at most; of Zstandard, the bound that SPZ's own reader has."""
BASES = (0, 3, 8, 15, 24)
"""SH bases beside the first, by degree."""
KEPT_BASES = 15
ANTIALIASED, HAS_EXTENSIONS = 1, 2
SAFE_ORBIT, AXES = 0xADBE0002, 0xADBE0003
MAX_EXTENSIONS = 1 << 20
COLOUR_SCALE = 0.15
FIX = "copy or export it again"


@dataclass(frozen=True)
class _Head:
    version: int
    count: int
    degree: int
    fraction: int
    flags: int
    streams: int

    def widths(self) -> dict[str, int]:
        """Bytes a splat of each part, in file order."""
        widths = {"means": 6 if self.version == 1 else 9, "opacities": 1, "colours": 3, "scales": 3}
        return widths | {"quats": 4 if self.version >= 3 else 3, "sh": 3 * BASES[self.degree]}


def read_spz(path: str | os.PathLike, *, strict: bool = False) -> Splats:
    """Splats [n] of a .spz, SH up to degree 3 (what a fourth degree adds is left out, and named).

    The format's axes are x right, y up, z back, or those that an extension names; they are turned into those of .ply
    files (x right, y down, z front), so that a .spz and the .ply it was made of are the same splats.

    Raises:
        DataFormatError: truncated, damaged or larger than 2 GiB. VersionError: another version. SecurityError: more
        comes out of it than a file of its size can hold. GaussianError: `strict` and a value is impossible.
    Source: nianticlabs/spz, README.md and load-spz.cc.
    """
    path = Path(path)
    data = read_whole(path, what="a .spz")
    head, parts, extensions = (_from_gzip if data.startswith(GZIP) else _from_streams)(data, path=path)
    gaussians = _gaussians(head, parts)
    system, notes = _extensions(extensions, path=path)
    reason = "turned into the axes of .ply files, right, down, front; upside down if its writer did not turn them"
    notes.append(LeftOut("axes", "means", (system,), reason, lost=False))
    if head.flags & ANTIALIASED:
        notes.append(antialiased_note(("flag",)))
    if BASES[head.degree] > KEPT_BASES:
        reason = "SH of degree 4: left out, the first three degrees are read"
        notes.append(LeftOut("sh_degree", "sh", ("degree 4",), reason, "export it with SH degree 3"))
    gaussians = in_ply_axes(gaussians, system)
    return checked_splats(gaussians, form=f"SPZ {head.version}", file=path, strict=strict, notes=tuple(notes))


def _head(data: bytes, *, versions: range, path: Path) -> _Head:
    if len(data) < HEAD.size or not data.startswith(MAGIC):
        raise DataFormatError("is no .spz", file=path, field="header", found=repr(data[:4]), fix="check the path")
    _, version, count, degree, fraction, flags, streams = HEAD.unpack_from(data)
    if version not in versions:
        expected = f"{versions.start} to {versions.stop - 1} packed so"
        raise VersionError("is of a version that is not read", file=path, found=version, expected=expected, fix=FIX)
    if degree >= len(BASES) or fraction > 30:
        found = f"SH degree {degree}, {fraction} bits below the point"
        raise DataFormatError("has an impossible header", file=path, field="header", found=found, fix=FIX)
    return _Head(version, count, degree, fraction, flags, streams)


def _check_claim(size: int, *, data: bytes, path: Path) -> None:
    """Refuse what a file of this size cannot hold, before anything is unpacked."""
    check_size(size, path=path, what="what is packed in it")
    if size > MOST_RATIO * len(data):
        found, expected = f"{size} bytes in {len(data)}", f"<= {MOST_RATIO} times"
        raise SecurityError("claims more than it can hold", file=path, field="count", found=found, expected=expected)


def _from_gzip(data: bytes, *, path: Path) -> tuple[_Head, dict[str, np.ndarray], bytes]:
    """Versions 1 to 3: one gzip stream of header, parts and extensions."""
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        head = _head(unpacker.decompress(data, HEAD.size), versions=range(1, 4), path=path)
        size = head.count * sum(head.widths().values())
        _check_claim(size, data=data, path=path)
        slack = MAX_EXTENSIONS if head.flags & HAS_EXTENSIONS else 1
        body = unpacker.decompress(unpacker.unconsumed_tail, size + slack)
    except zlib.error as error:
        raise DataFormatError("is damaged", file=path, found=str(error)[:80], fix=FIX) from error
    if len(body) < size or (len(body) < size + slack and not unpacker.eof):
        found, expected = f"{len(body)} bytes", f"{size} bytes for {head.count} splats"
        raise DataFormatError("is truncated", file=path, field="count", found=found, expected=expected, fix=FIX)
    if len(body) == size + slack:
        problem = "holds more than its header declares"
        raise SecurityError(problem, file=path, field="count", expected=f"{size} bytes for {head.count} splats")
    parts, at = {}, 0
    for name, width in head.widths().items():
        parts[name] = np.frombuffer(body, np.uint8, head.count * width, at).reshape(head.count, width)
        at += head.count * width
    return head, parts, body[size:]


def _from_streams(data: bytes, *, path: Path) -> tuple[_Head, dict[str, np.ndarray], bytes]:
    """Version 4: a plain header, extensions, a table of lengths, and a Zstandard stream for each part."""
    head = _head(data, versions=range(4, 5), path=path)
    widths = {name: width for name, width in head.widths().items() if width * head.count}
    start = int.from_bytes(data[16:20], "little")
    end = start + 16 * head.streams
    if len(data) < 32 or head.streams != len(widths) or not 32 <= start <= end <= len(data):
        found, expected = f"{head.streams} streams listed at byte {start}", f"{len(widths)} streams"
        raise DataFormatError("has an impossible header", file=path, field="header", found=found, expected=expected)
    _check_claim(head.count * sum(widths.values()), data=data, path=path)
    lengths = np.frombuffer(data, "<u8", 2 * head.streams, start).reshape(-1, 2).tolist()
    parts = {
        name: np.zeros((head.count, width), np.uint8) for name, width in head.widths().items() if name not in widths
    }
    at = end
    for (name, width), (packed, unpacked) in zip(widths.items(), lengths, strict=True):
        size = head.count * width
        where = {"file": path, "field": name, "fix": FIX}
        if unpacked != size or packed > len(data) - at:
            found, expected = f"{packed} bytes that hold {unpacked}", f"{size} for {head.count} splats"
            raise DataFormatError("is truncated or damaged", found=found, expected=expected, **where)
        try:
            plain = pa.Codec("zstd").decompress(data[at : at + packed], size, asbytes=True)
        except (OSError, pa.ArrowException) as error:
            raise DataFormatError("is damaged", found=str(error)[:80], **where) from error
        parts[name] = np.frombuffer(plain, np.uint8).reshape(head.count, width)
        at += packed
    return head, parts, data[32:start] if head.flags & HAS_EXTENSIONS else b""


def _gaussians(head: _Head, parts: dict[str, np.ndarray]) -> Gaussians:
    """The numbers of the parts, in the axes of the file."""
    if head.version == 1:
        means = parts["means"].copy().view("<f2").astype(np.float32)
    else:
        low, middle, high = np.moveaxis(parts["means"].reshape(-1, 3, 3).astype(np.int32), -1, 0)
        whole = low | middle << 8 | high << 16
        means = (whole - ((whole & 0x800000) << 1)).astype(np.float32) / np.float32(1 << head.fraction)
    scales = np.exp(parts["scales"].astype(np.float32) / 16 - 10)
    dc = (parts["colours"].astype(np.float32) / 255 - 0.5) / COLOUR_SCALE
    rest = parts["sh"].reshape(head.count, BASES[head.degree], 3)[:, :KEPT_BASES]
    sh = np.concatenate([dc[:, None], (rest.astype(np.float32) - 128) / 128], 1)
    quats = _smallest_three(parts["quats"]) if head.version >= 3 else _first_three(parts["quats"])
    opacities = parts["opacities"][:, 0].astype(np.float32) / 255
    means, quats, scales, opacities, sh = (torch.from_numpy(x) for x in (means, quats, scales, opacities, sh))
    return Gaussians(means=means, quats=quats, scales=scales, opacities=opacities, sh=sh)


def _first_three(stored: np.ndarray) -> np.ndarray:
    """Quaternions [n 4] w x y z of bytes x y z [n 3]; w is what is left of the length."""
    vector = stored.astype(np.float32) / 127.5 - 1
    real = np.sqrt(np.maximum(0, 1 - (vector**2).sum(1, keepdims=True)))
    return np.concatenate([real, vector], 1)


def _smallest_three(stored: np.ndarray) -> np.ndarray:
    """Quaternions [n 4] w x y z of words [n 4 bytes]: two bits name the largest of x y z w, each other one has a sign
    and nine bits, the last in the lowest."""
    words = stored.copy().view("<u4")[:, 0]
    largest = words >> 30
    quats = np.zeros((len(words), 4), np.float32)  # x y z w
    for i in (3, 2, 1, 0):
        here = largest != i
        size = (words & 511).astype(np.float32) * np.float32(np.sqrt(0.5) / 511)
        quats[:, i] = np.where(here, np.where(words >> 9 & 1, -size, size), 0)
        words = np.where(here, words >> 10, words)
    rest = np.sqrt(np.maximum(0, 1 - (quats**2).sum(1, keepdims=True)))
    np.put_along_axis(quats, largest[:, None].astype(np.int64), rest, 1)
    return quats[:, [3, 0, 1, 2]]


def _extensions(data: bytes, *, path: Path) -> tuple[str, list[LeftOut]]:
    """The axes of the file, and notes on what extensions say."""
    system, notes, at = "RUB", [], 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at) if at + 8 <= len(data) else (0, len(data))
        value = data[at + 8 : at + 8 + length]
        if len(value) < length:
            raise DataFormatError("has a damaged extension", file=path, field="extensions", found=hex(kind), fix=FIX)
        if kind == AXES:
            number = int.from_bytes(value[:4], "little") if length == 4 else 0
            if not 1 <= number <= len(SYSTEMS):
                found, expected = number, f"1 to {len(SYSTEMS)}"
                raise DataFormatError("names no axes", file=path, field="extensions", found=found, expected=expected)
            system = SYSTEMS[number - 1]
        else:
            known = kind == SAFE_ORBIT
            name, reason = ("camera limits", "not read") if known else (hex(kind), "unknown extension: not read")
            notes.append(LeftOut("extensions", "extensions", (name,), reason, lost=not known))
        at += 8 + length
    return system, notes

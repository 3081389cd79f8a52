""".ksplat files of GaussianSplats3D, version 0.1: sections of splats in three grades of packing."""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scene4d.errors import DataFormatError, VersionError
from scene4d.gaussians.edit import with_sh_bases
from scene4d.gaussians.formats.splat_notes import Splats, checked_splats, read_whole
from scene4d.geometry.sh import sh_from_rgb
from scene4d.ledger import LeftOut
from scene4d.types import Gaussians

HEADER, SECTION_HEADER = 4096, 1024
DEFAULT_LIMIT = 1.5
"""Of SH in bytes, where the file names none."""
CENTRES = {0: "<f4", 1: "<u2", 2: "<u2"}
NUMBERS = {0: "<f4", 1: "<f2", 2: "<f2"}
HARMONICS = {0: "<f4", 1: "<f2", 2: "u1"}
BANDS = ((), (3,), (3, 5), (3, 5, 7))
"""SH bases of each band, by degree."""
FIX = "copy or export it again"


@dataclass(frozen=True)
class _Head:
    sections: int
    count: int
    level: int
    low: float
    high: float
    """Limits of SH in bytes."""


@dataclass(frozen=True)
class _Section:
    index: int
    count: int
    room: int
    """Splats that there is space for."""
    bucket_size: int
    buckets: int
    block: float
    """Edge in m of the cube that a bucket's splats lie in."""
    bucket_bytes: int
    scale_range: int
    full: int
    partial: int
    degree: int

    def row(self, level: int) -> np.dtype:
        """How a splat lies in the file."""
        columns = [("centre", CENTRES[level], 3), ("scale", NUMBERS[level], 3), ("quat", NUMBERS[level], 4)]
        columns += [("rgba", "u1", 4), ("sh", HARMONICS[level], 3 * sum(BANDS[self.degree]))]
        return np.dtype([(name, kind, (width,)) for name, kind, width in columns])

    def size(self, level: int) -> int:
        """Bytes of its buckets and splats."""
        return self.partial * 4 + self.bucket_bytes * self.buckets + self.room * self.row(level).itemsize


def read_ksplat(path: str | os.PathLike, *, strict: bool = False) -> Splats:
    """Splats [n] of a .ksplat: packed not at all (0), in half precision (1), or with SH in bytes (2).

    Axes are as in the file, which its writers take from the .ply or .splat it was made of.

    Raises:
        DataFormatError: truncated, larger than 2 GiB, or sections that contradict one another. VersionError: another
        version. GaussianError: `strict` and a value is impossible.
    Source: mkkellogg/GaussianSplats3D, SplatBuffer.js.
    """
    path = Path(path)
    data = read_whole(path, what="a .ksplat")
    head = _head(data, path=path)
    sections = [_section(data, index, level=head.level, path=path) for index in range(head.sections)]
    counts = (sum(s.count for s in sections), head.count)
    if counts[0] != counts[1]:
        found, expected = f"{counts[0]} splats in {len(sections)} sections", f"{counts[1]}"
        raise DataFormatError("contradicts itself", file=path, field="count", found=found, expected=expected, fix=FIX)
    at, sets = HEADER + SECTION_HEADER * head.sections, []
    for section in sections:
        end = at + section.size(head.level)
        if end > len(data):
            found, expected = f"{len(data)} bytes", f"{end} for section {section.index}"
            raise DataFormatError("is truncated", file=path, field="size", found=found, expected=expected, fix=FIX)
        sets.append(_gaussians(data, at, head=head, section=section, path=path))
        at = end
    empty = tuple(f"section {s.index}: {s.room - s.count}" for s in sections if s.room > s.count)
    reason = "rows that were never filled: a half-loaded scene was saved"
    note = LeftOut("unfilled", "splats", empty, reason, "convert the whole scene again")
    return checked_splats(_joined(sets), form=".ksplat", file=path, strict=strict, notes=(note,))


def _joined(sets: list[Gaussians]) -> Gaussians:
    """All sections in one; SH of a lower degree is filled up with zeros."""
    num_bases = max(g.sh.shape[1] for g in sets)
    names = ("means", "quats", "scales", "opacities")
    means, quats, scales, opacities = (torch.cat([getattr(g, name) for g in sets]) for name in names)
    sh = torch.cat([with_sh_bases(g.sh, num_bases) for g in sets])
    return Gaussians(means=means, quats=quats, scales=scales, opacities=opacities, sh=sh)


def _head(data: bytes, *, path: Path) -> _Head:
    if len(data) < HEADER:
        found, expected = f"{len(data)} bytes", f"at least {HEADER}"
        raise DataFormatError("is no .ksplat", file=path, field="header", found=found, expected=expected, fix=FIX)
    if data[0] != 0 or data[1] < 1:
        found = f"{data[0]}.{data[1]}"
        raise VersionError("is of a version that is not read", file=path, found=found, expected="0.1", fix=FIX)
    sections, _, _, count, level = struct.unpack_from("<IIIIH", data, 4)
    low, high = struct.unpack_from("<ff", data, 36)
    most = (len(data) - HEADER) // SECTION_HEADER
    if level not in CENTRES or sections > most or not 0 < count <= len(data):
        found = f"compression level {level}, {sections} sections, {count} splats"
        expected = f"level 0 to 2, at most {most} sections, 1 splat or more"
        raise DataFormatError("has an impossible header", file=path, field="header", found=found, expected=expected)
    usable = lambda value, other: value if value and math.isfinite(value) else other  # as its own reader does
    return _Head(sections, count, level, usable(low, -DEFAULT_LIMIT), usable(high, DEFAULT_LIMIT))


def _section(data: bytes, index: int, *, level: int, path: Path) -> _Section:
    at = HEADER + SECTION_HEADER * index
    count, room, size, buckets, block, bucket_bytes = struct.unpack_from("<IIIIfH", data, at)
    scale_range, _, full, partial, degree = struct.unpack_from("<IIIIH", data, at + 24)
    packed = level > 0
    good = count <= room and degree < len(BANDS) and max(buckets, partial) <= len(data) and full + partial <= buckets
    if packed and count:
        good = good and math.isfinite(block) and bucket_bytes == 12 and full * size <= count
    if not good:
        found = f"{count} of {room} splats, {full} + {partial} of {buckets} buckets of {size}, degree {degree}"
        raise DataFormatError("has an impossible section", file=path, field=f"section {index}", found=found, fix=FIX)
    return _Section(
        index, count, room, bucket_size=size, buckets=buckets, block=block, bucket_bytes=bucket_bytes,
        scale_range=scale_range or 32767, full=full, partial=partial, degree=degree,
    )  # fmt: skip


def _gaussians(data: bytes, at: int, *, head: _Head, section: _Section, path: Path) -> Gaussians:
    start = at + section.partial * 4 + section.bucket_bytes * section.buckets
    rows = np.frombuffer(data, section.row(head.level), section.count, start)
    means = rows["centre"].astype(np.float32)
    if head.level:
        centres = np.frombuffer(data, "<f4", 3 * section.buckets, at + section.partial * 4).reshape(-1, 3)
        step = section.block / 2 / section.scale_range
        means = (means - section.scale_range) * np.float32(step) + centres[
            _buckets(data, at, section=section, path=path)
        ]
    rgba = torch.from_numpy(rows["rgba"].astype(np.float32) / 255)
    rest = rows["sh"].astype(np.float32)
    if head.level == 2:
        rest = head.low + rest / 255 * (head.high - head.low)
    parts, place = [sh_from_rgb(rgba[:, :3])], 0
    for width in BANDS[section.degree]:  # each band is channel-major
        band = torch.from_numpy(rest[:, place : place + 3 * width].astype(np.float32))
        parts.append(band.unflatten(1, (3, width)).transpose(1, 2))
        place += 3 * width
    scales, quats = (torch.from_numpy(rows[name].astype(np.float32)) for name in ("scale", "quat"))
    return Gaussians(
        means=torch.from_numpy(means), quats=quats, scales=scales, opacities=rgba[:, 3], sh=torch.cat(parts, 1)
    )


def _buckets(data: bytes, at: int, *, section: _Section, path: Path) -> np.ndarray:
    """The bucket [n] of each splat: the full ones first, then those of the lengths that the section lists."""
    lengths = np.frombuffer(data, "<u4", section.partial, at).astype(np.int64)
    filled = np.repeat(np.arange(section.full), section.bucket_size)
    rest = section.count - len(filled)
    if lengths.max(initial=0) > section.room or lengths.sum() < rest:
        found, expected = f"{int(lengths.sum())} splats in {section.partial} buckets", f"{rest}"
        where = {"file": path, "field": f"section {section.index}", "fix": FIX}
        raise DataFormatError("has buckets that do not hold its splats", found=found, expected=expected, **where)
    ends = np.cumsum(lengths)
    return np.concatenate([filled, section.full + np.searchsorted(ends, np.arange(rest), side="right")])

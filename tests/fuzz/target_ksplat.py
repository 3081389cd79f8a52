"""Splats as .ksplat in every grade of packing."""

from __future__ import annotations

from pathlib import Path

from splat_writers import cloud, ksplat_file
from target_ply import check_finite

from scene4d.gaussians.formats.ksplat import HEADER, SECTION_HEADER, read_ksplat

SUFFIX = ".ksplat"
USED = (48, 48)
"""Bytes of the headers that mean something; the rest is left out of the files that are damaged."""


def golden() -> list[bytes]:
    """Levels 0 to 2, one section and two, without the empty rest of their headers."""
    files = [ksplat_file(cloud(4, bases=b), level=v, sections=s) for v, b, s in ((0, 3, 1), (1, 8, 2), (2, 3, 1))]
    return [_short(data, sections=s) for data, s in zip(files, (1, 2, 1), strict=True)]


def _short(data: bytes, *, sections: int) -> bytes:
    heads = [data[HEADER + SECTION_HEADER * i :][: USED[1]] for i in range(sections)]
    return bytes([sections]) + data[: USED[0]] + b"".join(heads) + data[HEADER + SECTION_HEADER * sections :]


def mended(data: bytes) -> bytes:
    """There are no sums."""
    return data


def read(path: Path) -> None:
    """The file with its headers filled up, as splats that are then finite."""
    data = path.read_bytes()
    sections = data[0] % 4 if data else 0
    head = data[1 : 1 + USED[0]].ljust(HEADER, b"\0")
    rest = data[1 + USED[0] :]
    heads = [rest[USED[1] * i : USED[1] * (i + 1)].ljust(SECTION_HEADER, b"\0") for i in range(sections)]
    path.write_bytes(head + b"".join(heads) + rest[USED[1] * sections :])
    check_finite(read_ksplat(path).gaussians)

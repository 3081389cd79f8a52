"""Splats as .spz: gzip of versions 1 to 3, streams of version 4; sums of the gzip stream are made to fit."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from splat_writers import cloud, spz_extension, spz_file
from target_ply import check_finite

from scene4d.gaussians.formats.spz import read_spz

SUFFIX = ".spz"


def golden() -> list[bytes]:
    """Every version, with and without SH and extensions; stored in the gzip stream, so that damage reaches it."""
    extension = spz_extension(0xADBE0003, (7).to_bytes(4, "little"))
    made = [spz_file(cloud(3, bases=b), version=v) for v, b in ((1, 0), (2, 3), (3, 15))]
    made = [gzip.compress(gzip.decompress(data), 0, mtime=0) for data in made]
    return [*made, spz_file(cloud(3, bases=8), version=4), spz_file(cloud(3), version=4, extensions=extension)]


def mended(data: bytes) -> bytes:
    """The gzip stream with a sum that fits what comes out of it."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        body = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[10:], 1 << 20)
    except zlib.error:
        return data
    return gzip.compress(body, 0, mtime=0)


def read(path: Path) -> None:
    """Splats that are then finite."""
    check_finite(read_spz(path).gaussians)

"""Splats as .sog of both versions, with damage inside the members: the zip's sums are made to fit."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from splat_writers import cloud, sog_members, zipped
from target_ply import check_finite

from scene4d.gaussians.formats.sog import read_sog

SUFFIX = ".sog"


def golden() -> list[bytes]:
    """Both versions, with and without SH."""
    return [zipped(sog_members(cloud(20, bases=b), version=v, palette=8)) for v, b in ((1, 0), (1, 3), (2, 0), (2, 3))]


def mended(data: bytes) -> bytes:
    """The members as they are now, in a new archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {}
            for entry in archive.infolist()[:64]:
                start = entry.header_offset + 30 + len(entry.filename)
                members[entry.filename] = data[start : start + min(entry.file_size, 1 << 20)]
        return zipped(members)
    except Exception:
        return data  # too far gone: as it is, then


def read(path: Path) -> None:
    """Splats that are then finite."""
    check_finite(read_sog(path).gaussians)

"""Splats as .splat: 32 bytes each."""

from __future__ import annotations

from pathlib import Path

from splat_writers import cloud, splat_file
from target_ply import check_finite

from scene4d.gaussians.formats.splat_rows import read_splat

SUFFIX = ".splat"


def golden() -> list[bytes]:
    """One splat, and fifty."""
    return [splat_file(cloud(1)), splat_file(cloud(50))]


def mended(data: bytes) -> bytes:
    """There are no sums; what is left over of a row is cut off."""
    return data[: len(data) // 32 * 32]


def read(path: Path) -> None:
    """Splats that are then finite."""
    check_finite(read_splat(path).gaussians)

"""EXR, the float depth of renderers and phones."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from scene4d.data.video.depth_files import depth_size, read_depth

SUFFIX = ".exr"
COMPRESSIONS = ("NO_COMPRESSION", "RLE_COMPRESSION", "ZIP_COMPRESSION", "PIZ_COMPRESSION", "PXR24_COMPRESSION")


def golden() -> list[bytes]:
    """One channel of floats in each of some compressions."""
    import OpenEXR

    depth = np.linspace(0.5, 3, 24 * 32, dtype=np.float32).reshape(24, 32)
    files = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "depth.exr")
        for name in COMPRESSIONS:
            header = {"compression": getattr(OpenEXR, name), "type": OpenEXR.scanlineimage}
            OpenEXR.File(header, {"Z": depth.astype(np.float16 if name[0] == "R" else np.float32)}).write(str(path))
            files.append(path.read_bytes())
    return files


def mended(data: bytes) -> bytes:
    """EXR has no checksums."""
    return data


def read(path: Path) -> None:
    """The depth, whose size is then that of its header."""
    assert read_depth(path, unit=1e-3).shape[::-1] == depth_size(path)

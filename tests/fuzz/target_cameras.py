"""cameras.json, the calibration beside recordings that have none of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from scene4d.data.cameras.sidecar import find_cameras

SUFFIX = ".json"
SIZES = {"front": (64, 48), "wrist": (32, 32)}
POSE = [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]]


def golden() -> list[bytes]:
    """A pinhole that stands still, and one with a lens and depth."""
    K = [[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]
    still = {"rgb": "front", "K": K, "viewmat": POSE, "width": 64, "height": 48}
    lens = {**still, "distortion": [0.01, -0.002, 0.0, 0.0], "lens": "opencv", "depth": "front_depth"}
    return [json.dumps({"cameras": {"front": entry}}).encode() for entry in (still, lens)]


def mended(data: bytes) -> bytes:
    """JSON has no checksums."""
    return data


def read(path: Path) -> None:
    """The entries, whose numbers are then finite."""
    entries, _ = find_cameras([path], sizes=SIZES, columns=["front_depth"])
    for entry in entries.values():
        for value in vars(entry).values():
            assert not isinstance(value, np.ndarray) or np.isfinite(value).all()

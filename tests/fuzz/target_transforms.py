"""transforms.json of posed pictures, beside four small ones."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from scene4d.data.formats.posed.transforms import open_transforms

SUFFIX = ".json"
POSE = [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]]


def golden() -> list[bytes]:
    """nerfstudio's K with distortion, Blender's angle, times of D-NeRF."""
    frames = [{"file_path": f"images/{i}.png", "transform_matrix": POSE} for i in range(3)]
    lens = {"fl_x": 20.0, "fl_y": 20.0, "cx": 8.0, "cy": 6.0, "w": 16, "h": 12, "k1": 0.01, "camera_model": "OPENCV"}
    timed = [{**frame, "time": 0.5 * i} for i, frame in enumerate(frames)]
    files = [{**lens, "frames": frames}, {"camera_angle_x": 0.8, "frames": frames}]
    return [json.dumps(f).encode() for f in [*files, {"camera_angle_x": 0.8, "frames": timed}]]


def mended(data: bytes) -> bytes:
    """JSON has no checksums."""
    return data


@functools.cache
def _folder() -> Path:
    """Pictures for the file to name; made once a process, removed with it."""
    folder = tempfile.TemporaryDirectory()
    (Path(folder.name) / "images").mkdir()
    for i in range(3):
        Image.fromarray(np.full((12, 16, 3), 60 * i, np.uint8)).save(Path(folder.name) / "images" / f"{i}.png")
    _folder.keep = folder
    return Path(folder.name)


def read(path: Path) -> None:
    """Metadata, and the first two pictures of each recording."""
    (_folder() / "transforms.json").write_bytes(path.read_bytes())
    for recording in open_transforms(_folder()):
        json.dumps(dict(recording.info), allow_nan=False)
        episode = recording.read(0, min(2, recording.num_frames))
        for frames in episode.views.values():
            assert bool(frames.cameras.viewmats.isfinite().all() and frames.cameras.Ks.isfinite().all())

"""A recording as a folder that nerfstudio reads: pictures, depth, masks and transforms.json, one frame a picture.

Poses are camera-to-world with OpenGL axes, in the world of the recording (metres, z up); depth is 16-bit PNG in mm.
Lenses are removed by reading, so every camera is a pinhole. scene4d reads the folder back as a rig of cameras.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scene4d.data.cameras.calibration import CV_FROM_GL
from scene4d.data.timeline.stretches import read_in_stretches
from scene4d.data.video.depth_codec import encode_depth
from scene4d.data.video.images import chosen_cameras
from scene4d.errors import DataFormatError
from scene4d.files import atomic_folder
from scene4d.types import Frames, Recording

TRANSFORMS = "transforms.json"
MILLIMETRE, MAX_DEPTH = 1e-3, 65.535  # m a step, and the most that 16 bits of them hold


def write_nerfstudio(
    path: str | os.PathLike,
    recording: Recording,
    *,
    cameras: Sequence[str] | None = None,
    every: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write every `every`-th frame of the named cameras (all by default); the folder appears when all is written.

    Frames without a pose are left out. Depth beyond 65.535 m is written as not measured.

    Returns:
        {"path", "frames", "depth": whether every picture has depth, "masks": whether there are masks}.
    Raises:
        DataFormatError: no frame has a pose. ResourceError: the folder exists already. What the recording raises.
    """
    names = chosen_cameras(recording.cameras, cameras, path=str(recording.path))
    folders, total = _folders(names), len(names) * -(-recording.num_frames // every)
    rows: list[dict[str, Any]] = []
    done = 0
    with atomic_folder(path) as root:
        for name in names:
            index = 0
            for episode in read_in_stretches(recording, cameras=[name], stride=every):
                for k in range(len(episode.times)):
                    if episode.valid[k]:
                        frames = episode.views[name][k]
                        row = _write_frame(root, frames, camera=folders[name], index=index + k * every)
                        rows.append({**row, "time": float(episode.times[k])})
                index, done = index + len(episode.times) * every, done + len(episode.times)
                if progress is not None:
                    progress(done, total)
        if not rows:
            raise DataFormatError("no frame has a pose", file=recording.path, field="frames")
        masked = any("mask_path" in row for row in rows)
        for row in rows if masked else ():  # nerfstudio takes masks of all pictures or of none
            if "mask_path" not in row:
                row["mask_path"] = row["file_path"].replace("images/", "masks/", 1)
                _save(_place(root, row["mask_path"]), np.full((row["h"], row["w"]), 255, np.uint8))
        table = {"camera_model": "OPENCV", "integer_depth_scale": MILLIMETRE, "frames": rows}
        (root / TRANSFORMS).write_text(json.dumps(table, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    depth = all("depth_file_path" in row for row in rows)
    return {"path": str(path), "frames": len(rows), "depth": depth, "masks": masked}


def _write_frame(root: Path, frames: Frames, *, camera: str, index: int) -> dict[str, Any]:
    """The pictures of one frame [] and its entry."""
    names = {kind: f"{kind}/{camera}/{index:06d}.png" for kind in ("images", "depth", "masks")}
    K = frames.cameras.Ks.double()
    world_from_cam = np.linalg.inv(frames.cameras.viewmats.double().numpy()) * CV_FROM_GL
    row: dict[str, Any] = {"file_path": names["images"], "transform_matrix": world_from_cam.tolist()}
    row |= {"fl_x": float(K[0, 0]), "fl_y": float(K[1, 1]), "cx": float(K[0, 2]), "cy": float(K[1, 2])}
    row |= {"w": frames.cameras.width, "h": frames.cameras.height}
    _save(_place(root, names["images"]), (frames.rgb.clamp(0, 1) * 255).round().byte().numpy())
    if frames.depth is not None:
        metres = frames.depth.numpy()
        data = encode_depth(np.where(metres <= MAX_DEPTH, metres, 0), unit=MILLIMETRE)
        _place(root, names["depth"]).write_bytes(data)
        row["depth_file_path"] = names["depth"]
    if frames.alpha is not None:
        _save(_place(root, names["masks"]), ((frames.alpha > 0.5).byte() * 255).numpy())
        row["mask_path"] = names["masks"]
    return row


def _save(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(path, compress_level=1)


def _place(root: Path, name: str) -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    return root / name


def _folders(cameras: Sequence[str]) -> dict[str, str]:
    """A folder name for each camera, as like its own as file names may be, no two alike (in any case)."""
    folders: dict[str, str] = {}
    taken: set[str] = set()
    for name in cameras:
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".") or "camera"
        tries = itertools.chain([safe], (f"{safe}-{i}" for i in itertools.count(1)))
        folders[name] = next(t for t in tries if t.lower() not in taken)
        taken.add(folders[name].lower())
    return folders

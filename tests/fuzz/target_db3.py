"""ROS 2 bags in SQLite, their messages as they are and packed."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from ros_bags import small_messages, write_bag2

from scene4d.data.formats.ros.ros_recording import open_bag

SUFFIX = ".db3"


def golden() -> list[bytes]:
    """A camera, its depth, two arms."""
    with tempfile.TemporaryDirectory() as folder:
        packing = (None, "MESSAGE")
        made = [write_bag2(Path(folder, str(p)), small_messages, compression=p) for p in packing]
        return [next(folder.glob("*.db3")).read_bytes() for folder in made]


def mended(data: bytes) -> bytes:
    """It has no checksums."""
    return data


def read(path: Path) -> None:
    """The recording, its notes and its first two frames."""
    for recording in open_bag(path):
        json.dumps(dict(recording.info), allow_nan=False)
        episode = recording.read(0, min(2, recording.num_frames))
        for frames in episode.views.values():
            assert bool(frames.cameras.viewmats.isfinite().all() and frames.cameras.Ks.isfinite().all())

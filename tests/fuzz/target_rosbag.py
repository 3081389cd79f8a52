"""ROS 1 bags, as they are and packed."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from ros_bags import small_messages, write_bag1

from scene4d.data.formats.ros.ros_recording import open_bag

SUFFIX = ".bag"


def golden() -> list[bytes]:
    """A camera, its depth, two arms; not packed, and packed in both ways."""
    with tempfile.TemporaryDirectory() as folder:
        packing = (None, "BZ2", "LZ4")
        made = [write_bag1(Path(folder, f"{p}.bag"), small_messages, compression=p) for p in packing]
        return [file.read_bytes() for file in made]


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

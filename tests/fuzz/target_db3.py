"""ROS 2 bags in SQLite, their messages as they are and packed."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from ros_bags import small_messages, write_bag2
from target_rosbag import mended, read

SUFFIX = ".db3"
__all__ = ["SUFFIX", "golden", "mended", "read"]


def golden() -> list[bytes]:
    """A camera, its depth, two arms."""
    with tempfile.TemporaryDirectory() as folder:
        packing = (None, "MESSAGE")
        made = [write_bag2(Path(folder, str(p)), small_messages, compression=p) for p in packing]
        return [next(folder.glob("*.db3")).read_bytes() for folder in made]

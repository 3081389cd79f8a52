"""What lies in a LeRobot data set and is not read: features, and files of meta/."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from scene4d.data.cameras.sidecar import CameraEntry
from scene4d.data.formats.lerobot import lerobot_layout as layout
from scene4d.data.formats.lerobot.lerobot_features import INDEX_COLUMNS
from scene4d.data.ledger import LeftOut

_META = ("info.json", "cameras.json", "stats.json", "tasks.", "episodes", "episodes.", "episodes_stats.")


def unused_parts(
    root: Path, features: Mapping[str, Any], *, cameras: Mapping[str, CameraEntry], read: Collection[str]
) -> list[LeftOut]:
    """Features that no camera names and no column is made of (`read` are those of which one is), and files of meta/."""
    named = {n for c in cameras.values() for n in (c.rgb, c.depth, c.segments, c.viewmats) if n}
    rest = [n for n in features if n not in {*read, *named, *INDEX_COLUMNS, "timestamp", "next.done"}]
    pictures = [n for n in rest if features[n].get("dtype") in ("video", "image")]
    depth = tuple(n for n in pictures if layout.is_depth_map(features[n]))
    odd = tuple(n for n in pictures if n not in depth)
    actions = tuple(n for n in rest if n.startswith("action") and "action" not in features)
    states = tuple(n for n in rest if n.startswith("observation.state") and "observation.state" not in features)
    columns = tuple(n for n in rest if n not in {*pictures, *actions, *states})
    files = sorted(p.name for p in (root / "meta").iterdir() if not p.name.startswith((*_META, ".")))
    name_it = "name it as depth of a camera in cameras.json, if it is registered to its colour"
    one = "write them as one column"
    return [
        LeftOut("depth_without_camera", "depth", depth, "no camera in cameras.json has this depth", name_it),
        LeftOut("unknown_pictures", "images", odd, "pictures without height, width and colours: left out"),
        LeftOut("columns", "actions", actions, "there is no feature action: these are not read", f"{one} action"),
        LeftOut("columns", "proprio", states, "there is no observation.state", f"{one} observation.state"),
        LeftOut("columns", "columns", columns, "neither state, action, reward nor picture: not read", lost=False),
        LeftOut("files", "meta", tuple(files), "not read", lost=False),
    ]

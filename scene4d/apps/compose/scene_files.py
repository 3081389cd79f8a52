"""Scenes to look at and to export: a .s4d, or splats of any format, which are a scene of one instant."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from scene4d.gaussians.formats.splat_files import is_splats, open_splats
from scene4d.gaussians.formats.splat_notes import Splats
from scene4d.gaussians.s4d.s4d import S4DFile, open_s4d
from scene4d.scene import Motion, Scene4D
from scene4d.types import Cameras, Gaussians


@dataclass(frozen=True)
class SceneFile:
    """A scene, the cameras stored with it (none with splats), and the file it is from: a .s4d or splats."""

    scene: Scene4D
    cameras: dict[str, Cameras] = field(default_factory=dict)
    file: S4DFile | None = None
    splats: Splats | None = None

    def facts(self) -> dict[str, Any]:
        """What a verb's result says of splats that came in: what was mended, and what was not read, or otherwise."""
        if self.splats is None:
            return {}
        return {"mended": self.splats.mended, "left_out": [note.as_dict() for note in self.splats.notes]}


def open_scene(path: Path) -> SceneFile:
    """The whole scene of a .s4d, or of splats.

    Raises:
        What `open_s4d` and `open_splats` raise.
    """
    if is_splats(path):
        splats = open_splats(path)
        return SceneFile(still_scene(splats.gaussians), splats=splats)
    file = open_s4d(path)
    return SceneFile(file.scene(), file.cameras, file=file)


def still_scene(gaussians: Gaussians) -> Scene4D:
    """A scene of one instant in which nothing moves."""
    num = gaussians.num_gaussians
    motion = Motion(
        anchors=torch.zeros(0, 3), world_from_rest=torch.zeros(1, 0, 7),
        skin_index=torch.zeros(num, 0, dtype=torch.int64), skin_weights=torch.zeros(num, 0),
    )  # fmt: skip
    return Scene4D(
        base=gaussians, motion=motion, alive=torch.zeros(num, 2), times=torch.zeros(1, dtype=torch.float64),
        observed=torch.ones(1, dtype=torch.bool),
    )  # fmt: skip

"""Lifted scenes kept on disk: a moment is lifted once, and read ever after; how to lift is the caller's business."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from scene4d.errors import ShapeError
from scene4d.files import atomic_file
from scene4d.types import Frames, Gaussians

VERSION = 1
FIELDS = ("means", "quats", "scales", "opacities", "sh", "ids")


class LiftedScenes:
    """`scenes(place, views)`: the Gaussians of one moment, lifted from `views()` unless they are in the folder.

    Several processes may share a folder: files appear whole, and the same moment gives the same file. What cannot be
    read is lifted anew.
    """

    def __init__(self, folder: str | os.PathLike, lift: Callable[[Frames], Gaussians], *, key: str):
        """Keep scenes in `folder`.

        Args:
            lift: Frames [v] -> Gaussians [n]; where workers are spawned it must be importable (no lambda).
            key: what decides the result besides the pictures (a hash of the lifting's configuration): scenes lifted
                under another key are left alone and not used.
        """
        self.folder, self.lift, self.key = Path(folder), lift, key

    def __call__(self, place: Sequence[str | int], views: Callable[[], Frames]) -> Gaussians:
        """The scene of `place`: whatever names the recording, the frame, the cameras and their size."""
        name = json.dumps([VERSION, self.key, *place])
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        path = self.folder / digest[:2] / f"{digest}.safetensors"
        found = _read(path, name=name)
        if found is None:
            found = self.lift(views())
            _write(path, found, name=name)
        return found


def _write(path: Path, scene: Gaussians, *, name: str) -> None:
    # Cloned: fields that share memory (an expanded constant) cannot be written as one file.
    plain = lambda x: x.detach().cpu().contiguous().clone()
    tensors = {field: plain(getattr(scene, field)) for field in FIELDS}
    tensors |= {f"extras.{key}": plain(x) for key, x in scene.extras.items()}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "scene4d-lifted", "place": name})


def _read(path: Path, *, name: str) -> Gaussians | None:
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("place") != name:
                return None
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        extras = {k.removeprefix("extras."): x for k, x in tensors.items() if k.startswith("extras.")}
        return Gaussians(**{field: tensors[field] for field in FIELDS}, extras=extras)
    except (OSError, SafetensorError, KeyError, ShapeError):
        return None

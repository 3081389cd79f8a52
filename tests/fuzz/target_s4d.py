"""Scenes as .s4d, with damage inside the members: their SHA-256 and the zip's own sums are made to fit."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from pathlib import Path

import torch

from scene4d.gaussians.s4d.s4d import open_s4d, write_s4d
from scene4d.scene import Motion, Scene4D
from scene4d.types import Cameras, Gaussians

SUFFIX = ".s4d"


def golden() -> list[bytes]:
    """One that moves, with everything; one without anchors or cameras."""
    n, t = 4, 2
    base = Gaussians(
        means=torch.ones(n, 3), quats=torch.eye(4), scales=torch.full((n, 3), 0.1), opacities=torch.full((n,), 0.5),
        sh=torch.ones(n, 4, 3), extras={"normals": torch.ones(n, 3)},
    )  # fmt: skip
    pose = torch.tensor([1.0, 0, 0, 0, 0.1, 0, 0])
    motion = Motion(
        anchors=torch.zeros(2, 3), world_from_rest=pose.repeat(t, 2, 1), log_var=torch.zeros(t, 2, 6),
        skin_index=torch.zeros(n, 1, dtype=torch.int64), skin_weights=torch.ones(n, 1),
    )  # fmt: skip
    still = Motion(
        anchors=torch.zeros(0, 3), world_from_rest=torch.zeros(t, 0, 7),
        skin_index=torch.zeros(n, 0, dtype=torch.int64), skin_weights=torch.zeros(n, 0),
    )  # fmt: skip
    camera = Cameras(viewmats=torch.eye(4), Ks=torch.eye(3), width=4, height=3)
    span = {"alive": torch.tensor([[0.0, 1.0]] * n), "times": torch.arange(t).double(), "observed": torch.ones(t) > 0}
    moving = Scene4D(base=base, motion=motion, residual={"means": torch.zeros(t, n, 3)}, info={"seed": 1}, **span)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.s4d"
        write_s4d(path, moving, cameras={"a": camera}, actions=torch.zeros(1, 2))
        first = path.read_bytes()
        write_s4d(path, Scene4D(base=base, motion=still, **span))
        return [first, path.read_bytes()]


def mended(data: bytes) -> bytes:
    """The members as they are now, in a new archive whose manifest and sums fit them."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {}
            for entry in archive.infolist()[:64]:
                start = entry.header_offset + 30 + len(entry.filename)
                members[entry.filename] = data[start : start + min(entry.file_size, 1 << 20)]
        manifest = json.loads(members["manifest.json"])
        for name, stored in members.items():
            if name in manifest["members"]:
                manifest["members"][name]["sha256"] = hashlib.sha256(stored).hexdigest()
        members["manifest.json"] = json.dumps(manifest).encode()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, stored in members.items():
                archive.writestr(name, stored)
    except Exception:
        return data  # too far gone: as it is, then
    return buffer.getvalue()


def read(path: Path) -> None:
    """All members, each instant, between instants, and flow."""
    file = open_s4d(path)
    assert file.cameras is not None
    assert file.actions is None or file.actions.ndim >= 1
    scene = file.scene()
    times = scene.times.flatten().tolist()
    for index in range(min(file.num_frames, 3)):
        file.frame(index)
    if times:
        scene.at(sum(times) / len(times))
        scene.flow(times[0], times[-1])

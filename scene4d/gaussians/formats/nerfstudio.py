"""nerfstudio's world and ours: where its dataparsers move a scene, and splats that `ns-export` wrote brought back.

nerfstudio trains in a world that it has turned, centred and scaled: x_nerfstudio = scale (rotation x + translation).
`dataparser_transforms.json`, beside each of its runs, tells by how much; exported splats stay in that world.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import DataFormatError
from scene4d.files import open_regular
from scene4d.gaussians.edit import transform
from scene4d.gaussians.formats.ply import read_ply
from scene4d.geometry.camera import CV_FROM_GL, invert_rigid
from scene4d.geometry.rotation import invert_pose, pose_from_matrix
from scene4d.types import Gaussians

MAX_RESIDUAL = 1e-3
FIX = "give the file of the run that made the splats: outputs/.../dataparser_transforms.json"


@dataclass(frozen=True)
class Placement:
    """How a dataparser places a world: x_nerfstudio = scale * (nerfstudio_from_world x), the matrix rigid."""

    nerfstudio_from_world: Tensor
    """[4 4] float64."""
    scale: float

    def as_dict(self) -> dict[str, Any]:
        """What dataparser_transforms.json holds."""
        return {"transform": self.nerfstudio_from_world[:3].tolist(), "scale": self.scale}


def placement_of(viewmats: Tensor) -> Placement:
    """The placement that centres cameras [n 4 4] and scales them into [-1, 1]; z stays up.

    Cameras that all stand in one place keep their scale.
    """
    centres = invert_rigid(viewmats.double())[:, :3, 3]
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = -centres.mean(0)
    reach = float((centres + matrix[:3, 3]).abs().max())
    return Placement(matrix, 1 / reach if reach > 1e-6 else 1.0)


def read_placement(path: str | os.PathLike, *, recording: str | os.PathLike | None = None) -> Placement:
    """The placement that a dataparser_transforms.json tells.

    Args:
        recording: the transforms.json that was trained on (or its folder). Where it holds "applied_transform" or
            "applied_scale", the run's file counts from the world before those; the placement counts from the world that
            its transform_matrix entries are in, which is the one scene4d reads.
    Raises:
        DataFormatError: not JSON, no rigid transform, or an impossible scale.
    """
    path = Path(path)
    table = _json(path)
    matrix, scale = _matrix(table.get("transform"), file=path, field="transform"), table.get("scale", 1.0)
    applied, applied_scale = torch.eye(4, dtype=torch.float64), 1.0
    if recording is not None:
        source = Path(recording)
        source = source / "transforms.json" if source.is_dir() else source
        known = _json(source)
        if "applied_transform" in known:
            applied = _matrix(known["applied_transform"], file=source, field="applied_transform")
        applied_scale = known.get("applied_scale", 1.0)
        _check_scale(applied_scale, file=source, field="applied_scale")
    _check_scale(scale, file=path, field="scale")
    return Placement(matrix @ invert_rigid(applied), float(scale) / float(applied_scale))


def to_nerfstudio(gaussians: Gaussians, placement: Placement) -> Gaussians:
    """Splats of our world in nerfstudio's."""
    pose = pose_from_matrix(placement.nerfstudio_from_world).to(gaussians.means.dtype)
    return _scaled(transform(gaussians, pose), placement.scale)


def from_nerfstudio(gaussians: Gaussians, placement: Placement) -> Gaussians:
    """Splats of nerfstudio's world in ours: positions, rotations, sizes, and the directions of their colour."""
    pose = invert_pose(pose_from_matrix(placement.nerfstudio_from_world)).to(gaussians.means.dtype)
    return transform(_scaled(gaussians, 1 / placement.scale), pose)


def read_nerfstudio_splats(
    path: str | os.PathLike,
    *,
    transforms: str | os.PathLike,
    recording: str | os.PathLike | None = None,
    strict: bool = False,
) -> Gaussians:
    """The .ply of `ns-export gaussian-splat`, in the world of the recording that was trained on.

    Args:
        transforms: the run's dataparser_transforms.json.
        recording: see `read_placement`.
    Raises:
        What `read_ply` and `read_placement` raise.
    """
    placement = read_placement(transforms, recording=recording)
    return from_nerfstudio(read_ply(path, strict=strict), placement)


def cameras_to_nerfstudio(viewmats: Tensor, placement: Placement) -> Tensor:
    """nerfstudio's camera_to_worlds [n 3 4] (OpenGL axes) of our viewmats [n 4 4]."""
    world_from_cam = invert_rigid(viewmats.double())
    placed = placement.nerfstudio_from_world @ world_from_cam
    placed = placed * placed.new_tensor([*CV_FROM_GL, 1.0])
    return torch.cat([placed[:, :3, :3], placement.scale * placed[:, :3, 3:]], -1).float()


def cameras_from_nerfstudio(camera_to_worlds: Tensor, placement: Placement) -> Tensor:
    """Our viewmats [n 4 4] of nerfstudio's camera_to_worlds [n 3 4]."""
    c = camera_to_worlds.double()
    bottom = c.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(c), 1, 4)
    placed = torch.cat([torch.cat([c[:, :, :3], c[:, :, 3:] / placement.scale], -1), bottom], 1)
    world_from_cam = invert_rigid(placement.nerfstudio_from_world) @ (placed * c.new_tensor([*CV_FROM_GL, 1.0]))
    return invert_rigid(world_from_cam).float()


def _scaled(gaussians: Gaussians, factor: float) -> Gaussians:
    return gaussians.replace(means=gaussians.means * factor, scales=gaussians.scales * factor)


def _json(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            table = json.loads(file.read().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataFormatError("cannot be read as JSON", file=path, found=str(error)[:80], fix=FIX) from error
    if not isinstance(table, dict):
        raise DataFormatError("is no JSON object", file=path, found=type(table).__name__, fix=FIX)
    return table


def _matrix(value: Any, *, file: Path, field: str) -> Tensor:
    """A rigid [4 4] float64 of 3 or 4 rows of 4 numbers."""
    where = {"file": file, "field": field, "expected": "3 rows of 4 numbers, a rotation and a translation", "fix": FIX}
    try:
        rows = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DataFormatError("is no matrix", found=str(value)[:80], **where) from error
    if rows.shape not in ((3, 4), (4, 4)) or not bool(rows.isfinite().all()):
        raise DataFormatError("is no matrix", found=str(value)[:80], **where)
    matrix = torch.cat([rows[:3], rows.new_tensor([[0.0, 0.0, 0.0, 1.0]])])
    turn = matrix[:3, :3]
    residual = float((turn @ turn.T - torch.eye(3, dtype=torch.float64)).abs().max())
    if not (residual <= MAX_RESIDUAL and float(torch.linalg.det(turn)) > 0):
        found = f"det {float(torch.linalg.det(turn)):.4f}, residual {residual:.2g}"
        raise DataFormatError("is no rigid motion", found=found, **where)
    u, _, vt = torch.linalg.svd(turn)
    matrix[:3, :3] = u @ vt
    return matrix


def _check_scale(value: Any, *, file: Path, field: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 < value < math.inf):
        raise DataFormatError("is no scale", file=file, field=field, found=str(value)[:40], expected="> 0", fix=FIX)

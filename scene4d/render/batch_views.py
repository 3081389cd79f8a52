"""Between nouns and rasterizers: any batch axes to [b n] and [b v] and back, extras as columns, images as Frames."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scene4d.errors import DataFormatError, ShapeError
from scene4d.geometry.rotation import matrix_from_quat, normalize_quat
from scene4d.native.ops import Raster
from scene4d.types import Cameras, Frames, Gaussians

FIELDS = ("means", "quats", "scales", "opacities", "sh")
MEDIAN = "depth_median"
NORMALS = "normals"


def flatten_views(gaussians: Gaussians, cameras: Cameras) -> tuple[Gaussians, Cameras]:
    """Gaussians [b n] and cameras [b v] of Gaussians [*b n] and cameras [*b *v].

    Raises:
        ShapeError: when the batch axes of the Gaussians do not lead those of the cameras.
    """
    lead = gaussians.batch_shape
    if cameras.batch_shape[: len(lead)] != lead:
        problem, expected = (
            "batch axes of the Gaussians must lead those of the cameras",
            f"{lead} and then any view axes",
        )
        raise ShapeError(problem, field="cameras", found=cameras.batch_shape, expected=expected)
    size = (math.prod(lead), math.prod(cameras.batch_shape[len(lead) :]))
    sets = gaussians.map(lambda x: x.reshape(size[0], *x.shape[len(lead) :]))
    return sets, cameras.map(lambda x: x.reshape(*size, *x.shape[-2:]))


def one_view_each(sets: Gaussians, views: Cameras) -> tuple[Gaussians, Cameras]:
    """Sets [b v n] and views [b v 1] as [bv n] and [bv 1]: for columns that differ from view to view."""
    num_sets, num_views = views.batch_shape
    repeated = sets.map(lambda x: x[:, None].expand(num_sets, num_views, *x.shape[1:]).flatten(0, 1))
    return repeated, views.map(lambda x: x.flatten(0, 1)[:, None])


def facing_normals(sets: Gaussians, views: Cameras) -> Tensor:
    """Unit normals [b n 3] in the world: the shortest axis of each Gaussian, turned to the camera of views [b 1]."""
    shortest = sets.scales.argmin(-1)[..., None, None].expand(*sets.scales.shape[:-1], 3, 1)
    normals = matrix_from_quat(normalize_quat(sets.quats)).gather(-1, shortest)[..., 0]
    rotation, translation = views.viewmats[:, 0, :3, :3], views.viewmats[:, 0, :3, 3]
    place = -(rotation.transpose(-1, -2) @ translation[..., None])[..., 0]
    away = ((sets.means - place[:, None]) * normals).sum(-1, keepdim=True) > 0
    return torch.where(away, -normals, normals)


def stack_extras(gaussians: Gaussians, names: Sequence[str]) -> Tensor:
    """The named extras side by side, [*b n c], in the dtype of the means."""
    missing = [name for name in names if name not in gaussians.extras]
    if missing:
        raise DataFormatError("no such extra", field="extras", found=missing, expected=sorted(gaussians.extras))
    columns = [gaussians.extras[name].to(gaussians.means) for name in names]
    return torch.cat(columns, -1) if columns else gaussians.means[..., :0]


def frames_of_raster(raster: Raster, cameras: Cameras, *, widths: dict[str, int]) -> Frames:
    """Frames [*b *v h w] of a raster [b v h w]; `widths` names its extras in order with their channels."""
    size = (*cameras.batch_shape, cameras.height, cameras.width)
    parts = raster.extras.split(list(widths.values()), dim=-1) if widths else ()
    extras = {name: x.reshape(*size, x.shape[-1]) for name, x in zip(widths, parts, strict=True)}
    if raster.median.numel():
        extras[MEDIAN] = raster.median.reshape(*size, 1)
    return Frames(
        rgb=raster.rgb.reshape(*size, 3), depth=raster.depth.reshape(size), alpha=raster.alpha.reshape(size),
        cameras=cameras, extras=extras,
    )  # fmt: skip

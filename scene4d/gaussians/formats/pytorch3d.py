"""PyTorch3D and scene4d: cameras and coloured points, in both directions.

PyTorch3D's view space has x left, y up, z forward; points are rows, so x_view = x_world @ R + T. Its screen space,
set with `in_ndc=False`, is that of an image: x right, y down, (0, 0) the top left corner of the top left pixel,
as here. In its NDC the principal point is `(size / 2 - px) * 2 / min(size)` and the focal length `f * 2 / min(size)`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scene4d.check import check
from scene4d.errors import CalibrationError, EnvError, ShapeError
from scene4d.gaussians.formats.points import gaussians_from_points
from scene4d.geometry.sh import rgb_from_sh
from scene4d.types import Cameras, Gaussians

_VIEW_FROM_CV = (-1.0, -1.0, 1.0)


class PinholeTensors(NamedTuple):
    """What a PyTorch3D `PerspectiveCameras(in_ndc=False)` is made of; n cameras."""

    R: Tensor  # [n 3 3], for points as rows
    T: Tensor  # [n 3] m
    focal_length: Tensor  # [n 2] px
    principal_point: Tensor  # [n 2] px
    image_size: Tensor  # [n 2] int64, height before width


def pinhole_tensors(cameras: Cameras) -> PinholeTensors:
    """The tensors of PyTorch3D cameras that see what `cameras` [*b] see, flat over *b. Differentiable.

    Raises:
        CalibrationError: pixels are skewed, which PyTorch3D has no place for.
    """
    viewmats, Ks = cameras.viewmats.reshape(-1, 4, 4), cameras.Ks.reshape(-1, 3, 3)
    if bool((Ks[:, 0, 1] != 0).any()):
        skew = float(Ks[:, 0, 1].detach().abs().max())
        raise CalibrationError("PyTorch3D cameras cannot be skewed", field="Ks", found=skew, expected=0)
    flip = viewmats.new_tensor(_VIEW_FROM_CV)
    size = torch.tensor([cameras.height, cameras.width], device=Ks.device)
    return PinholeTensors(
        R=viewmats[:, :3, :3].transpose(1, 2) * flip,
        T=viewmats[:, :3, 3] * flip,
        focal_length=torch.stack([Ks[:, 0, 0], Ks[:, 1, 1]], -1),
        principal_point=Ks[:, :2, 2],
        image_size=size.expand(len(Ks), 2),
    )


def cameras_from_pinhole_tensors(tensors: PinholeTensors) -> Cameras:
    """Cameras [n] of one image size from what a PyTorch3D camera in screen space is made of. Differentiable.

    Raises:
        ShapeError: a tensor has another shape. CalibrationError: sizes differ, or R mirrors.
    """
    R, T, focal, centre, size = tensors
    check(R=(R, "n 3 3"), T=(T, "n 3"), focal_length=(focal, "n 2"), principal_point=(centre, "n 2"))
    check(R=(R, "n 3 3"), image_size=(size, "n 2"))
    sizes = {tuple(row) for row in size.tolist()}
    if len(sizes) > 1:
        raise CalibrationError("cameras differ in image size", field="image_size", found=sorted(sizes))
    if bool((torch.linalg.det(R.detach().double()) <= 0).any()):
        raise CalibrationError("is no rotation: it mirrors", field="R")
    flip = R.new_tensor(_VIEW_FROM_CV)
    top = torch.cat([(R * flip).transpose(1, 2), (T * flip)[..., None]], -1)
    bottom = R.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(R), 1, 4)
    zero, one = torch.zeros_like(focal[:, 0]), torch.ones_like(focal[:, 0])
    rows = [focal[:, 0], zero, centre[:, 0], zero, focal[:, 1], centre[:, 1], zero, zero, one]
    height, width = next(iter(sizes), (0, 0))
    Ks = torch.stack(rows, -1).view(-1, 3, 3)
    return Cameras(viewmats=torch.cat([top, bottom], 1), Ks=Ks, width=int(width), height=int(height))


def perspective_cameras(cameras: Cameras) -> Any:
    """`pytorch3d.renderer.PerspectiveCameras` in screen space, flat over the batch of `cameras`. Differentiable.

    Raises:
        EnvError: PyTorch3D is not installed or does not load. CalibrationError: pixels are skewed.
    """
    renderer, tensors = _pytorch3d("renderer"), pinhole_tensors(cameras)._asdict()
    return renderer.PerspectiveCameras(**tensors, in_ndc=False, device=cameras.viewmats.device)


def cameras_from_pytorch3d(cameras: Any) -> Cameras:
    """Cameras [n] from a `PerspectiveCameras`, in screen space or NDC, that knows its image size. Differentiable.

    Raises:
        CalibrationError: the image size is not known or not the same for all, or K is skewed.
    """
    size = cameras.get_image_size()
    if size is None or bool((torch.as_tensor(size) <= 1).any()):
        raise CalibrationError("cameras do not know their image size", field="image_size", fix="pass image_size=")
    num = cameras.R.shape[0]
    size = torch.as_tensor(size, device=cameras.R.device).expand(num, 2)
    focal, centre = _intrinsics(cameras, num)
    if cameras.in_ndc():
        half = 0.5 * size.amin(1, keepdim=True).to(focal)
        focal, centre = focal * half, 0.5 * size.flip(1).to(focal) - centre * half
    rounded = size.round().to(torch.int64)
    return cameras_from_pinhole_tensors(PinholeTensors(cameras.R, cameras.T, focal, centre, rounded))


def _intrinsics(cameras: Any, num: int) -> tuple[Tensor, Tensor]:
    """Focal length and principal point [n 2] in the space of the cameras."""
    K = getattr(cameras, "K", None)
    if K is None:
        focal = cameras.focal_length.reshape(cameras.focal_length.shape[0], -1)
        return focal.expand(num, 2), cameras.principal_point.expand(num, 2)
    if bool((K[:, 0, 1] != 0).any()):
        raise CalibrationError("skewed pixels are not supported", field="K")
    return torch.stack([K[:, 0, 0], K[:, 1, 1]], -1).expand(num, 2), K[:, :2, 2].expand(num, 2)


def point_clouds(gaussians: Gaussians) -> Any:
    """`pytorch3d.structures.Pointclouds` of the means, flat over the batch; features are view-independent colours.

    Empty slots (ids < 0) are left out; `extras["normals"]` goes along. Differentiable to means and sh.

    Raises:
        EnvError: PyTorch3D is not installed or does not load.
    """
    structures = _pytorch3d("structures")
    batch = len(gaussians.batch_shape)
    sets = gaussians.map(lambda x: x.reshape(-1, *x.shape[batch:]))
    used = [ids >= 0 for ids in sets.ids]

    def chosen(x: Tensor) -> list[Tensor]:
        return [rows[keep] for rows, keep in zip(x, used, strict=True)]

    normals = chosen(sets.extras["normals"]) if "normals" in sets.extras else None
    return structures.Pointclouds(points=chosen(sets.means), normals=normals, features=chosen(rgb_from_sh(sets.sh)))


def gaussians_from_pytorch3d(clouds: Any, *, opacity: float = 0.98) -> Gaussians:
    """Round Gaussians [b n] at the points of a `Pointclouds`, as wide as the points are apart.

    The first three features are taken for colours, grey where there are fewer; clouds with fewer points than the
    largest end in empty slots. Differentiable to points and features (the width is not).
    """
    points, features, normals = (f() for f in (clouds.points_list, clouds.features_list, clouds.normals_list))
    sets = []
    for i, means in enumerate(points):
        check(**{f"points[{i}]": (means, "n 3")})
        colors = None if features is None or features[i].shape[-1] < 3 else features[i][:, :3]
        round_ones = gaussians_from_points(means, colors=colors, opacity=opacity)
        extras = {} if normals is None else {"normals": normals[i]}
        sets.append(round_ones.replace(scales=round_ones.scales.detach(), extras=extras))
    if not sets:
        raise ShapeError("there is no cloud", field="clouds", found=0, expected="at least 1")
    most = max(s.num_gaussians for s in sets)
    return Gaussians.stack([s.padded(most) for s in sets])


def _pytorch3d(part: str) -> ModuleType:
    """`pytorch3d.<part>`. It is compiled against one torch: another one shows as any of three errors."""
    try:
        return importlib.import_module(f"pytorch3d.{part}")
    except (ImportError, RuntimeError, OSError) as error:
        found = f"{type(error).__name__}: {error}"
        fix = "pip install the pytorch3d that was built for this torch, or build it (its INSTALL.md)"
        raise EnvError("PyTorch3D does not load", field="pytorch3d", found=found, fix=fix) from error

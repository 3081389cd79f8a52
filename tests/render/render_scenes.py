"""Small hand-placed scenes for the render tests."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.types import Cameras, Gaussians

FIELDS = ("means", "quats", "scales", "opacities", "sh")


def some_gaussians(num: int = 300, *, batch: tuple[int, ...] = (), degree: int = 3, seed: int = 0) -> Gaussians:
    """A cloud round the origin, within half a metre, splats of a few centimetres, with two extra channels."""
    random = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*batch, num, *size, generator=random)

    return Gaussians(
        means=0.25 * normal(3),
        quats=normal(4),
        scales=0.04 * torch.exp(0.5 * normal(3)),
        opacities=torch.sigmoid(normal()),
        sh=0.3 * normal((degree + 1) ** 2, 3),
        extras={"features": normal(2)},
    )


def some_cameras(width: int = 70, height: int = 45, *, num: int = 2) -> Cameras:
    """Cameras a metre and a half away; the size is no multiple of a tile, the principal point off centre."""
    angles = torch.arange(num) * 0.7
    places = torch.stack([1.5 * angles.cos(), 1.5 * angles.sin(), 0.4 + 0 * angles], -1)
    K = intrinsics_from_fov(0.8, width=width, height=height)
    K = K + torch.tensor([[0.0, 0.5, 1.3], [0.0, 2.0, -0.8], [0.0, 0.0, 0.0]])
    viewmats = look_at(places, torch.zeros_like(places))
    return Cameras(viewmats=viewmats, Ks=K.expand(num, 3, 3), width=width, height=height)


def require_grads(gaussians: Gaussians, cameras: Cameras) -> tuple[Gaussians, Cameras, dict[str, Tensor]]:
    """Copies with fresh leaves, and the leaves by name."""
    leaves = {name: getattr(gaussians, name).detach().clone().requires_grad_() for name in FIELDS}
    features = gaussians.extras["features"].detach().clone().requires_grad_()
    viewmats = cameras.viewmats.detach().clone().requires_grad_()
    gaussians = gaussians.replace(**leaves, extras={"features": features})
    return gaussians, cameras.replace(viewmats=viewmats), {**leaves, "features": features, "viewmats": viewmats}

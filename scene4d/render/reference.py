"""What a render means, in plain torch: any float dtype, differentiable, slow; the native kernels are tested against it.

Conventions (those of 3D Gaussian splatting): covariance in the image = J W S W^T J^T + eps2d I, with the tangents in J
clamped to 1.3 times half the field of view; alpha = min(0.999, opacity exp(-q / 2)), nothing below 1/255; front to
back by depth of the centre, stopping before transmittance would fall to 1e-4; rgb = max(sh + 0.5, 0), where the view
direction is a constant to the gradient (as in splatfacto and OpenSplat): colour never pulls a Gaussian sideways.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scene4d.geometry.rotation import matrix_from_quat, normalize_quat
from scene4d.geometry.sh import sh_basis
from scene4d.native.ops import Raster, RasterSettings

ALPHA_MAX = 0.999
ALPHA_MIN = 1 / 255
TRANSMITTANCE_MIN = 1e-4
TANGENT_LIMIT = 1.3
COVERAGE_MIN = 1e-3
TILE = 32


def rasterize_reference(
    gaussians: dict[str, Tensor],
    cameras: dict[str, Tensor],
    *,
    settings: RasterSettings,
    absgrads: Tensor | None = None,
) -> Raster:
    """`scene4d.native.ops.rasterize` in plain torch: same arguments, same result, any float dtype, any device.

    Source: Kerbl et al., 3D Gaussian Splatting for Real-Time Radiance Field Rendering, 2023, section 4 and appendix A.
    """
    num_sets, num_views = cameras["viewmats"].shape[:2]
    drawn = []
    for b in range(num_sets):
        for v in range(num_views):
            rows = {name: x[b] for name, x in gaussians.items()}
            view = {name: None if x is None else x[b, v] for name, x in cameras.items()}
            probe = None if absgrads is None else absgrads[b, v]
            drawn.append(_draw_view(rows, view, settings=settings, probe=probe))
    stacked = [torch.stack(x).reshape(num_sets, num_views, *x[0].shape) for x in zip(*drawn, strict=True)]
    return Raster(*stacked) if drawn else _nothing(gaussians, num_sets=num_sets, num_views=num_views, settings=settings)


def _nothing(gaussians: dict[str, Tensor], *, num_sets: int, num_views: int, settings: RasterSettings) -> Raster:
    """The raster of no views or no sets."""
    empty, size = gaussians["means"].new_zeros, (num_sets, num_views, settings.height, settings.width)
    extras = gaussians["extras"].shape[-1]
    return Raster(empty(*size, 3), empty(size), empty(size), empty(*size, extras), empty(0), empty(0))


def _draw_view(
    gaussians: dict[str, Tensor], camera: dict[str, Any], *, settings: RasterSettings, probe: Tensor | None
) -> tuple[Tensor, ...]:
    """The members of a Raster for one set and one camera, without the leading axes."""
    splats = _project(gaussians, camera, settings=settings)
    rows, depths = splats["rows"], splats["depths"][:, None]
    splats["probe"] = None if probe is None else probe[rows]
    channels = torch.cat([splats["rgb"], depths, gaussians["extras"][rows]], -1)
    image, alpha, median = _composite(splats, channels, width=settings.width, height=settings.height)
    rgb, background = image[..., :3], camera["background"]
    if background is not None:
        rgb = rgb + (1 - alpha)[..., None] * background
    covered = alpha > COVERAGE_MIN
    depth = torch.where(covered, image[..., 3] / torch.where(covered, alpha, 1.0), 0.0)
    empty = alpha.new_zeros(0)
    radii = torch.zeros_like(gaussians["means"][:, :2]).index_put((rows,), splats["extents"])
    return rgb, depth, alpha, image[..., 4:], median if settings.median else empty, radii if settings.radii else empty


def _drawn_rows(g: dict[str, Tensor], viewmat: Tensor, *, settings: RasterSettings) -> Tensor:
    """Rows [m] that can be drawn at all, front to back; others are left out before any arithmetic, NaN and all."""
    columns = [g["means"], g["quats"], g["scales"], g["opacities"][:, None], g["sh"].flatten(1)]
    z = g["means"] @ viewmat[2, :3] + viewmat[2, 3]
    good = torch.cat(columns, -1).isfinite().all(-1) & (g["ids"] >= 0) & (g["opacities"] >= ALPHA_MIN)
    rows = (good & (z > settings.near) & (z < settings.far)).nonzero()[:, 0]
    return rows[torch.argsort(z[rows], stable=True)]


def _project(g: dict[str, Tensor], camera: dict[str, Any], *, settings: RasterSettings) -> dict[str, Any]:
    """One set seen by one camera: rows by depth, with means2d, conics, rgb, opacities, radii, extents (half sizes)."""
    viewmat, K = camera["viewmats"], camera["Ks"]
    rows = _drawn_rows(g, viewmat.detach(), settings=settings)
    means, opacities = g["means"][rows], g["opacities"][rows]
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    fx, fy, skew = K[0, 0], K[1, 1], K[0, 1]
    x, y, z = (means @ rotation.T + translation).unbind(-1)
    limit_x = TANGENT_LIMIT * 0.5 * settings.width / fx
    limit_y = TANGENT_LIMIT * 0.5 * settings.height / fy
    tan_x, tan_y = (x / z).clamp(-limit_x, limit_x), (y / z).clamp(-limit_y, limit_y)
    row_x = torch.stack([fx / z, skew / z, -(fx * tan_x + skew * tan_y) / z], -1)
    row_y = torch.stack([torch.zeros_like(z), fy / z, -fy * tan_y / z], -1)
    axes = matrix_from_quat(normalize_quat(g["quats"][rows])) * g["scales"][rows][:, None]
    half = torch.stack([row_x, row_y], -2) @ (rotation @ axes)  # [n 2 3]
    covars = half @ half.transpose(1, 2)
    sharp = torch.linalg.cross(half[:, 0], half[:, 1]).square().sum(-1)  # its determinant, without cancellation
    covars = covars + settings.eps2d * torch.eye(2, dtype=half.dtype, device=half.device)
    a, b, c = covars[:, 0, 0], covars[:, 0, 1], covars[:, 1, 1]
    det = a * c - b * b
    if settings.antialiased:
        opacities = opacities * (sharp / det).sqrt()
    reach = (2 * (opacities.detach() / ALPHA_MIN).log()).clamp_min(0.0)
    extents = (reach[:, None] * torch.stack([a, c], -1).detach()).sqrt()
    means2d = torch.stack([fx * x / z + skew * y / z + K[0, 2], fy * y / z + K[1, 2]], -1)
    first, last = means2d.detach() + extents, means2d.detach() - extents
    size = torch.tensor([settings.width, settings.height], dtype=z.dtype, device=z.device)
    seen = ((first >= 0.5) & (last <= size - 0.5)).all(-1) & (opacities >= ALPHA_MIN)
    conics = torch.stack([c / det, -b / det, a / det], -1)
    return dict(
        rows=rows, means2d=means2d, conics=conics, depths=z, opacities=opacities, extents=extents * seen[:, None],
        radii=extents * 1.001 + 0.01, rgb=_colors(means, g["sh"][rows], rotation=rotation, translation=translation),
    )  # fmt: skip


def _colors(means: Tensor, sh: Tensor, *, rotation: Tensor, translation: Tensor) -> Tensor:
    """rgb [n 3] of sh [n k 3] seen from the camera; the direction is a constant to the gradient."""
    directions = torch.nn.functional.normalize((means + rotation.T @ translation).detach(), dim=-1)
    basis = sh_basis(directions, math.isqrt(sh.shape[-2]) - 1)
    return (torch.einsum("nk,nkc->nc", basis, sh) + 0.5).clamp_min(0.0)


def blended_counts(gaussians: dict[str, Tensor], camera: dict[str, Any], *, settings: RasterSettings) -> Tensor:
    """How many splats each pixel of one view blends, [h w] int64: the work that a picture is, whatever draws it.

    Args as for `rasterize_reference`, without the axes b and v.
    """
    with torch.no_grad():
        splats = {**_project(gaussians, camera, settings=settings), "probe": None}

        def count(index: Tensor, box: tuple[int, int, int, int]) -> Tensor:
            return (_tile_weights(splats, index, box=box)[0] > 0).sum(1).reshape(box[3] - box[1], box[2] - box[0])

        return _over_tiles(splats, count, width=settings.width, height=settings.height)


def _composite(splats: dict[str, Any], channels: Tensor, *, width: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """Channels [h w c], alpha [h w] and median depth [h w] of splats in depth order."""

    def tile(index: Tensor, box: tuple[int, int, int, int]) -> Tensor:
        weights, before, after = _tile_weights(splats, index, box=box)
        values = torch.cat([channels[index], torch.ones_like(channels[index][:, :1])], -1)
        median = (((before > 0.5) & (after <= 0.5)) * splats["depths"][index]).sum(1, keepdim=True)
        return torch.cat([weights @ values, median], -1).reshape(box[3] - box[1], box[2] - box[0], -1)

    image = _over_tiles(splats, tile, width=width, height=height)
    return image[..., :-2], image[..., -2], image[..., -1].detach()


def _over_tiles(
    splats: dict[str, Any], draw_tile: Callable[[Tensor, tuple[int, int, int, int]], Tensor], *, width: int, height: int
) -> Tensor:
    """The image that `draw_tile` gives piece by piece, which bounds memory; it gets the splats that touch its box."""
    bands = []
    x, y = splats["means2d"].detach().unbind(-1)
    rx, ry = splats["radii"].unbind(-1)
    for top in range(0, height, TILE):
        tiles = []
        for left in range(0, width, TILE):
            right, bottom = min(left + TILE, width), min(top + TILE, height)
            near_x = (x + rx >= left) & (x - rx <= right)
            touching = (near_x & (y + ry >= top) & (y - ry <= bottom)).nonzero()[:, 0]
            tiles.append(draw_tile(touching, (left, top, right, bottom)))
        bands.append(torch.cat(tiles, 1))
    return torch.cat(bands, 0)


def _tile_weights(splats: dict[str, Any], index: Tensor, *, box: tuple) -> tuple[Tensor, Tensor, Tensor]:
    """Blending weights [p n] of the splats `index` in the p pixels of a box, transmittance before and after each."""
    left, top, right, bottom = box
    like = splats["conics"]
    xs = torch.arange(left, right, dtype=like.dtype, device=like.device) + 0.5
    ys = torch.arange(top, bottom, dtype=like.dtype, device=like.device) + 0.5
    means2d, conics = splats["means2d"][index], splats["conics"][index]
    dx = xs.repeat(len(ys))[:, None] - means2d[:, 0]  # [p n]
    dy = ys.repeat_interleave(len(xs))[:, None] - means2d[:, 1]
    if splats["probe"] is not None:
        dx, dy = _AbsoluteGradients.apply(dx, dy, splats["probe"][index])
    exponent = -0.5 * (conics[:, 0] * dx * dx + conics[:, 2] * dy * dy) - conics[:, 1] * dx * dy
    alphas = (splats["opacities"][index] * exponent.exp()).clamp_max(ALPHA_MAX)
    alphas = torch.where(alphas < ALPHA_MIN, 0.0, alphas)
    after = torch.cumprod(1 - alphas, 1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
    return torch.where(after > TRANSMITTANCE_MIN, alphas * before, 0.0), before, after  # `after` falls: a prefix


class _AbsoluteGradients(torch.autograd.Function):
    """Passes dx, dy [p n] on; the gradient of `probe` [n 2] is the sum over pixels of theirs, each without its sign."""

    @staticmethod
    def forward(ctx, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs[0].clone(), inputs[1].clone()

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v_dx, v_dy = grad_outputs
        return v_dx, v_dy, torch.stack([v_dx.abs().sum(0), v_dy.abs().sum(0)], -1)

"""What a render means, in plain torch: any float dtype, differentiable, slow; the native kernels are tested against it.

Conventions (those of 3D Gaussian splatting): covariance in the image = J W S W^T J^T + eps2d I, with the tangents in J
clamped to 1.3 times half the field of view; alpha = min(0.999, opacity exp(-q / 2)), nothing below 1/255; front to
back by depth of the centre, stopping before transmittance would fall to 1e-4; rgb = max(sh + 0.5, 0), where the view
direction is a constant to the gradient (as in splatfacto and OpenSplat): colour never pulls a Gaussian sideways.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scene4d.errors import DataFormatError, ShapeError
from scene4d.geometry.rotation import matrix_from_quat, normalize_quat
from scene4d.geometry.sh import sh_basis
from scene4d.types import Cameras, Frames, Gaussians

ALPHA_MAX = 0.999
ALPHA_MIN = 1 / 255
TRANSMITTANCE_MIN = 1e-4
TANGENT_LIMIT = 1.3
COVERAGE_MIN = 1e-3
TILE = 32


def flatten_views(gaussians: Gaussians, cameras: Cameras) -> tuple[Gaussians, Cameras]:
    """Gaussians [b n] and cameras [b v] of Gaussians [*b n] and cameras [*b *v].

    Raises:
        ShapeError: when the batch axes of the Gaussians do not lead those of the cameras.
    """
    lead = gaussians.batch_shape
    if cameras.batch_shape[: len(lead)] != lead:
        raise ShapeError(
            "batch axes of the Gaussians must lead those of the cameras",
            field="cameras",
            found=cameras.batch_shape,
            expected=f"{lead} and then any view axes",
        )
    num_sets = math.prod(lead)
    num_views = math.prod(cameras.batch_shape[len(lead) :])
    sets = gaussians.map(lambda x: x.reshape(num_sets, *x.shape[len(lead) :]))
    viewmats = cameras.viewmats.reshape(num_sets, num_views, 4, 4)
    Ks = cameras.Ks.reshape(num_sets, num_views, 3, 3)
    return sets, Cameras(viewmats=viewmats, Ks=Ks, width=cameras.width, height=cameras.height)


def stack_extras(gaussians: Gaussians, names: Sequence[str]) -> Tensor:
    """The named extras side by side, [*b n c], in the dtype of the means."""
    missing = [name for name in names if name not in gaussians.extras]
    if missing:
        raise DataFormatError("no such extra", field="extras", found=missing, expected=sorted(gaussians.extras))
    columns = [gaussians.extras[name].to(gaussians.means) for name in names]
    return torch.cat(columns, -1) if columns else gaussians.means[..., :0]


def frames_from_channels(
    channels: Tensor, alpha: Tensor, *, gaussians: Gaussians, cameras: Cameras, extras: Sequence[str]
) -> Frames:
    """Frames of composited channels [b v h w c] (rgb, weighted depth, extras) and alpha [b v h w]."""
    size = (*cameras.batch_shape, cameras.height, cameras.width)
    widths = [gaussians.extras[name].shape[-1] for name in extras]
    rgb, weighted, *rest = channels.split([3, 1, *widths], dim=-1)
    covered = alpha > COVERAGE_MIN
    depth = torch.where(covered, weighted[..., 0] / torch.where(covered, alpha, 1.0), 0.0)
    named = {name: x.reshape(*size, x.shape[-1]) for name, x in zip(extras, rest, strict=True)}
    return Frames(
        rgb=rgb.reshape(*size, 3), depth=depth.reshape(size), alpha=alpha.reshape(size), cameras=cameras, extras=named
    )


def flat_background(background: Tensor | None, cameras: Cameras, *, num_sets: int) -> Tensor | None:
    """Background [3] or [*b *v 3] as [b v 3]."""
    if background is None:
        return None
    return background.expand(*cameras.batch_shape, 3).reshape(num_sets, -1, 3)


def render_reference(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    background: Tensor | None = None,
    extras: Sequence[str] = (),
    eps2d: float = 0.3,
    near: float = 0.01,
    far: float = 1e10,
) -> Frames:
    """`scene4d.render` in plain torch: same arguments, same result, any float dtype, any device.

    Differentiable to means, quats, scales, opacities, sh, extras, viewmats and background.
    Source: Kerbl et al., 3D Gaussian Splatting for Real-Time Radiance Field Rendering, 2023, section 4 and appendix A.
    """
    extras = tuple(extras)
    sets, views = flatten_views(gaussians, cameras)
    values = stack_extras(sets, extras)
    num_sets, num_views = views.batch_shape
    backdrop = flat_background(background, cameras, num_sets=num_sets)
    images = []
    for b in range(num_sets):
        for v in range(num_views):
            splats = _project(sets[b], views[b, v], eps2d=eps2d, near=near, far=far)
            channels = torch.cat([splats["rgb"], splats["depths"][:, None], values[b][splats["rows"]]], -1)
            image, alpha = _composite(splats, channels, width=cameras.width, height=cameras.height)
            if backdrop is not None:
                rgb = image[..., :3] + (1 - alpha)[..., None] * backdrop[b, v]
                image = torch.cat([rgb, image[..., 3:]], -1)
            images.append(torch.cat([image, alpha[..., None]], -1))
    num_channels = 4 + values.shape[-1]
    shape = (num_sets, num_views, cameras.height, cameras.width, num_channels + 1)
    stacked = torch.stack(images).reshape(shape) if images else gaussians.means.new_zeros(shape)
    channels, alpha = stacked[..., :-1], stacked[..., -1]
    return frames_from_channels(channels, alpha, gaussians=gaussians, cameras=cameras, extras=extras)


def _project(gaussians: Gaussians, camera: Cameras, *, eps2d: float, near: float, far: float) -> dict[str, Tensor]:
    """One set seen by one camera: the visible rows by depth, with means2d, conics, radii (half extents), rgb."""
    with torch.no_grad():  # rows that cannot be drawn are left out before any arithmetic, so that NaN stays in them
        columns = [gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities[:, None]]
        finite = torch.cat([*columns, gaussians.sh.flatten(1)], -1).isfinite().all(-1)
        z = gaussians.means @ camera.viewmats[2, :3] + camera.viewmats[2, 3]
        drawn = finite & (gaussians.ids >= 0) & (gaussians.opacities >= ALPHA_MIN) & (z > near) & (z < far)
        rows = drawn.nonzero()[:, 0]
        rows = rows[torch.argsort(z[rows], stable=True)]
    means, opacities = gaussians.means[rows], gaussians.opacities[rows]
    rotation, translation = camera.viewmats[:3, :3], camera.viewmats[:3, 3]
    fx, fy, skew = camera.Ks[0, 0], camera.Ks[1, 1], camera.Ks[0, 1]
    x, y, z = (means @ rotation.T + translation).unbind(-1)
    limit_x = TANGENT_LIMIT * 0.5 * camera.width / fx
    limit_y = TANGENT_LIMIT * 0.5 * camera.height / fy
    tan_x, tan_y = (x / z).clamp(-limit_x, limit_x), (y / z).clamp(-limit_y, limit_y)
    zero = torch.zeros_like(z)
    row_x = torch.stack([fx / z, skew / z, -(fx * tan_x + skew * tan_y) / z], -1)
    row_y = torch.stack([zero, fy / z, -fy * tan_y / z], -1)
    axes = matrix_from_quat(normalize_quat(gaussians.quats[rows])) * gaussians.scales[rows][:, None]
    half = torch.stack([row_x, row_y], -2) @ (rotation @ axes)  # [n 2 3]
    covars = half @ half.transpose(1, 2) + eps2d * torch.eye(2, dtype=half.dtype, device=half.device)
    a, b, c = covars[:, 0, 0], covars[:, 0, 1], covars[:, 1, 1]
    det = a * c - b * b
    means2d = torch.stack([fx * x / z + skew * y / z + camera.Ks[0, 2], fy * y / z + camera.Ks[1, 2]], -1)
    reach = (2 * (opacities.detach() / ALPHA_MIN).log()).clamp_min(0.0)
    radii = (reach[:, None] * torch.stack([a, c], -1).detach()).sqrt() * 1.001 + 0.01
    center = -rotation.T @ translation
    directions = torch.nn.functional.normalize((means - center).detach(), dim=-1)
    degree = math.isqrt(gaussians.sh.shape[-2]) - 1
    rgb = (torch.einsum("nk,nkc->nc", sh_basis(directions, degree), gaussians.sh[rows]) + 0.5).clamp_min(0.0)
    conics = torch.stack([c / det, -b / det, a / det], -1)
    return dict(rows=rows, means2d=means2d, conics=conics, radii=radii, depths=z, rgb=rgb, opacities=opacities)


def _composite(splats: dict[str, Tensor], channels: Tensor, *, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Channels [h w c] and alpha [h w] of splats already in depth order, tile by tile to bound memory."""
    bands = []
    for top in range(0, height, TILE):
        tiles = []
        for left in range(0, width, TILE):
            right, bottom = min(left + TILE, width), min(top + TILE, height)
            with torch.no_grad():
                x, y = splats["means2d"].unbind(-1)
                rx, ry = splats["radii"].unbind(-1)
                near_x = (x + rx >= left) & (x - rx <= right)
                touching = (near_x & (y + ry >= top) & (y - ry <= bottom)).nonzero()[:, 0]
            tiles.append(_composite_tile(splats, channels, touching, box=(left, top, right, bottom)))
        bands.append(torch.cat(tiles, 1))
    image = torch.cat(bands, 0)
    return image[..., :-1], image[..., -1]


def _composite_tile(splats: dict[str, Tensor], channels: Tensor, index: Tensor, *, box: tuple) -> Tensor:
    """Channels and alpha [h w c+1] of the pixels of one box, from the splats `index`."""
    left, top, right, bottom = box
    xs = torch.arange(left, right, dtype=channels.dtype, device=channels.device) + 0.5
    ys = torch.arange(top, bottom, dtype=channels.dtype, device=channels.device) + 0.5
    means2d, conics = splats["means2d"][index], splats["conics"][index]
    dx = xs.repeat(len(ys))[:, None] - means2d[:, 0]  # [p n]
    dy = ys.repeat_interleave(len(xs))[:, None] - means2d[:, 1]
    exponent = -0.5 * (conics[:, 0] * dx * dx + conics[:, 2] * dy * dy) - conics[:, 1] * dx * dy
    alphas = (splats["opacities"][index] * exponent.exp()).clamp_max(ALPHA_MAX)
    alphas = torch.where(alphas < ALPHA_MIN, 0.0, alphas)
    after = torch.cumprod(1 - alphas, 1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
    weights = torch.where(after > TRANSMITTANCE_MIN, alphas * before, 0.0)  # `after` falls, so this is a prefix
    values = torch.cat([channels[index], torch.ones_like(channels[index][:, :1])], -1)
    return (weights @ values).reshape(bottom - top, right - left, -1)

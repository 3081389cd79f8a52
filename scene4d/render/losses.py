"""How far a render is from a picture: differentiable losses and the metrics reported with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.check import check
from scene4d.errors import ShapeError
from scene4d.geometry.frame_images import alpha_of, depth_of
from scene4d.types import Frames

SSIM_WINDOW = 11


def l1(a: Tensor, b: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference of [*b h w c] (a scalar), over the pixels of `mask` [*b h w] if given; 0 if none."""
    difference = (a - b).abs()
    if mask is None:
        return difference.mean()
    weights = mask.to(difference)[..., None]
    return (difference * weights).sum() / (weights.sum() * a.shape[-1]).clamp_min(1.0)


def psnr(a: Tensor, b: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB of images [*b h w c] in [0, 1], one an image, [*b].

    `mask` [*b h w] picks the pixels that count; an image with none gives NaN. Equal images give 120 dB at most.
    """
    check(a=(a, "*b h w c"), b=(b, "*b h w c"), mask=(mask, "*b h w"))
    square = ((a - b) ** 2).mean(-1)
    if mask is None:
        error = square.mean((-2, -1))
    else:
        weights = mask.to(square)
        error = (square * weights).sum((-2, -1)) / weights.sum((-2, -1))
    return -10 * error.clamp_min(1e-12).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of images [*b h w c] in [0, 1], one an image, [*b]; window 11, sigma 1.5.

    Raises:
        ShapeError: when the images are smaller than the window's reach.
    Source: Wang et al., Image Quality Assessment, 2004; computed by kornia. Differentiable to both.
    """
    from kornia.metrics import ssim as ssim_map  # imported late: kornia takes seconds to load

    sizes = check(a=(a, "*b h w c"), b=(b, "*b h w c"))
    height, width, channels = a.shape[-3:]
    if min(height, width) <= SSIM_WINDOW // 2:
        raise ShapeError("image too small for SSIM", field="a", found=(height, width), expected=f"> {SSIM_WINDOW // 2}")
    flat = [x.reshape(-1, height, width, channels).movedim(-1, 1) for x in (a, b)]
    return ssim_map(flat[0], flat[1], SSIM_WINDOW).mean((1, 2, 3)).reshape(sizes["*b"])


def image_loss(
    pred: Frames,
    target: Frames,
    *,
    ssim_weight: float = 0.2,
    depth_weight: float = 0.1,
    alpha_weight: float = 0.0,
    mask: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One number that says how far a render is from recorded frames [*b h w].

    Colour counts where `target.alpha` marks it usable (and in `mask` [*b h w] if given), depth where the sensor
    measured one and the render covers the pixel, alpha (only when `alpha_weight` > 0) against `target.alpha`.

    Returns:
        The scalar (1 - ssim_weight) L1 + ssim_weight (1 - SSIM) + depth_weight |depth| + alpha_weight |alpha|, and
        its parts detached: loss, l1, ssim, depth, alpha, psnr (those that were computed).
    """
    usable = mask
    if target.alpha is not None:
        usable = target.alpha if mask is None else target.alpha * mask.to(target.alpha)
    color = l1(pred.rgb, target.rgb, mask=usable)
    parts = {"l1": color}
    loss = color
    if ssim_weight > 0:
        # Unusable pixels are made equal, so that they do not count.
        seen = pred.rgb if usable is None else torch.where(usable[..., None] > 0, pred.rgb, target.rgb)
        parts["ssim"] = ssim(seen, target.rgb).mean()
        loss = (1 - ssim_weight) * color + ssim_weight * (1 - parts["ssim"])
    if depth_weight > 0 and pred.depth is not None and target.depth is not None:
        measured = (target.depth > 0) & (pred.depth.detach() > 0)
        if mask is not None:
            measured = measured & (mask > 0)
        parts["depth"] = l1(pred.depth[..., None], target.depth[..., None], mask=measured)
        loss = loss + depth_weight * parts["depth"]
    if alpha_weight > 0 and pred.alpha is not None and target.alpha is not None:
        parts["alpha"] = l1(pred.alpha[..., None], target.alpha[..., None], mask=mask)
        loss = loss + alpha_weight * parts["alpha"]
    with torch.no_grad():
        parts["psnr"] = psnr(pred.rgb, target.rgb, mask=usable).nanmean()
    return loss, {"loss": loss.detach(), **{name: value.detach() for name, value in parts.items()}}


@dataclass(frozen=True)
class PictureLossConfig:
    """How colour, depth and coverage are weighed against recorded pictures."""

    rgb: float = 1.0
    """Mean absolute colour difference, plus four times the mean square."""
    depth: float = 0.2
    """Mean absolute difference of depth in m, where measured; errors over half a metre count as half a metre."""
    alpha: float = 0.05
    """Mean absolute difference of coverage: full where depth was measured."""
    empty: float = 0.05
    """Coverage where no depth was measured. Right for a simulator, where that is empty space; 0 for real sensors."""


def picture_loss(rendered: Frames, targets: Frames, *, config: PictureLossConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Colour, depth and coverage of rendered against recorded frames of one shape."""
    measured = (depth_of(targets) > 0).to(rendered.rgb)
    # Beyond the measured surfaces there are no Gaussians, so colour does not count there.
    difference = (rendered.rgb - targets.rgb) * measured[..., None]
    rgb = difference.abs().mean() + 4 * difference.square().mean()
    depth = ((depth_of(rendered) - depth_of(targets)).abs().clamp_max(0.5) * measured).mean()
    alpha = ((alpha_of(rendered) - 1).abs() * measured).mean()
    empty = (alpha_of(rendered) * (1 - measured)).mean()
    loss = config.rgb * rgb + config.depth * depth + config.alpha * alpha + config.empty * empty
    quality = psnr(rendered.rgb.detach(), targets.rgb, mask=measured).nanmean()
    return loss, {"psnr": quality, "rgb": rgb.detach(), "depth": depth.detach(), "alpha": alpha.detach()}

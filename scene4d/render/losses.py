"""How far a render is from a picture: differentiable losses and the metrics reported with them."""

from __future__ import annotations

from dataclasses import dataclass

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

"""How like two images are: PSNR and SSIM, on the full frame or under a mask, also after one gain a channel; depth."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.check import check
from scene4d.render import losses


def psnr(image: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio [*b] in dB of images [*b h w c] in [0, 1], over `mask` [*b h w] if given.

    The image is clamped to [0, 1] first, as any display would. An image whose mask is empty gives NaN.
    """
    return losses.psnr(image.clamp(0.0, 1.0), target, mask=mask)


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """Structural similarity [*b] of images [*b h w c] in [0, 1]; window 11, sigma 1.5, full frame."""
    return losses.ssim(image.clamp(0.0, 1.0), target)


def channel_gains(image: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """The gain of each channel [*b c] that brings `image` nearest to `target` [*b h w c] in the least-squares sense."""
    check(image=(image, "*b h w c"), target=(target, "*b h w c"), mask=(mask, "*b h w"))
    weights = torch.ones_like(image[..., :1]) if mask is None else mask.to(image)[..., None]
    image = image.clamp(0.0, 1.0)
    cross = (weights * image * target).sum((-3, -2))
    square = (weights * image * image).sum((-3, -2))
    return torch.where(square > 1e-8, cross / square.clamp_min(1e-8), 1.0)


def depth_absrel(depth: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean |depth - target| / target [*b] of z-depths [*b h w] where both are measured (> 0); NaN where none are."""
    check(depth=(depth, "*b h w"), target=(target, "*b h w"), mask=(mask, "*b h w"))
    both = (depth > 0) & (target > 0) & depth.isfinite() & target.isfinite()
    if mask is not None:
        both = both & mask
    error = torch.where(both, (depth - target).abs() / torch.where(both, target, 1.0), 0.0)
    return error.sum((-2, -1)) / both.sum((-2, -1))


def image_report(image: Tensor, target: Tensor, *, sensor: Tensor | None = None) -> dict[str, float]:
    """psnr and ssim of one image [h w 3]; psnr_sensor and psnr_sensor_gain on the pixels of `sensor` [h w].

    `sensor` is where the target's own depth sensor measured something: a mask that no method can choose.
    """
    report = {"psnr": float(psnr(image, target)), "ssim": float(ssim(image, target))}
    if sensor is not None:
        gains = channel_gains(image, target, mask=sensor)
        report["psnr_sensor"] = float(psnr(image, target, mask=sensor))
        report["psnr_sensor_gain"] = float(psnr(image * gains, target, mask=sensor))
    return report

"""Augmentation that keeps geometry true: one colour change for a window, and shifts that the intrinsics follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.types import Cameras, Frames


@dataclass(frozen=True)
class AugmentConfig:
    """How far pictures may be changed; 0 leaves a thing alone."""

    brightness: float = 0.0
    """Colours are shifted by at most this much, of 0..1."""
    contrast: float = 0.0
    """Colours are drawn to, or pushed from, mid grey by a factor of at most 1 +- this."""
    saturation: float = 0.0
    """Saturation changes by a factor of at most 1 +- this."""
    hue: float = 0.0
    """Hue turns by at most this share of a full turn."""
    shift: float = 0.0
    """Pictures are read larger by this share on every side, and cut at a place drawn for each camera."""

    def __post_init__(self) -> None:
        limits = {"brightness": 1.0, "contrast": 0.99, "saturation": 0.99, "hue": 0.5, "shift": 0.5}
        for name, most in limits.items():
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise ConfigError("is out of range", field=f"augment.{name}", found=value, expected=f"0..{most:g}")

    @property
    def recolours(self) -> bool:
        """Whether colours change."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))

    def margin(self, size: tuple[int, int]) -> tuple[int, int]:
        """Pixels (x, y) by which pictures of `size` (width, height) are read larger on each side."""
        return round(self.shift * size[0]), round(self.shift * size[1])


def recoloured(rgb: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Colours [s v h w 3] changed by one draw: what matched between steps and cameras still matches."""
    from kornia.enhance import add_weighted, adjust_brightness, adjust_hue, adjust_saturation

    draw = lambda most: float(torch.rand((), generator=generator, dtype=torch.float64) * 2 - 1) * most
    brightness, contrast = draw(config.brightness), 1 + draw(config.contrast)
    saturation, hue = 1 + draw(config.saturation), draw(config.hue) * 2 * math.pi
    image = rgb.flatten(0, 1).movedim(-1, -3)  # [s*v 3 h w]
    if config.contrast:
        # About mid grey, not about each picture's own mean, which would flicker with what is in sight.
        image = add_weighted(image, contrast, torch.full_like(image, 0.5), 1 - contrast, 0.0).clamp(0, 1)
    if config.brightness:
        image = adjust_brightness(image, brightness)
    if config.saturation:
        image = adjust_saturation(image, saturation)
    if config.hue:
        image = adjust_hue(image, hue)
    return image.clamp(0, 1).movedim(-3, -1).unflatten(0, rgb.shape[:2])


def draw_offset(margin: tuple[int, int], generator: torch.Generator) -> tuple[int, int]:
    """Where to cut, (x, y) px in 0..2 * margin, evenly."""
    draw = lambda most: int(torch.randint(2 * most + 1, (), generator=generator))
    return draw(margin[0]), draw(margin[1])


def cut(frames: Frames, *, offset: tuple[int, int], size: tuple[int, int]) -> Frames:
    """The part of frames [*b] that begins at pixel `offset` (x, y) and has `size` (width, height); K follows."""
    (x, y), (width, height) = offset, size
    part = lambda values, rank: values[(..., slice(y, y + height), slice(x, x + width), *[slice(None)] * rank)]
    Ks = frames.cameras.Ks.clone()
    Ks[..., 0, 2] -= x
    Ks[..., 1, 2] -= y
    return Frames(
        rgb=part(frames.rgb, 1),
        depth=None if frames.depth is None else part(frames.depth, 0),
        alpha=None if frames.alpha is None else part(frames.alpha, 0),
        cameras=Cameras(viewmats=frames.cameras.viewmats, Ks=Ks, width=width, height=height),
        extras={name: part(values, 1) for name, values in frames.extras.items()},
    )

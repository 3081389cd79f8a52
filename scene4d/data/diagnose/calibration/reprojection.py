"""Do views agree? Depth of one view carried into another: how far off it lands, in space and in colour."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from scene4d.geometry.camera import invert_rigid, pixel_centres, project, transform_points

DEPTH_TOLERANCE = 0.06  # relative: depth that is further off than this belongs to something else, or is wrong
SHADE_TOLERANCE = 1.5  # local standard deviations of grey
BLUR = 5
EVERY = 4


@dataclass(frozen=True)
class Views:
    """Views of one image size, each with depth: viewmats [n 4 4], Ks [n 3 3], depth [n h w] m, shade [n h w]."""

    viewmats: Tensor
    Ks: Tensor
    depth: Tensor
    shade: Tensor


@dataclass(frozen=True)
class Agreement:
    """How q pixels of the first view of p pairs fare in the second.

    cost [p q] in 0..1: 0 = there is the same surface of the same shade, 1 = not, or the pixel left the image;
    covered [p q]: the second view measured depth there; known [p q]: the cost means something (the first view measured
    depth, and the second one too where the pixel landed inside); metres [p q]: difference of depth where covered;
    relative [p q]: its share of the depth, negative where the second view looks through what the first one sees.
    """

    cost: Tensor
    covered: Tensor
    known: Tensor
    metres: Tensor
    relative: Tensor

    @property
    def blame(self) -> Tensor:
        """The cost [p q] in 0..2: what looks through a surface counts twice, for a surface may only be hidden."""
        return self.cost + (self.relative < -DEPTH_TOLERANCE)

    def at(self, index: Tensor) -> Agreement:
        """The pairs of an index."""
        parts = (self.cost, self.covered, self.known, self.metres, self.relative)
        return Agreement(*(part[index] for part in parts))


def local_shade(rgb: Tensor) -> Tensor:
    """Grey [n h w] of colour [n h w 3], with the mean of its surroundings taken off and their deviation divided out.

    Exposure, vignetting and white balance differ between views of one scene; what stands out locally does not.
    """
    grey = rgb.mean(-1)[:, None]
    pooled = lambda x: avg_pool2d(x, 2 * BLUR + 1, stride=1, padding=BLUR, count_include_pad=False)
    mean = pooled(grey)
    deviation = (pooled(grey**2) - mean**2).clamp_min(0).sqrt()
    return ((grey - mean) / (deviation + 0.02))[:, 0]


def agreement(views: Views, pairs: Tensor, *, every: int = EVERY) -> Agreement:
    """Carry a pixel in `every` rows and columns of the first view of each pair [p 2] into the second, and compare."""
    first, second = pairs[:, 0], pairs[:, 1]
    thin = (slice(None), slice(every // 2, None, every), slice(every // 2, None, every))
    depth, shade_here = (x[thin][first].flatten(1) for x in (views.depth, views.shade))
    height, width = views.depth.shape[-2:]
    measured = depth > 0
    centres = pixel_centres(width, height, like=views.depth)[thin[1:]].flatten(0, 1)
    rays = torch.cat([centres, torch.ones_like(centres[:, :1])], -1)
    rays = rays @ torch.linalg.inv(views.Ks[first]).transpose(-1, -2)
    points = transform_points(invert_rigid(views.viewmats[first]), rays * depth[..., None])
    pixels, z = project(points, views.viewmats[second], Ks=views.Ks[second])
    inside = (z > 0) & (pixels >= 0).all(-1) & (pixels[..., 0] < width) & (pixels[..., 1] < height)
    there, weight, shade = _sampled(views, second, pixels=torch.nan_to_num(pixels))
    covered = measured & inside & (weight > 0.5)
    metres = torch.where(covered, (z - there).abs(), 0.0)
    relative = torch.where(covered, (z - there) / torch.minimum(z, there).clamp_min(1e-9), 0.0)
    off = (relative.abs() / DEPTH_TOLERANCE).clamp(max=1)
    paler = ((shade_here - shade).abs() / SHADE_TOLERANCE).clamp(max=1)
    same = torch.where(off < 1, 0.5 * off + 0.5 * paler, 1.0)
    cost, known = torch.where(covered, same, 1.0), measured & (covered | ~inside)
    return Agreement(cost=cost, covered=covered, known=known, metres=metres, relative=relative)


def _sampled(views: Views, which: Tensor, *, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Depth, the share of it that was measured, and shade of views [p] at pixels [p q 2], between the four centres."""
    height, width = views.depth.shape[-2:]
    x, y = (pixels[..., 0] - 0.5).clamp(0, width - 1), (pixels[..., 1] - 0.5).clamp(0, height - 1)
    left, top = x.floor().clamp(max=width - 2), y.floor().clamp(max=height - 2)
    begins = which[:, None] * (height * width)
    depth, weight, shade = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    nearest_depth, nearest = torch.zeros_like(x), torch.zeros_like(x)
    for dx in (0, 1):
        for dy in (0, 1):
            share = (1 - (x - left - dx).abs()) * (1 - (y - top - dy).abs())
            index = begins + ((top + dy) * width + left + dx).long()
            value = views.depth.take(index)
            shade += share * views.shade.take(index)
            depth += torch.where(value > 0, share / value.clamp_min(1e-9), 0)
            weight += torch.where(value > 0, share, 0)
            closer = share > nearest
            nearest, nearest_depth = torch.where(closer, share, nearest), torch.where(closer, value, nearest_depth)
    mixed = weight / depth.clamp_min(1e-12)  # the inverse of depth is linear across a plane's image
    # Between two surfaces there is none between: take the nearest pixel's.
    broken = (mixed - nearest_depth).abs() > 0.03 * nearest_depth
    return torch.where(broken & (nearest_depth > 0), nearest_depth, mixed), weight, shade

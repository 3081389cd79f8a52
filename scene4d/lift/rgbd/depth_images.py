"""Depth images as sensors give them: close thin gaps, fill holes, and see a point set from a camera."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, max_pool2d, pad, unfold

from scene4d.check import check
from scene4d.geometry.camera import project
from scene4d.geometry.neighbours import nearest
from scene4d.types import Cameras


def close_gaps(depth: Tensor, *, reach: int = 2, spread: float = 0.05) -> Tensor:
    """Depth [v h w] with holes filled where the measured pixels within `reach` agree to the fraction `spread`.

    Registration to the colour camera leaves thin lines and grids of holes on smooth surfaces; this closes them. Holes
    between a near and a far surface stay: a mean there would float in the air.
    """
    check(depth=(depth, "v h w"))
    measured = depth > 0
    size = 2 * reach + 1
    far = max_pool2d(depth[:, None], size, 1, reach)[:, 0]
    near = -max_pool2d(torch.where(measured, -depth, -torch.inf)[:, None], size, 1, reach)[:, 0]
    count = avg_pool2d(measured.to(depth)[:, None], size, 1, reach)[:, 0]
    total = avg_pool2d(depth[:, None], size, 1, reach)[:, 0]
    agree = ~measured & (count > 2.5 / size**2) & (far - near <= spread * far)
    return torch.where(agree, total / count.clamp_min(1e-9), torch.where(measured, depth, 0.0))


def fill_nearest(values: Tensor, known: Tensor) -> Tensor:
    """Values [h w ...] with every pixel outside `known` [h w] given the value of the nearest pixel inside it."""
    if known.all() or not known.any():
        return values
    places, holes = known.nonzero(), (~known).nonzero()
    _, index = nearest(places.float(), holes.float(), num=1)
    filled = values.clone()
    filled[~known] = values[known][index[:, 0]]
    return filled


def complete_depth(depth: Tensor) -> Tensor:
    """Depth [v h w] with every hole given the value of the nearest measured pixel; images without any stay 0."""
    check(depth=(depth, "v h w"))
    return torch.stack([fill_nearest(image, image > 0) for image in depth])


def despeckled(values: Tensor) -> Tensor:
    """Values [h w], each the median of the 5 x 5 round it: no specks, edges where they were."""
    window = unfold(pad(values[None, None], (2, 2, 2, 2), mode="replicate"), 5)[0]
    return window.median(0).values.reshape(values.shape)


def pixels_of_points(points: Tensor, camera: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """(pixels [n 2], z-depth [n], inside [n]) of world points [n 3] seen by one camera []."""
    pixels, depth = project(points, camera.viewmats, Ks=camera.Ks)
    x, y = pixels.unbind(-1)
    inside = (depth > 1e-3) & (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
    return pixels, depth, inside


def nearest_point_map(points: Tensor, camera: Cameras, *, grow: int = 0) -> tuple[Tensor, Tensor]:
    """Z-depth [h w] (0 = none) and row [h w] (-1 = none) of the nearest of the points [n 3] in each pixel.

    `grow` makes a point cover so many pixels more on each side, so that a surface seen from closer up stays closed.
    """
    pixels, depth, inside = pixels_of_points(points, camera)
    rows = inside.nonzero()[:, 0]
    column, line = pixels[rows].long().unbind(-1)
    # Depth in the upper bits, row below: the smallest key is the nearest point, ties go to the lowest row.
    key = ((depth[rows] * 1e6).long() << 31) | rows
    empty = torch.iinfo(torch.int64).max
    best = torch.full((camera.height * camera.width,), empty, dtype=torch.int64, device=points.device)
    for dy in range(-grow, grow + 1):
        for dx in range(-grow, grow + 1):
            cell = (line + dy).clamp(0, camera.height - 1) * camera.width + (column + dx).clamp(0, camera.width - 1)
            best.scatter_reduce_(0, cell, key, "amin")
    seen = best != empty
    index = torch.where(seen, best & ((1 << 31) - 1), -1).reshape(camera.height, camera.width)
    z = torch.where(seen, (best >> 31).to(points.dtype) * 1e-6, 0.0)
    return z.reshape(camera.height, camera.width), index


def sample_image(image: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear values [n c] of an image [h w c] at pixel positions [n 2]; outside, the border."""
    return sample_grids(image.movedim(-1, 0), pixels[None, None])[0, :, 0].T


def sample_grids(image: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear values [p c k l] of an image [c h w] at pixel positions [p k l 2]; outside, the border."""
    grid = pixels / pixels.new_tensor([image.shape[2], image.shape[1]]) * 2 - 1
    return grid_sample(image.expand(len(grid), -1, -1, -1), grid, padding_mode="border", align_corners=False)


def with_colour(inside: Tensor, pixels: Tensor, *, alpha: Tensor | None) -> Tensor:
    """Which of the positions [n 2] that lie `inside` [n] an image have a usable colour there: alpha [h w] > 0.5."""
    return inside if alpha is None else inside & (sample_image(alpha[..., None], pixels)[:, 0] > 0.5)

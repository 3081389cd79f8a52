"""Points of one picture found again in another: corners, what surrounds them, and pairs that choose each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, max_pool2d, normalize

MAX_POINTS = 700
LEVELS = (1.0, 0.7, 0.5)  # sizes of the picture in which corners are looked for
BORDER = 9  # px
MIN_CORNER, FLAT = 1e-3, 1e-7  # of the strongest corner; and what noise makes of an even surface
CELLS, BINS = 4, 8  # of a descriptor: gradients in 4x4 cells, by eight directions
SAMPLES, SPACING = 16, 1.1  # rows of gradients around a corner, px between them
CLIP = 0.2
RATIO = 0.85  # of the distance to the second nearest


@dataclass(frozen=True)
class Points:
    """Points of one picture: places [n 2] px, descriptors [n 128] of length one."""

    places: Tensor
    descriptors: Tensor


def points_of(rgb: Tensor) -> Points:
    """The strongest corners of a picture [h w 3] at a few sizes, each with the gradients around it."""
    grey = rgb.mean(-1)[None, None]
    height, width = grey.shape[-2:]
    places, descriptors = [], []
    for level in LEVELS:
        size = (round(height * level), round(width * level))
        if min(size) < 4 * BORDER:
            continue
        small = grey if level == 1 else interpolate(grey, size=size, mode="bilinear", antialias=True)
        found = _corners(small[0, 0], most=round(MAX_POINTS * level**2))
        descriptors.append(_descriptors(small[0, 0], found))
        places.append(found * found.new_tensor([width / size[1], height / size[0]]))
    if not places:
        return Points(torch.zeros(0, 2), torch.zeros(0, CELLS * CELLS * BINS))
    return Points(torch.cat(places), torch.cat(descriptors))


def matches_of(first: Points, second: Points) -> Tensor:
    """Places [m 4] (x, y in the first, then in the second) of points that choose each other, clearly before others."""
    if min(len(first.places), len(second.places)) < 2:
        return torch.zeros(0, 4)
    alike = first.descriptors @ second.descriptors.T
    best, index = alike.topk(2, dim=1)
    distance = (2 - 2 * best).clamp_min(0).sqrt()
    mutual = alike.argmax(0)[index[:, 0]] == torch.arange(len(index))
    # The same corner at two sizes is no rival of itself.
    rivals = second.places[index]
    apart = (rivals[:, 0] - rivals[:, 1]).norm(dim=-1) > 4
    clear = (distance[:, 0] < RATIO * distance[:, 1]) | ~apart & (distance[:, 0] < 0.6)
    chosen = mutual & clear
    return torch.cat([first.places[chosen], second.places[index[chosen, 0]]], -1)


def _corners(grey: Tensor, *, most: int) -> Tensor:
    """Places [n 2] px where gradients of all directions meet."""
    dy, dx = _gradients(grey)
    blurred = lambda x: avg_pool2d(avg_pool2d(x[None, None], 3, 1, 1), 3, 1, 1)[0, 0]
    xx, yy, xy = blurred(dx * dx), blurred(dy * dy), blurred(dx * dy)
    least = 0.5 * (xx + yy) - (0.25 * (xx - yy) ** 2 + xy**2).sqrt()
    peak = (least == max_pool2d(least[None, None], 5, 1, 2)[0, 0]) & (
        least > max(FLAT, MIN_CORNER * float(least.max()))
    )
    peak[:BORDER], peak[-BORDER:], peak[:, :BORDER], peak[:, -BORDER:] = False, False, False, False
    rows, cols = peak.nonzero().T
    strongest = least[rows, cols].argsort(descending=True)[:most]
    rows, cols = rows[strongest], cols[strongest]
    # A parabola through the neighbours finds the peak between pixels.
    finer = []
    for before, here, after in (
        (least[rows, cols - 1], least[rows, cols], least[rows, cols + 1]),
        (least[rows - 1, cols], least[rows, cols], least[rows + 1, cols]),
    ):
        finer.append((0.5 * (before - after) / (before - 2 * here + after).clamp(max=-1e-12)).clamp(-0.5, 0.5))
    return torch.stack([cols + 0.5 + finer[0], rows + 0.5 + finer[1]], -1)


def _gradients(grey: Tensor) -> tuple[Tensor, Tensor]:
    """(down, across)."""
    smooth = avg_pool2d(grey[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
    down, across = torch.gradient(smooth)
    return down, across


def _descriptors(grey: Tensor, places: Tensor) -> Tensor:
    """Gradients around places [n 2], by cell and direction, both as seen from the main direction there."""
    gradients = torch.stack(_gradients(grey))[None]
    steps = (torch.arange(SAMPLES) - 0.5 * (SAMPLES - 1)) * SPACING
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).reshape(-1, 2)
    weight = (-0.5 * (grid / (0.5 * SAMPLES * SPACING)).square().sum(-1)).exp()
    down, across = _sampled(gradients, places[:, None] + grid, size=grey.shape)
    angle, length = torch.atan2(down, across), (down**2 + across**2).sqrt() * weight
    turns = 36
    index = ((angle / (2 * math.pi) % 1) * turns).long().clamp(max=turns - 1)
    histogram = torch.zeros(len(places), turns).scatter_add_(1, index, length)
    histogram = histogram + 0.5 * (histogram.roll(1, 1) + histogram.roll(-1, 1))
    main = (histogram.argmax(1) + 0.5) * 2 * math.pi / turns
    cos, sin = main.cos()[:, None], main.sin()[:, None]
    turned = torch.stack([cos * grid[:, 0] - sin * grid[:, 1], sin * grid[:, 0] + cos * grid[:, 1]], -1)
    down, across = _sampled(gradients, places[:, None] + turned, size=grey.shape)
    angle, length = torch.atan2(down, across) - main[:, None], (down**2 + across**2).sqrt() * weight
    cell = torch.arange(SAMPLES) * CELLS // SAMPLES
    cells = (cell[:, None] * CELLS + cell).reshape(-1)
    position = (angle / (2 * math.pi) % 1) * BINS
    lower = position.floor()
    found = torch.zeros(len(places), CELLS * CELLS * BINS)
    for bins, share in ((lower, 1 - (position - lower)), (lower + 1, position - lower)):
        found.scatter_add_(1, cells * BINS + bins.long() % BINS, length * share)
    return normalize(normalize(found, dim=1).clamp(max=CLIP), dim=1)


def _sampled(values: Tensor, places: Tensor, *, size: tuple[int, ...]) -> Tensor:
    """Values [1 c h w] at places [n s 2] px, as [c n s]."""
    scale = places.new_tensor([2 / size[1], 2 / size[0]])
    return grid_sample(values, (places * scale - 1)[None], align_corners=False, padding_mode="border")[0]

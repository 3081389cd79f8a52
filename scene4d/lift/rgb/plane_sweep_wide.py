"""A first guess of depth between cameras that are far apart: a plane sweep in every view, with level planes too."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from scene4d.geometry.camera import invert_rigid, pixel_centres
from scene4d.lift.depth.photo_consistency import scaled_cameras, warp_between
from scene4d.lift.rgbd.depth_images import despeckled, sample_grids
from scene4d.types import Cameras, Frames


@dataclass(frozen=True)
class WidePlaneSweepConfig:
    """Which planes are tried, and what decides. Lengths are in multiples of the cameras' distance to their focus."""

    width: int = 128
    """Width in px at which pictures are matched."""
    num_facing: int = 64
    """Planes that face the view, evenly spread in inverse depth."""
    num_level: int = 192
    """Level planes, evenly spread in height."""
    near: float = 0.1
    """Nearest depth."""
    far: float = 4.0
    """Farthest depth."""
    below: float = 1.0
    """How far level planes go below the focus; they end at the highest camera."""
    patches: tuple[int, ...] = (3, 7)
    """Widths in px of the patches whose mean colour differences decide together."""
    clip: float = 0.2
    """Colour difference above which pixels are equally wrong."""
    unseen: float = 0.1
    """Cost of lying where another view cannot see: out of its picture, or behind what it shows."""
    behind: float = 0.04
    """Relative depth from which a point lies behind another view's surface, or before it."""
    rounds: int = 2
    """How often the views' depths decide anew what hides what."""
    pull: float = 0.0025
    """Cost of any plane but the level one that most of all pictures agree on: what has no texture lies there."""


@dataclass(frozen=True)
class _Pair:
    """How unlike [p h w] the patches of one view are to another's on every plane; where [p h w 2] and how deep [p h w]
    the planes lie there; whether [p h w] within its picture."""

    cost: Tensor
    pixels: Tensor
    depth: Tensor
    inside: Tensor


def wide_plane_sweep_depth(
    frames: Frames, *, focus: Tensor, extent: float, config: WidePlaneSweepConfig | None = None
) -> Tensor:
    """Depth [v h w] m at which the pictures [v] of one instant look alike in one another.

    Patches on a table or a floor look alike between cameras 90 degrees apart only along the plane itself, hence level
    planes beside those that face the view. What another view cannot see is not compared, what lies before its
    surface must look like it. Pixels that agree nowhere get the level plane that explains most.

    Args:
        focus: the point [3] that the cameras look at; extent: their distance to it in m.
    Source: Gallup et al., Real-Time Plane-Sweeping Stereo with Multiple Sweeping Directions, 2007.
    """
    config = config or WidePlaneSweepConfig()
    cameras = scaled_cameras(frames.cameras, width=config.width)
    size = (cameras.height, cameras.width)
    rgb = frames.rgb.movedim(-1, 1)
    rgb = interpolate(rgb, size=size, mode="area") if rgb.shape[-2:] != size else rgb
    count = len(rgb)
    planes = [_planes(cameras, i, focus=focus, extent=extent, config=config) for i in range(count)]
    others = [[j for j in range(count) if j != i] for i in range(count)]
    pair = partial(_pair, rgb, cameras, config=config)
    pairs = [[pair(here=i, there=j, inverse=planes[i]) for j in others[i]] for i in range(count)]

    def costs_of(depth: Tensor | None) -> list[Tensor]:
        return [_costs(pairs[i], others[i], depth=depth, config=config) for i in range(count)]

    def depth_of_best(costs: list[Tensor]) -> Tensor:
        return torch.stack([_best(c, x, main=main, config=config) for c, x in zip(costs, planes, strict=True)])

    costs, gain = costs_of(None), rgb.new_zeros(config.num_level)
    for c in costs:
        # A plane that pictures agree on only where they have texture counts; what is plain agrees everywhere.
        gain = gain + (c.mean(0, keepdim=True) - c[: config.num_level]).clamp_min(0).mean((1, 2))
    main = int(gain.argmax())
    depth = depth_of_best(costs)
    for _ in range(config.rounds):
        depth = depth_of_best(costs_of(depth))
    return interpolate(depth[:, None], size=frames.rgb.shape[1:3], mode="nearest")[:, 0]


def _best(costs: Tensor, inverse: Tensor, *, main: int, config: WidePlaneSweepConfig) -> Tensor:
    """Depth [h w] of the best plane of every pixel, no specks."""
    costs = costs + config.pull
    costs[main] -= config.pull
    return 1 / despeckled(inverse.gather(0, costs.argmin(0, keepdim=True))[0])


def _planes(cameras: Cameras, index: int, *, focus: Tensor, extent: float, config: WidePlaneSweepConfig) -> Tensor:
    """Inverse depths [p h w] of the pixels of a view on every plane, the level ones first; clamped to the range."""
    world = invert_rigid(cameras.viewmats)
    pixels = pixel_centres(cameras.width, cameras.height, like=world)
    rays = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1) @ torch.linalg.inv(cameras.Ks[index]).T
    slope = rays @ world[index, 2, :3]  # height gained a metre of depth
    heights = torch.linspace(float(focus[2]) - config.below * extent, float(world[:, 2, 3].max()), config.num_level)
    level = slope / (heights - world[index, 2, 3])[:, None, None]
    facing = torch.linspace(1 / config.far, 1 / config.near, config.num_facing)[:, None, None].expand(-1, *slope.shape)
    # A level ray in a plane at its own height is 0 / 0: it runs along it, as if to the far end.
    inverse = torch.cat([level * extent, facing]).nan_to_num(0.0)
    return inverse.clamp(1 / config.far, 1 / config.near) / extent


def _pair(
    rgb: Tensor, cameras: Cameras, *, here: int, there: int, inverse: Tensor, config: WidePlaneSweepConfig
) -> _Pair:
    warp = warp_between(cameras, here=here, there=there)
    pixels, inside = warp.pixels(inverse)
    difference = (sample_grids(rgb[there], pixels) - rgb[here]).abs().mean(1, keepdim=True).clamp_max(config.clip)
    difference = torch.where(inside[:, None], difference, config.unseen)
    pooled = [avg_pool2d(difference, p, 1, p // 2, count_include_pad=False)[:, 0] for p in config.patches]
    depth = warp.far[..., 2] / inverse + warp.near[2]
    return _Pair(cost=torch.stack(pooled).sum(0) / len(pooled), pixels=pixels, depth=depth, inside=inside)


def _costs(pairs: list[_Pair], others: list[int], *, depth: Tensor | None, config: WidePlaneSweepConfig) -> Tensor:
    """Cost [p h w] of every plane to a view: of the two views that fit best at first, then of all that can see it."""
    if depth is None:
        found = [torch.where(p.inside, p.cost, config.unseen) for p in pairs]
        return torch.stack(found).topk(min(2, len(found)), dim=0, largest=False).values.mean(0)
    total = torch.zeros_like(pairs[0].cost)
    for pair, j in zip(pairs, others, strict=True):
        surface = sample_grids(depth[j][None], pair.pixels)[:, 0]
        seen = pair.inside & (pair.depth < (1 + config.behind) * surface)
        total += torch.where(seen, pair.cost, config.unseen)
    return total / len(pairs)

"""Level of detail: an RGB-D image as square cells, large where it is smooth, small elsewhere; one splat a cell."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from scene4d.gaussians.edit import concatenate
from scene4d.geometry.frame_images import depth_of
from scene4d.lift.rgbd.unproject import LiftConfig, lift_frames
from scene4d.types import Cameras, Frames, Gaussians

BINS = 512  # of the histogram that a bound on the number of cells is found with


@dataclass(frozen=True)
class LevelOfDetailConfig:
    """How large cells may be, and when."""

    num_levels: int = 4
    """Sizes: 1, 2, 4, ... pixels wide."""
    smooth: float = 0.01
    """Range of colour within a cell that is never worth splitting it for."""
    blur: float = 0.3
    """Blur in px^2 that a render adds (`eps2d`): wide cells get little from it and are made wider themselves."""
    max_slope: float = 6.0
    """Change of depth, in pixel spacings a pixel, above which a cell would hold two surfaces."""


def roughness(frame: Frames, chosen: Tensor, *, config: LevelOfDetailConfig) -> list[Tensor]:
    """Range of colour in the cells of each level above the pixels of a frame []: [h/2 w/2], [h/4 w/4], ...

    Infinite where a cell would hold pixels outside `chosen` [h w] or two surfaces; never less than in a cell's parts.
    """
    depth = depth_of(frame)[None, None]
    colour = frame.rgb.movedim(-1, 0)[None]
    focal = float((frame.cameras.Ks[0, 0] * frame.cameras.Ks[1, 1]).abs().sqrt())
    alone = (~chosen | (depth_of(frame) <= 0))[None, None].to(depth)
    levels: list[Tensor] = []
    for level in range(1, config.num_levels):
        size = 2**level
        if min(frame.rgb.shape[:2]) < size:
            break
        high, low = max_pool2d(colour, size), -max_pool2d(-colour, size)
        near, far = -max_pool2d(-depth, size), max_pool2d(depth, size)
        apart = (far - near > config.max_slope * (size - 1) * near / focal) | (max_pool2d(alone, size) > 0)
        rough = torch.where(apart[:, 0], torch.inf, (high - low).amax(1))[0]
        if levels:
            rough = torch.maximum(rough, max_pool2d(levels[-1][None, None], 2)[0, 0])
        levels.append(rough)
    return levels


def histogram(levels: list[Tensor]) -> Tensor:
    """[BINS] how many cells are saved by merging all that are at most so rough."""
    counts = torch.zeros(BINS, dtype=torch.float64)
    for rough in levels:
        bins = (rough[torch.isfinite(rough)] * BINS).long().clamp_max(BINS - 1)
        counts += 3 * torch.bincount(bins, minlength=BINS)  # four become one
    return counts


def limit_of(saved: Tensor, *, num_pixels: int, max_cells: int, config: LevelOfDetailConfig) -> float:
    """The roughness up to which cells are merged, so that of `num_pixels` at most `max_cells` are left if possible."""
    left = num_pixels - saved.cumsum(0)
    fits = (left <= max_cells).nonzero()[:, 0]
    needed = (float(fits[0]) + 1) / BINS if len(fits) else 1.0
    return max(config.smooth, needed)


def lift_cells(
    frame: Frames, chosen: Tensor, *, limit: float, lift: LiftConfig, config: LevelOfDetailConfig
) -> Gaussians:
    """One Gaussian for every cell of the chosen pixels [h w] of a frame [], as `lift_frames` makes them of pixels."""
    rough = roughness(frame, chosen, config=config)
    height, width = chosen.shape
    pieces = []
    inside = chosen & (depth_of(frame) > 0)
    for level in range(len(rough) + 1):
        if level:
            inside = rough[level - 1] <= limit
        whole = torch.zeros_like(inside)
        if level < len(rough):
            merged = (rough[level] <= limit).repeat_interleave(2, 0).repeat_interleave(2, 1)
            whole[: merged.shape[0], : merged.shape[1]] = merged
        wanted = inside & ~whole
        if wanted.any():
            image = _coarse(frame, level)
            # The same overlap at every size, in cells: (footprint width)^2 + blur is what a render shows.
            footprint = (lift.footprint**2 + config.blur * (1 - 0.25**level)) ** 0.5
            lifted = lift_frames(image.map(lambda x: x[None]), config=replace(lift, footprint=footprint))
            pieces.append(_bare(lifted).pick(wanted.flatten()[lifted.extras["pixel"][:, 0]]))
    if not pieces:
        nothing = _coarse(frame, 0).replace(depth=torch.zeros(height, width)).map(lambda x: x[None])
        return _bare(lift_frames(nothing, config=lift))
    return concatenate(pieces, renumber=True)


def _coarse(frame: Frames, level: int) -> Frames:
    """A frame [] of cells 2^level pixels wide; what does not fill a cell at the right and below is left out."""
    size = 2**level
    rgb = avg_pool2d(frame.rgb.movedim(-1, 0)[None], size)[0].movedim(0, -1)
    depth = avg_pool2d(depth_of(frame)[None, None], size)[0, 0]
    height, width = depth.shape
    scale = frame.cameras.Ks.new_tensor([[1 / size], [1 / size], [1.0]])
    cameras = Cameras(viewmats=frame.cameras.viewmats, Ks=frame.cameras.Ks * scale, width=width, height=height)
    return Frames(rgb=rgb, depth=depth, alpha=None, cameras=cameras)


def _bare(gaussians: Gaussians) -> Gaussians:
    """The rows without the numbers of their cells, which mean nothing beyond one level."""
    return gaussians.replace(extras={name: gaussians.extras[name] for name in ("confidence", "normals")})

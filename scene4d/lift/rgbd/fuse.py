"""Many RGB-D frames of a static scene to one bounded set: average what agrees, carve what was seen through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from scene4d.gaussians.edit import concatenate
from scene4d.geometry.camera import invert_rigid
from scene4d.geometry.frame_images import depth_of
from scene4d.geometry.neighbours import nearest
from scene4d.geometry.sh import sh_from_rgb
from scene4d.lift.refine.adam_loop import Progress
from scene4d.lift.refine.fit import FitConfig, fit_gaussians, halved
from scene4d.lift.rgbd.deblur_colours import DeblurConfig, deblur_colours
from scene4d.lift.rgbd.depth_images import close_gaps, complete_depth, nearest_point_map, pixels_of_points, sample_image
from scene4d.lift.rgbd.exposure import exposure_gains
from scene4d.lift.rgbd.sky_shell import shell_radius, sky_shell
from scene4d.lift.rgbd.unproject import LiftConfig, Surface, surface_from_depth, surface_quats
from scene4d.types import Frames, Gaussians


@dataclass(frozen=True)
class FuseConfig:
    """How frames of a static scene become one set."""

    lift: LiftConfig = field(default_factory=lambda: LiftConfig(footprint=0.55, opacity=0.8, max_slope=6.0))
    """Sizes of the splats and what counts as a depth edge."""
    max_gaussians: int = 400_000
    """Bound on the set; beyond it rows are left out evenly and the others enlarged."""
    rim: int = 2
    """Pixels this near a depth edge or a hole are used only where nothing else covers."""
    tolerance: float = 0.02
    """Two depths closer than this fraction are one surface."""
    density: float = 0.45
    """Surfels a pixel from which a surface counts as covered by what is already there."""
    max_through: float = 0.5
    """Rows that were seen through more often than this, per time seen in place, are carved away."""
    fill_holes: bool = True
    """Give pixels that no sensor ever measured a surface of low confidence, and a far sky shell behind all."""
    fill_confidence: float = 0.02
    """Confidence of such rows."""
    num_backdrop: int = 4000
    """Gaussians of the sky shell."""
    colour: DeblurConfig | None = field(default_factory=lambda: DeblurConfig(num_steps=1, degree=1))
    """How colours are solved for once the geometry stands (None = left as averaged)."""
    polish_rounds: int = 3
    """Passes of gradient descent over all frames at the end."""
    polish_width: int = 360
    """Widest image in px that colours and the final fit work on; larger frames are halved."""


@dataclass
class Surfels:
    """The state of the fusion, one row a surfel: all [n] or [n 3]."""

    points: Tensor
    normals: Tensor
    colours: Tensor
    weight: Tensor
    spacing: Tensor
    cosine: Tensor
    log_gain: Tensor

    def pick(self, keep: Tensor) -> Surfels:
        """The rows of a mask."""
        return Surfels(**{name: x[keep] for name, x in vars(self).items()})

    def grow(self, other: Surfels) -> Surfels:
        """These rows, then the others'."""
        return Surfels(**{name: torch.cat([x, getattr(other, name)]) for name, x in vars(self).items()})


def fuse_static(frames: Frames, *, config: FuseConfig | None = None, progress: Progress | None = None) -> Gaussians:
    """One set of Gaussians of a static scene from RGB-D frames [m], taken in order.

    Each frame moves the surfels that it sees in place towards what it measured (means weighted by confidence), counts
    against those it looked through, and adds surfels where the surface is not yet covered at its own resolution.
    Colours are averaged at a common exposure. Holes are filled last.

    Returns:
        Gaussians [n <= max_gaussians] with extras confidence [n 1] and normals [n 3].
    Raises:
        DepthError: the frames have no depth.
    Source: Keller et al., Real-time 3D Reconstruction in Dynamic Scenes using Point-based Fusion, 2013, section 4.
    """
    config = config or FuseConfig()
    count = frames.batch_shape[0]
    gains = exposure_gains(frames)
    level = frames.replace(rgb=frames.rgb * gains[:, None, None], depth=close_gaps(depth_of(frames)), extras={})
    rounds = 3 if config.fill_holes else 2
    tick = (lambda done: progress(done, rounds * count)) if progress is not None else (lambda done: None)
    surfels = _absorb(None, level[:1], gain=gains[0], config=config)
    tick(1)
    for i in range(1, count):
        surfels = _absorb(surfels, level[i : i + 1], gain=gains[i], config=config)
        tick(i + 1)
    surfels = _carve(surfels, level, config=config, most=config.max_through, spare=1.0, tick=lambda i: tick(count + i))
    if config.fill_holes:
        solid = surfels
        for i in range(count):
            surfels = _fill(surfels, level[i : i + 1], gain=gains[i], config=config)
            tick(2 * count + i + 1)
        fresh = torch.arange(len(surfels.points)) >= len(solid.points)
        surfels = solid.grow(_carve(surfels.pick(fresh), level, config=config, most=0.0))
    surfels = _thin(surfels, max_rows=config.max_gaussians - (config.num_backdrop if config.fill_holes else 0))
    gaussians = _gaussians_of_surfels(surfels, config=config)
    if config.fill_holes:
        shell = sky_shell(frames, reach=shell_radius(surfels.points, level), num=config.num_backdrop)
        gaussians = concatenate([gaussians, shell], renumber=True)
    return _refined(gaussians, frames, config=config)


def _refined(gaussians: Gaussians, frames: Frames, *, config: FuseConfig) -> Gaussians:
    """Colours solved in closed form, then a few rounds of descent, both on small images."""
    small = frames.replace(extras={})
    while small.cameras.width > config.polish_width:
        small = halved(small)
    if config.colour is not None:
        gaussians = deblur_colours(gaussians, small, config=config.colour)
    if config.polish_rounds > 0:
        rounds = FitConfig(steps=config.polish_rounds * frames.batch_shape[0], coarse_share=0.0)
        gaussians = fit_gaussians(gaussians, small, config=rounds)
    return gaussians


def _carve(
    surfels: Surfels,
    frames: Frames,
    *,
    config: FuseConfig,
    most: float,
    spare: float = 0.0,
    tick: Callable[[int], None] = lambda i: None,
) -> Surfels:
    """Without the rows that frames [m] saw through more than `most` times as often as in place.

    Beside a depth edge nothing is counted: there a pixel may see past the rim of what is really there.
    """
    through, seen = torch.zeros_like(surfels.weight), torch.zeros_like(surfels.weight)
    for i in range(frames.batch_shape[0]):
        depth = depth_of(frames)[i]
        near = -max_pool2d(torch.where(depth > 0, -depth, -torch.inf)[None], 3, 1, 1)[0]
        pixels, z, inside = pixels_of_points(surfels.points, frames.cameras[i])
        rows = inside.nonzero()[:, 0]
        column, line = pixels[rows].long().unbind(-1)
        there, nearest_there, z = depth[line, column], near[line, column], z[rows]
        seen[rows] += (there > 0) & ((there - z).abs() < config.tolerance * z)
        through[rows] += (there > 0) & (nearest_there - z > 2 * config.tolerance * z)
        tick(i + 1)
    return surfels.pick(through <= most * seen + spare)


def _thin(surfels: Surfels, *, max_rows: int) -> Surfels:
    """At most `max_rows` rows, evenly left out, the rest enlarged to keep surfaces closed."""
    count = len(surfels.points)
    if count <= max_rows:
        return surfels
    fewer = surfels.pick(evenly_kept(count, max_rows=max_rows))
    fewer.spacing *= (count / max_rows) ** 0.5
    return fewer


def evenly_kept(count: int, *, max_rows: int) -> Tensor:
    """Index of at most `max_rows` of `count` rows, evenly left out."""
    if count <= max_rows:
        return torch.arange(count)
    return torch.rand(count, generator=torch.Generator().manual_seed(0)).argsort()[:max_rows].sort().values


def _absorb(surfels: Surfels | None, frame: Frames, *, gain: Tensor, config: FuseConfig) -> Surfels:
    """One frame [1] more."""
    surface = surface_from_depth(frame, config=config.lift)
    usable = _inner(surface, rim=config.rim)
    weights = _pixel_weights(surface, frame, config=config)
    if surfels is None:
        return _new(surface, frame, chosen=usable, weights=weights, gain=gain)
    camera, depth = frame.cameras[0], depth_of(frame)[0]
    pixels, z, inside = pixels_of_points(surfels.points, camera)
    rows = inside.nonzero()[:, 0]
    column, line = pixels[rows].long().unbind(-1)
    there, z = depth[line, column], z[rows]
    known = usable[line, column]
    tolerance = config.tolerance * z
    agree = known & ((there - z).abs() < tolerance)
    rows, column, line, z, there = rows[agree], column[agree], line[agree], z[agree], there[agree]
    share = weights[line, column]
    share, weight = share / (surfels.weight[rows] + share), surfels.weight[rows] + share
    colour = sample_image(frame.rgb[0], pixels[rows])
    surfels.colours[rows] += (colour - surfels.colours[rows]) * share[:, None]
    centre = invert_rigid(camera.viewmats)[:3, 3]
    surfels.points[rows] += (surfels.points[rows] - centre) * ((there / z - 1) * share)[:, None]
    normals = surfels.normals[rows] * (1 - share[:, None]) + surface.normals[0, line, column] * share[:, None]
    surfels.normals[rows] = torch.nn.functional.normalize(normals, dim=-1)
    surfels.weight[rows] = weight
    surfels.spacing[rows] = torch.minimum(surfels.spacing[rows], surface.spacing[0, line, column])
    surfels.cosine[rows] = torch.maximum(surfels.cosine[rows], surface.cosine[0, line, column])
    surfels.log_gain[rows] += (gain.log() - surfels.log_gain[rows]) * share[:, None]
    cover = torch.zeros_like(depth).index_put_((line, column), torch.ones_like(z), accumulate=True)
    cover = avg_pool2d(cover[None, None], 3, 1, 1)[0, 0]
    return surfels.grow(_new(surface, frame, chosen=usable & (cover < config.density), weights=weights, gain=gain))


def _inner(surface: Surface, *, rim: int) -> Tensor:
    """Pixels [h w] farther than `rim` from any depth edge or hole: nearer, depth and colour are of two surfaces."""
    outside = (~surface.valid | surface.flying | surface.edge)[:, None].float()
    # What lies beyond the border of the image is no hole: max_pool2d pads with -inf.
    return max_pool2d(outside, 2 * rim + 1, 1, rim)[0, 0] == 0


def _fill(surfels: Surfels, frame: Frames, *, gain: Tensor, config: FuseConfig) -> Surfels:
    """Surfels of low confidence for the pixels of a frame [1] that nothing covers."""
    seen, _ = nearest_point_map(surfels.points, frame.cameras[0], grow=1)
    depth = torch.where(depth_of(frame)[0] > 0, depth_of(frame)[0], seen)
    hole = seen <= 0
    if not hole.any() or not depth.any():
        return surfels
    full = frame.replace(depth=complete_depth(depth[None]))
    surface = surface_from_depth(full, config=config.lift)
    weights = _pixel_weights(surface, full, config=config) * config.fill_confidence
    return surfels.grow(_new(surface, full, chosen=hole & surface.valid[0], weights=weights, gain=gain))


def _pixel_weights(surface: Surface, frame: Frames, *, config: FuseConfig) -> Tensor:
    """Weight [h w] of each pixel: facing, fine, near and away from depth edges counts more."""
    facing = surface.cosine[0].clamp_min(0.05) * torch.where(surface.edge[0], config.lift.edge_confidence, 1.0)
    return facing / (1 + (depth_of(frame)[0] / config.lift.noise_depth) ** 2)


def _new(surface: Surface, frame: Frames, *, chosen: Tensor, weights: Tensor, gain: Tensor) -> Surfels:
    """Surfels of the chosen pixels [h w] of a frame [1]."""
    weight = weights[chosen]
    return Surfels(
        points=surface.points[0][chosen],
        normals=surface.normals[0][chosen],
        colours=frame.rgb[0][chosen],
        weight=weight,
        spacing=surface.spacing[0][chosen],
        cosine=surface.cosine[0][chosen],
        log_gain=gain.log().repeat(len(weight), 1),
    )


def _gaussians_of_surfels(surfels: Surfels, *, config: FuseConfig) -> Gaussians:
    # The fourth neighbour of a square grid is one spacing away: where rows are sparse, splats grow and close it.
    reach, _ = nearest(surfels.points, surfels.points, num=min(5, len(surfels.points)))
    size = config.lift.footprint * reach[:, -1].clamp(0.5 * surfels.spacing, 4 * surfels.spacing)
    stretch = (1 / surfels.cosine.clamp_min(1e-3)).clamp_max(config.lift.max_stretch)
    confidence = (surfels.weight / (1 + surfels.weight)).clamp(0.0, 1.0)
    return Gaussians(
        means=surfels.points,
        quats=surface_quats(surfels.normals, surfels.normals),
        scales=torch.stack([size * stretch.sqrt(), size * stretch.sqrt(), size * config.lift.thickness], -1),
        opacities=torch.full_like(size, config.lift.opacity),
        # At the exposure of the frames that saw it: a camera that adapts shows each place at its own brightness.
        sh=sh_from_rgb(surfels.colours / surfels.log_gain.exp()),
        extras={"confidence": confidence[:, None], "normals": surfels.normals},
    )

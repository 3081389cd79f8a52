"""One moving camera in a static scene: each instant is shown as the two frames round it measured it, averaged."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from scene4d.gaussians.edit import concatenate
from scene4d.geometry.frame_images import depth_of
from scene4d.lift.moving_camera.background_layer import BackgroundLayerConfig, middle_view, pushed_back
from scene4d.lift.moving_camera.layered_views_fit import LayeredViewsFitConfig, fit_layered_views
from scene4d.lift.moving_camera.plane_sweep import PlaneSweepConfig, plane_sweep_depth
from scene4d.lift.moving_camera.pose_refinement import PoseRefinementConfig, local_means, refined_cameras
from scene4d.lift.refine.adam_loop import Progress
from scene4d.lift.refine.fit import halved
from scene4d.lift.rgbd.depth_images import close_gaps, fill_nearest, pixels_of_points, with_colour
from scene4d.lift.rgbd.exposure import exposure_gains
from scene4d.lift.rgbd.fuse import evenly_kept
from scene4d.lift.rgbd.level_of_detail import LevelOfDetailConfig, histogram, lift_cells, limit_of, roughness
from scene4d.lift.rgbd.sky_shell import shell_radius, sky_shell
from scene4d.lift.rgbd.unproject import LiftConfig, valid_pixels
from scene4d.scene import ALIVE_TOLERANCE
from scene4d.types import Frames, Gaussians

TURN = 2 * ALIVE_TOLERANCE  # s: what ends at an instant ends so much earlier, and what begins there takes over at once


@dataclass(frozen=True)
class LayeredViewsConfig:
    """How frames of one moving camera become Gaussians that exist for an interval of time."""

    lift: LiftConfig = field(
        default_factory=lambda: LiftConfig(
            footprint=0.6, opacity=0.2, thickness=1.0, drop_flying=False, keep_pixels=True, max_stretch=1.0
        )
    )
    """The splats: so wide and so transparent that layers of two frames blend instead of hiding one another."""
    cells: LevelOfDetailConfig = field(default_factory=LevelOfDetailConfig)
    """How smooth parts are merged."""
    lining: BackgroundLayerConfig = field(default_factory=BackgroundLayerConfig)
    """The opaque layer behind the transparent ones."""
    settle: PoseRefinementConfig | None = field(default_factory=PoseRefinementConfig)
    """How the poses are freed of jitter first (None = taken as they are)."""
    sweep: PlaneSweepConfig = field(default_factory=PlaneSweepConfig)
    """How depth is found where none was measured."""
    fit: LayeredViewsFitConfig | None = None
    """Refine by rendering (minutes); None = do not."""
    max_gaussians: int = 4_000_000
    """Bound on all Gaussians; cells are merged, the smoothest first, until they fit."""
    max_pixels: int = 16_000_000
    """Bound on the pixels of all frames that are kept at once; larger recordings are halved."""
    max_splats: int = 4_000_000
    """Bound on the pixels of all frames that become splats; beyond it images are halved for that."""
    exposure_frames: float = 0.6
    """Exposure is averaged over so many frames (a Gaussian's deviation)."""
    hidden: float = 0.05
    """A place this fraction behind what a frame measured is hidden from it."""
    sweep_width: int = 200
    """Widest image in px for the plane sweep."""
    settle_width: int = 400
    """Widest image in px for the refinement of poses."""
    num_backdrop: int = 4000
    """Gaussians of the far shell, for directions in which no camera ever looked."""


def fuse_layered_views(
    frames: Frames, times: Tensor, *, config: LayeredViewsConfig | None = None, progress: Progress | None = None
) -> tuple[Gaussians, Tensor]:
    """Gaussians [n] of a still scene from RGB-D frames [m] of one moving camera, and when each is alive, [n 2] s.

    A tracked camera drifts, a sensor's depth is off by its noise, cameras set their own exposure: fusing everything
    gives doubled surfaces and blur. Two neighbouring frames hardly disagree, and the mean of both is nearer to what a
    camera between them sees than either. So each frame's splats are nearly transparent and exist while one of its
    neighbours in time is the nearest frame, and behind each pair stands an opaque picture of their mean. A place that
    the frames round an instant do not see is shown by the nearest in time that do: nothing that was seen is forgotten.

    Args:
        times: [m] s, increasing.
    Returns:
        Gaussians [n <= max_gaussians] with extras confidence [n 1] and normals [n 3]; alive [n 2] float64.
    Raises:
        DepthError: the frames have no depth.
    """
    config = config or LayeredViewsConfig()
    tick = progress or (lambda done, total: None)
    valid_pixels(frames[:1])
    full = frames = _levelled(_prepared(frames, config=config), config=config)
    while frames.rgb[..., 0].numel() > config.max_splats:
        frames = halved(frames)
    count = frames.batch_shape[0]
    tick(count // 3, count)
    limit = _limit(frames, config=config)
    cells = partial(_cells, limit=limit, config=config)
    layers, alive = [], []
    for k in range(count):
        layers.append(cells(frames[k], lift=config.lift))
        alive.append(layer_lifetimes(layers[k].means, k, frames=frames, times=times, config=config))
        tick((count + k) // 3, count)
    views = [
        middle_view(concatenate(layers[k : k + 2], renumber=True), frames[k : k + 2], config=config.lining)
        for k in range(max(1, count - 1))
    ]
    backs = [pushed_back(view, config=config.lining) for view in views]
    for k, back in enumerate(backs):
        layers.append(cells(back, lift=config.lining.lift))
        alive.append(interval_lifetimes(layers[-1].means, k, views=backs, times=times, hidden=config.hidden))
        tick((2 * count + k) // 3, count)
    room = config.max_gaussians - config.num_backdrop
    kept = evenly_kept(sum(p.num_gaussians for p in layers), max_rows=room)
    gaussians, lifetimes = _thinned(concatenate(layers, renumber=True), kept), torch.cat(alive)[kept]
    shell = _shell(frames, gaussians, config=config)
    gaussians = concatenate([gaussians, shell], renumber=True)
    lifetimes = torch.cat([lifetimes, lifetimes.new_tensor([-torch.inf, torch.inf]).expand(shell.num_gaussians, 2)])
    tick(count, count)
    if config.fit is not None and count > 1:
        fit = partial(fit_layered_views, config=config.fit, progress=progress)
        gaussians = fit(gaussians, lifetimes, frames=full, times=times)
    return gaussians, lifetimes


def _prepared(frames: Frames, *, config: LayeredViewsConfig) -> Frames:
    """The frames with refined cameras and a depth at every pixel whose colour is usable, 0 elsewhere."""
    frames = _cleaned(frames)
    while frames.rgb[..., 0].numel() > config.max_pixels:
        frames = halved(frames)
    small = frames
    while small.cameras.width > config.settle_width:
        small = halved(small)
    if config.settle is not None:
        viewmats = refined_cameras(small, config=config.settle).viewmats
        frames, small = (f.replace(cameras=f.cameras.replace(viewmats=viewmats)) for f in (frames, small))
    while small.cameras.width > config.sweep_width:
        small = halved(small)
    size = frames.rgb.shape[1:3]
    found = interpolate(plane_sweep_depth(small, config=config.sweep)[:, None], size=size, mode="nearest")[:, 0]
    depth = torch.where(depth_of(frames) > 0, depth_of(frames), found)
    return frames.replace(depth=depth if frames.alpha is None else depth * frames.alpha)


def _cleaned(frames: Frames) -> Frames:
    """The frames with thin gaps of depth closed; alpha 1 or 0, and None where all is usable.

    What has no usable colour (borders of undistortion, masks) has no depth either, and takes the nearest usable colour,
    so that nothing that blurs or looks up between pixels brings the border in.
    """
    usable = None if frames.alpha is None else frames.alpha > 0.5
    if usable is None or bool(usable.all()):
        return frames.replace(depth=close_gaps(depth_of(frames)), alpha=None, extras={})
    depth = close_gaps(torch.where(usable, depth_of(frames), 0.0)) * usable
    rgb = [fill_nearest(image, known) for image, known in zip(frames.rgb, usable, strict=True)]
    return frames.replace(rgb=torch.stack(rgb), depth=depth, alpha=usable.to(depth), extras={})


def _levelled(frames: Frames, *, config: LayeredViewsConfig) -> Frames:
    """The frames with what each frame alone was exposed brighter or darker than those round it taken away."""
    count = frames.batch_shape[0]
    logs = -exposure_gains(frames).log()  # [m 3]
    smooth = local_means(count, config.exposure_frames, dtype=logs.dtype) @ logs
    return frames.replace(rgb=frames.rgb * (smooth - logs).exp()[:, None, None])


def _limit(frames: Frames, *, config: LayeredViewsConfig) -> float:
    """How rough a cell may be, so that all layers and background layers fit."""
    count, height, width = frames.rgb.shape[:3]
    saved = torch.zeros_like(histogram([]))
    for frame in (frames[k] for k in range(count)):
        saved += histogram(roughness(frame, depth_of(frame) > 0, config=config.cells))
    # Background layers are pictures of the same places, a margin larger.
    margin = 2 * round(config.lining.margin * width)
    more = 1 + (width + margin) * (height + margin) / (width * height)
    room = config.max_gaussians - config.num_backdrop
    return limit_of(more * saved, num_pixels=int(more * count * height * width), max_cells=room, config=config.cells)


def _cells(frame: Frames, *, lift: LiftConfig, limit: float, config: LayeredViewsConfig) -> Gaussians:
    chosen = depth_of(frame) > 0
    return lift_cells(frame, chosen, limit=limit, lift=lift, config=config.cells)


def _sees(means: Tensor, frame: Frames, *, hidden: float) -> Tensor:
    """Which places [n] a frame [] looks at without something in front of them."""
    pixels, z, inside = pixels_of_points(means, frame.cameras)
    height, width = frame.rgb.shape[:2]
    column, line = pixels.nan_to_num(0.0).long().unbind(-1)
    there = depth_of(frame)[line.clamp(0, height - 1), column.clamp(0, width - 1)]
    return inside & (z <= (1 + hidden) * there)


def _neighbours(means: Tensor, home: int, *, views: list[Frames], hidden: float) -> tuple[Tensor, Tensor]:
    """The last view before `home`, -1 if none, and the first after it, their number if none, that sees places [n]."""
    count = len(views)
    before = torch.full((len(means),), -1)
    after = torch.full_like(before, count)
    for found, none, order in ((after, count, range(home + 1, count)), (before, -1, range(home - 1, -1, -1))):
        for j in order:
            rows = (found == none).nonzero()[:, 0]
            if len(rows):
                found[rows[_sees(means[rows], views[j], hidden=hidden)]] = j
    return before, after


def layer_lifetimes(means: Tensor, home: int, *, frames: Frames, times: Tensor, config: LayeredViewsConfig) -> Tensor:
    """[n 2] s: when places [n] of frame `home` are shown by it.

    While it is one of the two frames round the instant; on to the interval whose end, and back to the interval whose
    beginning, is a frame that sees the place too. An instant at the border belongs to the interval that it begins.
    """
    count = len(times)
    before, after = _neighbours(means, home, views=[frames[j] for j in range(count)], hidden=config.hidden)
    ends = torch.cat([times.double(), times.new_tensor([torch.inf, -torch.inf]).double()])
    last, first = (after - 1).clamp_min(home + 1), (before + 1).clamp_max(home - 1)
    last = torch.where((after == count) | (last >= count - 1), count, last)
    first = torch.where((before == -1) | (first <= 0), count + 1, first)
    return torch.stack([ends[first], ends[last] - TURN], -1)


def interval_lifetimes(means: Tensor, home: int, *, views: list[Frames], times: Tensor, hidden: float) -> Tensor:
    """[n 2] s: when places [n] of interval `home` are the nearest in time that is known of them; `views` [m - 1].

    In their own interval, and on to the next (and back to the last) that sees them; what lies between two such
    intervals is shared half and half. An instant at the border belongs to the interval that it begins.
    """
    count = len(views)
    before, after = _neighbours(means, home, views=views, hidden=hidden)
    ends = torch.cat([times.double(), times.new_tensor([torch.inf, -torch.inf]).double()])
    infinite = len(times)
    died = ends[torch.where(after < count, (home + 1 + after) // 2, infinite)]
    born = ends[torch.where(before >= 0, (before + 1 + home) // 2, infinite + 1)]
    return torch.stack([born, died - TURN], -1)


def _thinned(gaussians: Gaussians, kept: Tensor) -> Gaussians:
    """The rows that are kept, enlarged to keep surfaces closed."""
    if len(kept) == gaussians.num_gaussians:
        return gaussians
    fewer = gaussians.pick(kept)
    return fewer.replace(scales=fewer.scales * (gaussians.num_gaussians / len(kept)) ** 0.5)


def _shell(frames: Frames, gaussians: Gaussians, *, config: LayeredViewsConfig) -> Gaussians:
    """A far shell, without the directions in which a frame looked and saw: there something is known."""
    shell = sky_shell(frames, reach=shell_radius(gaussians.means, frames), num=config.num_backdrop)
    looked = torch.zeros(shell.num_gaussians, dtype=torch.bool)
    for j in range(frames.batch_shape[0]):
        pixels, _, inside = pixels_of_points(shell.means, frames.cameras[j])
        looked |= with_colour(inside, pixels, alpha=None if frames.alpha is None else frames.alpha[j])
    return shell.pick(~looked)

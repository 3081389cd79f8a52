"""Refinement of Gaussians that exist for intervals of time: each interval learns the mean of its two frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scene4d.geometry.frame_images import alpha_of, depth_of
from scene4d.geometry.rotation import normalize_quat
from scene4d.lift.moving_camera.background_layer import interpolated_camera
from scene4d.lift.refine.adam_loop import Progress, descend, finite
from scene4d.lift.refine.sparse_adam import SparseAdam
from scene4d.lift.rgbd.depth_images import pixels_of_points
from scene4d.lift.rgbd.unproject import LiftConfig, lift_frames
from scene4d.render.render import render
from scene4d.types import Cameras, Frames, Gaussians


@dataclass(frozen=True)
class LayeredViewsFitConfig:
    """How long and how fast the intervals are refined."""

    rounds: int = 12
    """Gradient steps an interval."""
    max_seconds: float | None = None
    """Stop after so long even if rounds are left; None = never, and the result is the same on every machine."""
    lift: LiftConfig = field(
        default_factory=lambda: LiftConfig(
            footprint=1.0, opacity=0.05, thickness=1.0, max_stretch=1.0, drop_flying=False
        )
    )
    """The splats of every pixel whose mean, divided by coverage, is the picture to be learned."""
    reach: tuple[float, float] = (0.3, 0.7)
    """Where between the first frame (0) and the second (1) the picture is looked at from."""
    means_rate: float = 0.03
    """Learning rate of centres, in units of each Gaussian's mean scale."""
    scales_rate: float = 0.01
    """Learning rate of log scales."""
    opacities_rate: float = 0.05
    """Learning rate of opacity logits."""
    sh_rate: float = 0.05
    """Learning rate of colours, as coefficients."""
    depth_weight: float = 0.2
    """Weight of the relative depth error."""
    alpha_weight: float = 0.05
    """Weight of missing coverage."""
    seed: int = 0
    """Order of the intervals and places of the cameras."""


class _Rows:
    """Free parameters of all rows."""

    def __init__(self, gaussians: Gaussians, *, config: LayeredViewsFitConfig) -> None:
        self.start = gaussians
        self.unit = gaussians.scales.mean(-1, keepdim=True)
        values = {
            "offsets": torch.zeros_like(gaussians.means),
            "log_scales": gaussians.scales.clamp_min(1e-7).log(),
            "logits": gaussians.opacities.clamp(1e-3, 1 - 1e-3).logit(),
            "colours": gaussians.sh.clone(),
        }
        rates = (config.means_rate, config.scales_rate, config.opacities_rate, config.sh_rate)
        self.adam = SparseAdam(
            values, rates=dict(zip(values, rates, strict=True)), beta2=0.95, eps=1e-12, damping=lambda done: 0.1**done
        )

    def built(self, rows: Tensor, values: Mapping[str, Tensor]) -> Gaussians:
        """The rows [k] that the values stand for."""
        start = self.start.pick(rows)
        return start.replace(
            means=start.means + values["offsets"] * self.unit[rows],
            scales=values["log_scales"].exp(),
            quats=normalize_quat(start.quats),
            opacities=values["logits"].sigmoid(),
            sh=values["colours"],
            extras={},
        )


def fit_layered_views(
    gaussians: Gaussians,
    alive: Tensor,
    *,
    frames: Frames,
    times: Tensor,
    config: LayeredViewsFitConfig | None = None,
    progress: Progress | None = None,
) -> Gaussians:
    """Refine Gaussians [n], alive [n 2] s, of a still scene against its frames [m] of one moving camera, in time order.

    Rows that stand for an interval of time cannot be held against the frames at its ends alone: they would learn both
    jitters. What a camera between them is likely to see is the mean of both, drawn with every pixel as a nearly
    transparent splat and divided by its coverage. A display cannot divide; opaque rows that draw the same can be
    learned.

    Args:
        frames: [m >= 2] with refined cameras, a common exposure and a depth wherever colour is usable.
        progress: called with (steps done, steps), from 0 on.
    Returns:
        The same rows with refined centres, scales, opacities and colours.
    Raises:
        NumericsError: a loss was not finite.
    """
    config = config or LayeredViewsFitConfig()
    rows = _Rows(gaussians, config=config)
    generator = torch.Generator().manual_seed(config.seed)
    num_intervals = frames.batch_shape[0] - 1
    total, order = config.rounds * num_intervals, []

    def loss_of_step(step: int) -> Tensor:
        if not order:
            order.extend(reversed(torch.randperm(num_intervals, generator=generator).tolist()))
        k = order.pop()
        place = config.reach[0] + (config.reach[1] - config.reach[0]) * float(torch.rand(1, generator=generator))
        camera = interpolated_camera(frames.cameras[k : k + 2], place)
        target, known = mean_picture(frames[k : k + 2], camera, config=config)
        shown = _shown(gaussians.means, alive, camera=camera, time=0.5 * float(times[k] + times[k + 1]))
        drawn = render(rows.built(shown, rows.adam.leaves(shown)), camera)
        return finite(_loss(drawn, target, known=known, config=config), field="fit", frame=k)

    if progress is not None:
        progress(0, total)
    descend(loss_of_step, optimizer=rows.adam, steps=total, max_seconds=config.max_seconds, progress=progress)
    everyone = torch.arange(gaussians.num_gaussians)
    return rows.built(everyone, rows.adam.values).replace(extras=gaussians.extras)


def mean_picture(frames: Frames, camera: Cameras, *, config: LayeredViewsFitConfig) -> tuple[Frames, Tensor]:
    """What a camera between frames [2] is likely to see, and where [h w] that is known."""
    with torch.no_grad():
        drawn = render(lift_frames(frames, config=config.lift).replace(extras={}), camera)
    coverage = alpha_of(drawn)  # [h w]
    known = (coverage > 0.15) & (depth_of(drawn) > 0)
    return drawn.replace(rgb=drawn.rgb / coverage.clamp_min(0.05)[..., None]), known


def _shown(means: Tensor, alive: Tensor, *, camera: Cameras, time: float) -> Tensor:
    """Index of the rows alive at a time that may fall into a camera's image."""
    rows = ((alive[:, 0] <= time) & (time <= alive[:, 1])).nonzero()[:, 0]
    pixels, z, _ = pixels_of_points(means[rows], camera)
    size = pixels.new_tensor([camera.width, camera.height])
    near = ((pixels > -0.1 * size) & (pixels < 1.1 * size)).all(-1) & (z > 0.01)
    return rows[near]


def _loss(drawn: Frames, target: Frames, *, known: Tensor, config: LayeredViewsFitConfig) -> Tensor:
    loss = 5 * ((drawn.rgb - target.rgb).square() * known[..., None]).mean()
    loss = loss + config.alpha_weight * (1 - alpha_of(drawn)).square().mean()
    error = (depth_of(drawn) - depth_of(target)).abs() / depth_of(target).clamp_min(1e-3)
    counts = known & (alpha_of(drawn).detach() > 0.5)
    # Far off it is another surface: the pull fades with the distance, but never ends.
    return loss + config.depth_weight * torch.where(counts, 0.1 * (1 + error / 0.1).log(), 0.0).mean()

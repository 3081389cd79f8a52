"""Gaussians from a few pictures of one instant, far apart and without depth: what is seen must also be smooth."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scene4d.geometry.camera import invert_rigid, look_at, unproject
from scene4d.geometry.frame_images import alpha_of, depth_of
from scene4d.geometry.sh import sh_from_rgb
from scene4d.lift.refine.adam_loop import Adam, Progress, descend, finite
from scene4d.lift.rgb.plane_sweep_wide import WidePlaneSweepConfig, wide_plane_sweep_depth
from scene4d.lift.rgb.splat_trainer import activated, focus_and_extent
from scene4d.lift.rgbd.depth_images import pixels_of_points, sample_image
from scene4d.lift.rgbd.sky_shell import sky_shell
from scene4d.render.losses import l1
from scene4d.render.render import render
from scene4d.types import Cameras, Frames, Gaussians

RATES = {"means": 5e-4, "log_scales": 5e-3, "quats": 2e-3, "logits": 2e-2, "colours": 5e-3}


@dataclass(frozen=True)
class SparseViewFitConfig:
    """How long Gaussians are fitted to the pictures of one instant, and what holds them where no picture does."""

    planes: WidePlaneSweepConfig = field(default_factory=WidePlaneSweepConfig)
    """The first guess of depth."""
    steps: int = 200
    """Gradient steps: one picture each, and one view from where no camera is."""
    max_seconds: float | None = None
    """Stop after so long even if steps are left; None = never, and the result is the same on every machine."""
    max_gaussians: int = 16_000
    """Gaussians at most: pixels of all pictures, every n-th."""
    num_backdrop: int = 1000
    """Gaussians of a far shell behind all of it."""
    bend_weight: float = 0.3
    """Weight of inverse depth that bends, in the pictures and in views from elsewhere; planes do not."""
    cover_weight: float = 0.05
    """Weight of holes in views from elsewhere."""
    plain_weight: float = 0.5
    """Weight of colour differences between neighbouring pixels of views from elsewhere."""
    seed: int = 0
    """Of everything that is drawn at random."""


def fit_sparse_views(
    frames: Frames, *, config: SparseViewFitConfig | None = None, progress: Progress | None = None
) -> Gaussians:
    """Gaussians [n] that show the pictures [v] of one instant, sh of degree 0, as smooth between them as they allow.

    Raises:
        CalibrationError: fewer than three cameras, or all in one place. NumericsError: a loss was not finite.
    Source: Niemeyer et al., RegNeRF, 2022, for the views from elsewhere.
    """
    config = config or SparseViewFitConfig()
    random = torch.Generator().manual_seed(config.seed)
    focus, extent = focus_and_extent(frames)
    params = _start(frames, focus=focus, extent=extent, config=config)
    rates = {**RATES, "means": RATES["means"] * extent}

    def loss_of_step(step: int) -> Tensor:
        gaussians = activated(params)
        target = frames[step % len(frames.rgb)]
        seen = render(gaussians, target.cameras, near=0.02 * extent)
        loss = l1(seen.rgb, target.rgb, mask=target.alpha)
        loss = loss + config.bend_weight * inverse_depth_curvature(seen, target.rgb, extent=extent)
        elsewhere = random_camera(frames.cameras, focus=focus, random=random)
        guess = render(gaussians, elsewhere, near=0.02 * extent)
        loss = loss + config.bend_weight * inverse_depth_curvature(guess, guess.rgb.detach(), extent=extent)
        loss = loss + config.cover_weight * (1 - alpha_of(guess)).mean()
        loss = loss + config.plain_weight * sum(guess.rgb.diff(dim=d).abs().mean() for d in (0, 1))
        return finite(loss, field="rgb_fit", frame=step, fix="check the poses")

    adam = Adam(params, rates=rates, decay=dict.fromkeys(rates, 0.1))
    descend(loss_of_step, optimizer=adam, steps=config.steps, max_seconds=config.max_seconds, progress=progress)
    with torch.no_grad():
        return activated(params).detach()


def _start(frames: Frames, *, focus: Tensor, extent: float, config: SparseViewFitConfig) -> dict[str, Tensor]:
    """Round Gaussians on every n-th pixel of every picture, as wide as the gaps, at the first guess of depth."""
    count, height, width = frames.rgb.shape[:3]
    stride = max(1, math.ceil(math.sqrt(count * height * width / config.max_gaussians)))
    depth = wide_plane_sweep_depth(frames, focus=focus, extent=extent, config=config.planes)
    reach = config.planes.far * extent
    shell = sky_shell(frames.replace(depth=depth * (depth < 0.8 * reach)), reach=reach, num=config.num_backdrop)
    points = unproject(depth, frames.cameras.viewmats, Ks=frames.cameras.Ks)
    some = (slice(None), slice(stride // 2, None, stride), slice(stride // 2, None, stride))
    focal = (frames.cameras.Ks[:, 0, 0] * frames.cameras.Ks[:, 1, 1]).abs().sqrt()
    size = (0.5 * stride * depth / focal[:, None, None])[some].flatten()
    places, rgb = points[some].reshape(-1, 3), frames.rgb[some].reshape(-1, 3)
    kept = ~_occluders(places, rgb, frames=frames, depth=depth, limit=config.planes.clip)
    places, rgb, size = places[kept], rgb[kept], size[kept]
    params = {
        "means": torch.cat([places, shell.means]),
        "log_scales": torch.cat([size[:, None].repeat(1, 3), shell.scales]).log(),
        "quats": torch.cat([points.new_tensor([1.0, 0, 0, 0]).repeat(len(size), 1), shell.quats]),
        "logits": torch.cat([torch.full_like(size, 0.7), shell.opacities]).logit(),
        "colours": torch.cat([sh_from_rgb(rgb), shell.sh]),
    }
    return {name: x.clone().requires_grad_() for name, x in params.items()}


def _occluders(places: Tensor, rgb: Tensor, *, frames: Frames, depth: Tensor, limit: float) -> Tensor:
    """[n] which places [n 3] lie before the surface of a view [v] and hide another colour there than their own."""
    wrong = torch.zeros(len(places), dtype=torch.bool)
    for i in range(len(depth)):
        pixels, z, inside = pixels_of_points(places, frames.cameras[i])
        seen = sample_image(torch.cat([frames.rgb[i], depth[i][..., None]], -1), pixels)
        wrong |= inside & (z < 0.9 * seen[:, 3]) & ((seen[:, :3] - rgb).abs().amax(-1) > limit)
    return wrong


def inverse_depth_curvature(frames: Frames, picture: Tensor, *, extent: float) -> Tensor:
    """Mean second difference of inverse depth in units of 1 / extent, less where the picture [h w 3] has edges."""
    covered = alpha_of(frames).detach() > 0.5
    inverse = torch.where(covered, extent / depth_of(frames).clamp_min(0.05 * extent), 0.0)
    total = inverse.new_zeros(())
    for d in (0, 1):
        size = inverse.shape[d] - 2
        middle = inverse.narrow(d, 1, size)
        second = inverse.narrow(d, 2, size) - 2 * middle + inverse.narrow(d, 0, size)
        edge = (picture.narrow(d, 2, size) - picture.narrow(d, 0, size)).abs().mean(-1)
        known = covered.narrow(d, 1, size) & covered.narrow(d, 2, size) & covered.narrow(d, 0, size)
        total = total + (second.abs() * torch.exp(-10 * edge) * known).mean()
    return total


def random_camera(cameras: Cameras, *, focus: Tensor, random: torch.Generator) -> Cameras:
    """A camera [] that looks at the focus from any side, as high and as far as the cameras [v] are, or in between."""
    offsets = invert_rigid(cameras.viewmats)[:, :3, 3] - focus
    share, turn = torch.rand(3, generator=random).tolist(), 2 * math.pi * float(torch.rand(1, generator=random))
    height = torch.atan2(offsets[:, 2], offsets[:, :2].norm(dim=-1))
    up = float(height.min() + share[0] * (height.max() - height.min()))
    away = offsets.norm(dim=-1)
    away = float(away.min() + share[1] * (away.max() - away.min()))
    flat = away * math.cos(up)
    eye = focus + focus.new_tensor([flat * math.cos(turn), flat * math.sin(turn), away * math.sin(up)])
    K = cameras.Ks[int(share[2] * len(cameras.Ks))]
    return Cameras(viewmats=look_at(eye, focus), Ks=K, width=cameras.width, height=cameras.height)

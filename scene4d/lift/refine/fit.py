"""Refinement by rendering: Adam on every parameter of the Gaussians, with exposure and small camera motion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.gaussians.edit import with_sh_bases
from scene4d.geometry.frame_images import alpha_of, depth_of
from scene4d.geometry.rotation import matrix_from_pose, normalize_quat, quat_from_rotvec
from scene4d.lift.refine.adam_loop import Adam, Progress, descend, finite
from scene4d.render.losses import ssim
from scene4d.render.render import render
from scene4d.types import Cameras, Frames, Gaussians


@dataclass(frozen=True)
class FitConfig:
    """How long, how fast and against what the Gaussians are refined."""

    steps: int = 400
    """Gradient steps, one frame each."""
    max_seconds: float | None = None
    """Stop after so long even if steps are left; None = never, and the result is the same on every machine."""
    coarse_share: float = 0.4
    """Share of the steps at half resolution, first."""
    degree: int = 1
    """Spherical-harmonics degree of the colours."""
    means_rate: float = 0.15
    """Learning rate of centres, in units of each Gaussian's mean scale."""
    scales_rate: float = 0.01
    """Learning rate of log scales."""
    quats_rate: float = 0.005
    """Learning rate of quaternions."""
    opacities_rate: float = 0.04
    """Learning rate of opacity logits."""
    sh_rate: float = 0.01
    """Learning rate of degree-0 colours; higher degrees learn at a fifth of it."""
    gains_rate: float = 0.002
    """Learning rate of per-frame log exposure gains (0 = off)."""
    poses_rate: float = 0.0003
    """Learning rate of per-frame camera motion, rad and m (0 = off)."""
    ssim_weight: float = 0.2
    """Share of structural similarity in the colour loss."""
    depth_weight: float = 0.2
    """Weight of the relative depth error where the sensor measured."""
    alpha_weight: float = 0.02
    """Weight of missing coverage where colour is usable."""
    prior_weight: float = 0.05
    """Pull of gains towards 1 and of camera motion (in units of 1 cm and 1 cm/m) towards none."""
    eps2d: float = 0.3
    """Blur in px^2 of the renders."""
    seed: int = 0
    """Order of the frames."""


def fit_gaussians(
    gaussians: Gaussians, frames: Frames, *, config: FitConfig | None = None, progress: Progress | None = None
) -> Gaussians:
    """Refine Gaussians [n] against frames [m] of one static scene.

    Every step renders one frame and descends on L1 + SSIM of colour, relative depth error and missing coverage. Each
    frame has its own exposure gain and a small camera motion; both are pulled towards none and left behind, so the
    result stands in the cameras as given.

    Returns:
        The same rows (ids and extras kept) with refined, activated values; sh has the configured degree.
    Raises:
        NumericsError: a loss was not finite.
    Source: Kerbl et al., 3D Gaussian Splatting, 2023, section 5.1, without densification.
    """
    config = config or FitConfig()
    params, rates = _parameters(gaussians, frames, config=config)
    optimizer = Adam(params, rates=rates, decay=dict.fromkeys(params, 0.1))
    generator = torch.Generator().manual_seed(config.seed)
    half = halved(frames) if config.coarse_share > 0 else frames
    order: list[int] = []

    def loss_of_step(step: int) -> Tensor:
        if not order:
            order.extend(torch.randperm(frames.batch_shape[0], generator=generator).tolist())
        i = order.pop()
        target = (half if step < config.coarse_share * config.steps else frames)[i]
        gain, pose = params["gains"][i], params["poses"][i]
        loss = _loss(_activated(params, gaussians), target, gain=gain, pose=pose, config=config)
        loss = loss + config.prior_weight * (gain.square().mean() + (100 * pose).square().mean())
        return finite(loss, field="fit", frame=i)

    descend(loss_of_step, optimizer=optimizer, steps=config.steps, max_seconds=config.max_seconds, progress=progress)
    with torch.no_grad():
        return _activated(params, gaussians).detach()


def _parameters(
    gaussians: Gaussians, frames: Frames, *, config: FitConfig
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Free parameters by name, and the learning rate of each at the start."""
    sh = with_sh_bases(gaussians.sh, max((config.degree + 1) ** 2, gaussians.sh.shape[-2]))
    count = frames.batch_shape[0]
    params = {
        "offsets": (torch.zeros_like(gaussians.means), config.means_rate),
        "log_scales": (gaussians.scales.clamp_min(1e-7).log(), config.scales_rate),
        "quats": (gaussians.quats.clone(), config.quats_rate),
        "logits": (gaussians.opacities.clamp(1e-3, 1 - 1e-3).logit(), config.opacities_rate),
        "colours": (sh[:, :1].clone(), config.sh_rate / 0.28),
        "harmonics": (sh[:, 1:].clone(), config.sh_rate / 0.28 / 5),
        "gains": (gaussians.means.new_zeros(count, 3), config.gains_rate),
        "poses": (gaussians.means.new_zeros(count, 6), config.poses_rate),
    }
    rates = {name: rate for name, (_, rate) in params.items()}
    return {name: x.detach().requires_grad_() for name, (x, _) in params.items()}, rates


def _activated(params: dict[str, Tensor], start: Gaussians) -> Gaussians:
    # Offsets are in units of the splat's own size: one rate fits near and far, coarse and fine.
    unit = start.scales.mean(-1, keepdim=True)
    return start.replace(
        means=start.means + params["offsets"] * unit,
        quats=normalize_quat(params["quats"]),
        scales=params["log_scales"].exp(),
        opacities=params["logits"].sigmoid(),
        sh=torch.cat([params["colours"], params["harmonics"]], 1),
    )


def _loss(gaussians: Gaussians, target: Frames, *, gain: Tensor, pose: Tensor, config: FitConfig) -> Tensor:
    """How far the render is from one frame [], as that frame exposed it and from where it really stood."""
    motion = torch.cat([quat_from_rotvec(pose[:3]), pose[3:]])
    viewmat = matrix_from_pose(motion) @ target.cameras.viewmats
    cameras = Cameras(viewmats=viewmat, Ks=target.cameras.Ks, width=target.cameras.width, height=target.cameras.height)
    drawn = render(gaussians.replace(extras={}), cameras, eps2d=config.eps2d)
    usable = torch.ones_like(target.rgb[..., :1]) if target.alpha is None else target.alpha[..., None]
    rgb = drawn.rgb * gain.exp() * usable
    seen = target.rgb * usable
    loss = (1 - config.ssim_weight) * (rgb - seen).abs().mean()
    if config.ssim_weight > 0:
        loss = loss + config.ssim_weight * (1 - ssim(rgb, seen).mean())
    if config.alpha_weight > 0:
        loss = loss + config.alpha_weight * ((1 - alpha_of(drawn)) * usable[..., 0]).mean()
    if config.depth_weight > 0 and target.depth is not None:
        measured = (depth_of(target) > 0) & (alpha_of(drawn).detach() > 0.5)
        error = (depth_of(drawn) - depth_of(target)).abs() / depth_of(target).clamp_min(1e-3)
        # Far off it is another surface or a sensor that erred: the pull fades with the distance, but never ends.
        loss = loss + config.depth_weight * torch.where(measured, 0.1 * (1 + error / 0.1).log(), 0.0).mean()
    return loss


def halved(frames: Frames) -> Frames:
    """Frames [m] at half resolution: colours averaged, depths averaged where the four (or fewer) are one surface."""
    width, height = frames.cameras.width // 2, frames.cameras.height // 2

    def blocks(x: Tensor) -> Tensor:
        return x[:, : 2 * height, : 2 * width].unflatten(1, (height, 2)).unflatten(3, (width, 2)).movedim(2, 3)

    depth = frames.depth
    if depth is not None:
        four = blocks(depth).flatten(3)  # [m h w 4]
        measured = four > 0
        near = torch.where(measured, four, torch.inf).amin(-1)
        # Across an edge the nearer surface is taken, so that no depth floats in between.
        same = measured & (four < 1.02 * near[..., None])
        depth = (four * same).sum(-1) / same.sum(-1).clamp_min(1)
    Ks = frames.cameras.Ks * frames.cameras.Ks.new_tensor([[0.5], [0.5], [1.0]])
    return Frames(
        rgb=blocks(frames.rgb).mean((3, 4)),
        depth=depth,
        alpha=None if frames.alpha is None else blocks(frames.alpha).flatten(3).amin(-1),
        cameras=Cameras(viewmats=frames.cameras.viewmats, Ks=Ks, width=width, height=height),
    )

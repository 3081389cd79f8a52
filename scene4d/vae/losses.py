"""What the autoencoder is trained on: pictures of what it decodes, centres, and a little KL."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.render.losses import psnr
from scene4d.render.render import render
from scene4d.types import Frames, Gaussians, Latent
from scene4d.vae.model import GaussianVAE


@dataclass(frozen=True)
class VAELossConfig:
    """Weights of the parts of the loss."""

    rgb: float = 1.0
    """Mean absolute colour difference, plus four times the mean square."""
    depth: float = 0.2
    """Mean absolute difference of depth in m, where measured; errors over half a metre count as half a metre."""
    alpha: float = 0.05
    """Mean absolute difference of coverage: full where depth was measured."""
    empty: float = 0.05
    """Coverage where no depth was measured. Right for a simulator, where that is empty space; 0 for real sensors."""
    chamfer: float = 0.3
    """Distance in m between decoded and given centres, both ways."""
    kl: float = 1e-5
    """KL divergence of the posterior from a unit normal, summed over a token's channels, mean over tokens."""
    chamfer_points: int = 768
    """Centres drawn from each side for the Chamfer distance."""


def vae_loss(
    vae: GaussianVAE,
    gaussians: Gaussians,
    *,
    targets: Frames,
    anchors: Tensor | None = None,
    config: VAELossConfig | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of coding Gaussians [b n] against recorded pictures [b v] of the same moment, and its parts.

    The pictures may be from cameras that the Gaussians were not lifted from: then the decoder learns what lies behind.
    """
    config = VAELossConfig() if config is None else config
    latent, log_var = vae.encode(gaussians, anchors=anchors)
    decoded = vae.decode(vae.sample(latent, log_var))
    image, metrics = picture_loss(render(decoded, targets.cameras), targets, config=config)
    chamfer = chamfer_distance(decoded, gaussians, num_points=config.chamfer_points)
    kl = kl_divergence(latent, log_var)
    loss = image + config.chamfer * chamfer + config.kl * kl
    return loss, {**metrics, "chamfer": chamfer.detach(), "kl": kl.detach()}


def picture_loss(rendered: Frames, targets: Frames, *, config: VAELossConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Colour, depth and coverage of rendered against recorded frames of one shape."""
    measured = (targets.depth > 0).to(rendered.rgb)
    # What lies beyond all measured matter has no Gaussians, so its colour is not asked for.
    difference = (rendered.rgb - targets.rgb) * measured[..., None]
    rgb = difference.abs().mean() + 4 * difference.square().mean()
    depth = ((rendered.depth - targets.depth).abs().clamp_max(0.5) * measured).mean()
    alpha = ((rendered.alpha - 1).abs() * measured).mean()
    empty = (rendered.alpha * (1 - measured)).mean()
    loss = config.rgb * rgb + config.depth * depth + config.alpha * alpha + config.empty * empty
    quality = psnr(rendered.rgb.detach(), targets.rgb, measured).nanmean()
    return loss, {"psnr": quality, "rgb": rgb.detach(), "depth": depth.detach(), "alpha": alpha.detach()}


def chamfer_distance(a: Gaussians, b: Gaussians, *, num_points: int) -> Tensor:
    """Mean distance in m from centres of `a` to the nearest of `b` plus the reverse, on random samples; scalar.

    Empty slots are not drawn (unless a set has nothing else). Differentiable to both.
    """
    # The matrix form of the distance loses millimetres to rounding.
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(_draw(a, num_points), _draw(b, num_points), compute_mode=exact)  # [b p p]
    return distance.amin(-1).mean() + distance.amin(-2).mean()


def kl_divergence(latent: Latent, log_var: Tensor) -> Tensor:
    """KL of N(tokens, exp(log_var)) from N(0, 1): summed over channels, mean over present tokens; scalar."""
    each = 0.5 * (latent.tokens.square() + log_var.exp() - 1 - log_var).sum(-1)  # [b l]
    present = latent.present.to(each)
    return (each * present).sum() / present.sum().clamp_min(1)


def _draw(gaussians: Gaussians, num: int) -> Tensor:
    flat = gaussians.map(lambda x: x.reshape(-1, *x.shape[len(gaussians.batch_shape) :]))
    chance = (flat.ids >= 0).to(flat.means) + 1e-9
    index = torch.multinomial(chance, num, replacement=True)  # [b p]
    return flat.means.gather(1, index[..., None].expand(-1, -1, 3))

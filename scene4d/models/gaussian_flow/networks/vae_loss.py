"""What the autoencoder is trained on: pictures of what it decodes, its Gaussians beside those given, a little KL."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from scene4d.geometry.neighbours import chamfer
from scene4d.geometry.sh import rgb_from_sh
from scene4d.models.gaussian_flow.networks.vae import Cells, GaussianVAE
from scene4d.models.tokens.latent import Latent
from scene4d.render.losses import PictureLossConfig, picture_loss
from scene4d.render.render import render
from scene4d.types import Frames, Gaussians


@dataclass(frozen=True)
class VAELossConfig:
    """Weights of the parts of the loss."""

    picture: PictureLossConfig = field(default_factory=PictureLossConfig)
    """Parts that are about pictures."""
    chamfer: float = 2.0
    """Distance in m between a token's Gaussians and those of its cell, in place and colour, both ways."""
    chamfer_color_m: float = 0.2
    """Metres that a full difference in one colour channel counts as in that distance."""
    kl: float = 1e-5
    """KL divergence of the posterior from a unit normal, summed over a token's channels, mean over tokens."""


def vae_loss(
    vae: GaussianVAE, cells: Cells, *, targets: Frames, config: VAELossConfig | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of coding prepared cells [b l k] against pictures [b v] of the same moment, and its parts.

    The pictures may be recorded ones, or drawings of the Gaussians themselves for cameras that they were not lifted
    from: then every side of what is decoded counts.
    """
    config = VAELossConfig() if config is None else config
    latent, log_var = vae.encode_cells(cells)
    decoded = vae.decode(vae.sample(latent, log_var))
    image, metrics = picture_loss(render(decoded, targets.cameras), targets, config=config.picture)
    chamfer = cell_chamfer(decoded, cells, color_m=config.chamfer_color_m)
    kl = kl_divergence(latent, log_var)
    loss = image + config.chamfer * chamfer + config.kl * kl
    return loss, {**metrics, "chamfer": chamfer.detach(), "kl": kl.detach()}


def cell_chamfer(decoded: Gaussians, cells: Cells, *, color_m: float) -> Tensor:
    """Chamfer distance in m between each token's decoded Gaussians [*b l*j] and the Gaussians of its cell [*b l k].

    Place and colour together, both ways, within the token: it tells every Gaussian at once where to go, long before
    pictures do. Tokens with an empty cell do not count. Scalar, differentiable to `decoded`.
    """
    num_tokens = cells.present.shape[-1]
    means = decoded.means.unflatten(-2, (num_tokens, -1)) - cells.anchors[..., None, :]  # [*b l j 3]
    rgb = rgb_from_sh(decoded.sh).unflatten(-2, (num_tokens, -1))
    ours = torch.cat([means, color_m * rgb], -1).flatten(0, -3)  # [t j 6]
    given = torch.cat([cells.offset, color_m * cells.rgb], -1).flatten(0, -3)  # [t k 6]
    used = cells.used.flatten(0, -2)  # [t k]
    filled = used.any(-1).to(ours)  # [t]
    return (chamfer(ours, given, target_mask=used, squared=False) * filled).sum() / filled.sum().clamp_min(1)


def kl_divergence(latent: Latent, log_var: Tensor) -> Tensor:
    """KL of N(tokens, exp(log_var)) from N(0, 1): summed over channels, mean over present tokens; scalar."""
    each = 0.5 * (latent.tokens.square() + log_var.exp() - 1 - log_var).sum(-1)  # [*b l]
    present = latent.present.to(each)
    return (each * present).sum() / present.sum().clamp_min(1)

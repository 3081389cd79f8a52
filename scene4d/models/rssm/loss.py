"""The loss of the recurrent state-space model on a batch of windows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.models.categorical import balanced_divergence, divergence
from scene4d.models.rssm.model import RSSMWorldModel
from scene4d.models.tokens.motion_estimate import motion_losses, outcome_loss, weighted_mean
from scene4d.models.tokens.token_windows import TokenWindows, is_moving

WEIGHTS = {"flow_matching": 1.0, "gate": 0.5, "likelihood": 0.05, "outcome": 0.05}
"""Of the parts of the loss beside the divergence, as `motion_losses` and `outcome_loss` name them."""


@dataclass(frozen=True)
class RSSMLossConfig:
    """How posterior and prior come together, and what is imagined in training."""

    divergence: float = 0.05
    """Weight of the divergence of posterior and prior, in nats beyond the free ones."""
    free_nats: float = 1.0
    """Divergence of a step that costs nothing."""
    prior_share: float = 0.8
    """Share of the divergence that moves the prior; the rest moves the posterior."""
    imagined: float = 0.5
    """Share of the windows imagined from now on; the others are seen up to a later step, and imagined from there on."""
    token_noise: float = 0.1
    """Spread of the noise on the scaled tokens."""


def loss(
    model: RSSMWorldModel, batch: TokenWindows, *, config: RSSMLossConfig = RSSMLossConfig()
) -> tuple[Tensor, dict[str, Tensor]]:
    """Scalar loss and metrics of a batch [b]; random numbers come from torch's generator.

    epe_mm: error of moving anchors at the last step where it is imagined.
    """
    network, c, scene, motion = model.network, model.config, model.window_tokens(batch), batch.motion
    scene = scene.replace(tokens=scene.tokens + config.token_noise * torch.randn_like(scene.tokens))
    now, (num, horizon) = batch.past_proprio[:, -1:, :3], batch.reward.shape
    with torch.no_grad():  # as it will be foreseen, errors and all
        given = model.proprio.condition(batch.actions, track=batch.track, task=batch.task)
    features = network.encode(scene, now[:, 0])
    noise = torch.randn(num, 1 + horizon, *c.latent).to(features)
    belief = network.believe(scene, features, track=batch.track, task=batch.task, noise=noise[:, 0])
    seen = torch.randint(1, horizon + 1, (num, 1)) * (torch.rand(num, 1) >= config.imagined)  # steps that are
    known = (torch.arange(horizon) < seen).to(features.device)  # [b h]
    sets = network.embed(scene, features, moved=motion[..., 3:], hand=now + batch.proprio_change[..., :3])
    beliefs, prior, posterior = network.imagine(belief, given, noise=noise[:, 1:], seen=(known, sets))
    estimate = network.decode(scene, features, beliefs=beliefs, given=given, scale=model.scale.scale)
    moving, of_known = is_moving(motion), batch.known[:, None].expand(motion.shape[:-1])  # [b h l]
    parts = motion_losses(estimate, model.scale.normalize(motion), moving=moving, known=of_known)
    parts["outcome"] = outcome_loss(estimate.outcome, batch, scale=model.reward_scale)
    nats = balanced_divergence(posterior, prior, prior_share=config.prior_share, free_nats=config.free_nats)
    total = config.divergence * weighted_mean(nats, known)
    total = total + sum(weight * parts[name] for name, weight in WEIGHTS.items())
    with torch.no_grad():
        last = model.scale.denormalize(estimate.motion * estimate.gate.sigmoid()[..., None])[:, -1, :, 3:]
        error, imagined = (last - motion[:, -1, :, 3:]).norm(dim=-1), ~known[:, -1]  # [b l], [b]
        parts["nats"] = weighted_mean(divergence(posterior, prior), known)
        parts["epe_mm"] = 1e3 * weighted_mean(error, moving[:, -1] & batch.known & imagined[:, None])
    return total, {name: value.detach() for name, value in parts.items()}

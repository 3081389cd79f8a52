"""Categorical latents: probabilities that never vanish, draws that gradients go straight through, and divergences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

UNIMIX = 0.01
"""Share of the uniform distribution in every categorical variable, so that no class is ever impossible."""


def log_probabilities(logits: Tensor, shape: tuple[int, int]) -> Tensor:
    """[*b g k] of logits [*b g*k], some of the uniform distribution mixed in; shape (g, k): groups and classes.

    Source: Hafner et al. 2023 (DreamerV3).
    """
    shares = logits.unflatten(-1, shape).softmax(-1)
    return ((1 - UNIMIX) * shares + UNIMIX / shape[1]).log()


def drawn(logs: Tensor, noise: Tensor) -> Tensor:
    """One-hot draws [*b g*k] from log-probabilities [*b g k] by normal noise; gradients go straight through.

    The noise becomes Gumbel noise; where it is minus infinity, the likeliest class is taken.
    """
    gumbel = -(-torch.special.ndtr(noise).clamp(1e-6, 1 - 1e-6).log()).log()
    chosen, shares = nn.functional.one_hot((logs + gumbel).argmax(-1), logs.shape[-1]), logs.exp()
    return (chosen + (shares - shares.detach())).flatten(-2)


def divergence(posterior: Tensor, prior: Tensor) -> Tensor:
    """Kullback-Leibler divergence [*b] in nats of log-probabilities [*b g k]."""
    return (posterior.exp() * (posterior - prior)).sum((-1, -2))


def balanced_divergence(posterior: Tensor, prior: Tensor, *, prior_share: float, free_nats: float) -> Tensor:
    """The divergence [*b], no less than the free nats: `prior_share` of it moves the prior, the rest the posterior.

    Source: Hafner et al. 2021 (DreamerV2: KL balancing), 2023 (free bits on both sides).
    """
    for_prior, for_posterior = divergence(posterior.detach(), prior), divergence(posterior, prior.detach())
    return prior_share * for_prior.clamp_min(free_nats) + (1 - prior_share) * for_posterior.clamp_min(free_nats)

"""Several Gaussians in the place of one, so that what is drawn stays what it was."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_COPIES = 24


def relocated(opacities: Tensor, log_scales: Tensor, *, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity [n] and log scales [n 3] of each of `copies` [n] >= 1 equal Gaussians that stand in for one.

    The centre stays as opaque: 1 - (1 - o')^k = o. The scale keeps the integral of what k of them blend along a line
    through the centre. One copy is the Gaussian itself; more than 24 are counted as 24.

    Source: Kheradmand et al., 3D Gaussian Splatting as Markov Chain Monte Carlo, 2024, equation 9.
    """
    copies = copies.clamp(1, MAX_COPIES)
    opacity = opacities.clamp(0, 1 - 1e-6)
    shared = 1 - (1 - opacity) ** (1 / copies)
    # Sum over i <= k and j < i of binomial(i - 1, j) (-1)^j o'^(j + 1) / sqrt(j + 1), in double: its terms alternate.
    o = shared.double()[:, None]
    order = torch.arange(MAX_COPIES, dtype=torch.float64)
    terms = (-1.0) ** order * o ** (order + 1) / (order + 1).sqrt()  # [n j]
    binomials = torch.tensor(
        [[sum(math.comb(i, j) for i in range(k)) for j in range(MAX_COPIES)] for k in range(1, MAX_COPIES + 1)],
        dtype=torch.float64,
    )  # [k j]
    total = (binomials[copies - 1] * terms).sum(-1)
    ratio = torch.where(copies > 1, opacity.double() / total.clamp_min(1e-12), 1.0)
    return shared, log_scales + ratio.log().to(log_scales)[:, None]

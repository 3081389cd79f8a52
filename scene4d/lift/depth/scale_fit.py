"""Scale and shift of one prediction from measured depths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scene4d.lift.depth.photo_consistency import Measured

Kind = Literal["relative", "metric"]


@dataclass(frozen=True)
class AlignConfig:
    """How predictions are brought to the scale of the cameras."""

    near: float = 0.1
    """Nearest depth in m that a scene may have."""
    far: float = 20.0
    """Farthest depth in m that a scene may have."""
    width: int = 160
    """Width in px at which pictures are matched."""
    coarse_width: int = 64
    """Width in px at which the first guess is searched."""
    num_neighbours: int = 4
    """Other views that each view is matched with."""
    min_baseline: float = 0.01
    """Distance in m from which two cameras see depth."""
    max_angle: float = 0.8
    """Angle in rad between axes up to which two cameras are matched."""
    spreads: tuple[float, ...] = (0.25, 0.1, 0.05)
    """Relative search range of each round of matching."""
    num_depths: int = 28
    """Depths of the first search."""
    num_contrasts: int = 10
    """Ratios of near to far inverse depth of the first search (relative predictions only)."""
    max_contrast: float = 12.0
    """Largest such ratio."""
    noise: float = 0.015
    """Relative depth error from which a measurement counts half or less."""
    agreement_weight: float = 0.05
    """Weight of two views' depths agreeing, against what was matched."""
    min_points: int = 12
    """Measured pixels, or points, that a view needs to be aligned by them."""


def fit_scale(x: Tensor, measured: Measured, *, kind: Kind, config: AlignConfig, rounds: int = 30) -> Tensor:
    """(scale, shift) [2] that bring x [n] to the measured inverse depths: least absolute relative error, reweighted."""
    depth = 1 / measured.inverse
    columns = torch.stack([x * depth, depth], -1).double()
    if kind == "metric":
        columns = columns[:, :1]
    weights, solution = measured.weights.double(), columns.new_zeros(columns.shape[1])
    for step in range(rounds):
        matrix = columns.T @ (weights[:, None] * columns)
        ridge = 1e-9 * matrix.diagonal().mean() * torch.eye(len(matrix)).to(matrix)
        solution = torch.linalg.solve(matrix + ridge, columns.T @ weights)
        error = (columns @ solution - 1).abs()
        # From least absolute deviations, which outliers hardly move, to the bounded influence of a Cauchy weight.
        noise = max(config.noise, float(error.median()))
        loose = step < rounds // 2
        weights = measured.weights / (error.clamp_min(1e-3) if loose else 1 + (error / noise) ** 2)
    return torch.cat([solution, solution.new_zeros(2 - len(solution))]).to(x)

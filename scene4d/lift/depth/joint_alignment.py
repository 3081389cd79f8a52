"""Scale and shift of all views at once: what was matched in each, and that pairs of views agree."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.lift.depth.photo_consistency import Measured, Pictures, warp_between
from scene4d.lift.depth.scale_fit import AlignConfig, Kind, fit_scale


def joint_scales(
    values: Tensor,
    pictures: Pictures,
    *,
    measured: list[Measured | None],
    others: list[list[int]],
    solution: Tensor,
    kind: Kind,
    config: AlignConfig,
) -> Tensor:
    """All views' (scale, shift) [v 2] at once: what was matched in each, and that pairs of views agree.

    Robust Gauss-Newton on relative depth errors; views without matches are held only by their neighbours.
    """
    solution = solution.clone()
    for i, found in enumerate(measured):
        if found is not None and len(found.pixels) >= config.min_points:
            fitted = fit_scale(values[i].flatten()[found.pixels], found, kind=kind, config=config)
            solution[i] = torch.where((fitted[0] > 0) & fitted.isfinite().all(), fitted, solution[i])
    free = torch.tensor([m is not None for m in measured]).repeat_interleave(2)
    if kind == "metric":
        free[1::2] = False
    if config.agreement_weight <= 0:
        return solution
    for _ in range(4):
        system = _Equations(len(values), noise=config.noise)
        for i, found in enumerate(measured):
            if found is not None:
                x = values[i].flatten()[found.pixels]
                rows = torch.stack([x, torch.ones_like(x)], -1) / found.inverse[:, None]
                error = rows @ solution[i] - 1
                system.add(rows, error=error, at=[i], weights=found.weights)
        for i, row in enumerate(others):
            for j in row:
                _add_pair(system, values, pictures=pictures, solution=solution, here=i, there=j, config=config)
        step = system.step(free)
        changed = solution + step.view(-1, 2).to(solution)
        solution = torch.where((changed[:, :1] > 0) & changed.isfinite().all(-1, keepdim=True), changed, solution)
    return solution


class _Equations:
    """The normal equations of all views' (scale, shift): robust least squares, gathered pair by pair."""

    def __init__(self, num_views: int, *, noise: float):
        self.matrix = torch.zeros(2 * num_views, 2 * num_views, dtype=torch.float64)
        self.vector = torch.zeros(2 * num_views, dtype=torch.float64)
        self.noise = noise

    def add(self, rows: Tensor, *, error: Tensor, at: list[int], weights: Tensor) -> None:
        """Add residuals [n] with their derivatives [n 2k] by the (scale, shift) of the k views `at`."""
        columns = torch.tensor([2 * i + k for i in at for k in (0, 1)])
        # Every pair and view counts alike, however many pixels it has.
        weights = (weights / (1 + (error / self.noise) ** 2) / max(1, len(error))).double()
        rows = rows.double()
        self.matrix[columns[:, None], columns[None]] += rows.T @ (weights[:, None] * rows)
        self.vector[columns] += rows.T @ (weights * error.double())

    def step(self, free: Tensor) -> Tensor:
        """The change [2v] of the values in the mask `free` [2v] that lowers the squares most; the others' is 0."""
        matrix = self.matrix[free][:, free]
        damping = (1e-6 * matrix.diagonal().mean() + 1e-12) * torch.eye(len(matrix), dtype=torch.float64)
        step = torch.zeros_like(self.vector)
        step[free] = torch.linalg.solve(matrix + damping, -self.vector[free])
        return step


def _add_pair(
    system: _Equations,
    values: Tensor,
    *,
    pictures: Pictures,
    solution: Tensor,
    here: int,
    there: int,
    config: AlignConfig,
) -> None:
    """Add that view `here` and view `there` agree: a point of one must lie on the surface of the other."""
    x = values[here]
    inverse = (solution[here, 0] * x + solution[here, 1]).clamp(1 / config.far, 1 / config.near)
    warp = warp_between(pictures.cameras, here=here, there=there)
    seen, inside = warp.sample(values[there], inverse[None])
    keep = inside[0].flatten().nonzero()[:, 0][:: max(1, inside[0].numel() // 2000)]
    if len(keep) == 0:
        return
    x, inverse, y = x.flatten()[keep], inverse.flatten()[keep], seen[0].flatten()[keep]
    # Homogeneous pixels have z-depth over the depth here as their third entry.
    along = warp.far.reshape(-1, 3)[keep, 2]
    depth = along / inverse + warp.near[2]
    there_inverse = solution[there, 0] * y + solution[there, 1]
    mine = -there_inverse * along / inverse**2
    rows = torch.stack([mine * x, mine, depth * y, depth], -1)
    weights = torch.full_like(x, config.agreement_weight)
    system.add(rows, error=there_inverse * depth - 1, at=[here, there], weights=weights)

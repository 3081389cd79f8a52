"""Adam for rows of Gaussians, each of which is only asked now and then."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class SparseAdam:
    """Values [n ...] by name, and the moments of Adam, which count for each row the steps that it was asked."""

    def __init__(
        self, values: Mapping[str, Tensor], *, rates: Mapping[str, float], memory: float, tiny: float = 1e-8
    ) -> None:
        """
        Args:
            values: where to start; stepped in place.
            rates: step size of each.
            memory, tiny: as in `adam_step`.
        """
        self.values, self.rates = dict(values), dict(rates)
        self.memory, self.tiny = memory, tiny
        self.moments = {name: (torch.zeros_like(x), torch.zeros_like(x)) for name, x in self.values.items()}
        self.count = torch.zeros(len(next(iter(self.values.values()))))

    def leaves(self, rows: Tensor) -> dict[str, Tensor]:
        """The values of some rows [k] as leaves of a new graph."""
        return {name: x[rows].requires_grad_() for name, x in self.values.items()}

    @torch.no_grad()
    def step(self, rows: Tensor, slopes: Mapping[str, Tensor], *, damped: float) -> None:
        """One step of the rows [k] with slopes [k ...], of rates times `damped`."""
        self.count[rows] += 1
        for name, values in self.values.items():
            own, moments = values[rows], tuple(x[rows] for x in self.moments[name])
            count = self.count[rows].reshape(-1, *[1] * (own.ndim - 1))
            how = {"rate": self.rates[name] * damped, "memory": self.memory, "tiny": self.tiny}
            adam_step(own, slopes[name], moments, count=count, **how)
            values[rows] = own
            for whole, part in zip(self.moments[name], moments, strict=True):
                whole[rows] = part


@torch.no_grad()
def adam_step(
    x: Tensor,
    slope: Tensor,
    moments: tuple[Tensor, ...],
    *,
    rate: float,
    count: int | Tensor,
    memory: float = 0.99,
    tiny: float = 1e-8,
) -> None:
    """One step of Adam (Kingma and Ba, 2015) in place; torch.optim takes seconds to import for a handful of steps.

    Args:
        moments: mean and mean square of the slopes so far.
        count: steps so far, this one included: a number, or one a row, shaped to divide x.
        memory: share of the mean square that is kept.
        tiny: slopes far below it hardly move anything.
    """
    mean, square = moments
    mean.lerp_(slope, 0.2)
    square.lerp_(slope * slope, 1 - memory)
    x -= rate * (mean / (1 - 0.8**count)) / ((square / (1 - memory**count)).sqrt() + tiny)

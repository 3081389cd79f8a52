"""Adam for rows of Gaussians, each of which only some of the steps see."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class SparseAdam:
    """Values [n ...] by name, and the moments of Adam, which count for each row the steps that it took part in.

    torch.optim takes seconds to import for a handful of steps.

    Source: Kingma and Ba, Adam, 2015, algorithm 1, with beta1 = 0.8.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        *,
        rates: Mapping[str, float],
        beta2: float,
        eps: float = 1e-8,
        damping: Callable[[float], float] = lambda done: 1.0,
        limits: Mapping[str, float] | None = None,
        skip_unseen: bool = False,
        mask: Tensor | None = None,
    ) -> None:
        """
        Args:
            values: where to start; stepped in place.
            rates: step size of each.
            beta2: share of the mean square of gradients that is kept.
            eps: gradients far below it hardly move anything.
            damping: share of the run that is over -> factor of the rates.
            limits: farthest that values may come from 0.
            skip_unseen: leave out rows on which the loss does not depend.
            mask: rows [n] that may change; None = all.
        """
        self.values, self.rates, self.limits = dict(values), dict(rates), dict(limits or {})
        self.beta2, self.eps, self.damping, self.skip_unseen, self.mask = beta2, eps, damping, skip_unseen, mask
        self.moments = {name: (torch.zeros_like(x), torch.zeros_like(x)) for name, x in self.values.items()}
        self.count = torch.zeros(len(next(iter(self.values.values()))))
        self.num_steps = 0
        self._rows: Tensor | None = None
        self._leaves: dict[str, Tensor] = {}

    def leaves(self, rows: Tensor | None = None) -> dict[str, Tensor]:
        """The values of some rows [k], or of all, as leaves of a new graph: those that the next `step` changes."""
        part = lambda x: x.detach() if rows is None else x[rows]
        self._rows, self._leaves = rows, {name: part(x).requires_grad_() for name, x in self.values.items()}
        return self._leaves

    def step(self, loss: Tensor, *, done: float) -> None:
        """One step down the gradient of a scalar by the rows that `leaves` gave last."""
        rows = self._rows
        grads = dict(zip(self._leaves, torch.autograd.grad(loss, list(self._leaves.values())), strict=True))
        if self.mask is not None:
            allowed = self.mask if rows is None else self.mask[rows]
            grads = {name: x * allowed.reshape(-1, *[1] * (x.ndim - 1)) for name, x in grads.items()}
        if self.skip_unseen and rows is not None:
            seen = torch.stack([x.reshape(len(x), -1).abs().amax(1) > 0 for x in grads.values()]).any(0)
            rows, grads = rows[seen], {name: x[seen] for name, x in grads.items()}
        self.update(rows, grads, damping=self.damping(done))

    @torch.no_grad()
    def update(self, rows: Tensor | None, grads: Mapping[str, Tensor], *, damping: float) -> None:
        """One step of the rows [k], or of all, with gradients [k ...], of rates times `damping`."""
        self.num_steps += 1
        self.count[slice(None) if rows is None else rows] += 1
        for name, values in self.values.items():
            rate = self.rates[name] * damping
            own, moments, count = values, self.moments[name], self.num_steps
            if rows is not None:
                own, moments = values[rows], tuple(x[rows] for x in moments)
                count = self.count[rows].reshape(-1, *[1] * (own.ndim - 1))
            mean, square = moments
            mean.lerp_(grads[name], 0.2)
            square.lerp_(grads[name] * grads[name], 1 - self.beta2)
            own -= rate * (mean / (1 - 0.8**count)) / ((square / (1 - self.beta2**count)).sqrt() + self.eps)
            if rows is None:
                continue
            values[rows] = own
            for whole, part in zip(self.moments[name], moments, strict=True):
                whole[rows] = part
        for name, limit in self.limits.items():
            self.values[name].clamp_(-limit, limit)

"""The loop that every refinement by rendering runs: a loss, Adam, rates that fall, a time limit, progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from scene4d.errors import NumericsError

Progress = Callable[[int, int], None]
"""Called with (steps done, steps)."""


class ProgressReporter:
    """Counts the steps done, which under a bound on seconds depend on the machine; calls `progress` with them too."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress, self.done = progress, 0

    def __call__(self, done: int, total: int) -> None:
        """Of `total` steps `done` are done."""
        self.done = done
        if self.progress is not None:
            self.progress(done, total)


class Optimizer(Protocol):
    """What `descend` steps."""

    def step(self, loss: Tensor, *, done: float) -> None:
        """One step down the gradient of a scalar; `done` is the share of the run before it, 0..1."""


def descend(
    loss_of_step: Callable[[int], Tensor],
    *,
    optimizer: Optimizer,
    steps: int,
    max_seconds: float | None = None,
    after_step: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Take gradient steps on the loss that each step asks for.

    Args:
        loss_of_step: number of the step -> scalar, built anew from the optimiser's current values.
        max_seconds: stop after so long even if steps are left; None = never.
        after_step: called when the values have changed, before `progress`.
    """
    began = time.monotonic()
    for step in range(steps):
        if max_seconds is not None and time.monotonic() - began >= max_seconds:
            break
        with torch.enable_grad():
            loss = loss_of_step(step)
        optimizer.step(loss, done=step / steps)
        if after_step is not None:
            after_step(step)
        if progress is not None:
            progress(step + 1, steps)


def finite(loss: Tensor, *, field: str, frame: int, fix: str = "lower the learning rates") -> Tensor:
    """The loss itself, once it is known to be a number.

    Raises:
        NumericsError: it is not finite; names what was refined and the frame.
    """
    if not torch.isfinite(loss):
        raise NumericsError("the loss is not finite", field=field, frame=frame, fix=fix)
    return loss


class Adam:
    """torch's Adam on named leaves; the rates of those named in `decay` fall by that factor over the run.

    Args:
        leaves: what may change; those with a rate of 0 stay as they are.
        rates: learning rate of each at the start.
    """

    def __init__(
        self,
        leaves: Mapping[str, Tensor],
        *,
        rates: Mapping[str, float],
        decay: Mapping[str, float],
        eps: float = 1e-15,
        foreach: bool | None = True,
    ) -> None:
        self.leaves, self.rates, self.decay = dict(leaves), dict(rates), dict(decay)
        groups = [{"params": [x], "lr": rates[n], "name": n} for n, x in leaves.items() if rates[n] > 0]
        self.optimizer = torch.optim.Adam(groups, eps=eps, foreach=foreach)

    def rate(self, name: str, *, done: float) -> float:
        """Learning rate when a share `done` of the run is over."""
        return self.rates[name] * self.decay.get(name, 1.0) ** done

    def step(self, loss: Tensor, *, done: float) -> None:
        """As `Optimizer`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(group["name"], done=done)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def replace(self, values: Mapping[str, Tensor], *, touched: Tensor) -> None:
        """New leaves with these values, of as many rows or more; moments are kept but for the rows `touched`."""
        for group in self.optimizer.param_groups:
            name = group["name"]
            leaf = values[name].requires_grad_()
            state = self.optimizer.state.pop(self.leaves[name])
            for key in ("exp_avg", "exp_avg_sq"):
                moment = torch.cat([state[key], state[key].new_zeros(len(leaf) - len(state[key]), *leaf.shape[1:])])
                moment[touched] = 0
                state[key] = moment
            self.optimizer.state[leaf] = state
            group["params"] = [leaf]
            self.leaves[name] = leaf

"""Up to where the learned simulator may be believed, and which actions it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scene4d.errors import EnvError

MOVED_M = 1e-3
"""Displacement in m from which an anchor counts as moved: only what moves can be wrong about where it went."""


@dataclass(frozen=True)
class TerminationLimits:
    """Beyond these limits the model is not to be believed and a rollout is truncated."""

    max_uncertainty: float = 0.1
    """Standard deviation in m of the positions of moved anchors (root mean square over them, summed over chunks)."""
    margin: float = 0.25
    """Metres by which anchors may leave the box that held all of them at the start."""


def checked_actions(actions: Any, *, low: Tensor, high: Tensor, num: int | None = None) -> Tensor:
    """Actions [num a], or without `num` one action [a] as [1 a], as float32 tensors on the CPU.

    Raises:
        EnvError: the wrong shape, a number that is not finite or out of range; names the first that is.
    """
    shape = [len(low)] if num is None else [num, len(low)]
    try:
        # An array first: torch reads lists of arrays one number at a time.
        values = actions.detach() if isinstance(actions, Tensor) else np.asarray(actions)
        found = torch.as_tensor(values, dtype=torch.float32, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise EnvError("is no action", field="action", found=str(error)[:80], expected=f"numbers {shape}") from error
    if list(found.shape) != shape:
        raise EnvError("has the wrong shape", field="action", found=list(found.shape), expected=shape)
    found = found.reshape(-1, len(low))
    # "not within" rather than "beyond", so that NaN is wrong; an unbounded space takes no infinity either.
    wrong = ~(found.isfinite() & (found >= low - 1e-5) & (found <= high + 1e-5))
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        field, frame, value = f"action[{column}]", row if len(found) > 1 else None, float(found[row, column])
        expected, fix = f"{float(low[column]):g} to {float(high[column]):g}", "clip actions to env.action_space"
        problem = "is not finite or out of range"
        raise EnvError(problem, field=field, frame=frame, found=value, expected=expected, fix=fix)
    return found


def uncertainty_of(variance: Tensor, moved: Tensor) -> Tensor:
    """Standard deviation [b] in m of positions of moved anchors, from variance [b l] m^2 and moved [b l]; 0 if none."""
    return ((variance * moved).sum(-1) / moved.sum(-1).clamp_min(1)).sqrt()


def outside(anchors: Tensor, *, low: Tensor, high: Tensor) -> Tensor:
    """[b] whether any anchor [b l 3] lies outside the box low, high [b 3]; what is not finite is outside."""
    return ~((anchors >= low[:, None]) & (anchors <= high[:, None])).all(-1).all(-1)

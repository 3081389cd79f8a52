"""Where the learned simulator may be believed, and the actions it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import EnvError

MOVED_M = 1e-3
"""Displacement in m from which an anchor counts as moved: only what moves can be wrong about where it went."""


@dataclass(frozen=True)
class TrustRegion:
    """Beyond this a rollout is truncated."""

    max_uncertainty: float = 0.1
    """Standard deviation in m of where moved matter is (root mean square over moved anchors, summed over chunks)."""
    margin: float = 0.25
    """Metres by which anchors may leave the box that held all of them at the start."""


def action_bounds(spec: Sequence[Mapping[str, Any]] | None, *, width: int) -> tuple[Tensor, Tensor]:
    """Least and greatest value [a] of each action number: `low` and `high` of its row in the spec, else -1 and 1."""
    rows = list(spec or [{}] * width)
    low, high = ([float(row.get(name, default)) for row in rows] for name, default in (("low", -1), ("high", 1)))
    return torch.tensor(low), torch.tensor(high)


def checked_actions(actions: Any, *, low: Tensor, high: Tensor, num: int) -> Tensor:
    """Actions [num a] as float32 tensors.

    Raises:
        EnvError: the wrong shape, a number that is not finite or out of range; names the first that is.
    """
    try:
        found = torch.as_tensor(actions, dtype=torch.float32, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise EnvError("is no action", field="action", found=str(error)[:80]) from error
    if tuple(found.shape) != (num, len(low)):
        raise EnvError("has the wrong shape", field="action", found=list(found.shape), expected=[num, len(low)])
    wrong = ~((found >= low - 1e-5) & (found <= high + 1e-5))  # so that NaN is wrong
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        raise EnvError(
            "is not finite or out of range",
            field=f"action[{column}]",
            frame=row if num > 1 else None,
            found=float(found[row, column]),
            expected=f"{float(low[column]):g} to {float(high[column]):g}",
            fix="clip actions to env.action_space",
        )
    return found


def uncertainty_of(variance: Tensor, moved: Tensor) -> Tensor:
    """Standard deviation [b] in m of the place of moved matter, from variance [b l] m^2 and moved [b l]; 0 if none."""
    mean = (variance * moved).sum(-1) / moved.sum(-1).clamp_min(1)
    return mean.sqrt()


def outside(anchors: Tensor, *, low: Tensor, high: Tensor) -> Tensor:
    """[b] whether any anchor [b l 3] lies outside the box low, high [b 3]; what is not finite is outside."""
    return ~((anchors >= low[:, None]) & (anchors <= high[:, None])).all(-1).all(-1)

"""States of any batch shape as one batch axis, which is what networks work on, and predictions back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from scene4d.errors import ShapeError
from scene4d.world.contract import Prediction, State

S = TypeVar("S", bound=State)
P = TypeVar("P", bound=Prediction | State)


def flat_state(state: S, seeds: Sequence[int]) -> tuple[S, list[int], tuple[int, ...]]:
    """States [*b] with one batch axis, a seed for each, and the shape that they had.

    Raises:
        ShapeError: neither one seed nor one for each.
    """
    lead, num = state.batch_shape, math.prod(state.batch_shape)
    flat = state if len(lead) == 1 else state.map(lambda x: x.reshape(-1, *x.shape[len(lead) :]))
    seeds = list(seeds) * (num if len(seeds) == 1 else 1)
    if len(seeds) != num:
        raise ShapeError("one seed for each sample", field="seeds", found=len(seeds), expected=num)
    return flat, seeds, lead


def flat_steps(given: Tensor, lead: tuple[int, ...], *, name: str, tail: tuple[int, ...], horizon: int) -> Tensor:
    """What is given for each step [*b h *tail] with one batch axis, checked; a tail of -1 is of any length.

    Raises:
        ShapeError: other axes, or more than `horizon` steps.
    """
    axis, shape = len(lead), tuple(given.shape)
    fits = len(shape) == axis + 1 + len(tail) and shape[:axis] == lead and 1 <= shape[axis] <= horizon
    if not fits or any(want not in (-1, n) for want, n in zip(tail, shape[axis + 1 :], strict=True)):
        expected = [*lead, f"1..{horizon}", *("any" if n < 0 else n for n in tail)]
        raise ShapeError("has the wrong shape", field=name, found=list(shape), expected=expected)
    return given.reshape(-1, *shape[axis:])


def unflat(made: P, lead: tuple[int, ...]) -> P:
    """A prediction or state [b] with the batch shape of the states that it is made of."""
    return made if len(lead) == 1 else made.map(lambda y: y.reshape((*lead, *y.shape[1:])))

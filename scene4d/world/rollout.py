"""Predictions of any length: chunks chained through `advance`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from scene4d.errors import ShapeError
from scene4d.world.contract import WorldModel


def chunk_seeds(seeds: Sequence[int], number: int) -> list[int]:
    """The seeds of chunk `number` of predictions of any length: each sample and chunk draws on its own."""
    return [seed + 1_000_003 * number for seed in seeds]


def rollout(
    model: WorldModel, state: Any, *, actions: Tensor, seeds: Sequence[int] = (0,)
) -> Iterator[tuple[Any, Any]]:
    """Yield (state, prediction) of each chunk of at most the model's horizon under `actions` [*b h a]."""
    horizon = model.spec.horizon
    for number, start in enumerate(range(0, actions.shape[-2], horizon)):
        chunk = actions[..., start : start + horizon, :]
        prediction = model.predict(state, actions=chunk, seeds=chunk_seeds(seeds, number))
        yield state, prediction
        if start + horizon < actions.shape[-2]:
            state = model.advance(state, prediction, num_steps=chunk.shape[-2])


def predict_long(model: WorldModel, state: Any, *, actions: Tensor, seeds: Sequence[int] = (0,)) -> Any:
    """One prediction since now for all of `actions` [*b h a], however many chunks it takes.

    Raises:
        ShapeError: there are no actions.
    """
    if actions.shape[-2] == 0:
        raise ShapeError("are none", field="actions", found=list(actions.shape), expected="[*b h a], h >= 1")
    chunks = [prediction for _, prediction in rollout(model, state, actions=actions, seeds=seeds)]
    return functools.reduce(lambda first, later: first.followed_by(later), chunks)

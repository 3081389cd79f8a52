"""Several states as one: rows of the memory filled up, elements put in and taken out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.tensor_struct import TensorStruct, stack_all
from scene4d.worldmodel import State

Noun = TypeVar("Noun", bound=TensorStruct)


def with_rows(state: State, num_rows: int) -> State:
    """A state [*b] with its memory filled up to `num_rows` rows by empty slots, which hang on no anchor."""
    missing = num_rows - state.memory.num_gaussians
    if missing == 0:
        return state
    fill = lambda x: torch.cat([x, x.new_zeros(*x.shape[:-2], missing, x.shape[-1])], -2)
    skin = state.skin
    skin = skin.replace(skin_index=fill(skin.skin_index), skin_weights=fill(skin.skin_weights))
    return state.replace(memory=state.memory.padded(num_rows), skin=skin)


def check_alike(states: Sequence[State]) -> None:
    """Refuse states that cannot be forecast together.

    Raises:
        ConfigError: they differ in what an action or proprio is, or in how long a step takes.
    """
    first = states[0].context
    for state in states[1:]:
        for name in ("action_spec", "proprio_spec", "step_seconds"):
            found, expected = state.context.get(name), first.get(name)
            if not (found == expected or (name == "step_seconds" and _close(found, expected))):
                raise ConfigError("differs between start states", field=name, found=found, expected=expected)


def _close(seconds: float | None, others: float | None) -> bool:
    """Whether two steps are as long, but for the rounding of times."""
    return None not in (seconds, others) and math.isclose(seconds, others, rel_tol=1e-3)


def stack_states(states: Sequence[State]) -> State:
    """States [] of one robot and one model as one state [b], without the cameras in their contexts.

    Raises:
        ConfigError: the states differ in what an action or proprio is, or in how long a step takes.
    """
    check_alike(states)
    num_rows = max(state.memory.num_gaussians for state in states)
    # A model has no use for cameras, and those of two recordings need not have the same names.
    bare = [s.replace(context={k: v for k, v in s.context.items() if k != "cameras"}) for s in states]
    return stack_all([with_rows(state, num_rows) for state in bare], 0)


def put(old: Noun, rows: Tensor, new: Noun) -> Noun:
    """`old` [b] with the elements that `rows` [r] names replaced by `new` [r]; both hold the same tensors."""
    return _put(old, rows, new)


def _put(old: Any, rows: Tensor, new: Any) -> Any:
    if isinstance(old, Tensor):
        return old.index_copy(0, rows, new.to(old.dtype))
    if isinstance(old, TensorStruct):
        fields = (f.name for f in dataclasses.fields(old))
        return old.replace(**{name: _put(getattr(old, name), rows, getattr(new, name)) for name in fields})
    if isinstance(old, Mapping) and any(isinstance(v, Tensor | TensorStruct) for v in old.values()):
        return {key: _put(value, rows, new[key]) for key, value in old.items()}
    return old


def element(batch: Noun, index: int | Tensor) -> Noun:
    """Element(s) of a noun [b]: [] for a number, [r] for a list of rows."""
    return batch.map(lambda x: x[index])

"""Several states as one: rows of the memory filled up, elements put in and taken out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.tensor_struct import TensorStruct, stack_all
from scene4d.world.contract import State

Noun = TypeVar("Noun", bound=TensorStruct)
Kind = dict[str, Any]
"""What states must share to be forecast together, by name; see `kind_of`."""


STEP_SECONDS = 0.025
"""Seconds of a step where a state does not hold it."""


def step_seconds_of(state: State) -> float:
    """Seconds of one step of the robot that a state belongs to."""
    return float(state.context.get("step_seconds", STEP_SECONDS))


def with_rows(state: State, num_rows: int) -> State:
    """A state [*b] with its memory filled up to `num_rows` rows by empty slots, which are bound to no anchor."""
    missing = num_rows - state.memory.num_gaussians
    if missing == 0:
        return state
    fill = lambda x: torch.cat([x, x.new_zeros(*x.shape[:-2], missing, x.shape[-1])], -2)
    skin = state.skin
    skin = skin.replace(skin_index=fill(skin.skin_index), skin_weights=fill(skin.skin_weights))
    return state.replace(memory=state.memory.padded(num_rows), skin=skin)


def kind_of(state: State) -> Kind:
    """What a state must share with those it is forecast with: what its numbers mean, and how many there are.

    Raises:
        ConfigError: it has more or fewer actions than its spec has rows.
    """
    kind = recording_kind(state.context, num_actions=state.past_actions.shape[-1])
    tensors = [k for k, v in state.context.items() if isinstance(v, Tensor | TensorStruct)]
    return kind | {
        "step_seconds": state.context.get("step_seconds"),
        "proprio": _numbers(state.proprio.shape[-1]),
        "past_actions": f"{state.past_actions.shape[-2]} steps",
        "anchors": state.skin.anchors.shape[-2],
        "sh": f"{state.memory.sh.shape[-2]} bases",
        "context": sorted(tensors),
    }


def recording_kind(context: Mapping[str, Any], *, num_actions: int) -> Kind:
    """The part of `kind_of` that a recording holds before there is a state.

    Raises:
        ConfigError: the spec has another number of rows than `num_actions`.
    """
    actions, proprio = (_rows(context.get(name)) for name in ("action_spec", "proprio_spec"))
    if actions and len(actions) != num_actions:
        raise ConfigError(
            "actions and their spec differ", field="action_spec", found=_numbers(num_actions), expected=len(actions)
        )
    return {
        "action_spec": actions,
        "action_meaning": context.get("action_meaning") or None,
        "proprio_spec": proprio,
        "actions": _numbers(num_actions),
    }


def check_kind(found: Kind, kind: Kind | None, *, file: Any = None, index: int | None = None) -> Kind:
    """Refuse what is not of a kind; without one, what was found is the kind.

    Args:
        file, index: where it was found, for the error.
    Returns:
        The kind.
    Raises:
        ConfigError: naming what differs.
    """
    kind = kind or found
    for name, value in found.items():
        wanted = kind[name]
        if name == "action_meaning" and not (value and wanted):
            continue  # not every recording has it
        if value == wanted or (name == "step_seconds" and _close(value, wanted)):
            continue
        if name.endswith("_spec"):
            name, value, wanted = _first_difference(name, value, wanted=wanted)
        raise ConfigError(
            "differs between start states", file=file, field=name, frame=index, found=value, expected=wanted,
            fix="make one simulator for each kind of recording",
        )  # fmt: skip
    return kind


def check_alike(states: Sequence[State]) -> Kind | None:
    """The kind of states that can be forecast together; None where there are none.

    Raises:
        ConfigError: they differ in what an action or proprio is, in how many numbers they have, or in how long a step
            takes; names the first that does.
    """
    kind = None
    for i, state in enumerate(states):
        kind = check_kind(kind_of(state), kind, index=i)
    return kind


def _rows(spec: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """A spec's rows without what they leave open, which some writers store as null."""
    return [{k: v for k, v in row.items() if v is not None} for row in spec or []]


def _numbers(count: int) -> str:
    return f"{count} numbers"


def _close(seconds: float | None, others: float | None) -> bool:
    """Whether two steps are as long, but for the rounding of times."""
    return seconds is not None and others is not None and math.isclose(seconds, others, rel_tol=1e-3)


def _first_difference(name: str, found: list, *, wanted: list) -> tuple[str, Any, Any]:
    """Field, found and expected of two specs that differ: the first row that does, or their lengths."""
    if len(found) != len(wanted):
        return name, _numbers(len(found)), _numbers(len(wanted))
    i = next(i for i, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1])
    return f"{name}[{i}]", found[i], wanted[i]


def stack_states(states: Sequence[State]) -> State:
    """States [] of one robot and one model as one state [b], without the cameras in their contexts.

    Raises:
        ConfigError: as `check_alike`.
    """
    check_alike(states)
    num_rows = max(state.memory.num_gaussians for state in states)
    # A model has no use for cameras, and those of two recordings need not have the same names.
    names = [name for name in states[0].context if name != "cameras"]
    bare = [s.replace(context={name: s.context.get(name) for name in names}) for s in states]
    return stack_all([with_rows(state, num_rows) for state in bare], 0)


def put(old: Noun, rows: Tensor, *, new: Noun) -> Noun:
    """`old` [b] with the elements that `rows` [r] names replaced by `new` [r]; both hold the same tensors."""
    return _put(old, rows, new=new)


def _put(old: Any, rows: Tensor, *, new: Any) -> Any:
    if isinstance(old, Tensor):
        return old.index_copy(0, rows, new.to(old.dtype))
    if isinstance(old, TensorStruct):
        return old.replace(**{name: _put(value, rows, new=getattr(new, name)) for name, value in vars(old).items()})
    if isinstance(old, Mapping) and any(isinstance(v, Tensor | TensorStruct) for v in old.values()):
        return {key: _put(value, rows, new=new.get(key)) for key, value in old.items()}
    return old


def element(batch: Noun, index: int | Tensor) -> Noun:
    """Element(s) of a noun [b]: [] for a number, [r] for a list of rows."""
    return batch.map(lambda x: x[index])

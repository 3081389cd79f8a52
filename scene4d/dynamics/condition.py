"""What steers a forecast: actions and proprio of any robot in named slots, and the task."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import ShapeError

# Named dimensions always land in the same slot, whatever the robot and their order; others fill the free slots.
ACTION_SLOTS = ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")
PROPRIO_SLOTS = ("x", "y", "z", "gripper")
NUM_ACTION_SLOTS, NUM_PROPRIO_SLOTS = 16, 20
TASK_CHANNELS = 32
PLACE_WORDS = {"hand", "ee", "eef", "tcp", "gripper", "pos", "position", "target", "goal"}
"""What may stand before an axis in the name of a place."""


def slots_from_spec(
    spec: Sequence[Mapping[str, Any]] | None, *, width: int, names: Sequence[str], num: int
) -> list[int]:
    """The slot of each of `width` dimensions: by name where the spec names a known one, else the next free slot.

    Raises:
        ShapeError: more dimensions than slots, or a spec of another length.
    """
    if spec is not None and len(spec) != width:
        raise ShapeError("spec and vector differ", field="spec", found=width, expected=len(spec))
    if (width > num - len(names) and spec is None) or width > num:
        raise ShapeError("too many dimensions", field="spec", found=width, expected=f"at most {num}")
    chosen: list[int | None] = []
    for entry in spec or [{}] * width:
        known = _known_name(str(entry.get("name", "")), names)
        chosen.append(names.index(known) if known and names.index(known) not in chosen else None)
    free = iter([s for s in [*range(len(names), num), *range(len(names))] if s not in chosen])
    return [slot if slot is not None else next(free) for slot in chosen]


def into_slots(values: Tensor, slots: Sequence[int], *, num: int) -> Tensor:
    """Vectors [*b a] spread over [*b num] slots, zero elsewhere."""
    out = values.new_zeros(*values.shape[:-1], num)
    out[..., list(slots)] = values
    return out


def action_slots(actions: Tensor, context: Mapping[str, Any], *, proprio: Tensor) -> Tensor:
    """Actions [*b h a] as [*b h 16] by the context's `action_spec`.

    Actions that name places where the hand is to be (x, y, z) become the ways there, in the slots of dx, dy, dz: from
    where the hand is before each, or, where only the first is known, from the place that the action before names.

    Args:
        proprio: the robot's state before each action [*b h q], or before the first [*b q].
    """
    slots, places = _action_slots(context, width=actions.shape[-1])
    out = into_slots(actions, slots, num=NUM_ACTION_SLOTS)
    if places:
        before = proprio_slots(proprio, context)[..., :3]
        if proprio.dim() < actions.dim():
            before = torch.cat([before[..., None, :], actions[..., :-1, places]], -2)
        out[..., :3] = actions[..., places] - before
    return out


def from_action_slots(slots: Tensor, context: Mapping[str, Any], *, width: int, proprio: Tensor) -> Tensor:
    """Actions [*b h width] from slots [*b h 16], the robot's state before the first being proprio [*b q]: the inverse
    of `action_slots`."""
    index, places = _action_slots(context, width=width)
    out = slots[..., index]
    if places:
        out[..., places] = proprio_slots(proprio, context)[..., None, :3] + slots[..., :3].cumsum(-2)
    return out


def resting_action(proprio: Tensor, context: Mapping[str, Any], *, width: int) -> Tensor:
    """The action [*b width] that leaves a robot in state proprio [*b q] where it is: 0, or the place of its hand."""
    still = proprio.new_zeros(*proprio.shape[:-1], 1, NUM_ACTION_SLOTS)
    return from_action_slots(still, context, width=width, proprio=proprio)[..., 0, :]


def _action_slots(context: Mapping[str, Any], *, width: int) -> tuple[list[int], list[int]]:
    """The slot of each of `width` dimensions, and the three that name a place of the hand, if there are such."""
    spec = context.get("action_spec")
    named = [_axis_of_place(entry) for entry in spec or []]
    places = [named.index(axis) for axis in PROPRIO_SLOTS[:3] if axis in named]
    if len(places) < 3 or "absolute" not in str(context.get("action_meaning") or "absolute"):
        return slots_from_spec(spec, width=width, names=ACTION_SLOTS, num=NUM_ACTION_SLOTS), []
    ways = [{**e, "name": f"d{PROPRIO_SLOTS[places.index(i)]}"} if i in places else e for i, e in enumerate(spec)]
    return slots_from_spec(ways, width=width, names=ACTION_SLOTS, num=NUM_ACTION_SLOTS), places


def proprio_slots(proprio: Tensor, context: Mapping[str, Any]) -> Tensor:
    """Proprio [*b q] as [*b 20] by the context's `proprio_spec`; slots 0, 1, 2 are the hand's place in m."""
    slots = slots_from_spec(
        context.get("proprio_spec"), width=proprio.shape[-1], names=PROPRIO_SLOTS, num=NUM_PROPRIO_SLOTS
    )
    return into_slots(proprio, slots, num=NUM_PROPRIO_SLOTS)


def task_embedding(task: str) -> Tensor:
    """A fixed vector [32] of a task text: signed hashes of its words and of their letter triples, unit length.

    Small, deterministic and open to any text; a learned text encoder can take its place.
    """
    words = "".join(c.lower() if c.isalnum() else " " for c in task).split()
    words = [w for w in words if not (w[0] == "v" and w[1:].isdigit())]
    pieces = words + [f"^{w}$"[i : i + 3] for w in words for i in range(len(w))]
    vector = torch.zeros(TASK_CHANNELS)
    for piece in pieces:
        code = hashlib.blake2b(piece.encode(), digest_size=4).digest()
        vector[code[0] % TASK_CHANNELS] += 1.0 if code[1] & 1 else -1.0
    return vector / vector.norm().clamp_min(1.0)


def _axis_of_place(entry: Mapping[str, Any]) -> str | None:
    """The axis along which a dimension names a place of the hand in m: "x", "ee_pos_x", but not "dx" or "rot_x"."""
    *before, axis = re.split(r"[_. ]", str(entry.get("name", "")).lower())
    place = axis in PROPRIO_SLOTS[:3] and set(before) <= PLACE_WORDS and entry.get("unit", "m") == "m"
    return axis if place else None


def _known_name(name: str, names: Sequence[str]) -> str | None:
    """The slot name that a dimension's name means: itself, or its end after a separator ("hand_x" is "x")."""
    low = name.lower()
    for known in sorted(names, key=len, reverse=True):
        if low == known or low.endswith((f"_{known}", f".{known}", f" {known}")) or low.startswith(f"{known}_"):
            return known
    return None

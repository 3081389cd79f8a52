"""What steers a forecast: named dimensions of any robot in slots of their own, and the task."""

from __future__ import annotations

import hashlib
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


def _known_name(name: str, names: Sequence[str]) -> str | None:
    """The slot name that a dimension's name means: itself, or its end after a separator ("hand_x" is "x")."""
    low = name.lower()
    for known in sorted(names, key=len, reverse=True):
        if low == known or low.endswith((f"_{known}", f".{known}", f" {known}")) or low.startswith(f"{known}_"):
            return known
    return None

"""What steers a forecast: named dimensions of any robot in slots of their own, and the task."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from scene4d.errors import ShapeError
from scene4d.robot.spec import RobotSpec

# Named dimensions always land in the same slot, whatever the robot and their order; others fill the free slots.
ACTION_SLOTS = ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")
PROPRIO_SLOTS = ("x", "y", "z", "gripper")
NUM_ACTION_SLOTS, NUM_PROPRIO_SLOTS = 16, 20
TASK_CHANNELS = 32


def slots_of(names: Sequence[str], *, known: Sequence[str], num: int) -> list[int]:
    """The slot of each dimension: by name where it is one of the `known` ones, else the next free slot.

    Raises:
        ShapeError: more dimensions than slots; unnamed ones may not take the slots of the known names.
    """
    width = len(names)
    most = num if any(names) else num - len(known)
    if width > most:
        raise ShapeError("too many dimensions", field="spec", found=width, expected=f"at most {most}")
    chosen: list[int | None] = []
    for name in names:
        found = _known_name(name, known)
        chosen.append(known.index(found) if found and known.index(found) not in chosen else None)
    free = iter([s for s in [*range(len(known), num), *range(len(known))] if s not in chosen])
    return [slot if slot is not None else next(free) for slot in chosen]


def proprio_slot_index(robot: RobotSpec) -> list[int]:
    """The slot of each number of the robot's state."""
    return slots_of(robot.proprio.names, known=PROPRIO_SLOTS, num=NUM_PROPRIO_SLOTS)


def into_slots(values: Tensor, slots: Sequence[int], *, num: int) -> Tensor:
    """Vectors [*b a] spread over [*b num] slots, zero elsewhere."""
    out = values.new_zeros(*values.shape[:-1], num)
    out[..., list(slots)] = values
    return out


def proprio_slots(proprio: Tensor, robot: RobotSpec) -> Tensor:
    """Proprio [*b q] of a robot as [*b 20]; slots 0, 1, 2 are the hand's position in m."""
    return into_slots(proprio, proprio_slot_index(robot), num=NUM_PROPRIO_SLOTS)


def hand_index(robot: RobotSpec) -> list[int]:
    """The numbers of the state that are the hand's x, y and z in m: by name, else by custom the first three."""
    slots = proprio_slot_index(robot)
    return [slots.index(axis) for axis in range(3)] if {0, 1, 2} <= set(slots) else [0, 1, 2]


def beside_hand_index(robot: RobotSpec) -> list[int]:
    """The numbers of the state that are not the hand's place, such as the opening of the gripper."""
    hand = hand_index(robot)
    return [i for i in range(robot.proprio.width) if i not in hand]


def hand_position(proprio: Tensor, robot: RobotSpec) -> Tensor:
    """The hand's position [*b 3] in m in a robot's state [*b q]."""
    return proprio[..., hand_index(robot)]


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
    ends = lambda known: low.endswith((f"_{known}", f".{known}", f" {known}")) or low.startswith(f"{known}_")
    return next((known for known in sorted(names, key=len, reverse=True) if low == known or ends(known)), None)

"""What steers a forecast: actions and proprio of any robot in named slots, the task, and where the hand will be."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scene4d.errors import ShapeError
from scene4d.layers import MLP, zero_

# Named dimensions always land in the same slot, whatever the robot and their order; others fill the free slots.
ACTION_SLOTS = ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")
PROPRIO_SLOTS = ("x", "y", "z", "gripper")
NUM_ACTION_SLOTS, NUM_PROPRIO_SLOTS = 16, 12
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


def action_slots(actions: Tensor, context: Mapping[str, Any]) -> Tensor:
    """Actions [*b a] as [*b 16] by the context's `action_spec`."""
    slots = slots_from_spec(
        context.get("action_spec"), width=actions.shape[-1], names=ACTION_SLOTS, num=NUM_ACTION_SLOTS
    )
    return into_slots(actions, slots, num=NUM_ACTION_SLOTS)


def proprio_slots(proprio: Tensor, context: Mapping[str, Any]) -> Tensor:
    """Proprio [*b q] as [*b 12] by the context's `proprio_spec`; slots 0, 1, 2 are the hand's place in m."""
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


class ProprioForecast(nn.Module):
    """Where the robot's own state goes: proprio since now [*b h q] from past and future actions, causally.

    A hand has inertia and lags behind its commands: its velocity goes on, changed by a linear law of the last
    velocities and actions and by a recurrent net (limits, contact). Step i has seen actions 0..i only.
    """

    def __init__(self, *, num_past: int, width: int = 64):
        super().__init__()
        self.num_past, self.width = num_past, width
        told = num_past * (NUM_ACTION_SLOTS + 1) + 3 * NUM_PROPRIO_SLOTS + TASK_CHANNELS
        self.start = MLP([told, width, width])
        self.cell = nn.GRUCell(NUM_ACTION_SLOTS + 3 * NUM_PROPRIO_SLOTS, width)
        self.out = zero_(nn.Linear(width, NUM_PROPRIO_SLOTS))
        self.inertia = zero_(nn.Linear(2 * NUM_PROPRIO_SLOTS + 2 * NUM_ACTION_SLOTS, NUM_PROPRIO_SLOTS, bias=False))
        self.register_buffer("scale", torch.full((NUM_PROPRIO_SLOTS,), 0.02))

    def forward(
        self, actions: Tensor, *, past_actions: Tensor, proprio: Tensor, proprio_speed: Tensor, task: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Change of proprio since now [*b h 12], and the hidden state of each step [*b h width].

        Args:
            actions [*b h 16], past_actions [*b p 16] (the last one led to now), proprio [*b 12],
            proprio_speed [*b 2 12] (change over the last step and over the one before; 0 if unknown), task [*b 32].
        """
        lead = actions.shape[:-2]
        flat = lambda x: x.reshape(-1, *x.shape[len(lead) :])
        actions, past_actions, proprio, task = (flat(x) for x in (actions, past_actions, proprio, task))
        unit = 0.25 * self.scale  # of a step's change
        speed, before = (flat(proprio_speed) / unit).unbind(-2)  # [b 12]
        recent = _last(past_actions, self.num_past)  # [b p 17]
        hidden = self.start(torch.cat([recent.flatten(-2), proprio, speed, before, task], -1))
        action = recent[:, -1, :NUM_ACTION_SLOTS]
        change, changes, states = torch.zeros_like(speed), [], []
        for following in actions.unbind(-2):
            hidden = self.cell(torch.cat([following, speed, before, change], -1), hidden)
            push = self.inertia(torch.cat([speed, before, following, action], -1))
            speed, before, action = speed + push + self.out(hidden), speed, following
            change = change + 0.25 * speed
            changes.append(change)
            states.append(hidden)
        stacked = lambda x: torch.stack(x, 1).reshape(*lead, len(x), -1)
        return stacked(changes) * self.scale, stacked(states)


def _last(past_actions: Tensor, num: int) -> Tensor:
    """The last `num` past actions [*b num 17], zeros before the first, with a flag for real ones."""
    flagged = torch.cat([past_actions, torch.ones_like(past_actions[..., :1])], -1)
    missing = max(0, num - flagged.shape[-2])
    pad = flagged.new_zeros(*flagged.shape[:-2], missing, flagged.shape[-1])
    return torch.cat([pad, flagged[..., flagged.shape[-2] - (num - missing) :, :]], -2)


def _known_name(name: str, names: Sequence[str]) -> str | None:
    """The slot name that a dimension's name means: itself, or its end after a separator ("hand_x" is "x")."""
    low = name.lower()
    for known in sorted(names, key=len, reverse=True):
        if low == known or low.endswith((f"_{known}", f".{known}", f" {known}")) or low.startswith(f"{known}_"):
            return known
    return None

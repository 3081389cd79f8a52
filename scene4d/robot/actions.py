"""Actions of any robot in slots: what names a place or an orientation becomes the way there, and comes back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scene4d.geometry.rotation import invert_quat, multiply_quat, normalize_quat, quat_from_rotvec, rotvec_from_quat
from scene4d.robot.slots import (
    ACTION_SLOTS,
    NUM_ACTION_SLOTS,
    into_slots,
    proprio_slots,
    slots_from_spec,
)

TURN_SLOTS = [ACTION_SLOTS.index(name) for name in ("drx", "dry", "drz")]
PLACE_WORDS = {"hand", "ee", "eef", "tcp", "gripper", "pos", "position", "target", "goal"}
TURN_WORDS = PLACE_WORDS - {"pos", "position"} | {"rot", "rotation", "quat"}
"""What may stand before an axis in the name of a place or an orientation of the hand."""
PLACE_AXES, TURN_AXES = ("x", "y", "z"), ("qw", "qx", "qy", "qz")


@dataclass(frozen=True)
class _Plan:
    """Where the dimensions of an action go; those named by `places` and `turns` are absolute.

    slots: of each dimension. places: the three that name a place of the hand, or none. turns: the four that name its
    orientation (w x y z), or none; held: the same four in the proprio.
    """

    slots: list[int]
    places: list[int]
    turns: list[int]
    held: list[int]


def action_slots(actions: Tensor, context: Mapping[str, Any], *, proprio: Tensor) -> Tensor:
    """Actions [*b h a] as [*b h 16] by the context's `action_spec`.

    Actions that name places where the hand is to be (x, y, z) become the ways there, in the slots of dx, dy, dz: from
    where the hand is before each, or, where only the first is known, from the place that the action before names.
    Orientations (qw, qx, qy, qz), where the proprio tells them too, become turns in the same way, rotation vectors in
    rad about the axes of the world.

    Args:
        proprio: the robot's state before each action [*b h q], or before the first [*b q].
    """
    plan, each = _plan(context, width=actions.shape[-1]), proprio.dim() == actions.dim()
    out = into_slots(actions, plan.slots, num=NUM_ACTION_SLOTS)
    before = lambda first, named: first if each else torch.cat([first[..., None, :], named[..., :-1, :]], -2)
    if plan.places:
        places = actions[..., plan.places]
        out[..., :3] = places - before(proprio_slots(proprio, context)[..., :3], places)
    if plan.turns:
        quats, held = normalize_quat(actions[..., plan.turns]), normalize_quat(proprio[..., plan.held])
        out[..., plan.slots[plan.turns[0]]] = 0
        out[..., TURN_SLOTS] = rotvec_from_quat(multiply_quat(quats, invert_quat(before(held, quats))))
    return out


def from_action_slots(slots: Tensor, context: Mapping[str, Any], *, width: int, proprio: Tensor) -> Tensor:
    """Actions [*b h width] from slots [*b h 16], the robot's state before the first being proprio [*b q]: the inverse
    of `action_slots`."""
    plan = _plan(context, width=width)
    out = slots[..., plan.slots]
    if plan.places:
        out[..., plan.places] = proprio_slots(proprio, context)[..., None, :3] + slots[..., :3].cumsum(-2)
    if plan.turns:
        quats = [normalize_quat(proprio[..., plan.held])]
        for turn in quat_from_rotvec(slots[..., TURN_SLOTS]).unbind(-2):
            quats.append(multiply_quat(turn, quats[-1]))
        out[..., plan.turns] = torch.stack(quats[1:], -2)
    return out


def resting_action(proprio: Tensor, context: Mapping[str, Any], *, width: int) -> Tensor:
    """The action [*b width] that leaves a robot in state proprio [*b q] where it is: 0, or the place of its hand."""
    still = proprio.new_zeros(*proprio.shape[:-1], 1, NUM_ACTION_SLOTS)
    return from_action_slots(still, context, width=width, proprio=proprio)[..., 0, :]


def _plan(context: Mapping[str, Any], *, width: int) -> _Plan:
    spec = context.get("action_spec")
    places = _named(spec, PLACE_AXES, after=PLACE_WORDS, unit="m")
    if not places or "absolute" not in str(context.get("action_meaning") or "absolute"):
        return _Plan(slots_from_spec(spec, width=width, names=ACTION_SLOTS, num=NUM_ACTION_SLOTS), [], [], [])
    turns, held = (
        _named(context.get(k), TURN_AXES, after=TURN_WORDS, unit="1") for k in ("action_spec", "proprio_spec")
    )
    turns, held = (turns, held) if turns and held else ([], [])
    ways = [dict(entry) for entry in spec]
    for dim, name in zip([*places, *turns[1:]], ACTION_SLOTS[:6], strict=False):
        ways[dim]["name"] = name
    slots = slots_from_spec(ways, width=width, names=ACTION_SLOTS, num=NUM_ACTION_SLOTS)
    return _Plan(slots, places, turns, held)


def _named(spec: Any, axes: tuple[str, ...], *, after: set[str], unit: str) -> list[int]:
    """The dimensions that name these axes of the hand, all or none: "x", "ee_pos_x", but not "dx" or "rot_x"."""
    found: dict[str, int] = {}
    for dim, entry in enumerate(spec or []):
        *before, axis = re.split(r"[_. ]", str(entry.get("name", "")).lower())
        if axis in axes and set(before) <= after and entry.get("unit", unit) == unit:
            found.setdefault(axis, dim)
    return [found[axis] for axis in axes] if len(found) == len(axes) else []

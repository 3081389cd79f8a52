"""Actions of any robot in slots: what names a place or an orientation becomes the way there, and comes back."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.geometry.rotation import invert_quat, multiply_quat, normalize_quat, quat_from_rotvec, rotvec_from_quat
from scene4d.robot.angles import unwrapped, wrapped
from scene4d.robot.slots import ACTION_SLOTS, USUAL_SLOTS, Slots, into_slots, proprio_slots, slots_of
from scene4d.robot.spec import RobotSpec, VectorSpec

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


def action_slots(actions: Tensor, robot: RobotSpec, *, proprio: Tensor, slots: Slots = USUAL_SLOTS) -> Tensor:
    """Actions [*b h a] as [*b h 16], or as many slots, of a robot.

    Actions that name places where the hand is to be (x, y, z) become the ways there, in the slots of dx, dy, dz: from
    where the hand is before each, or, where only the first is known, from the place that the action before names.
    Orientations (qw, qx, qy, qz), where the proprio tells them too, become turns in the same way, rotation vectors in
    rad about the axes of the world. Absolute angles that the proprio holds too go on from those without a jump.

    Args:
        proprio: the robot's state before each action [*b h q], or before the first [*b q].
    Raises:
        ConfigError: the robot does not fit the slots.
    """
    plan, each = _plan(robot, slots), proprio.dim() == actions.dim()
    actions = _unwrapped(actions, robot, proprio=proprio)
    out = into_slots(actions, plan.slots, num=slots.num_actions)
    before = lambda first, named: first if each else torch.cat([first[..., None, :], named[..., :-1, :]], -2)
    if plan.places:
        places = actions[..., plan.places]
        out[..., :3] = places - before(proprio_slots(proprio, robot, slots=slots)[..., :3], places)
    if plan.turns:
        quats, held = normalize_quat(actions[..., plan.turns]), normalize_quat(proprio[..., plan.held])
        out[..., plan.slots[plan.turns[0]]] = 0
        out[..., TURN_SLOTS] = rotvec_from_quat(multiply_quat(quats, invert_quat(before(held, quats))))
    return out


def from_action_slots(values: Tensor, robot: RobotSpec, *, proprio: Tensor, slots: Slots = USUAL_SLOTS) -> Tensor:
    """Actions [*b h a] from values in slots [*b h 16], the robot's state before the first being proprio [*b q]: the
    inverse of `action_slots`."""
    plan = _plan(robot, slots)
    out = values[..., plan.slots]
    if plan.places:
        out[..., plan.places] = proprio_slots(proprio, robot, slots=slots)[..., None, :3] + values[..., :3].cumsum(-2)
    if plan.turns:
        quats = [normalize_quat(proprio[..., plan.held])]
        for turn in quat_from_rotvec(values[..., TURN_SLOTS]).unbind(-2):
            quats.append(multiply_quat(turn, quats[-1]))
        out[..., plan.turns] = torch.stack(quats[1:], -2)
    return wrapped(out, robot.action) if robot.meaning.names_places else out


def resting_action(proprio: Tensor, robot: RobotSpec) -> Tensor:
    """The action [*b a] that leaves a robot in state proprio [*b q] where it is: 0, or the place of its hand."""
    slots = Slots.fitting(robot)
    still = proprio.new_zeros(*proprio.shape[:-1], 1, slots.num_actions)
    return from_action_slots(still, robot, proprio=proprio, slots=slots)[..., 0, :]


def hand_action_index(robot: RobotSpec) -> list[int]:
    """The numbers of an action that move the hand along x, y and z: by name, else by custom the first three."""
    slots = _plan(robot, Slots.fitting(robot)).slots
    return [slots.index(axis) for axis in range(3)] if {0, 1, 2} <= set(slots) else [0, 1, 2]


def _plan(robot: RobotSpec, slots: Slots) -> _Plan:
    slots.check(robot)
    spec, num = robot.action, slots.num_actions
    places = _named(spec, PLACE_AXES, after=PLACE_WORDS, unit="m")
    if not places or not robot.meaning.names_places:
        return _Plan(slots_of(spec.names, known=ACTION_SLOTS, num=num), [], [], [])
    turns, held = (_named(each, TURN_AXES, after=TURN_WORDS, unit="1") for each in (spec, robot.proprio))
    turns, held = (turns, held) if turns and held else ([], [])
    names = list(spec.names)
    for dim, name in zip([*places, *turns[1:]], ACTION_SLOTS[:6], strict=False):
        names[dim] = name
    return _Plan(slots_of(names, known=ACTION_SLOTS, num=num), places, turns, held)


def _unwrapped(actions: Tensor, robot: RobotSpec, *, proprio: Tensor) -> Tensor:
    """Actions [*b h a] whose absolute angles lie within half a turn of the state before them."""
    if not robot.meaning.names_places:
        return actions
    held = [robot.proprio.names.index(n) if n and n in robot.proprio.names else -1 for n in robot.action.names]
    if all(dim < 0 for dim in held):
        return actions
    own = torch.cat([proprio, torch.zeros_like(proprio[..., :1])], -1)[..., held]  # [*b a], 0 where not held
    series = actions[..., None, :] if own.dim() == actions.dim() else actions  # of one step each, or of all
    before = torch.where(torch.tensor(held, device=own.device) < 0, series[..., 0, :], own)
    return unwrapped(series, robot.action, start=before).reshape(actions.shape)


def _named(spec: VectorSpec, axes: tuple[str, ...], *, after: set[str], unit: str) -> list[int]:
    """The dimensions that name these axes of the hand, all or none: "x", "ee_pos_x", but not "dx" or "rot_x"."""
    found: dict[str, int] = {}
    for dim, (name, own) in enumerate(zip(spec.names, spec.units, strict=True)):
        *before, axis = re.split(r"[_. ]", name.lower())
        if axis in axes and set(before) <= after and own in ("", unit):
            found.setdefault(axis, dim)
    return [found[axis] for axis in axes] if len(found) == len(axes) else []

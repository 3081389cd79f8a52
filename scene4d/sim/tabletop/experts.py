"""Scripted experts, closed loop: from where everything is now to the next action of a hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scene4d.sim.tabletop.captions import Instruction
from scene4d.sim.tabletop.layout import AREA_HIGH, AREA_LOW, BESIDE_M, BLOCK_M, push_goal
from scene4d.sim.tabletop.robots import STEP_M, TURN_RAD, RobotHand
from scene4d.sim.tabletop.world import HANDLE_M

HIGH_M = 0.13  # a hand at this height passes over all blocks
NEAR_M = 0.008
BLADE_GAP_M = 0.045  # from a block's middle to where the blade comes down behind it


@dataclass(frozen=True)
class TableState:
    """What an expert sees: the exact state, all places in m.

    places {name: [3]}: middles of blocks, plates and drawer's front; hand [3 or 4]; opening of the fingers (or 0).
    """

    places: dict[str, np.ndarray]
    hand: np.ndarray
    opening: float
    drawer_m: float


def expert_move(instruction: Instruction, *, hand: RobotHand, state: TableState) -> np.ndarray:
    """The next action [4] of a hand that carries out an instruction."""
    match instruction.verb:
        case "open":
            return _open(hand, state)
        case "close":
            return _close(hand, state)
        case "push":
            return _push(instruction, hand=hand, state=state)
        case _:
            return _carry(instruction, hand=hand, state=state)


def _towards(hand: RobotHand, goal: np.ndarray, *, last: float, speed: float = 1.0) -> np.ndarray:
    """Full speed to a place [3] in a straight line; `last` is the fourth number of the action."""
    steps = (goal - hand.set_point[:3]) / STEP_M
    return np.array([*(speed * steps / max(1.0, float(np.abs(steps).max()))), last])


def _over(hand: RobotHand, state: TableState, *, goal: np.ndarray, high: float, last: float) -> np.ndarray:
    """To a place [3], over everything that lies between: up first, then along, then down."""
    far = float(np.hypot(*(goal[:2] - state.hand[:2])))
    if far < NEAR_M:
        return _towards(hand, goal, last=last)
    if state.hand[2] < high - 0.03 and far > 0.03:
        return _towards(hand, np.array([*state.hand[:2], high + 0.01]), last=last)
    return _towards(hand, np.array([*goal[:2], max(high, goal[2])]), last=last)


def put_goal(instruction: Instruction, *, state: TableState) -> np.ndarray:
    """Where [3] the middle of a block that is put somewhere should come to be."""
    place = state.places[instruction.place]
    if instruction.relation == "in":
        return place + np.array([0, 0.07, 0.065])
    if instruction.verb == "stack":
        return place + np.array([0, 0, BLOCK_M])
    if instruction.relation == "beside":
        own = state.places[instruction.object]
        others = [xyz[:2] for name, xyz in state.places.items() if name.endswith("block") and xyz is not own]
        turns = np.arange(8) * math.pi / 4
        spots = place[:2] + BESIDE_M * np.stack([np.cos(turns), np.sin(turns)], 1)
        room = [min(np.hypot(*(spot - other)) for other in others) for spot in spots]
        room = np.where(((spots >= AREA_LOW) & (spots <= AREA_HIGH)).all(1), room, -1)
        return np.array([*spots[int(np.argmax(room))], BLOCK_M / 2])
    return np.array([*place[:2], BLOCK_M / 2])


def _carry(instruction: Instruction, *, hand: RobotHand, state: TableState) -> np.ndarray:
    """Grip a block, carry it over the others, and let go of it at its place."""
    block, goal, up = state.places[instruction.object], put_goal(instruction, state=state), hand.kind.grip_m
    off = float(np.hypot(*(goal[:2] - block[:2])))
    rests = 0.03 if instruction.relation == "in" else goal[2]
    grips = _grips(hand, state, block=block, name=instruction.object)
    high = HIGH_M + (0.06 if instruction.relation == "in" or instruction.verb == "stack" else 0) + up
    if off < (0.05 if instruction.relation == "in" else 0.02) and block[2] < rests + 0.008:
        # It is there: let go, and only then leave.
        free = state.opening > BLOCK_M + 0.015 or hand.kind.name != "gripper"
        return _towards(hand, np.array([*state.hand[:2], high if free else state.hand[2]]), last=-1.0)
    if not grips:
        wanted = block + np.array([0, 0, up])
        ready = float(np.hypot(*(wanted[:2] - state.hand[:2]))) < 0.012 and abs(state.hand[2] - wanted[2]) < 0.006
        if ready:
            return np.array([0.0, 0, 0, 1.0])
        return _over(hand, state, goal=wanted, high=HIGH_M, last=1.0 if hand.kind.name == "suction" else -1.0)
    if off < NEAR_M or (off < 0.03 and state.hand[2] < high - 0.03):
        lower = np.array([*goal[:2], goal[2] + up + 0.002])
        last = -1.0 if state.hand[2] < lower[2] + 0.004 else 1.0
        return _towards(hand, lower, last=last, speed=0.6)
    return _over(hand, state, goal=np.array([*goal[:2], high]), high=high, last=1.0)


def _grips(hand: RobotHand, state: TableState, *, block: np.ndarray, name: str) -> bool:
    if hand.kind.name == "suction":
        return hand.held == name
    far = block - state.hand[:3]
    return bool(np.hypot(*far[:2]) < 0.014 and abs(far[2]) < 0.016 and state.opening < BLOCK_M + 0.003)


def _push(instruction: Instruction, *, hand: RobotHand, state: TableState) -> np.ndarray:
    """Come down behind a block with the blade across the path, and go on to its place."""
    block = state.places[instruction.object]
    place = state.places.get(instruction.place)
    goal = push_goal(instruction, block=block[:2], place=None if place is None else place[:2])
    far = goal - block[:2]
    length, place_now = float(np.hypot(*far)), state.hand[:2]
    if length < 0.006:
        back = np.array([*state.hand[:2], HIGH_M])
        return _towards(hand, back, last=0.0)
    along = far / length
    yaw = math.atan2(along[1], along[0]) - math.pi / 2
    turn = (
        yaw - hand.set_point[3] + math.pi / 2
    ) % math.pi - math.pi / 2  # the blade has no front: half a turn is none
    last = float(np.clip(turn / TURN_RAD, -1, 1))
    offset = place_now - block[:2]
    behind, beside = -float(offset @ along), abs(float(offset @ np.array([-along[1], along[0]])))
    low = hand.kind.lowest_m
    yawed = abs((yaw - state.hand[3] + math.pi / 2) % math.pi - math.pi / 2) < 0.15
    if state.hand[2] < low + 0.012 and beside < 0.02 and 0.015 < behind < 0.08:
        # The set point runs ahead of the hand, and the block stops where the hand does.
        target = place_now + along * min(length + max(0.0, behind - 0.028), 0.03)
        target -= (offset @ np.array([-along[1], along[0]])) * np.array([-along[1], along[0]]) * 0.5
        speed = 1.0 if length > 0.04 else 0.5
        return _towards(hand, np.array([*target, low]), last=last, speed=speed)
    start = block[:2] - along * (BLADE_GAP_M + 0.012)
    if float(np.hypot(*(start - place_now))) < 0.012 and not yawed:
        return _towards(hand, np.array([*start, max(state.hand[2], 0.08)]), last=last)
    return _over(hand, state, goal=np.array([*start, low]), high=HIGH_M - 0.02, last=last)


def _hook_yaw(hand: RobotHand) -> float:
    """The fourth number while a hand is at the drawer: fingers closed, blade along the handle, no suction."""
    if hand.kind.name == "pusher":
        return float(np.clip(-hand.set_point[3] / TURN_RAD, -1, 1))
    return 1.0 if hand.kind.name == "gripper" else -1.0


def _open(hand: RobotHand, state: TableState) -> np.ndarray:
    """Reach down behind the handle, and pull."""
    last, front = _hook_yaw(hand), state.places["drawer"]
    hook = np.array([front[0], front[1] - HANDLE_M / 2 + 0.003, 0.045])
    if state.drawer_m > 0.135:
        return _towards(hand, np.array([*state.hand[:2], state.hand[2]]), last=last)
    behind = abs(state.hand[0] - hook[0]) < 0.012 and abs(state.hand[1] - hook[1]) < HANDLE_M / 2
    if behind and state.hand[2] < 0.052:
        return _towards(hand, np.array([hook[0], state.hand[1] - 0.03, hook[2]]), last=last)
    return _over(hand, state, goal=hook, high=0.16, last=last)


def _close(hand: RobotHand, state: TableState) -> np.ndarray:
    """Come down in front of the handle, and push."""
    last, front = _hook_yaw(hand), state.places["drawer"]
    start = np.array([front[0], front[1] - HANDLE_M - 0.04, 0.052])
    if state.drawer_m < 0.004:
        return _towards(hand, np.array([*state.hand[:2], state.hand[2]]), last=last)
    before = start[1] + 0.04 - state.hand[1]
    if abs(state.hand[0] - start[0]) < 0.02 and 0 < before < 0.08 and state.hand[2] < 0.065:
        return _towards(hand, np.array([start[0], state.hand[1] + 0.03, start[2]]), last=last)
    return _over(hand, state, goal=start, high=0.16, last=last)

"""Named dimensions of any robot in slots of their own, so that one network takes the numbers of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.robot.spec import RobotSpec

# Named dimensions always land in the same slot, whatever the robot and their order; others fill the free slots.
ACTION_SLOTS = ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")
PROPRIO_SLOTS = ("x", "y", "z", "gripper")
NUM_ACTION_SLOTS, NUM_PROPRIO_SLOTS = 16, 20


@dataclass(frozen=True)
class Slots:
    """How many numbers of a robot a world model takes: more of them for a body with many joints."""

    num_actions: int = NUM_ACTION_SLOTS
    """Slots of an action; without names of its numbers, 7 of them stay free for the named ones."""
    num_proprio: int = NUM_PROPRIO_SLOTS
    """Slots of the robot's state; without names of its numbers, 4 of them stay free."""

    def __post_init__(self) -> None:
        for name, known in (("num_actions", ACTION_SLOTS), ("num_proprio", PROPRIO_SLOTS)):
            if getattr(self, name) < len(known):
                found, expected = getattr(self, name), f"at least {len(known)}, one for each of {', '.join(known)}"
                raise ConfigError("is too small", field=f"slots.{name}", found=found, expected=expected)

    @classmethod
    def fitting(cls, robot: RobotSpec) -> Slots:
        """Enough for a robot, and never fewer than the usual ones."""
        action, proprio = robot.action.width + len(ACTION_SLOTS), robot.proprio.width + len(PROPRIO_SLOTS)
        return cls(max(NUM_ACTION_SLOTS, action), max(NUM_PROPRIO_SLOTS, proprio))

    def check(self, robot: RobotSpec) -> None:
        """Refuse a robot that does not fit.

        Raises:
            ConfigError: one line that names the setting to raise.
        """
        for name, spec, known in (("action", robot.action, ACTION_SLOTS), ("proprio", robot.proprio, PROPRIO_SLOTS)):
            setting = "num_actions" if name == "action" else "num_proprio"
            free, needed = getattr(self, setting), spec.width + (0 if any(spec.names) else len(known))
            if spec.width and needed > free:
                numbers = f"{spec.width} numbers" + ("" if needed == spec.width else " without names")
                fix = f"train a model with slots.{setting} = {needed} or more (dynamics.model.slots.{setting})"
                problem, expected = "has more numbers than the world model has slots", f"at most {free} slots"
                raise ConfigError(problem, field=f"{name}_spec", found=numbers, expected=expected, fix=fix)


USUAL_SLOTS = Slots()


def slots_of(names: Sequence[str], *, known: Sequence[str], num: int) -> list[int]:
    """The slot of each dimension: by name where it is one of the `known` ones, else the next free slot.

    There are enough slots (`Slots.check`); dimensions without any name leave those of the known names free.
    """
    chosen: list[int | None] = []
    for name in names:
        found = _known_name(name, known)
        chosen.append(known.index(found) if found and known.index(found) not in chosen else None)
    free = iter([s for s in [*range(len(known), num), *range(len(known))] if s not in chosen])
    return [slot if slot is not None else next(free) for slot in chosen]


def proprio_slot_index(robot: RobotSpec, *, slots: Slots = USUAL_SLOTS) -> list[int]:
    """The slot of each number of the robot's state.

    Raises:
        ConfigError: the robot does not fit.
    """
    slots.check(robot)
    return slots_of(robot.proprio.names, known=PROPRIO_SLOTS, num=slots.num_proprio)


def into_slots(values: Tensor, slots: Sequence[int], *, num: int) -> Tensor:
    """Vectors [*b a] spread over [*b num] slots, zero elsewhere."""
    out = values.new_zeros(*values.shape[:-1], num)
    out[..., list(slots)] = values
    return out


def proprio_slots(proprio: Tensor, robot: RobotSpec, *, slots: Slots = USUAL_SLOTS) -> Tensor:
    """Proprio [*b q] of a robot as [*b 20], or as many slots; slots 0, 1, 2 are the hand's position in m."""
    return into_slots(proprio, proprio_slot_index(robot, slots=slots), num=slots.num_proprio)


def hand_index(robot: RobotSpec) -> list[int]:
    """The numbers of the state that are the hand's x, y and z in m: by name, else by custom the first three."""
    slots = proprio_slot_index(robot, slots=Slots.fitting(robot))
    return [slots.index(axis) for axis in range(3)] if {0, 1, 2} <= set(slots) else [0, 1, 2]


def beside_hand_index(robot: RobotSpec) -> list[int]:
    """The numbers of the state that are not the hand's place, such as the opening of the gripper."""
    hand = hand_index(robot)
    return [i for i in range(robot.proprio.width) if i not in hand]


def hand_position(proprio: Tensor, robot: RobotSpec) -> Tensor:
    """The hand's position [*b 3] in m in a robot's state [*b q]."""
    return proprio[..., hand_index(robot)]


def _known_name(name: str, names: Sequence[str]) -> str | None:
    """The slot name that a dimension's name means: itself, or its end after a separator ("hand_x" is "x")."""
    low = name.lower()
    ends = lambda known: low.endswith((f"_{known}", f".{known}", f" {known}")) or low.startswith(f"{known}_")
    return next((known for known in sorted(names, key=len, reverse=True) if low == known or ends(known)), None)

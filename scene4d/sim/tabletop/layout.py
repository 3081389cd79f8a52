"""What lies where when an episode begins: drawn by the seed, the same for two sentences that exchange their colours."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scene4d.errors import ConfigError
from scene4d.sim.tabletop.captions import COLORS, Instruction, TableTask

BLOCK_M = 0.05  # edge
PLATE_RADIUS_M = 0.06
PLATE_HEIGHT_M = 0.002
AREA_LOW, AREA_HIGH = (-0.25, 0.44), (0.25, 0.7)  # where middles of blocks and plates lie, m
SIDE_M = 0.16  # from here on a block is on the left or right side
MIDDLE, MIDDLE_RADIUS_M = (0.0, 0.58), 0.06
BESIDE_M = 0.105  # between middles of a block and the plate that it lies beside
CABINET_X, CABINET_FRONT_Y = 0.17, 0.8
DRAWER_TRAVEL_M = 0.15
NUM_BLOCKS, NUM_PLATES = 3, 2  # at least, in a scene of one instruction
MASS_KG, HEAT_C = (0.05, 0.4), (15.0, 60.0)  # ranges of the hidden fields
TRIES = 400


@dataclass(frozen=True)
class Layout:
    """The first moment of an episode: places in m, angles in rad, and what no picture shows."""

    blocks: dict[str, tuple[float, float, float]]
    """x, y and yaw of each block by its name."""
    plates: dict[str, tuple[float, float]]
    cabinet_x: float
    drawer_m: float
    """How far the drawer is open."""
    hands: list[tuple[float, float, float]]
    """x, y and z of each hand."""
    doers: tuple[int, ...]
    """Which hand does each job."""
    lamp_phase: float
    lamp_period_s: float
    mass_kg: dict[str, float]
    """Of each block, and of the drawer."""
    heat_c: dict[str, float]
    """Degrees Celsius of each block, of each plate, and of the drawer."""


def drawn_layout(task: TableTask, *, seed: int, hidden_seed: int) -> Layout:
    """The layout of a seed. Colours decide it, not which of them is named first; nor does the kind of robot.

    Raises:
        ConfigError: nothing was found that fits on the table.
    """
    # Each draw has a stream of its own, so that none changes with how many numbers another one took.
    key = zlib.crc32(_scene_key(task).encode())
    streams = lambda number: np.random.default_rng([seed, key, number])
    for attempt in range(TRIES):
        found = _places(task, random=np.random.default_rng([seed, key, 0, attempt]))
        if found is not None:
            break
    else:
        raise ConfigError("leaves no room on the table", field="task", found=task.name)
    blocks, plates, cabinet_x, doers = found
    hidden = np.random.default_rng([hidden_seed, key, 1])
    heavy, hot = [*sorted(blocks), "drawer"], [*sorted(blocks), *sorted(plates), "drawer"]
    light, heavier = (math.log(value) for value in MASS_KG)
    used = any(one.verb == "close" or one.place == "drawer" for one in task.instructions)
    open_first = used and not any(one.verb == "open" for one in task.instructions)
    starts = [(0.0, 0.5)] if len(task.robots) == 1 else [(-0.26, 0.42), (0.26, 0.42)]
    shifts = streams(2).uniform(-0.03, 0.03, (2, 3))
    hands = [(x + shift[0], y + shift[1], 0.18 + shift[2]) for (x, y), shift in zip(starts, shifts, strict=False)]
    if len(task.jobs) == 1:
        x = blocks[task.instructions[0].object][0] if task.instructions[0].object in blocks else cabinet_x
        doers = min(task.assignments, key=lambda order: abs(hands[order[0]][0] - x))
    return Layout(
        blocks=blocks,
        plates=plates,
        cabinet_x=cabinet_x,
        drawer_m=float(streams(3).uniform(0.11, 0.14)) if open_first else 0.0,
        hands=hands,
        doers=doers,
        lamp_phase=float(streams(4).uniform(0, 2 * math.pi)),
        lamp_period_s=float(streams(5).uniform(0.8, 1.6)),
        mass_kg={name: math.exp(hidden.uniform(light, heavier)) for name in heavy},
        heat_c={name: hidden.uniform(*HEAT_C) for name in hot},
    )


def push_goal(instruction: Instruction, *, block: np.ndarray, place: np.ndarray | None) -> np.ndarray:
    """Where [2] a block [2] that is pushed in a straight line should come to be; `place` [2] of the plate, if any."""
    if instruction.place == "middle":
        return np.array(MIDDLE)
    if place is None:
        return np.array([-0.21 if instruction.place == "left side" else 0.21, block[1]])
    if instruction.relation == "beside":
        far = block - place
        return place + BESIDE_M * far / max(float(np.hypot(*far)), 1e-6)
    return place


def _scene_key(task: TableTask) -> str:
    """What the drawing depends on beside the seed."""
    colors = sorted({noun.split()[0] for one in task.instructions for noun in one.nouns if noun.split()[0] in COLORS})
    plain = lambda noun: noun.split()[-1] if noun.split(" ")[0] in COLORS else noun
    rules = [f"{one.verb} {one.relation} {plain(one.place)}" for one in task.instructions]
    return " ".join([*colors, *sorted(rules), str(len(task.robots))])


def _wanted(task: TableTask, random: np.random.Generator) -> tuple[list[str], list[str]]:
    """Names of blocks and plates: those of the colours that the task names, and others up to the usual number."""
    named = [noun.split()[0] for one in task.instructions for noun in one.nouns if noun.split()[0] in COLORS]
    if len(task.jobs) > 1 or len(set(named)) > 2:
        nouns = sorted(noun for one in task.instructions for noun in one.nouns)
        return [noun for noun in nouns if noun.endswith("block")], [noun for noun in nouns if noun.endswith("plate")]
    colors = sorted(set(named))
    order = [*colors, *random.permutation([color for color in COLORS if color not in colors]).tolist()]
    plates = [*colors, *reversed(order[len(colors) :])][: max(NUM_PLATES, len(colors))]
    blocks = order[: max(NUM_BLOCKS, len(colors))]
    return [f"{color} block" for color in blocks], [f"{color} plate" for color in plates]


def _places(task: TableTask, *, random: np.random.Generator):
    """One try: blocks, plates, place of the cabinet, and who does what; None where they do not fit.

    Two jobs at once have a half of the table each, that of their robot, so that the arms do not meet.
    """
    blocks, plates = _wanted(task, random)
    cabinet_x = float(random.choice([-1, 1]) * (CABINET_X + random.uniform(-0.03, 0.03)))
    uses_drawer = any("drawer" in one.nouns for one in task.instructions)
    doers, sides = task.assignments[random.integers(len(task.assignments))], {}
    if len(task.jobs) > 1:
        pairs = zip(task.jobs, doers, strict=True)
        sides = {noun: 2 * doer - 1 for job, doer in pairs for one in job for noun in one.nouns}
        cabinet_x = abs(cabinet_x) * sides["drawer"] if "drawer" in sides else cabinet_x
    taken: list[tuple[str, np.ndarray, float]] = []
    for name in [*plates, *blocks]:
        radius = PLATE_RADIUS_M if name.endswith("plate") else 0.042
        for _ in range(40):
            place = random.uniform(AREA_LOW, AREA_HIGH)
            if name in sides:
                place[0] = sides[name] * (0.07 + abs(place[0]) * (AREA_HIGH[0] - 0.07) / AREA_HIGH[0])
            free = all(np.hypot(*(place - other)) > radius + size + 0.012 for _, other, size in taken)
            if free and not (uses_drawer and abs(place[0] - cabinet_x) < 0.16 and place[1] > 0.5):
                taken.append((name, place, radius))
                break
        else:
            return None
    at = {name: place for name, place, _ in taken}
    if not all(_can_begin(one, at) for one in task.instructions):
        return None
    yaws = random.uniform(-0.12, 0.12, len(blocks))
    placed = {name: (*at[name].tolist(), float(yaw)) for name, yaw in zip(blocks, yaws, strict=True)}
    return placed, {name: tuple(at[name].tolist()) for name in plates}, cabinet_x, doers


def _can_begin(instruction: Instruction, at: dict[str, np.ndarray]) -> bool:
    """Whether there is something left to do, and a pushed block has a free path with room behind it."""
    block, place = at.get(instruction.object), at.get(instruction.place)
    if block is None:
        return True
    if place is not None and np.hypot(*(block - place)) < 0.13:
        return False
    if instruction.verb != "push":
        return True
    goal = push_goal(instruction, block=block, place=place)
    far = goal - block
    length = float(np.hypot(*far))
    if length < 0.09:
        return False
    start = block - 0.09 * far / length
    others = [xy for name, xy in at.items() if name.endswith("block") and name != instruction.object]
    return _inside(start) and all(_gap(xy, (start, goal)) > 0.085 for xy in others)


def _inside(place: np.ndarray) -> bool:
    return -0.31 < place[0] < 0.31 and 0.38 < place[1] < 0.69  # farther back is the handle of the drawer


def _gap(point: np.ndarray, ends: Sequence[np.ndarray]) -> float:
    """Distance [m] of a point from the line between two others."""
    along = ends[1] - ends[0]
    share = np.clip((point - ends[0]) @ along / (along @ along), 0, 1)
    return float(np.hypot(*(point - ends[0] - share * along)))

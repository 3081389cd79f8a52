"""What is to be done on the table, in words: verb, object, relation, place; sentences and names, read back as well."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import permutations, product

import numpy as np

from scene4d.errors import ConfigError

PREFIX = "tabletop/"
"""Beginning of the name of every task of the table."""
COLORS = ("red", "blue", "green", "yellow", "purple")
ROBOT_KINDS = {
    "gripper": ("put", "stack", "open", "close"),
    "suction": ("put", "stack", "open", "close"),
    "pusher": ("push", "open", "close"),
}
"""What each kind of robot can do."""
LAMP = "lamp"
KINDS = {
    "block": tuple(f"{color} block" for color in COLORS),
    "plate": tuple(f"{color} plate" for color in COLORS),
    "drawer": ("drawer",),
    "area": ("left side", "right side", "middle"),
}
"""Names of each kind of object or place; an area is a part of the table top."""
ANY = "any "
"""Beginning of a noun that stands for all names of its kind, such as "any block"."""
RULES = (
    ("put", "block", "on", "plate"),
    ("put", "block", "beside", "plate"),
    ("put", "block", "in", "drawer"),
    ("stack", "block", "on", "block"),
    ("push", "block", "onto", "plate"),
    ("push", "block", "beside", "plate"),
    ("push", "block", "to", "area"),
    ("open", "drawer", "", ""),
    ("close", "drawer", "", ""),
)
"""Verb, kind of object, relation, kind of place (none where the verb says it all)."""


@dataclass(frozen=True)
class Instruction:
    """One sentence by its four phrases, "put", "red block", "on", "blue plate"; relation and place may be "".

    Object and place may be any of their kind ("any block"), until `TableTask.drawn` names one.
    """

    verb: str
    object: str
    relation: str = ""
    place: str = ""

    def __post_init__(self) -> None:
        for verb, kind, relation, place in RULES:
            fits = self.object in _nouns(kind) and self.place in _nouns(place) and _differ(self.object, self.place)
            if (self.verb, self.relation) == (verb, relation) and fits:
                return
        rules = "; ".join(" ".join(word for word in rule if word) for rule in RULES)
        raise ConfigError("is no instruction for the table", field="task", found=asdict(self), expected=rules)

    @property
    def text(self) -> str:
        """The sentence: "put the red block on the blue plate"."""
        article = lambda noun: noun if noun.startswith(ANY) else f"the {noun}"
        place = f" {self.relation} {article(self.place)}" if self.place else ""
        return f"{self.verb} {article(self.object)}{place}"

    @property
    def name(self) -> str:
        """The sentence as a name: "put-red-block-on-blue-plate"."""
        return "-".join(word for word in self.text.split() if word != "the")

    @property
    def phrases(self) -> dict[str, str]:
        """verb, object, relation and place."""
        return asdict(self)

    @property
    def nouns(self) -> tuple[str, ...]:
        """The object and, where there is one, the place."""
        return (self.object, self.place) if self.place else (self.object,)


def read_instruction(text: str) -> Instruction:
    """The instruction that a sentence or a name says; the inverse of `Instruction.text` and of `Instruction.name`.

    Raises:
        ConfigError: it says none.
    """
    words = [word for word in text.lower().replace("-", " ").split() if word != "the"]
    for verb, kind, relation, place in RULES:
        for noun, where in product(_nouns(kind), _nouns(place)):
            if _differ(noun, where) and words == [verb, *noun.split(), *relation.split(), *where.split()]:
                return Instruction(verb, object=noun, relation=relation, place=where)
    rules = "; ".join(" ".join(word for word in rule if word) for rule in RULES)
    raise ConfigError("is no instruction for the table", field="task", found=text, expected=rules)


def all_instructions() -> Iterator[Instruction]:
    """Every sentence of the grammar that names its object and its place."""
    for verb, kind, relation, place in RULES:
        for noun, where in product(KINDS[kind], KINDS.get(place, ("",))):
            if noun != where:
                yield Instruction(verb, object=noun, relation=relation, place=where)


@dataclass(frozen=True)
class TableTask:
    """One or two jobs, for one or two robots, with or without the lamp that moves by itself.

    A job is one instruction, or several one after the other. Each is for a robot of its own that can do it; of two that
    can, it is for the one that begins nearer.
    """

    jobs: tuple[tuple[Instruction, ...], ...]
    robots: tuple[str, ...] = ("gripper",)
    lamp: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.robots) <= 2 or not set(self.robots) <= set(ROBOT_KINDS):
            expected = "one or two of " + ", ".join(ROBOT_KINDS)
            raise ConfigError("are no robots of the table", field="task", found=self.robots, expected=expected)
        if not 1 <= len(self.jobs) <= len(self.robots):
            expected = f"1 to {len(self.robots)}, at most one a robot"
            raise ConfigError("too many instructions at once", field="task", found=len(self.jobs), expected=expected)
        nouns = [noun for job in self.jobs for noun in _nouns_of(job)]
        if len(set(nouns)) != len(nouns) or any({"open", "close"} <= {one.verb for one in job} for job in self.jobs):
            expected = "objects and places of their own; no drawer that is opened and closed"
            raise ConfigError("undo each other", field="task", found=self.text, expected=expected)
        if not self.assignments:
            expected = "; ".join(f"{kind}: {', '.join(verbs)}" for kind, verbs in ROBOT_KINDS.items())
            found = f"{'+'.join(self.robots)}: {', '.join(one.verb for one in self.instructions)}"
            raise ConfigError("no such robot is there", field="task", found=found, expected=expected)

    def drawn(self, seed: int) -> TableTask:
        """The task with every "any" replaced by a name that the seed draws, no two alike, whatever the robots."""
        random = np.random.default_rng([seed, zlib.crc32(self.text.encode())])
        taken = {noun for one in self.instructions for noun in one.nouns}

        def named(noun: str) -> str:
            if noun.startswith(ANY):
                noun = str(random.choice([name for name in KINDS[noun.removeprefix(ANY)] if name not in taken]))
                taken.add(noun)
            return noun

        names = lambda one: replace(one, object=named(one.object), place=named(one.place))
        return replace(self, jobs=tuple(tuple(names(one) for one in job) for job in self.jobs))

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """Those of all jobs."""
        return tuple(one for job in self.jobs for one in job)

    @property
    def assignments(self) -> list[tuple[int, ...]]:
        """Which robot may do each job: all possibilities."""
        orders = permutations(range(len(self.robots)), len(self.jobs))
        can = lambda robot, job: all(one.verb in ROBOT_KINDS[self.robots[robot]] for one in job)
        return [order for order in orders if all(map(can, order, self.jobs))]

    @property
    def name(self) -> str:
        """Such as "tabletop/gripper/put-red-block-on-blue-plate" or "tabletop/pusher+pusher+lamp/...-and-..."."""
        present = "+".join([*self.robots, *([LAMP] if self.lamp else [])])
        return f"{PREFIX}{present}/" + "-and-".join("-then-".join(one.name for one in job) for job in self.jobs)

    @property
    def robot(self) -> str:
        """Kinds of its robots in one word, such as "gripper" or "pusher+pusher"."""
        return "+".join(self.robots)

    @property
    def text(self) -> str:
        """The instructions in words: jobs are joined by "and", what is done one after the other by "then"."""
        return " and ".join(" then ".join(one.text for one in job) for job in self.jobs)


def read_task(name: str) -> TableTask:
    """The task of a name; the inverse of `TableTask.name`.

    "tabletop/put-any-block-on-any-plate" is one whose colours are drawn by the seed of each episode.

    The part between the slashes may be left out: then there is one robot, a pusher where the verb is push, else a
    gripper, and no lamp.

    Raises:
        ConfigError: it is none, or its robots cannot do it.
    """
    parts = name.removeprefix(PREFIX).split("/")
    if not name.startswith(PREFIX) or len(parts) > 2:
        expected = f"{PREFIX}put-red-block-on-blue-plate or {PREFIX}suction+{LAMP}/put-red-block-on-blue-plate"
        raise ConfigError("is no task of the table", field="task", found=name, expected=expected)
    jobs = tuple(tuple(map(read_instruction, job.split("-then-"))) for job in parts[-1].split("-and-"))
    if len(parts) == 1:
        return TableTask(jobs, robots=("pusher" if jobs[0][0].verb == "push" else "gripper",))
    present: Sequence[str] = parts[0].split("+")
    robots = tuple(one for one in present if one != LAMP)
    return TableTask(jobs, robots=robots, lamp=LAMP in present)


def swapped(instruction: Instruction) -> Instruction:
    """The instruction with the colours of object and place exchanged; at one seed both have the same first scene.

    Raises:
        ConfigError: one of them has no colour.
    """
    color, kind = instruction.object.split(" ", 1) if " " in instruction.object else ("", instruction.object)
    other, place = instruction.place.split(" ", 1) if " " in instruction.place else ("", instruction.place)
    return Instruction(
        instruction.verb, object=f"{other} {kind}", relation=instruction.relation, place=f"{color} {place}"
    )


def _nouns(kind: str) -> tuple[str, ...]:
    """Names of a kind, and the one that stands for any of them; no kind has the empty name alone."""
    if not kind:
        return ("",)
    return KINDS[kind] + ((ANY + kind,) if len(KINDS[kind]) > 1 else ())


def _differ(noun: str, place: str) -> bool:
    return noun != place or noun.startswith(ANY)


def _nouns_of(job: Sequence[Instruction]) -> list[str]:
    """What a job is about; its drawer counts once, since it may be opened first and then have something put in it."""
    nouns = [noun for one in job for noun in one.nouns if not noun.startswith(ANY)]
    return [noun for number, noun in enumerate(nouns) if noun != "drawer" or noun not in nouns[:number]]

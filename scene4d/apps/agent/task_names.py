"""What weights know by name: the tasks of their head, the columns of its actions and states."""

from __future__ import annotations

from collections.abc import Sequence

from scene4d.errors import ConfigError
from scene4d.robot.spec import VectorSpec


def task_from_text(text: str, known: Sequence[str]) -> str:
    """The one known task that a text names: with every word of its name, and no word of another's.

    A guess would let a robot open what it should close.

    Raises:
        ConfigError: it names none, or not only one; lists the known ones.
    """
    words, names = _words(text), {name: _words(name) for name in known}
    vocabulary = set().union(*names.values())
    meant = [name for name, own in names.items() if own == words & vocabulary]
    if not words or len(meant) != 1:
        problem, found, fix = "nothing was trained for it", text or "nothing", "name one of these, or use its words"
        raise ConfigError(problem, field="task", found=found, expected=", ".join(known) or "a trained task", fix=fix)
    return meant[0]


def names_and_units(spec: VectorSpec, *, width: int) -> tuple[list[str], list[str]]:
    """Names and units of the numbers of a vector; a0, a1, ... and "" where the spec leaves them open."""
    names, units = [*spec.names, *[""] * (width - spec.width)], [*spec.units, *[""] * (width - spec.width)]
    return [name or f"a{i}" for i, name in enumerate(names)], units


def _words(text: str) -> set[str]:
    words = "".join(c.lower() if c.isalnum() else " " for c in text).split()
    return {w for w in words if not (w[0] == "v" and w[1:].isdigit())}

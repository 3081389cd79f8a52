"""RobotSpec: what the numbers of a robot's actions and state mean; two robots that differ are never mixed silently."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scene4d.errors import ConfigError

STEP_TOLERANCE = 0.05
"""Relative difference of two step lengths that the jitter of clocks explains."""

Bounds = tuple[float | None, float | None]
"""Least and greatest value that a spec declares; None = not declared."""


@dataclass(frozen=True)
class VectorSpec:
    """Names, units, frames and declared bounds of the numbers of a vector; "" and None where nothing is declared."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    frames: tuple[str, ...]
    bounds: tuple[Bounds, ...]

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]] | None, *, width: int | None = None) -> VectorSpec:
        """From rows {name, unit, frame, low, high} as recordings store them; `width` unnamed numbers without rows.

        Raises:
            ConfigError: the rows are no rows, or not `width` of them; a bound is no number or the wrong way round.
        """
        rows = list(rows) if isinstance(rows, Sequence) else [rows] if rows else []
        if not all(isinstance(row, Mapping) for row in rows):
            raise ConfigError("is no spec", field="spec", found=str(rows)[:80], expected="rows {name, unit, frame}")
        if rows and width is not None and len(rows) != width:
            raise ConfigError("is of another vector", field="spec", found=f"{width} numbers", expected=len(rows))
        rows = rows or [{}] * (width or 0)
        text = lambda row, key: str(row.get(key) or "").strip()
        return cls(
            names=tuple(text(row, "name") for row in rows),
            units=tuple(text(row, "unit") for row in rows),
            frames=tuple(text(row, "frame") for row in rows),
            bounds=tuple(_bounds(row, index=i) for i, row in enumerate(rows)),
        )

    @property
    def width(self) -> int:
        """How many numbers."""
        return len(self.names)

    @property
    def known(self) -> bool:
        """Whether anything is declared of any number."""
        return any(self.names) or any(self.units) or any(self.frames)

    def rows(self) -> list[dict[str, Any]]:
        """The rows {name, unit, frame, low, high} as recordings store them, without what is not declared."""
        rows = zip(self.names, self.units, self.frames, self.bounds, strict=True)
        columns = [{"name": n, "unit": u, "frame": f, "low": b[0], "high": b[1]} for n, u, f, b in rows]
        declared = [{k: v for k, v in row.items() if v not in ("", None)} for row in columns]
        return declared if any(declared) else []

    def filled_from(self, other: VectorSpec) -> VectorSpec:
        """This spec, or `other` where it declares nothing and `other` does; never none where one has numbers."""
        return other if not self.width or (other.known and not self.known) else self

    def difference(self, other: VectorSpec) -> tuple[str, str, str] | None:
        """(place, ours, theirs) of the first number that differs, place such as "[2]"; "" where the widths do.

        What one of them leaves open is no difference, nor is a bare number as a name (where LeRobot knows none).
        """
        if self.width != other.width:
            return "", str(self), str(other)
        for i in range(self.width):
            for key in ("names", "units", "frames"):
                own, theirs = getattr(self, key)[i], getattr(other, key)[i]
                open_name = key == "names" and (own.isdigit() or theirs.isdigit())
                if own and theirs and own != theirs and not open_name:
                    return f"[{i}]", self._words(i), other._words(i)
        return None

    def _words(self, index: int) -> str:
        name = self.names[index]
        mark = ", ".join(filter(None, (self.units[index], self.frames[index])))
        name = name if name and not name.isdigit() else f"a{index}"
        return f"{name} [{mark}]" if mark else name

    def __str__(self) -> str:
        """As words: "dx [0.02 m, world], ..."."""
        return ", ".join(map(self._words, range(self.width))) if self.known else f"{self.width} numbers"


@dataclass(frozen=True)
class ActionMeaning:
    """What an action is: a relative step or an absolute target, and of what, in the recording's words."""

    text: str = ""

    @property
    def kind(self) -> str:
        """ "absolute", "relative", or "" where the words do not say."""
        low = self.text.lower()
        if "absolute" in low:
            return "absolute"
        steps = ("relative", "delta", "change", "displacement", "velocity")
        return "relative" if any(word in low for word in steps) else ""

    @property
    def names_places(self) -> bool:
        """Whether dimensions called x, y, z are places, not steps: so by the field's custom, unless words deny it."""
        return not self.text or self.kind == "absolute"

    def difference(self, other: ActionMeaning) -> bool:
        """Whether both say what an action is, and differ: in kind where both tell it, else in their words."""
        if not (self.text and other.text):
            return False
        return self.kind != other.kind if self.kind and other.kind else self.text != other.text


@dataclass(frozen=True)
class RobotSpec:
    """What the numbers of a robot mean: hashable, comparable, JSON-ready.

    action, proprio: of its actions and its state. meaning: of an action. step_seconds: from one action to the next.
    name: of the robot. recorded: least and greatest recorded value of each action number, which bounds those that
    declare no bounds; it belongs to recordings, not to the robot, and is not compared.
    """

    action: VectorSpec
    proprio: VectorSpec
    meaning: ActionMeaning = ActionMeaning()
    step_seconds: float | None = None
    name: str = ""
    recorded: tuple[tuple[float, float], ...] | None = field(default=None, compare=False)

    @classmethod
    def from_info(
        cls,
        info: Mapping[str, Any],
        *,
        num_actions: int | None = None,
        num_proprio: int | None = None,
        step_seconds: float | None = None,
        file: str | Path | None = None,
    ) -> RobotSpec:
        """From what recordings, scenes and weights store: action_spec, proprio_spec, action_meaning, robot.

        Args:
            num_actions, num_proprio: numbers of a vector, where known. file: that holds the info, for errors.
        Raises:
            ConfigError: a spec is no spec, or of another number of numbers; names file and field.
        """
        vectors = {}
        for key, width in (("action", num_actions), ("proprio", num_proprio)):
            try:
                vectors[key] = VectorSpec.from_rows(info.get(f"{key}_spec"), width=width)
            except ConfigError as error:
                field, found, expected = f"{key}_{error.field}", error.found, error.expected
                raise ConfigError(error.problem, file=file, field=field, found=found, expected=expected) from error
        meaning, seconds = str(info.get("action_meaning") or ""), step_seconds or info.get("step_seconds")
        name = str(info.get("robot") or "")
        return cls(vectors["action"], vectors["proprio"], ActionMeaning(meaning), seconds, name)

    def as_info(self) -> dict[str, Any]:
        """What `from_info` reads, without what is not known."""
        info = {
            "action_spec": self.action.rows(),
            "proprio_spec": self.proprio.rows(),
            "action_meaning": self.meaning.text,
            "robot": self.name,
        }
        return {key: value for key, value in info.items() if value}

    def filled_from(self, other: RobotSpec) -> RobotSpec:
        """This spec with what it leaves open taken from `other`, a spec of the same robot."""
        return RobotSpec(
            action=self.action.filled_from(other.action),
            proprio=self.proprio.filled_from(other.proprio),
            meaning=self.meaning if self.meaning.text else other.meaning,
            step_seconds=self.step_seconds or other.step_seconds,
            name=self.name or other.name,
            recorded=self.recorded or other.recorded,
        )

    def with_recorded(self, recorded: tuple[tuple[float, float], ...] | None) -> RobotSpec:
        """The same robot with other recorded ranges."""
        return replace(self, recorded=recorded)

    def difference(self, other: RobotSpec) -> tuple[str, str, str] | None:
        """(field, ours, theirs) of the first difference; None where they are one robot.

        What one of the two leaves open is no difference.
        """
        for key in ("action", "proprio"):
            own, theirs = getattr(self, key), getattr(other, key)
            found = own.difference(theirs) if own.width and theirs.width else None
            if found is not None:
                return f"{key}_spec{found[0]}", *found[1:]
        if self.meaning.difference(other.meaning):
            return "action_meaning", self.meaning.text, other.meaning.text
        if self.name and other.name and self.name != other.name:
            return "robot", self.name, other.name
        own, theirs = self.step_seconds, other.step_seconds
        if own and theirs and not math.isclose(own, theirs, rel_tol=STEP_TOLERANCE):
            return "step_seconds", f"{own:g}", f"{theirs:g}"
        return None

    def check_same(self, other: RobotSpec, *, file: str | Path | None = None, frame: int | None = None) -> None:
        """Refuse a spec that is not of this robot.

        Args:
            other: of a recording, scene or start. file, frame: where it was found.
        Raises:
            ConfigError: one line that says what differs.
        """
        found = other.difference(self)
        if found is not None:
            field, theirs, ours = found
            fix = "take weights that were trained for this robot, or name names and units as they do"
            raise ConfigError(
                "is of another robot", file=file, field=field, frame=frame, found=theirs, expected=ours, fix=fix
            )


def _bounds(row: Mapping[str, Any], *, index: int) -> Bounds:
    try:
        low, high = (None if row.get(key) is None else float(row[key]) for key in ("low", "high"))
    except (TypeError, ValueError) as error:
        found = [row.get("low"), row.get("high")]
        raise ConfigError("is no number", field=f"spec[{index}]", found=found, expected="numbers") from error
    if (low is not None and high is not None and not low <= high) or any(x is not None and x != x for x in (low, high)):
        problem, field = "bounds are the wrong way round", f"spec[{index}]"
        raise ConfigError(problem, field=field, found=[low, high], expected="low <= high")
    return low, high

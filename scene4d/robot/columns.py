"""Columns of actions and proprio by name, so that recordings of different robots can share one layout."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scene4d.errors import ConfigError

_NUMBERED = re.compile(r"(.*\D)?\d+")
_GRIPPER = re.compile(r"gripper|finger|jaw|prismatic", re.I)
_PHYSICAL = re.compile(r"(\d+(\.\d+)? )?(m|mm|cm|rad|deg|N|Nm)(/s)?")


@dataclass(frozen=True)
class Column:
    """One number of an action or of the robot's state; equal columns of different recordings mean the same."""

    name: str
    """What it is called."""
    unit: str | None = None
    """Unit, where the recording names one."""
    frame: str | None = None
    """Frame or meaning, where the recording names one."""
    owner: str | None = None
    """Robot and width where the name is but a number: then nothing tells that another robot's means the same."""

    @property
    def physical(self) -> bool:
        """Whether it is measured in metres, radians, newtons or the like."""
        return self.unit is not None and _PHYSICAL.fullmatch(self.unit) is not None

    def __str__(self) -> str:
        return self.name + (f" [{self.unit}]" if self.unit else "") + (f" of {self.owner}" if self.owner else "")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"name": self.name, "unit": self.unit, "frame": self.frame, "owner": self.owner}


def joint_unit(name: str) -> str | None:
    """Unit of a joint's position that only its name tells of: "rad", or None for grippers and others that may slide.

    A gripper counts in metres, shares or steps, and never in angles that wrap.
    """
    return None if _GRIPPER.search(name) else "rad"


def columns_of(info: Mapping[str, Any], key: str) -> tuple[Column, ...]:
    """The columns that `info[key]` (action_spec or proprio_spec) names."""
    rows = list(info.get(key) or [])
    text = lambda value: None if value is None else str(value)
    columns = []
    for row in rows:
        name, unit, frame = str(row.get("name")), text(row.get("unit")), text(row.get("frame"))
        vague = unit is None and _NUMBERED.fullmatch(name) is not None
        owner = f"{info.get('robot') or 'an unnamed robot'}, {len(rows)} columns" if vague else None
        columns.append(Column(name, unit, frame, owner))
    return tuple(columns)


def shared_layout(
    layouts: Sequence[tuple[Column, ...]], *, union: bool, field: str, paths: Sequence[str]
) -> tuple[Column, ...]:
    """The columns of all recordings in order of appearance.

    Raises:
        ConfigError: they differ and `union` is False, or one recording has two columns of one name.
    """
    first = layouts[0]
    for layout, path in zip(layouts, paths, strict=True):
        if len(set(layout)) != len(layout):
            twice = sorted({str(c) for c in layout if layout.count(c) > 1})
            raise ConfigError("two columns have one name", file=path, field=field, found=twice)
        if layout != first and not union:
            more, less = [str(c) for c in layout if c not in first], [str(c) for c in first if c not in layout]
            parts = [f"has {', '.join(more)}"] * bool(more) + [f"lacks {', '.join(less)}"] * bool(less)
            found = f"{len(layout)}: {'; '.join(parts) or 'the same in another order'}"
            expected = f"{len(first)}: {', '.join(map(str, first)) or 'none'}"
            fix = "load them apart, or with WindowConfig(union=True): every window has the columns of all"
            problem = f"has other columns than {paths[0]}"
            raise ConfigError(problem, file=path, field=field, found=found, expected=expected, fix=fix)
    return tuple(dict.fromkeys(c for layout in layouts for c in layout))

"""How far actions may go: what their spec declares, what their units say, what was recorded."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.robot.columns import Column
from scene4d.robot.spec import RobotSpec

MARGIN = 0.1
"""Share of the recorded range by which actions may lie outside it, on each side."""
LEAST_MARGIN = 1e-3
"""The same in units of the action, for numbers that never changed."""

_FROM_MINUS_ONE = re.compile(r"(^|[\s,;:(\[])-1(\.0+)?(?!\.?\d)")
_NORMALISED = re.compile(r"\b(?<!not )(?<!un-)(?<!non-)normali[sz]ed\b", re.I)

Range = tuple[tuple[float, float], ...]
"""(least, greatest) recorded value of each action number, in its unit; the wrong way round where none was finite."""


def action_range(actions: Sequence[Tensor]) -> Range:
    """Least and greatest finite value of each action number in recordings [*b t a], for `RobotSpec.recorded`."""
    rows = torch.cat([a.detach().cpu().double().reshape(-1, a.shape[-1]) for a in actions])
    filled = lambda x: torch.cat([rows.masked_fill(~rows.isfinite(), x), rows.new_full((1, rows.shape[-1]), x)])
    low, high = filled(math.inf).amin(0).tolist(), filled(-math.inf).amax(0).tolist()
    return tuple(zip(low, high, strict=True))


def action_bounds(robot: RobotSpec) -> tuple[Tensor, Tensor]:
    """Least and greatest value [a] of each action number of a robot, in the units of its spec, float32.

    What the spec declares comes first. Without that -1 and 1 where unit or meaning say that the number is scaled to
    that; else the recorded range and a margin; else -inf and inf, for nothing is known.

    Raises:
        ConfigError: the recorded range has another number of numbers, or contradicts a declared bound.
    """
    spec, width = robot.action, robot.action.width
    recorded = robot.recorded or ((math.inf, -math.inf),) * width
    if len(recorded) != width:
        raise ConfigError("is of other actions", field="action_range", found=f"{len(recorded)} numbers", expected=width)
    pairs = []
    for i, seen in enumerate(recorded):
        supposed = _supposed(spec.names[i], spec.units[i], meaning=robot.meaning.text, seen=seen)
        low, high = (s if given is None else given for given, s in zip(spec.bounds[i], supposed, strict=True))
        if not low <= high:
            problem, field = "bounds are the wrong way round", f"action_spec[{i}]"
            raise ConfigError(problem, field=field, found=[low, high], expected="low <= high")
        pairs.append((low, high))
    low, high = torch.tensor(pairs, dtype=torch.float32).reshape(width, 2).unbind(-1)
    return low, high


def within_bounds(actions: Tensor, robot: RobotSpec) -> Tensor:
    """Actions [*b a] held to `action_bounds`: a sampler of a learned distribution ends a little beside its edges.

    Raises:
        ConfigError: as `action_bounds`.
    """
    low, high = action_bounds(robot)
    return actions.clamp(low.to(actions), high.to(actions))


def _supposed(name: str, unit: str, *, meaning: str, seen: tuple[float, float]) -> tuple[float, float]:
    """Bounds of a number whose spec declares none."""
    low, high = seen
    physical = Column(name, unit).physical
    # "0.02 m" counts in steps of 0.02 m, so it is scaled; "m" is a length; "1" is a part of a quaternion or a share.
    scaled = unit == "1" or (physical and unit[0].isdigit()) or _FROM_MINUS_ONE.search(unit)
    if scaled or _NORMALISED.search(unit) or _NORMALISED.search(meaning):
        return min(-1.0, low), max(1.0, high)  # by another measure than least and greatest, some lie beyond
    if low > high:
        return -math.inf, math.inf
    if not physical and low >= -1 and high <= 1:
        return -1.0, 1.0  # nothing says what it is, and what was recorded fits the most common scale
    margin = max(LEAST_MARGIN, MARGIN * (high - low))
    return low - margin, high + margin

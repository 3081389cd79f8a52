"""How far actions may go: what their spec declares, what their units say, what was recorded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.robot.columns import Column

MARGIN = 0.1
"""Share of the recorded range by which actions may lie outside it, on each side."""
LEAST_MARGIN = 1e-3
"""The same in units of the action, for numbers that never changed."""

_FROM_MINUS_ONE = re.compile(r"(^|[\s,;:(\[])-1(\.0+)?(?!\.?\d)")
_NORMALISED = re.compile(r"\b(?<!not )(?<!un-)(?<!non-)normali[sz]ed\b", re.I)

Range = Mapping[str, list[float]]
"""{"low": [a], "high": [a]} of recorded actions, in their units; low above high where a number was never finite."""


def action_range(actions: Sequence[Tensor]) -> Range:
    """Least and greatest finite value of each action number in recordings [*b t a].

    A State carries it as context["action_range"].
    """
    rows = torch.cat([a.detach().cpu().double().reshape(-1, a.shape[-1]) for a in actions])
    filled = lambda x: torch.cat([rows.masked_fill(~rows.isfinite(), x), rows.new_full((1, rows.shape[-1]), x)])
    return {"low": filled(math.inf).amin(0).tolist(), "high": filled(-math.inf).amax(0).tolist()}


def action_bounds(context: Mapping[str, Any], *, width: int) -> tuple[Tensor, Tensor]:
    """Least and greatest value [width] of each action number, in the units of its spec, float32.

    `low` and `high` of the spec's row come first. Without them -1 and 1 where unit or meaning say that the number is
    scaled to that; else the recorded range and a margin; else -inf and inf, for nothing is known.

    Args:
        context: action_spec, action_meaning and action_range (see `action_range`), as far as they are known.
    Raises:
        ConfigError: spec or range have another number of rows, or a `low` or `high` that is no number or the wrong way
            round.
    """
    rows, meaning = list(context.get("action_spec") or [{}] * width), str(context.get("action_meaning") or "")
    recorded = context.get("action_range") or {"low": [math.inf] * width, "high": [-math.inf] * width}
    for name, values in (("action_spec", rows), ("action_range", recorded["low"])):
        if len(values) != width:
            raise ConfigError("is of other actions", field=name, found=f"{len(values)} numbers", expected=width)
    seen = zip(recorded["low"], recorded["high"], strict=True)
    pairs = [
        _declared(row, _supposed(row, meaning, seen=pair), index=i)
        for i, (row, pair) in enumerate(zip(rows, seen, strict=True))
    ]
    low, high = torch.tensor(pairs, dtype=torch.float32).reshape(width, 2).unbind(-1)
    return low, high


def _supposed(row: Mapping[str, Any], meaning: str, *, seen: tuple[float, float]) -> tuple[float, float]:
    """Bounds of a number whose spec declares none."""
    low, high = seen
    unit = str(row.get("unit") or "")
    physical = Column(str(row.get("name")), unit).physical
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


def _declared(row: Mapping[str, Any], supposed: tuple[float, float], *, index: int) -> tuple[float, float]:
    """`low` and `high` of a row, where it has them."""
    told = [row.get("low"), row.get("high")]
    try:
        low, high = (float(value if given is None else given) for given, value in zip(told, supposed, strict=True))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "is no number", field=f"action_spec[{index}]", found=told, expected="low and high as numbers"
        ) from error
    if not low <= high:
        raise ConfigError(
            "bounds are the wrong way round", field=f"action_spec[{index}]", found=[low, high], expected="low <= high"
        )
    return low, high

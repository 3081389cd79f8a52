"""Angles that wrap at half a turn: unwrapped before differences and statistics, wrapped again for the robot."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from scene4d.robot.columns import joint_unit
from scene4d.robot.spec import VectorSpec

PERIODS = {"rad": 2 * math.pi, "radian": 2 * math.pi, "radians": 2 * math.pi, "deg": 360.0, "degrees": 360.0}
"""A full turn in the units that angles are recorded in."""
_ORIENTATION = re.compile(r"(^|[_. ])(roll|pitch|yaw|euler|r[xyz]|rot_?[xyz])([_. ]|$)", re.I)


def periods_of(spec: VectorSpec, *, like: Tensor) -> Tensor:
    """A full turn [d] in the unit of each number of a vector; inf for those that are no angles.

    The opening of a gripper is none, whatever unit its recording gives it.
    """
    turns = zip(spec.names, (PERIODS.get(unit.lower(), math.inf) for unit in spec.units), strict=True)
    angle = lambda name: _ORIENTATION.search(name) or joint_unit(name)
    return like.new_tensor([turn if angle(name) else math.inf for name, turn in turns])


def unwrapped(values: Tensor, spec: VectorSpec, *, start: Tensor | None = None) -> Tensor:
    """A series [*b t d] in which no angle jumps by more than half a turn from one time to the next.

    No joint goes half a turn in one step, so such a jump is the wrap of its sensor. Other numbers come back bit-equal.

    Args:
        start: [*b d] values before the first; None = the first are kept as they are.
    """
    periods = periods_of(spec, like=values)
    angles = periods.isfinite().nonzero()[:, 0]
    if len(angles) == 0 or values.shape[-2] == 0:
        return values
    series, period = values[..., angles], periods[angles]
    before = series[..., :1, :] if start is None else start[..., None, angles]
    steps = torch.cat([before, series], -2).diff(dim=-2)
    turns = (-(steps / period).round() * (steps.abs() > period / 2)).cumsum(-2)
    out = values.clone()
    out[..., angles] = series + turns * period
    return out


def unwrapped_to_last(values: Tensor, spec: VectorSpec) -> Tensor:
    """The same, the last values of the series kept as they are."""
    if not bool(periods_of(spec, like=values).isfinite().any()):
        return values
    return unwrapped(values.flip(-2), spec).flip(-2)


def wrapped(values: Tensor, spec: VectorSpec) -> Tensor:
    """Orientation angles (roll, pitch, yaw, ...) brought back to within half a turn; joints and others stay."""
    periods = periods_of(spec, like=values)
    chosen = [i for i, name in enumerate(spec.names) if _ORIENTATION.search(name) and periods[i].isfinite()]
    if not chosen:
        return values
    out, period, old = values.clone(), periods[chosen], values[..., chosen]
    turned = torch.remainder(old + period / 2, period) - period / 2
    out[..., chosen] = torch.where(old.abs() <= period / 2, old, turned)
    return out

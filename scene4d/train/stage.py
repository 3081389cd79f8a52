"""Stages of a training run, and the one trainer that fits a module: a family of models hands its stages to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from scene4d.train.device import Device, at_device
from scene4d.train.log import line_progress
from scene4d.train.loop import LoopConfig, train


@dataclass(frozen=True)
class Stage:
    """One step of a training run, done once for its key; what it makes lies in a folder of its name.

    key: configurations and plain values that decide what it makes, beside the stages before it.
    build: folder -> JSON-ready result; called again where it was cut short, and goes on.
    """

    name: str
    key: Sequence[Any]
    build: Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Fit:
    """What is trained: a module, its loss on a batch, and the batch of each step.

    loss: batch -> (scalar, metrics), the same metrics every time. batches: step -> batch, by the step alone.
    """

    module: nn.Module
    loss: Callable[[Any], tuple[Tensor, Mapping[str, Tensor | float]]]
    batches: Callable[[int], Any]
    config: LoopConfig


def fit(what: Fit, *, folder: Path, device: Device, name: str, owner: nn.Module | None = None) -> dict[str, Any]:
    """Train a module in place, on a device, with a line of progress now and then; resumes what is in `folder`.

    Args:
        name: in the lines of progress. owner: the module that goes to the device with it, where the loss needs more.
    Returns:
        steps, skipped, and the last metrics, numbers rounded.
    Raises:
        as `train.loop.train`.
    """
    with at_device(owner or what.module, device):
        run = partial(train, config=what.config, folder=folder, progress=line_progress(name))
        result = run(what.module, what.loss, batches=what.batches)
    # A stage has a clock of its own.
    kept = {k: v for k, v in result.items() if k not in ("seconds", "grad_norm")}
    return {k: rounded(v) if isinstance(v, float) else v for k, v in kept.items()}


def rounded(value: Any) -> float:
    """A number to five digits."""
    return float(f"{float(value):.5g}")

"""Which episodes and tasks are evaluated, and therefore never trained on."""

from __future__ import annotations

from collections.abc import Sequence

from scene4d.errors import ConfigError
from scene4d.sim import rig

LARGEST_SEED = 2**32 - 1
"""What the simulator's random numbers take."""
HELD_OUT_SEEDS = range(1000, 2100)
"""Environments of validation (1000 to 1099) and test (2000 to 2099), and what lies between: never used in training."""


def check_training_seeds(first: int, num: int, *, field: str) -> None:
    """Refuse `num` training seeds from `first` on that overlap the held-out ones.

    Raises:
        ConfigError: they do.
    """
    if first < HELD_OUT_SEEDS.stop and first + num > HELD_OUT_SEEDS.start:
        found, fix = f"{first} to {first + num - 1}", f"begin at {HELD_OUT_SEEDS.stop}"
        expected = f"none of {HELD_OUT_SEEDS.start} to {HELD_OUT_SEEDS.stop - 1}"
        problem = "reach into those kept for validation and test"
        raise ConfigError(problem, field=field, found=found, expected=expected, fix=fix)


def check_training_tasks(tasks: Sequence[str], *, field: str, fix: str) -> None:
    """Refuse tasks that are held out.

    Raises:
        ConfigError: there is one.
    """
    if held_out := [task for task in tasks if task in rig.HELD_OUT_TASKS]:
        problem, expected = "are kept for reports on tasks never trained", "none of " + ", ".join(rig.HELD_OUT_TASKS)
        raise ConfigError(problem, field=field, found=", ".join(held_out), expected=expected, fix=fix)


def seed_range(seeds: tuple[int, int]) -> range:
    """The seeds from the first to the last, both included.

    Raises:
        ConfigError: there is none, or one that the simulator's random numbers do not take.
    """
    first, last = seeds
    if first < 0 or last > LARGEST_SEED:
        raise ConfigError("is out of range", field="seeds", found=seeds, expected=f"0 to {LARGEST_SEED}")
    if last < first:
        raise ConfigError("is an empty range", field="seeds", found=seeds, expected="FIRST <= LAST")
    return range(first, last + 1)

"""Which episodes are evaluated."""

from __future__ import annotations

from scene4d.errors import ConfigError


def seed_range(seeds: tuple[int, int]) -> range:
    """The seeds from the first to the last, both included.

    Raises:
        ConfigError: there is none.
    """
    first, last = seeds
    if last < first:
        raise ConfigError("is an empty range", field="seeds", found=seeds, expected="FIRST <= LAST")
    return range(first, last + 1)

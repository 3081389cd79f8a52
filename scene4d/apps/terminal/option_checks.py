"""Checks of command-line options, before anything is read or made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from scene4d.errors import ConfigError


def flag(name: str) -> str:
    """An option as it is typed."""
    return "--" + name.replace("_", "-")


def check_at_least(least: float, **options: float | None) -> None:
    """Refuse options below `least`, or that are not finite; None is not given.

    Raises:
        ConfigError: naming the first of them.
    """
    for name, value in options.items():
        if value is not None and not (math.isfinite(value) and value >= least):
            raise ConfigError("is out of range", field=flag(name), found=value, expected=f"at least {least:g}")


def check_within(least: float, most: float, **options: float) -> None:
    """Refuse options below `least`, above `most`, or that are no number.

    Raises:
        ConfigError: naming the first of them.
    """
    for name, value in options.items():
        if not least <= value <= most:
            raise ConfigError("is out of range", field=flag(name), found=value, expected=f"{least:g} to {most:g}")


def check_positive(**options: float | None) -> None:
    """Refuse options that are not above 0 and finite; None is not given.

    Raises:
        ConfigError: naming the first of them.
    """
    for name, value in options.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError("is out of range", field=flag(name), found=value, expected="above 0")


def check_output(path: Path, *, suffixes: Sequence[str], inputs: Sequence[Path] = (), fix: str = "") -> None:
    """Refuse an output of another kind than is written, or that would replace what is read.

    Raises:
        ConfigError: it has another suffix, or is one of `inputs`.
    """
    if path.suffix.lower() not in suffixes:
        problem, found, expected = "is not what is written", path.suffix or "no suffix", " or ".join(suffixes)
        raise ConfigError(problem, file=path, field="--output", found=found, expected=expected, fix=fix or None)
    for other in inputs:
        if path.exists() and other.exists() and path.samefile(other):
            fix = "name another file with -o"
            raise ConfigError("would replace what is read", file=path, field="--output", fix=fix)

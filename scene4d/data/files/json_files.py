"""JSON and arrays that others wrote: read with errors that name line, column and key, and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.errors import DataFormatError, ResourceError
from scene4d.files import require_regular

MAX_BYTES = 1 << 29


def read_json(path: Path, *, fix: str, loose_numbers: bool = False) -> dict[str, Any]:
    """A JSON object; NaN and Infinity are refused, as the standard wants, unless numbers are `loose_numbers`.

    Raises:
        DataFormatError: missing, not JSON (with line and column), or not an object.
        ResourceError: too large to be metadata.
    """

    def refuse(word: str) -> None:
        raise DataFormatError("holds a number that JSON does not have", file=path, found=word)

    try:
        size = require_regular(path).st_size
        if size > MAX_BYTES:
            raise ResourceError("is too large", file=path, found=size, expected=f"<= {MAX_BYTES} bytes")
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=float if loose_numbers else refuse)
    except FileNotFoundError as error:
        raise DataFormatError("is missing", file=path, fix=fix) from error
    except json.JSONDecodeError as error:
        found = f"{error.msg} at line {error.lineno} column {error.colno}"
        raise DataFormatError("is not JSON", file=path, found=found, fix=fix) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataFormatError("cannot be read", file=path, found=str(error)[:80], fix=fix) from error
    if not isinstance(value, dict):
        raise DataFormatError("is not a JSON object", file=path, found=type(value).__name__, fix=fix)
    return value


def number_in(table: Any, key: str, *, file: Path, default: float | None = None) -> float:
    """The finite number at `key`.

    Raises:
        DataFormatError: absent (and no default), or not a finite number.
    """
    value = table.get(key, default) if isinstance(table, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise DataFormatError("is no number", file=file, field=key, found=value, expected="a finite number")
    return float(value)


def has_shape(values: np.ndarray, shape: Sequence[int | None]) -> bool:
    """Whether an array has that shape; None is any size above 0."""
    same = (a == b or (b is None and a > 0) for a, b in zip(values.shape, shape, strict=False))
    return values.ndim == len(shape) and all(same)


def matrix_of(value: Any) -> np.ndarray:
    """Nested lists as a float64 array, empty where they are no numbers: the checks that follow name what is wrong."""
    try:
        return np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.empty(0)

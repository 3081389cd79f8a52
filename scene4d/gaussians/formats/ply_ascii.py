"""Rows of an ascii .ply: one line a row, one number a column, read in pieces and checked before they are kept."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scene4d.errors import DataFormatError

MAX_LINE = 1 << 20
MAX_NUMBER = 64
"""Bytes of one number as text; the longest that C prints of a double is far shorter."""
NUMBERS_AT_A_TIME = 1 << 18


def read_ascii_rows(file: BinaryIO, count: int, *, dtype: np.dtype | None, path: Path, line: int) -> np.ndarray | None:
    """`count` rows from where `file` stands, as a structured array; without a `dtype` they are passed over (None).

    Args:
        line: the number in the file of the first line, for errors.
    Raises:
        DataFormatError: too few lines, another number of values in one, or a value that is no number of its column.
    """
    width = len(dtype.names or ()) if dtype is not None else 0
    step = max(1, NUMBERS_AT_A_TIME // max(width, 1))
    parts: list[np.ndarray] = []
    done = 0
    while done < count:
        lines = list(islice(iter(lambda: file.readline(MAX_LINE), b""), min(step, count - done)))
        for index, text in enumerate(lines):
            if len(text) == MAX_LINE:
                raise DataFormatError("a line is too long", file=path, field=f"line {line + done + index}")
        if dtype is not None:
            parts.append(_rows_of(lines, dtype, path=path, line=line + done))
        done += len(lines)
        if not lines:
            where = {"file": path, "field": f"line {line + done}", "found": f"{done} rows", "expected": count}
            raise DataFormatError("the file is shorter than its header declares", **where, fix="copy it again")
    return None if dtype is None else np.concatenate([np.zeros(0, dtype), *parts])


def _rows_of(lines: list[bytes], dtype: np.dtype, *, path: Path, line: int) -> np.ndarray:
    names = dtype.names or ()
    words = [text.split() for text in lines]
    for index, row in enumerate(words):
        if len(row) != len(names) or max(map(len, row)) > MAX_NUMBER:
            found, expected = f"{len(row)} values: {lines[index][:60]!r}", f"{len(names)} numbers"
            raise DataFormatError("is no row", file=path, field=f"line {line + index}", found=found, expected=expected)
    rows = np.empty(len(lines), dtype)
    for place, name in enumerate(names):
        texts = np.array([row[place] for row in words], dtype=bytes)
        kind = dtype[name]
        try:
            numbers = texts.astype(np.float64)
            good = np.ones(len(numbers), bool)
        except ValueError:
            good = np.array([_is_number(text) for text in texts])
            numbers = np.zeros(len(texts))
        if kind.kind != "f":
            limits = np.iinfo(kind)
            good &= (numbers >= limits.min) & (numbers <= limits.max) & (np.floor(numbers) == numbers)
        if not good.all():
            index = int(np.flatnonzero(~good)[0])
            where = {"file": path, "field": f"line {line + index}: {name}", "found": repr(bytes(texts[index]))}
            raise DataFormatError("is no number of its column", **where, expected=kind.name, fix="export it again")
        with np.errstate(over="ignore"):  # what does not fit is infinite, which the reader counts
            rows[name] = numbers.astype(kind)
    return rows


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

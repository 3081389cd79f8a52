"""Results as short tables for people on a terminal. Standard library only, as help and usage errors come at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MOST_ITEMS = 6  # of a list, before "..."


def result_table(result: Mapping[str, Any]) -> str:
    """One line a key; a table of its own for a value that is rows: {name: {column: number}}, or a list of such."""
    plain = {key: value for key, value in result.items() if not _rows_of(value)}
    width = max((len(key) for key in plain), default=0) + 2
    lines = [f"{_words(key):<{width}}{_cell(value)}" for key, value in plain.items() if value not in (None, "", [], {})]
    for key, value in result.items():
        if rows := _rows_of(value):
            lines += ["", _words(key), columns_table(rows)]
    return "\n".join(lines)


def columns_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Named rows of cells, in columns as wide as they need; what a row does not have is "-"."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    cells = [["", *map(_words, columns)]]
    cells += [[name, *(_cell(row[c]) if c in row else "-" for c in columns)] for name, row in rows.items()]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns) + 1)]
    pad = lambda i, cell: cell.ljust(widths[i]) if i == 0 else cell.rjust(widths[i])
    return "\n".join("  ".join(pad(i, cell) for i, cell in enumerate(line)).rstrip() for line in cells)


def _rows_of(value: Any) -> dict[str, Mapping[str, Any]]:
    """A value that is a table, as its rows; nothing of any other."""
    if isinstance(value, Mapping) and value and all(isinstance(v, Mapping) for v in value.values()):
        return {str(name): row for name, row in value.items()}
    if isinstance(value, Sequence) and value and all(isinstance(v, Mapping) for v in value):
        return {str(i): row for i, row in enumerate(value)}
    return {}


def _words(key: str) -> str:
    return str(key).replace("_", " ")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(k)} {_cell(v)}" for k, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = ", ".join(map(_cell, value[:MOST_ITEMS]))
        return f"{shown}, ... ({len(value)})" if len(value) > MOST_ITEMS else shown
    return "-" if value is None else str(value)

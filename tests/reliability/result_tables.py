"""A table on the terminal and, where asked for, in docs/results/reliability.md, with commit and machine."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "results" / "reliability.md"


@dataclass(frozen=True)
class Table:
    """Rows under columns; `name` is that of its place in the document."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    def markdown(self) -> str:
        """As Markdown has it."""
        line = lambda cells: "| " + " | ".join(str(cell) for cell in cells) + " |"
        return "\n".join([line(self.columns), "|" + "---|" * len(self.columns), *map(line, self.rows)])


def written(table: Table, *, text: str, write: bool, command: str) -> None:
    """Print a table and what it says; with `write`, put it between its marks in the document."""
    print(f"\n{table.markdown()}\n\n{text}", flush=True)
    if not write:
        return
    begin, end = f"<!-- {table.name} -->", f"<!-- end of {table.name} -->"
    document = DOCUMENT.read_text(encoding="utf-8")
    before, rest = document.split(begin, 1)
    after = rest.split(end, 1)[1]
    about = f"`{command}` at commit {_commit()}, on {_machine()}."
    parts = [before, begin, "\n", about, "\n\n", table.markdown(), "\n\n", text, "\n", end, after]
    DOCUMENT.write_text("".join(parts), encoding="utf-8")


def _commit() -> str:
    found = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def _machine() -> str:
    name = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.is_file():
        models = [line.split(":", 1)[1] for line in cpus.read_text().splitlines() if line.startswith("model name")]
        name = models[0].strip() if models else name
    return f"{len(os.sched_getaffinity(0))} cores of {name}, Python {platform.python_version()}"

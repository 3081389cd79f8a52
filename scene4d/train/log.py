"""A run's log: one JSON object a line, and progress lines at most once a second."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scene4d.disk_errors import writing
from scene4d.files import write_text

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called with (done, total, metrics) after every step; must be cheap."""


class JsonLog:
    """Appends JSON lines to a file; each line is flushed, so a killed run leaves whole lines only."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, **values: Any) -> None:
        """Add one line.

        Raises:
            ResourceError: the disk is full or cannot be written.
        """
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Every whole line so far; a torn last line is passed over."""
        if not self.path.exists():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(text))
        return lines

    def keep_until(self, step: int) -> None:
        """Drop lines of later steps, so that a resumed run does not log them twice."""
        kept = [line for line in self.read() if line.get("step", 0) <= step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))


def line_progress(name: str, *, every_s: float = 2.0, stream=None) -> Progress:
    """A progress function that prints "name 120/900 loss 0.031" to standard error, at most once `every_s` seconds."""
    last = [0.0]

    def progress(done: int, total: int, *metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now - last[0] < every_s and done < total:
            return
        last[0] = now
        text = " ".join(f"{k} {v:.4g}" for m in metrics for k, v in m.items() if isinstance(v, int | float))
        print(f"{name} {done}/{total} {text}".rstrip(), file=stream or sys.stderr, flush=True)

    return progress

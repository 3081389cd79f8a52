"""Progress on a terminal as bars (rich), elsewhere as plain lines on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
Step = Callable[[str, Callable[[], T]], T]


@contextmanager
def steps_shown(total: int, seconds: dict[str, float] | None = None) -> Iterator[Step]:
    """Yield step(name, work) -> result: shows which of `total` runs, notes how long each took in `seconds`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)

        def step(name: str, work: Callable[[], T]) -> T:
            bar.update(task, description=name)
            start = time.monotonic()
            result = work()
            took = round(time.monotonic() - start, 2)
            if seconds is not None:
                seconds[name] = took
            bar.advance(task)
            if not console.is_terminal:
                print(f"scene4d: {name} ({took:.1f} s)", file=sys.stderr, flush=True)
            return result

        yield step


def side_by_side(step: Step, works: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """The results of steps that do not need one another, two at a time: what computes and what writes take turns.

    Raises:
        whatever the first of them raises that fails, when all have ended.
    """
    with ThreadPoolExecutor(2) as pool:
        started = {name: pool.submit(step, name, work) for name, work in works.items()}
        return {name: future.result() for name, future in started.items()}


@contextmanager
def counter_shown(name: str) -> Iterator[Callable[..., None]]:
    """Yield count(done, total), which passes over anything more: a bar on a terminal, elsewhere a line every tenth."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)

        def count(done: int, total: int, *_: object) -> None:
            bar.update(task, completed=done, total=total)
            if not console.is_terminal and (done == total or done * 10 // total > (done - 1) * 10 // total):
                print(f"scene4d: {name} {done}/{total}", file=sys.stderr, flush=True)

        yield count

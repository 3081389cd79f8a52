"""How many gradient steps a fit took: with a bound on seconds that depends on the machine, and scenes record it."""

from __future__ import annotations

from collections.abc import Callable


class ProgressReporter:
    """A progress callback that counts the steps and calls another one, if there is one."""

    def __init__(self, progress: Callable[[int, int], None] | None = None) -> None:
        """
        Args:
            progress: called with the same numbers.
        """
        self.progress, self.done = progress, 0

    def __call__(self, done: int, total: int) -> None:
        """Of `total` steps `done` are done."""
        self.done = done
        if self.progress is not None:
            self.progress(done, total)

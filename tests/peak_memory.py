"""How far memory grows while something runs: the process's highest mark is set back first, so that it can fail."""

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_STATUS, _MARKS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def peak_growth() -> Iterator[Callable[[], float]]:
    """Gives a function: MiB by which the highest memory since the beginning of the block is above that of then."""
    # Garbage that is freed inside the block, and memory that the allocator kept, would hide as much of what it uses.
    gc.collect()
    with suppress(AttributeError, OSError):  # of glibc alone
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _MARKS.write_text("5")  # sets the highest mark to what is in use now
    except OSError:
        pytest.skip("this system does not let a process set its highest memory back")
    before = _highest()
    yield lambda: (_highest() - before) / 1024


def _highest() -> int:
    """KiB, the most that was in use since the mark was set back."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])

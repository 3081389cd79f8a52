"""What this process holds: memory, descriptors, threads (Linux). Memory is never compared by `ru_maxrss`: that is the
highest of the whole life of a process, which nothing raises any more after a larger test."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")


def resident_mb() -> float:
    """Memory that it holds now."""
    return _status("VmRSS") / 1024


def num_threads() -> int:
    """Threads that it has now."""
    return _status("Threads")


def num_descriptors() -> int:
    """Files, pipes and sockets that it has open, the listing itself not counted."""
    return len(os.listdir("/proc/self/fd")) - 1


def peak_growth_mb(act: Callable[[], Any]) -> float:
    """How far above what it held before memory rises while `act` runs; the high-water mark is set back first."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmHWM")
    act()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])

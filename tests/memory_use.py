"""What this process holds now: memory, descriptors, threads (Linux). How high memory went meanwhile: `peak_memory`."""

from __future__ import annotations

import os
from pathlib import Path

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


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])

"""The disk that fails (failing_disk.c): built with the system's compiler, preloaded into a process, set by calls."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
SIGN = "SCENE4D_FAILING_DISK"


def compiler() -> str | None:
    """A C compiler for Linux, if there is one."""
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    return found if sys.platform == "linux" else None


def is_here() -> bool:
    """Whether this process has the disk."""
    return bool(os.environ.get(SIGN))


def again(folder: Path, *arguments: str) -> int:
    """Build the disk in a folder and run a Python program with it; its exit code."""
    library = folder / "failing_disk.so"
    subprocess.run([compiler() or "cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), SIGN: "1"}
    return subprocess.run([sys.executable, *arguments], env=environment).returncode


def disk_fails(below: Path, *, at: int, error: int) -> None:
    """From call `at` on (counted from 1; 0: only count), what would change a file below a folder fails with errno."""
    ctypes.CDLL(None).disk_fails(os.fsencode(below), ctypes.c_long(at), ctypes.c_int(error))


def disk_calls() -> int:
    """Calls that would change a file since `disk_fails`."""
    library = ctypes.CDLL(None)
    library.disk_calls.restype = ctypes.c_long
    return library.disk_calls()

"""Processor time of the command line's answers that compute nothing: help, version, usage errors. Rows are Markdown.

Run: .venv/bin/python scripts/bench_start.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys

CASES = (
    ("--version",),
    ("--help",),
    ("rendre",),
    ("eval", "--help"),
    ("reconstruct", "--help"),
    ("eval", "plan", "--help"),
    ("forecast", "x.s4d", "--stepz", "3"),
    ("forecast", "x.s4d", "--steps", "many"),
)


def processor_seconds(arguments: tuple[str, ...]) -> float:
    """User and system time of one call, with its children."""
    before = os.times()
    subprocess.run([sys.executable, "-m", "scene4d", *arguments], capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Print one row a case: the median of the repeats."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {repeats} repeats\n")
    print("| call | processor time, s |\n|---|---|")
    for arguments in CASES:
        processor_seconds(arguments)  # fills the caches of the disk and of compiled files
        median = statistics.median(processor_seconds(arguments) for _ in range(repeats))
        print(f"| `scene4d {' '.join(arguments)}` | {median:.2f} |", flush=True)


if __name__ == "__main__":
    main()

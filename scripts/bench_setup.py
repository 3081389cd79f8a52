"""Processor time of the first minute: clean clones of two commits, empty caches, `scripts/demo.sh` in each.

For each: processor seconds of set-up and demo together (all their processes), seconds of a second demo, in which
nothing is installed or compiled any more, and the size of .venv. The two follow one another on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NO_CACHE = {"PIP_NO_CACHE_DIR": "1", "UV_NO_CACHE": "1"}


def processor_seconds() -> float:
    """Of all processes that ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(commit: str, folder: Path) -> dict[str, Any]:
    """One commit in a clone of its own."""
    # As on a fresh machine, where nothing keeps Python from writing byte code.
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

    def run(*words: str) -> None:
        subprocess.run(words, cwd=folder, check=True, env={**kept, **NO_CACHE}, stdout=sys.stderr)

    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    run("git", "checkout", "--quiet", commit)
    before = processor_seconds()
    run("bash", "scripts/demo.sh")
    first = processor_seconds() - before
    before, start = processor_seconds(), time.monotonic()
    run(".venv/bin/scene4d", "demo", "--output", "out/again")
    again, seconds = processor_seconds() - before, time.monotonic() - start
    size = subprocess.run(["du", "-sm", ".venv"], cwd=folder, check=True, capture_output=True, text=True).stdout
    facts = {"commit": commit, "setup_and_demo_processor_s": round(first, 1), "demo_s": round(seconds, 1)}
    return {**facts, "demo_processor_s": round(again, 1), "venv_mib": int(size.split()[0])}


def main() -> None:
    """Print one JSON line a commit, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("older", nargs="?", default="b56a46a")
    parser.add_argument("newer", nargs="?", default="HEAD")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for commit in (arguments.older, arguments.newer):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured(commit, Path(folder) / "scene4d"))
        print(json.dumps(rows[-1]), flush=True)
    keys = ("setup_and_demo_processor_s", "demo_s", "demo_processor_s", "venv_mib")
    print(json.dumps({f"{key}_ratio": round(rows[1][key] / rows[0][key], 3) for key in keys}))


if __name__ == "__main__":
    main()

"""FAULTS row 42 and 75: SIGKILL at random instants over every verb that writes.

After each kill nothing half-written may be seen under its name; after the next run that ends, everything is there bit
for bit as after an undisturbed run, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
import tomllib
from pathlib import Path

from result_tables import Table, written
from small_verbs import Whole, Work, all_paths, entries, fresh, in_child, inputs, loaded, run, started, whole

from scene4d.errors import EXIT_RESOURCE
from scene4d.train.checkpoint import load_tensors

MOST_IN_A_ROW = 3
"""Kills before a run may end."""


def main() -> int:
    """Run it; 1 where a kill did harm."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=200, help="kills in all")
    parser.add_argument("--verbs", nargs="*", help="only these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put the table into docs/results/reliability.md")
    options = parser.parse_args()
    loaded()
    rows, harmless = [], 0
    with tempfile.TemporaryDirectory(prefix="scene4d-kill-") as folder:
        works = inputs(Path(folder) / "work", options.verbs or ())
        names = options.verbs or list(works)
        for k, name in enumerate(names):
            kills = options.size // len(names) + (k < options.size % len(names))
            row = killed(works[name], Path(folder) / "work" / "output", kills=kills, seed=options.seed)
            rows.append(row)
            harmless += row["unharmed"]
            print(row, flush=True)
    columns = ("verb", "kills", "unharmed", "ends", "equal", "seconds undisturbed")
    table = Table("kill", columns, [[row[c] for c in columns] for row in rows])
    total = f"{harmless} of {options.size} kills left nothing half-written, and nothing behind after the next run."
    written(table, text=total, write=options.write, command=f"scripts/soak.sh kill --size {options.size}")
    return int(harmless != options.size)


def killed(work: Work, out: Path, *, kills: int, seed: int) -> dict[str, object]:
    """One verb, killed so many times."""
    chance = random.Random(f"{seed} {work.verb}")
    good = whole(work, out)
    before = in_child(lambda: _old(work, out))
    done, unharmed, ends, equal = 0, 0, 0, 0
    while done < kills:
        fresh(out, work)
        faults: list[str] = []
        in_a_row = min(chance.randint(1, MOST_IN_A_ROW), kills - done)
        for _ in range(in_a_row):
            if not _kill_one(work, after=chance.uniform(0, good.seconds)):
                break  # it was done before
            done += 1
            faults += in_child(lambda: _half_written(work, out, good=good, before=before))
            unharmed += not faults
        there = in_child(lambda: entries(out, work)) == good.entries
        code, _ = run(work.verb, *work.arguments)
        if there and not work.old and not work.grows and code == EXIT_RESOURCE:
            code = 0  # killed after the last step: that output is refused, and what was left beside it removed
        ends += 1
        left = sorted(set(all_paths(out)) ^ set(good.paths))
        made = in_child(lambda: entries(out, work))
        other = [name for name in good.entries if made.get(name) != good.entries[name]]
        same = not other
        equal += same
        if code or left or not same:
            unharmed -= in_a_row and not faults
            faults.append(f"{work.verb}: code {code}, left or missing {left[:5]}, not equal {other}")
        for fault in faults:
            print(fault, flush=True)
    shutil.rmtree(out)
    return {
        "verb": work.verb, "kills": done, "unharmed": unharmed, "ends": ends, "equal": equal,
        "seconds undisturbed": round(good.seconds, 1),
    }  # fmt: skip


def _kill_one(work: Work, *, after: float) -> bool:
    """Start it and kill it; False where it ended before."""
    child = started(work.verb, *work.arguments)
    deadline = time.monotonic() + after
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(min(0.005, max(0.0, deadline - time.monotonic())))
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _old(work: Work, out: Path) -> dict[str, str]:
    fresh(out, work)
    return entries(out, work)


def _half_written(work: Work, out: Path, *, good: Whole, before: dict[str, str]) -> list[str]:
    """What can be seen and is neither as it was before nor as a whole run leaves it."""
    if work.grows:
        return torn_files(work, out)
    return [
        f"{work.verb}: {name} is neither the old nor the new one"
        for name, digest in entries(out, work).items()
        if digest not in (good.entries.get(name), before.get(name))
    ]


def torn_files(work: Work, out: Path) -> list[str]:
    """Files of a run of training that cannot be read: reading them for their digest is the test."""
    torn = []
    for path in out.rglob("*"):
        seen = not any(part.startswith(".") for part in path.relative_to(out).parts)
        if seen and path.is_file() and path.suffix in (".safetensors", ".json", ".toml"):
            try:
                _read(path)
            except Exception as error:
                torn.append(f"train: {path.relative_to(out)}: {error}")
    return torn


def _read(path: Path) -> None:
    if path.suffix == ".safetensors":
        load_tensors(path)
    elif path.suffix == ".json":
        json.loads(path.read_text())
    else:
        tomllib.loads(path.read_text())


if __name__ == "__main__":
    raise SystemExit(main())

"""FAULTS rows 43, 72 and 73: every verb that writes, on a disk that fails at its n-th call, and with too little of all.

Each must end with exit code 4 and a ResourceError (or do without what is missing, and end as ever), leave what stood
there before as it was, and nothing beside it.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import failing_disk
from kill_matrix import torn_files
from result_tables import Table, written
from small_verbs import Whole, Work, all_paths, entries, fresh, in_child, inputs, loaded, quiet, run, started, whole

from scene4d.apps import cli
from scene4d.drafts import PARTS
from scene4d.errors import EXIT_INPUT, EXIT_RESOURCE

ERRORS = (
    errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ESTALE, errno.ENOTEMPTY,
    errno.EACCES, errno.ENOMEM,
)  # fmt: skip
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Case:
    """A verb in want of something; `prepare` runs in its process before it starts."""

    name: str
    prepare: Callable[[], None]


def main() -> int:
    """Run it; 1 where something else happened than should."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=100, help="calls of the disk to let fail, of each verb at most")
    parser.add_argument("--verbs", nargs="*", help="only these")
    parser.add_argument("--write", action="store_true", help="put the table into docs/results/reliability.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scene4d-low-") as folder:
        if not failing_disk.is_here():
            if failing_disk.compiler() is None:
                raise SystemExit("scene4d: the disk that fails needs Linux and a C compiler")
            return failing_disk.again(Path(folder), str(Path(__file__)), *sys.argv[1:])
        loaded()
        work = Path(folder) / "work"
        works = inputs(work, options.verbs or ())
        rows, faults = [], 0
        for name in options.verbs or works:
            good = whole(works[name], work / "output")
            for kind, cases in _cases(works[name], work / "output", most=options.size).items():
                found = _tried(works[name], work / "output", good=good, cases=cases, kind=kind)
                rows.append([name, kind, *found])
                faults += len(cases) - found[1]
                print(*rows[-1], sep=" | ", flush=True)
    columns = ("verb", "in want of", "tried", "as it should", "refused (exit 4)", "done all the same", "crashed")
    text = f"{sum(r[3] for r in rows)} of {sum(r[2] for r in rows)} ended as they should."
    table = Table("low", columns, [[*row, row[2] - row[4] - row[5]] for row in rows])
    written(table, text=text, write=options.write, command=f"scripts/soak.sh low --size {options.size}")
    return int(faults > 0)


def _cases(work: Work, out: Path, *, most: int) -> dict[str, list[Case]]:
    calls = _calls(work, out)
    numbers = range(1, calls + 1)
    if calls > most:
        numbers = sorted({round(1 + k * (calls - 1) / max(1, most - 1)) for k in range(most)})
    fails = lambda n: partial(failing_disk.disk_fails, out, at=n, error=ERRORS[n % len(ERRORS)])
    few = max(1, most // 8)
    found = {
        "a disk that works": [Case(f"call {n}", fails(n)) for n in numbers],
        "size of files": [Case(f"{n} bytes", partial(_limit, "FSIZE", n)) for n in (0, 100, 3000, 40_000)][:few],
        "descriptors": [Case(f"{n} more", partial(_limit, "NOFILE", n)) for n in range(min(8, few))],
        "address space": [Case(f"{n} MB more", partial(_limit, "AS", n)) for n in (8, 32, 64, 128, 256, 512)][:few],
    }
    return {
        **found,
        "space (64 kB)": [Case("full", lambda: None)],
        "a disk to write on": [Case("read-only", lambda: None)],
    }


def _calls(work: Work, out: Path) -> int:
    """How often it would change a file."""
    fresh(out, work)

    def counted() -> int:
        failing_disk.disk_fails(out, at=0, error=0)
        quiet()
        assert cli.main([work.verb, *work.arguments, "--json"]) == 0
        return failing_disk.disk_calls()

    return in_child(counted)


def _tried(work: Work, out: Path, *, good: Whole, cases: Sequence[Case], kind: str) -> tuple[int, int, int, int]:
    """Cases, how many of them ended as they should, with exit 4, and done."""
    right = refused = done = tried = 0
    for case in cases:
        fresh(out, work)
        with _place(out, work, kind=kind) as possible:
            if not possible:
                continue
            before = in_child(partial(entries, out, work))
            tried += 1
            code, lines = _run(work, case)
            faults = in_child(partial(_faults, work, out, good=good, before=before, ended=(code, lines, kind)))
            right, refused, done = right + (not faults), refused + (code == EXIT_RESOURCE), done + (code == 0)
            for fault in faults:
                print(f"{work.verb}, {case.name} ({kind}): {fault}", flush=True)
    return tried, right, refused, done


@contextmanager
def _place(out: Path, work: Work, *, kind: str) -> Iterator[bool]:
    """The output folder on a disk of its own where that is what is asked for; False where it cannot be mounted."""
    if kind not in ("space (64 kB)", "a disk to write on"):
        yield True
        return
    mount = lambda *words: subprocess.run(["mount", *words], capture_output=True).returncode == 0
    full = kind == "space (64 kB)"
    if not mount("-t", "tmpfs", "-o", "size=64k" if full else "size=64m", "tmpfs", str(out)):
        yield False
        return
    try:
        for name in work.old:
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_bytes(b"old")
        yield full or mount("-o", "remount,ro", str(out))
    finally:
        subprocess.run(["umount", str(out)], check=True)


def _run(work: Work, case: Case) -> tuple[int, list[str]]:
    """Exit code (or minus the signal), and the lines that it ended with on standard error."""
    reading, writing = os.pipe()

    def prepare() -> None:
        os.dup2(writing, 2)
        os.close(reading)
        case.prepare()

    child = started(work.verb, *work.arguments, "--json-errors", prepare=prepare)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().decode(errors="replace").splitlines()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), lines


def _faults(
    work: Work, out: Path, *, good: Whole, before: dict[str, str], ended: tuple[int, list[str], str]
) -> list[str]:
    """What is not as it should be after a run that wanted something."""
    code, lines, kind = ended
    if code not in (0, EXIT_RESOURCE) and kind == "address space" and code != EXIT_INPUT:
        # Libraries that get no memory may take the process with them: then it is as if it was killed.
        shown = _half_written(work, out, good=good, before=before)
        again, _ = run(work.verb, *work.arguments)
        clean = again == 0 and all_paths(out) == good.paths
        return [*shown, *([] if clean else [f"ends with {again} after a crash, or leaves {all_paths(out)[:4]}"])]
    if code == 0:
        equal = entries(out, work) == good.entries and all_paths(out) == good.paths
        return [] if equal else ["ends with 0, and not as ever"]
    found = []
    if code != EXIT_RESOURCE:
        found.append(f"ends with {code}: {' / '.join(lines[-3:])[-400:]}")
    elif json.loads(lines[-1])["error"]["code"] != "ResourceError" or any("Traceback" in line for line in lines):
        found.append(f"says {lines[-3:]}")
    hidden = [p for p in all_paths(out) if any(part.startswith(".") for part in Path(p).parts) and PARTS not in p]
    if hidden:
        found.append(f"leaves {hidden[:3]}")
    if work.grows:
        return found + torn_files(work, out)
    return found + _half_written(work, out, good=good, before=before)


def _half_written(work: Work, out: Path, *, good: Whole, before: dict[str, str]) -> list[str]:
    """What is not as before; a disk that fails after the new one took its place leaves it there, whole."""
    now = entries(out, work)
    odd = [name for name, digest in now.items() if digest not in (before.get(name), good.entries.get(name))]
    return [f"{name} is neither the old nor the new one" for name in odd if not work.grows] + [
        f"{name} is gone" for name in before.keys() - now.keys()
    ]


def _limit(name: str, more: int) -> None:
    """Limit files to `more` bytes, descriptors to `more` beyond the open ones, memory to that many MB more."""
    if name == "NOFILE":
        more += max(map(int, os.listdir("/proc/self/fd")))
    elif name == "AS":
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        more = mapped + more * MEGABYTE
    kind = getattr(resource, f"RLIMIT_{name}")
    resource.setrlimit(kind, (more, resource.getrlimit(kind)[1]))


if __name__ == "__main__":
    raise SystemExit(main())

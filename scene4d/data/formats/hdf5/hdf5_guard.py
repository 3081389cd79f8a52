"""HDF5 files read in a guarded process: a file that crashes or stops its library, or takes all memory, is refused.

Groups and arrays here are facts and questions; the file itself is only ever open in `hdf5_server`. The few processes
used last are kept, so that reading on costs no new start; each belongs to the process that started it.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.errors import DataFormatError, ResourceError, Scene4DError, SecurityError

SERVER = Path(__file__).with_name("hdf5_server.py")
MEMORY, SECONDS = 3 << 30, 60.0
MAX_ANSWER, MAX_ARRAYS, MAX_OPEN, MAX_RUNS = 1 << 26, 10_000, 4, 1 << 28
FIX = "copy it again, or pack it anew: h5repack IN.h5 OUT.h5"
KINDS: dict[str, type[Scene4DError]] = {
    "security": SecurityError,
    "memory": ResourceError,
    "format": DataFormatError,
    "damaged": DataFormatError,
}


class GuardedFile:
    """One file, open in a process of its own, which starts with the first question (and again once it was closed).

    Every question raises DataFormatError where the file is damaged or makes its library crash, ResourceError where it
    takes too much memory or time, SecurityError where it leads into other files.
    """

    def __init__(self, path: Path, *, memory: int | None = None, seconds: float | None = None):
        self.path = path
        self.memory, self.seconds = memory or MEMORY, seconds or SECONDS
        self._process: subprocess.Popen | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the process, once it has answered."""
        with self._lock:
            self._end()

    def ask(self, what: str, name: str, **more: Any) -> dict[str, Any]:
        """The answer to a question about the object of that name."""
        with self._lock:
            return self._answer({"ask": what, "name": name, **more})

    def rows(self, name: str, *, start: int, stop: int, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """Rows [stop - start *shape[1:]] of an array."""
        values = np.empty((stop - start, *shape[1:]), dtype)
        with self._lock:
            self._answer({"ask": "rows", "name": name, "start": start, "stop": stop}, into=values)
        return values

    def runs(self, name: str, *, start: int, stop: int) -> list[np.ndarray]:
        """Rows start .. stop of an array whose rows are runs of bytes [n] uint8, each with a length of its own."""
        question = {"name": name, "start": start, "stop": stop, "most": MAX_RUNS}
        with self._lock:
            lengths = [int(n) for n in self._answer({"ask": "lengths", **question})["lengths"]]
            whole = np.empty(min(sum(lengths), MAX_RUNS), np.uint8)
            self._answer({"ask": "runs", **question}, into=whole)
        return np.split(whole, np.cumsum(lengths)[:-1])

    def _start(self) -> None:
        paths = os.pathsep.join(p for p in sys.path if p)
        # A session of its own: an interrupt at the terminal is for the process that started it.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(SERVER), os.fspath(self.path), str(self.memory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            self._exchange(self._process, None)
        except DataFormatError as error:
            self._end()
            fix = "was it copied whole, and closed after recording?"
            raise DataFormatError("cannot be opened as HDF5", file=self.path, found=error.found, fix=fix) from error
        except Scene4DError:
            self._end()
            raise

    def _end(self) -> int:
        """End the process; its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        return process.wait()

    def _answer(self, question: dict[str, Any], *, into: np.ndarray | None = None) -> dict[str, Any]:
        if self._process is None:
            self._start()
        return self._exchange(self._process, question, into=into)

    def _exchange(
        self, process: Any, question: dict[str, Any] | None, *, into: np.ndarray | None = None
    ) -> dict[str, Any]:
        """One question and its answer (the first answer, that the file is open, comes unasked)."""
        late = threading.Event()
        timer = threading.Timer(self.seconds, lambda: (late.set(), process.kill()))
        timer.daemon = True
        timer.start()
        field = None if question is None else question["name"] or None
        try:
            if question is not None:
                process.stdin.write(json.dumps(question).encode() + b"\n")
                process.stdin.flush()
            reply = json.loads(process.stdout.readline(MAX_ANSWER))
            whole = "error" in reply or into is None or _filled(into, process.stdout, num_bytes=reply.get("bytes"))
        except (OSError, ValueError):  # a broken pipe, or an answer that stops short
            reply, whole = {}, False
        except BaseException:  # interrupted: what is still in the pipe answers no other question
            self._end()
            raise
        finally:
            timer.cancel()
        if not whole:
            raise self._failure(field, late=late.is_set())
        if "error" in reply:
            kind = KINDS[reply["error"]]
            fix = reply.get("fix") or FIX
            raise kind(reply["problem"], file=self.path, field=field, found=reply.get("found"), fix=fix)
        return reply

    def _failure(self, field: str | None, *, late: bool) -> Scene4DError:
        """Why there was no answer; the process is ended."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it may be ending by itself: its status shows why
                self._process.wait(1)
        status = self._end()
        where = {"file": self.path, "field": field, "fix": FIX}
        if late:
            return ResourceError("takes too long to read", **where, expected=f"an answer within {self.seconds:g} s")
        found = f"its process ended by signal {-status}" if status < 0 else f"its process ended with {status}"
        return DataFormatError("makes the HDF5 library fail", **where, found=found)


def _filled(values: np.ndarray, stream: Any, *, num_bytes: Any) -> bool:
    """Whether as many bytes followed as the rows have."""
    if num_bytes != values.nbytes:
        return False
    view, done = values.reshape(-1).view(np.uint8).data if values.size else memoryview(b""), 0
    while done < len(view):
        count = stream.readinto(view[done:])
        if not count:
            return False
        done += count
    return True


@dataclass(frozen=True)
class H5Array:
    """An array of a guarded file: facts, and rows when they are read."""

    file: GuardedFile
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...] | None
    runs: bool = False  # rows are runs of bytes, each with a length of its own

    @property
    def encoded(self) -> bool:
        """Whether a row can be an encoded picture."""
        return self.runs or (self.dtype == np.uint8 and self.ndim == 2)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, start: int, stop: int) -> np.ndarray | list[np.ndarray]:
        """Rows start .. stop, which must be there; a list where they are runs."""
        if self.runs:
            return self.file.runs(self.name, start=start, stop=stop)
        return self.file.rows(self.name, start=start, stop=stop, shape=self.shape, dtype=self.dtype)


@dataclass(frozen=True)
class H5Group:
    """A group of a guarded file; iterates over the names in it."""

    file: GuardedFile
    name: str  # path from the root, "" for the root itself
    keys: tuple[str, ...]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys)

    def get(self, name: str) -> H5Group | H5Array | None:
        """What has that name (steps joined by /), None where there is nothing."""
        whole = f"{self.name}/{name}".strip("/")
        return _object(self.file, whole, facts=self.file.ask("facts", whole))

    def group(self, name: str) -> H5Group | None:
        """The group of that name ("" is this one), None where there is none."""
        found = self.get(name) if name else self
        return found if isinstance(found, H5Group) else None

    def text(self, key: str) -> str | None:
        """The attribute of that name, where it is text."""
        return self.file.ask("text", self.name, key=key)["text"]

    def arrays(self, most: int = MAX_ARRAYS) -> dict[str, H5Array]:
        """The first arrays below, by name; those that links lead to are not among them."""
        found = self.file.ask("arrays", self.name, most=most)["arrays"]
        below = {n: _object(self.file, f"{self.name}/{n}".strip("/"), facts=facts) for n, facts in found.items()}
        return {name: item for name, item in below.items() if isinstance(item, H5Array)}


def _object(file: GuardedFile, name: str, *, facts: dict[str, Any]) -> H5Group | H5Array | None:
    match facts["kind"]:
        case "group":
            return H5Group(file, name, keys=tuple(facts["keys"]))
        case "array":
            chunks = None if facts["chunks"] is None else tuple(facts["chunks"])
            dtype = np.dtype(facts["dtype"])
            return H5Array(file, name, shape=tuple(facts["shape"]), dtype=dtype, chunks=chunks)
        case "runs":
            dtype = np.dtype(np.uint8)
            return H5Array(file, name, shape=tuple(facts["shape"]), dtype=dtype, chunks=None, runs=True)
    return None


_open: collections.OrderedDict[tuple[int, str, int, int], GuardedFile] = collections.OrderedDict()


def guarded_root(path: Path) -> H5Group:
    """The root of a file, in the process that has it open already or in a new one.

    Raises:
        DataFormatError: no such file, no HDF5, or damaged.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise DataFormatError("cannot be opened as HDF5", file=path, found=error.strerror) from error
    key = (os.getpid(), str(path.resolve()), state.st_mtime_ns, state.st_size)
    file = _open.pop(key, None)
    if file is None:
        file = GuardedFile(path)
    _open[key] = file
    while len(_open) > MAX_OPEN:
        (owner, *_), oldest = _open.popitem(last=False)
        if owner == os.getpid():
            oldest.close()
    root = _object(file, "", facts=file.ask("facts", ""))
    if not isinstance(root, H5Group):
        raise DataFormatError("has no root", file=path, fix=FIX)
    return root


@atexit.register
def _close_all() -> None:
    for (owner, *_), file in _open.items():
        if owner == os.getpid():
            file.close()

"""Processes that read batches ahead; when one fails, dies or hangs, the error says where, in which file, and how."""

from __future__ import annotations

import contextlib
import faulthandler
import shutil
import tempfile
import traceback
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from scene4d import errors
from scene4d.data.load.clip import Clip, stack_clips
from scene4d.data.load.window_set import WindowSet
from scene4d.errors import ResourceError, Scene4DError

WATCH = 0.8  # of the timeout: when a worker that is still busy writes down what it is doing


@dataclass(frozen=True)
class _Failure:
    """An exception in a worker, as plain values: the exceptions themselves lose their fields on the way."""

    kind: str
    values: dict[str, Any]
    lines: str


class _Reader(Dataset):
    """What runs in a worker. board [w] int64 is shared: the recording that each worker reads, plus one."""

    def __init__(self, windows: WindowSet, *, board: torch.Tensor, folder: str, timeout: float):
        self.windows, self.board, self.folder, self.timeout = windows, board, folder, timeout

    def __getitem__(self, job: tuple[int, list[int]]) -> Clip | _Failure:
        epoch, numbers = job
        worker = get_worker_info().id
        with (Path(self.folder) / f"{worker}.txt").open("w") as log:
            # Written by the interpreter itself, so even a crash or a hang in a library leaves its traceback.
            faulthandler.enable(log)
            faulthandler.dump_traceback_later(WATCH * self.timeout, file=log)
            try:
                clips = []
                for number in numbers:
                    self.board[worker] = self.windows.place(number)[0] + 1
                    clips.append(self.windows.clip(number, epoch=epoch))
                return stack_clips(clips)
            except Scene4DError as error:
                return _Failure(error.code, _fields(error), traceback.format_exc())
            except Exception as error:
                recording = self.windows.recordings[int(self.board[worker]) - 1]
                values = {"problem": f"a worker failed: {type(error).__name__}: {error}", "file": str(recording.path)}
                return _Failure("DataFormatError", values, traceback.format_exc())
            finally:
                faulthandler.cancel_dump_traceback_later()
                faulthandler.disable()
                self.board[worker] = 0


class WorkerPool:
    """Batches of the jobs, in their order, read by worker processes.

    Raises (from `take`):
        Scene4DError: what a reader raised in a worker, of the same kind and with the same fields; its traceback there
            is a note. DataFormatError for an exception that is none of ours.
        ResourceError: a worker died, or gave nothing for `timeout` s; names the file it read, with its traceback where
            it left one.
    """

    def __init__(
        self, windows: WindowSet, jobs: Iterable[tuple[int, list[int]]], *, workers: int, prefetch: int,
        start_method: str, timeout: float,
    ):  # fmt: skip
        if start_method == "auto":
            # A forked child cannot use CUDA once its parent has.
            start_method = "spawn" if torch.cuda.is_initialized() else "fork"
        self.timeout, self.windows = timeout, windows
        self.board = torch.zeros(workers, dtype=torch.int64).share_memory_()
        self.folder = tempfile.mkdtemp(prefix="scene4d-workers-")
        self._clean = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        loader = DataLoader(
            _Reader(windows, board=self.board, folder=self.folder, timeout=timeout),
            batch_size=None,
            sampler=_Jobs(jobs),
            num_workers=workers,
            prefetch_factor=prefetch,
            collate_fn=_as_it_is,
            multiprocessing_context=start_method,
            timeout=timeout,
        )
        self._batches: Iterator[Clip | _Failure] | None = iter(loader)

    def take(self) -> Clip:
        """The next batch."""
        if self._batches is None:
            raise ResourceError("the workers are closed", field="workers")
        try:
            found = next(self._batches)
        except RuntimeError as error:
            raise self._lost(error) from error
        if isinstance(found, _Failure):
            failure = getattr(errors, found.kind)(**found.values)
            failure.add_note(f"in a loader's worker:\n{found.lines}")
            raise failure
        return found

    def close(self) -> None:
        """Stop the processes."""
        batches, self._batches = self._batches, None
        # Told to stop, a worker that is busy may abort in the midst of its interpreter's end, or hang on; what it holds
        # is not wanted any more. The death of a worker is announced by a RuntimeError, here as elsewhere.
        for worker in getattr(batches, "_workers", ()):
            with contextlib.suppress(RuntimeError):
                worker.kill()
        with contextlib.suppress(RuntimeError):
            getattr(batches, "_shutdown_workers", lambda: None)()
        self._clean()

    def _lost(self, error: RuntimeError) -> ResourceError:
        busy = {w: int(k) - 1 for w, k in enumerate(self.board.tolist()) if k}
        logs = {w: _text(Path(self.folder) / f"{w}.txt") for w in range(len(self.board))}
        hung = "timed out" in str(error)
        dead = [w for w, p in enumerate(getattr(self._batches, "_workers", [])) if p.exitcode is not None]
        # Of several at work, the one that is dead (or, of those that hang, that has written down where) is meant.
        worker = next(iter([w for w in dead if w in busy] or [w for w in busy if logs[w]] or busy), None)
        file = None if worker is None else str(self.windows.recordings[busy[worker]].path)
        lost = ResourceError(
            f"a worker gave nothing for {self.timeout:g} s" if hung else "a worker process died",
            file=file,
            field="workers",
            found=str(error).splitlines()[0][:160],
            fix="is the disk slow? raise timeout; set workers = 0 to see it here"
            if hung
            else "free memory (lower batch_size, workers or prefetch), or set workers = 0 to see it here",
        )
        for w, text in logs.items():
            if text and (w == worker or worker is None):
                lost.add_note(f"worker {w}:\n{text}")
        return lost


class _Jobs(torch.utils.data.Sampler):
    def __init__(self, jobs: Iterable[tuple[int, list[int]]]):
        self.jobs = jobs

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return iter(self.jobs)


def _as_it_is(batch: Any) -> Any:
    return batch


def _fields(error: Scene4DError) -> dict[str, Any]:
    names = ("problem", "file", "field", "frame", "found", "expected", "fix")
    values = {name: getattr(error, name) for name in names}
    return {k: v if isinstance(v, int | float | str | None) else str(v) for k, v in values.items()}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""

"""Stages of a run: each done once for its configuration, resumed when cut short, redone when that changed."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from scene4d.config import config_hash
from scene4d.disk_errors import writing
from scene4d.errors import ConfigError, ResourceError
from scene4d.files import write_text
from scene4d.train.distributed import rank_zero_first
from scene4d.train.log import Progress

MARKER = "stage.json"
Build = Callable[[Path], dict[str, Any]]


def run_stage(
    folder: Path, build: Build, *, key: Sequence[Any], rebuild: bool = False, together: bool = False
) -> dict[str, Any]:
    """Build a stage in `folder` unless it stands there already for the same `key`.

    What an earlier, unfinished call with the same key left is given to `build` again, which goes on from it. What
    another key left may be hours of work: it is removed only where `rebuild` says so.

    Args:
        build: folder -> JSON-ready result.
        key: configurations and plain values that decide the result.
        together: every rank builds at the same time (training); otherwise rank 0 builds and the others find it done.
    Returns:
        The result, with `seconds` it took (earlier calls included, but for one that was killed), `skipped` (True if
        nothing had to be done) and `key` (a hash).
    Raises:
        ConfigError: the folder was made with another configuration, and `rebuild` is not set.
    """
    digest = config_hash(*key)
    with rank_zero_first():
        result = _found(folder, digest, rebuild=rebuild)
        if result is None and not together:
            result = _built(folder, build, digest=digest)
    return result or _built(folder, build, digest=digest)


def _found(folder: Path, digest: str, *, rebuild: bool) -> dict[str, Any] | None:
    """The result of a finished stage; None when it is to be built, its folder and marker being ready."""
    marker = folder / MARKER
    found = json.loads(marker.read_text()) if marker.exists() else {}
    if found.get("key") == digest and found.get("done"):
        return {**found["result"], "key": digest, "skipped": True}
    if folder.exists() and found.get("key") != digest:
        if not rebuild:
            problem = "was made with another configuration, or from an earlier stage that was"
            fix = "name another --out, or add --rebuild to remove it and make it anew"
            raise ConfigError(problem, file=folder, fix=fix)
        print(f"{folder.name}: configuration changed, built anew", file=sys.stderr, flush=True)
        with writing(folder):
            shutil.rmtree(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    spent = found.get("spent", 0.0) if found.get("key") == digest else 0.0
    write_text(marker, json.dumps({"key": digest, "done": False, "spent": spent}))
    return None


def _built(folder: Path, build: Build, *, digest: str) -> dict[str, Any]:
    marker, start = folder / MARKER, time.monotonic()
    before = json.loads(marker.read_text()).get("spent", 0.0)
    spent = lambda: round(before + time.monotonic() - start, 1)
    try:
        result = build(folder)
    except BaseException:
        # Whoever goes on from here should know what it has cost so far.
        write_text(marker, json.dumps({"key": digest, "done": False, "spent": spent()}))
        raise
    result["seconds"] = spent()
    write_text(marker, json.dumps({"key": digest, "done": True, "result": result}))
    return {**result, "key": digest, "skipped": False}


def in_processes(
    task: Callable[..., Any], jobs: Sequence[Mapping[str, Any]], *, num: int, progress: Progress | None = None
) -> list[Any]:
    """`task(**job)` for every job, in `num` fresh processes of one torch thread each; results in the order of the jobs.

    With num = 1 they run here, one after another.

    Raises:
        ResourceError: a process died (most often out of memory); whatever `task` itself raises.
    """
    results: list[Any] = [None] * len(jobs)
    report = progress or (lambda done, total, metrics: None)
    if num <= 1 or len(jobs) <= 1:
        for i, job in enumerate(jobs):
            results[i] = task(**job)
            report(i + 1, len(jobs), {})
        return results
    with worker_pool(num, fix="free memory, or set processes = 1") as pool:
        with _one_thread_each():
            places = {pool.submit(task, **job): i for i, job in enumerate(jobs)}
        for done, future in enumerate(as_completed(places)):
            results[places[future]] = future.result()
            report(done + 1, len(jobs), {})
    return results


@contextlib.contextmanager
def worker_pool(num: int, *, fix: str) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes of one torch thread each.

    Raises:
        ResourceError: they cannot be started (no /dev/shm, no memory), or one died.
    """
    # Spawned, not forked: a forked child inherits locks of threads that do not exist in it.
    context = multiprocessing.get_context("spawn")
    where = {"field": "processes", "found": num, "fix": fix}
    try:
        pool = ProcessPoolExecutor(num, mp_context=context, initializer=_begin_worker)
    except (OSError, ImportError) as error:  # the latter where the system has no semaphores
        raise ResourceError(f"worker processes cannot share memory (is /dev/shm there?): {error}", **where) from error
    try:
        yield pool
    except BrokenProcessPool as error:
        raise ResourceError("a worker process died", **where) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """One thread; and an end with the process that started it, which can no more tell it to stop once it was killed."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Children started here get one thread in their linear algebra too: it reads this once, when it is loaded."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

"""Reads one HDF5 file in a process of its own: run by its path, asked through pipes, free of everything else here.

HDF5's own library parses the file, in C; a damaged or hostile file can make it crash, stop or take all memory. Then
this process ends and the one that asked goes on (see `hdf5_guard`, which starts it). One JSON line a question on
standard input; one JSON line an answer, followed by as many bytes as it names. Links into other files are not followed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any, BinaryIO

import h5py
import numpy as np

MAX_LINKS = 16
DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, UnicodeError, OverflowError)


class Refusal(Exception):
    """What is wrong with the file, as the answer that is sent."""

    def __init__(self, kind: str, problem: str, **more: Any):
        super().__init__(problem)
        self.answer = {"error": kind, "problem": problem, **more}


def resolve(file: h5py.File, name: str, *, start: Any = None, links: int = 0) -> Any:
    """The object of that name, each step towards it inside this file; None where there is none.

    Raises:
        Refusal: it leads into another file, nowhere, or in a circle.
    """
    item = file if start is None else start
    for step in [part for part in name.split("/") if part]:
        if not isinstance(item, h5py.Group):
            return None
        link = item.get(step, getlink=True)
        if link is None:
            return None
        if isinstance(link, h5py.ExternalLink):
            fix = "copy the data into one file (h5repack)"
            found = str(link.filename)
            raise Refusal("security", "a link leads into another file; it was not opened", found=found, fix=fix)
        if isinstance(link, h5py.SoftLink):
            if links >= MAX_LINKS:
                raise Refusal("format", "links lead in a circle")
            item = resolve(file, link.path, start=None if link.path.startswith("/") else item, links=links + 1)
        else:
            item = item.get(step)
        if item is None:
            raise Refusal("format", "a link leads nowhere")
    if isinstance(item, h5py.Dataset) and (item.is_virtual or item.external):
        found = "a virtual array" if item.is_virtual else "data in another file"
        raise Refusal("security", "an array's data lies in other files; it was not read", found=found)
    return item


def facts(item: Any) -> dict[str, Any]:
    """What an object is, without its data."""
    if isinstance(item, h5py.Group):
        keys = [k if isinstance(k, str) else k.decode(errors="surrogateescape") for k in item.keys()]  # noqa: SIM118
        return {"kind": "group", "keys": keys}
    if isinstance(item, h5py.Dataset):
        shape = list(item.shape) if item.shape is not None else []
        chunks = list(item.chunks) if item.chunks else None
        if has_runs(item):
            return {"kind": "runs", "shape": shape}
        dtype = item.dtype
        if dtype.kind == "S" and dtype.itemsize:  # texts of one length are rows of bytes: pictures are stored so
            chunks = [*chunks, dtype.itemsize] if chunks else None
            return {"kind": "array", "shape": [*shape, dtype.itemsize], "dtype": "|u1", "chunks": chunks}
        return {"kind": "array", "shape": shape, "dtype": dtype.str, "chunks": chunks}
    return {"kind": "none"}


def has_runs(item: h5py.Dataset) -> bool:
    """Whether each row of an array is a run of bytes that has a length of its own."""
    inside = h5py.check_vlen_dtype(item.dtype)
    return inside is not None and inside == np.uint8 and item.ndim == 1


def runs(item: h5py.Dataset, start: int, *, stop: int, most: int) -> list[np.ndarray]:
    """The runs of some rows.

    Raises:
        Refusal: together they are longer than `most` bytes.
    """
    found: list[np.ndarray] = []
    for i in range(start, stop):
        found.append(np.asarray(item[i], np.uint8))
        if sum(map(len, found)) > most:
            raise Refusal("memory", "claims impossibly large frames", expected=f"<= {most} bytes")
    return found


def answer(file: h5py.File, question: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
    """The answer to one question, and the rows that go with it."""
    item = resolve(file, question["name"])
    match question["ask"]:
        case "facts":
            return facts(item), None
        case "arrays":
            found: dict[str, Any] = {}

            def note(name: str, inside: Any) -> bool | None:
                if isinstance(inside, h5py.Dataset) and not (inside.is_virtual or inside.external):
                    found[name] = facts(inside)
                return True if len(found) >= question["most"] else None

            item.visititems(note)
            return {"arrays": found}, None
        case "text":
            value = item.attrs.get(question["key"])
            value = value.decode(errors="replace") if isinstance(value, bytes) else value
            return {"text": value if isinstance(value, str) else None}, None
        case "rows":
            rows = np.ascontiguousarray(item[question["start"] : question["stop"]])
            return {"bytes": rows.nbytes}, rows
        case "lengths" | "runs":
            read = runs(item, question["start"], stop=question["stop"], most=question["most"])
            if question["ask"] == "lengths":
                return {"lengths": [len(run) for run in read]}, None
            whole = np.concatenate(read)
            return {"bytes": whole.nbytes}, whole
    return {"error": "format", "problem": "is an unknown question"}, None


def guarded(act: Any) -> tuple[dict[str, Any], np.ndarray | None]:
    """What `act` answers, or what is wrong with the file."""
    try:
        return act()
    except Refusal as refusal:
        return refusal.answer, None
    except MemoryError:
        return {"error": "memory", "problem": "needs more memory than reading it may take"}, None
    except DAMAGED as error:
        kind = "memory" if "allocat" in str(error) else "damaged"
        return {"error": kind, "problem": "is damaged", "found": str(error)[:100]}, None


def limit_memory(allowance: int) -> None:
    """Let this process grow by `allowance` bytes; nothing where the system has no such limit."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + allowance, used + allowance))


def main() -> None:
    """Open the file that the command line names and answer until the questions end."""
    out: BinaryIO = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a library prints is no answer
    limit_memory(int(sys.argv[2]))
    opened: list[h5py.File] = []

    def send(reply: dict[str, Any], rows: np.ndarray | None = None) -> None:
        out.write(json.dumps(reply).encode() + b"\n")
        if rows is not None:
            out.write(rows.reshape(-1).view(np.uint8).data if rows.size else b"")
        out.flush()

    def start() -> tuple[dict[str, Any], None]:
        opened.append(h5py.File(sys.argv[1], "r"))
        return {"opened": True}, None

    send(*guarded(start))
    for line in sys.stdin.buffer if opened else ():
        question = json.loads(line)
        send(*guarded(lambda question=question: answer(opened[0], question)))


if __name__ == "__main__":
    main()

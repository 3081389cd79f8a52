"""The tables of a binary .ply file: a header is believed only as far as the file's own size confirms it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scene4d.errors import DataFormatError
from scene4d.files import atomic_file

MAX_HEADER = 1 << 16
PLY_TYPES = {
    **{"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1"},
    **{"short": "<i2", "int16": "<i2", "ushort": "<u2", "uint16": "<u2"},
    **{"int": "<i4", "int32": "<i4", "uint": "<u4", "uint32": "<u4"},
    **{"float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8"},
}


@dataclass(frozen=True)
class Element:
    """One element of a PLY header: row count, numpy row type (None when it holds lists), and the line it begins at."""

    count: int
    dtype: np.dtype | None
    line: int


def read_ply_tables(path: str | os.PathLike, *, names: Sequence[str] = ("vertex",)) -> dict[str, np.ndarray]:
    """The rows of those of the named elements that a binary little-endian PLY has, as structured arrays.

    Elements are passed over by their size; what follows the last named one is not looked at. No more is ever allocated
    than the file holds.

    Raises:
        DataFormatError: missing, ascii, big endian, a header that lies or a type that does not exist, with its line.
    """
    path = Path(path)
    tables: dict[str, np.ndarray] = {}
    try:
        with open(path, "rb") as file:
            elements, start = _parse_header(file.read(MAX_HEADER), path)
            wanted = [name for name in elements if name in names]
            for name in list(elements)[: list(elements).index(wanted[-1]) + 1] if wanted else ():
                end = _end_of_rows(name, elements[name], path=path, start=start)
                if name in wanted:
                    file.seek(start)
                    tables[name] = np.frombuffer(file.read(end - start), elements[name].dtype)
                start = end
    except OSError as error:
        raise DataFormatError(f"cannot be read: {error.strerror}", file=path, fix="check the path") from error
    if "vertex" not in tables:
        raise DataFormatError("has no vertices", file=path, field="element vertex", found=list(elements)[:5])
    return tables


def write_ply_vertices(path: str | os.PathLike, rows: np.ndarray) -> None:
    """Write a structured array of float32 and uint8 columns as the vertices of a binary little-endian PLY.

    Raises:
        ResourceError: the disk is full or read-only.
    """
    words = {np.dtype("<f4"): "float", np.dtype("u1"): "uchar"}
    properties = [f"property {words[rows.dtype[name]]} {name}" for name in rows.dtype.names or ()]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}", *properties, "end_header", ""]
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(rows.tobytes())


def _end_of_rows(name: str, element: Element, *, path: Path, start: int) -> int:
    where = {"file": path, "field": f"header line {element.line}"}
    if element.dtype is None:
        raise DataFormatError(f"element {name} holds lists", **where, fix="save it as splats, not as a mesh")
    if element.dtype.itemsize == 0:
        raise DataFormatError(f"element {name} has no columns", **where, found=element.count, fix="export it again")
    end, size = start + element.count * element.dtype.itemsize, path.stat().st_size
    if end > size:
        problem = "the file is shorter than its header declares"
        expected = f"{end} bytes for {element.count} rows of {name}"
        raise DataFormatError(problem, **where, found=f"{size} bytes", expected=expected, fix="copy or export it again")
    return end


def _parse_header(head: bytes, path: Path) -> tuple[Mapping[str, Element], int]:
    """Elements in file order and where their data starts."""
    marker = head.find(b"\nend_header")
    end = head.find(b"\n", marker + 1)
    if not head.startswith((b"ply\n", b"ply\r\n")) or marker < 0 or end < 0:
        found = "no end_header in the first 64 KiB" if head.startswith(b"ply") else f"starts with {head[:4]!r}"
        raise DataFormatError("is no PLY file", file=path, field="header", found=found, fix="check the path")
    lines = head[:marker].decode("ascii", errors="replace").splitlines()[1:]
    counts: dict[str, tuple[int, int]] = {}
    fields: dict[str, dict[str, str] | None] = {}
    kind, kind_line, current = None, 2, None
    for number, line in enumerate(lines, start=2):
        where = {"file": path, "field": f"header line {number}", "found": repr(line[:80])}
        match line.split():
            case ["format", kind, *_]:
                kind_line = number
            case ["element", current, count]:
                if not count.isascii() or not count.isdigit() or current in counts:
                    raise DataFormatError("bad element", **where, expected="a new name and a count >= 0")
                counts[current], fields[current] = (int(count[:18]), number), {}
            case ["property", "list", *_] if current is not None:
                fields[current] = None
            case ["property", word, name] if current is not None and word in PLY_TYPES:
                columns = fields[current]
                if columns is not None and name in columns:
                    raise DataFormatError("a column appears twice", **where)
                if columns is not None:
                    columns[name] = PLY_TYPES[word]
            case ["comment" | "obj_info", *_] | []:
                pass
            case _:
                raise DataFormatError("unknown header line", **where, expected="element, typed property or comment")
    if kind != "binary_little_endian":
        where = {"file": path, "field": f"header line {kind_line}", "found": kind, "expected": "binary_little_endian"}
        raise DataFormatError("unsupported encoding", **where, fix="save it as binary little endian")
    dtypes = {k: None if v is None else np.dtype(list(v.items())) for k, v in fields.items()}
    return {k: Element(count=n, dtype=dtypes[k], line=line) for k, (n, line) in counts.items()}, end + 1

"""The tables of a .ply file: a header is believed only as far as the file's own size confirms it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scene4d.errors import DataFormatError
from scene4d.files import atomic_file, open_regular
from scene4d.gaussians.formats.ply_ascii import read_ascii_rows

MAX_HEADER = 1 << 16
PLY_TYPES = {
    **{"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1"},
    **{"short": "<i2", "int16": "<i2", "ushort": "<u2", "uint16": "<u2"},
    **{"int": "<i4", "int32": "<i4", "uint": "<u4", "uint32": "<u4"},
    **{"float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8"},
}
ENCODINGS = ("binary_little_endian", "binary_big_endian", "ascii")


@dataclass(frozen=True)
class Element:
    """One element of a PLY header: row count, numpy row type (None when it holds lists), and the line it begins at."""

    count: int
    dtype: np.dtype | None
    line: int


@dataclass(frozen=True)
class PlyFile:
    """What was read of a .ply: rows by element, as structured arrays of little-endian numbers, and its comments."""

    tables: dict[str, np.ndarray]
    comments: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    """Elements that hold rows, and were not asked for."""


@dataclass(frozen=True)
class _Header:
    encoding: str
    elements: Mapping[str, Element]
    """In file order."""
    start: int
    """Where the rows begin, in bytes."""
    num_lines: int
    comments: tuple[str, ...]


def read_ply_tables(path: str | os.PathLike, *, names: Sequence[str] = ("vertex",)) -> dict[str, np.ndarray]:
    """The tables of `read_ply_file`, whose errors it has."""
    return read_ply_file(path, names=names).tables


def read_ply_file(path: str | os.PathLike, *, names: Sequence[str] = ("vertex",)) -> PlyFile:
    """The rows of those of the named elements that a PLY has; binary of either byte order, or ascii.

    Elements are passed over by their size; what follows the last named one is not looked at. No more is ever allocated
    than the file holds.

    Raises:
        DataFormatError: missing, no regular file, a header that lies or a type that does not exist, or text that holds
            something else than numbers; with its line.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            header = _parse_header(file.read(MAX_HEADER), path)
            read = _read_text if header.encoding == "ascii" else _read_binary
            tables = read(file, header, names=names, path=path)
    except OSError as error:
        raise DataFormatError(f"cannot be read: {error.strerror}", file=path, fix="check the path") from error
    if "vertex" not in tables:
        raise DataFormatError("has no vertices", file=path, field="element vertex", found=list(header.elements)[:5])
    others = tuple(name for name, element in header.elements.items() if element.count and name not in tables)
    return PlyFile(tables, header.comments, others)


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


def _up_to_last(header: _Header, names: Sequence[str]) -> list[str]:
    """The elements up to the last one that is wanted."""
    wanted = [i for i, name in enumerate(header.elements) if name in names]
    return list(header.elements)[: wanted[-1] + 1] if wanted else []


def _read_binary(file: BinaryIO, header: _Header, *, names: Sequence[str], path: Path) -> dict[str, np.ndarray]:
    tables: dict[str, np.ndarray] = {}
    start = header.start
    for name in _up_to_last(header, names):
        element = header.elements[name]
        end = _end_of_rows(name, element, path=path, start=start)
        if name in names:
            file.seek(start)
            rows = np.frombuffer(file.read(end - start), element.dtype)
            # Swapped in memory, the numbers are what the little-endian type of the element says.
            tables[name] = rows.byteswap() if header.encoding == "binary_big_endian" else rows
        start = end
    return tables


def _read_text(file: BinaryIO, header: _Header, *, names: Sequence[str], path: Path) -> dict[str, np.ndarray]:
    tables: dict[str, np.ndarray] = {}
    file.seek(header.start)
    line = header.num_lines + 1
    for name in _up_to_last(header, names):
        element = header.elements[name]
        dtype = _dtype_of(name, element, path=path) if name in names else None
        left = path.stat().st_size - file.tell()
        width = 1 if dtype is None else len(dtype.names or ())
        least = element.count * 2 * width - 1  # a digit and a separator each
        if least > left:
            raise _too_short(name, element, path=path, found=left, least=f"at least {least} bytes of text")
        rows = read_ascii_rows(file, element.count, dtype=dtype, path=path, line=line)
        if rows is not None:
            tables[name] = rows
        line += element.count
    return tables


def _dtype_of(name: str, element: Element, *, path: Path) -> np.dtype:
    where = {"file": path, "field": f"header line {element.line}"}
    if element.dtype is None:
        raise DataFormatError(f"element {name} holds lists", **where, fix="save it as splats, not as a mesh")
    if element.dtype.itemsize == 0:
        raise DataFormatError(f"element {name} has no columns", **where, found=element.count, fix="export it again")
    return element.dtype


def _end_of_rows(name: str, element: Element, *, path: Path, start: int) -> int:
    end, size = start + element.count * _dtype_of(name, element, path=path).itemsize, path.stat().st_size
    if end > size:
        raise _too_short(name, element, path=path, found=size, least=f"{end} bytes")
    return end


def _too_short(name: str, element: Element, *, path: Path, found: int, least: str) -> DataFormatError:
    return DataFormatError(
        "the file is shorter than its header declares", file=path, field=f"header line {element.line}",
        found=f"{found} bytes", expected=f"{least} for {element.count} rows of {name}", fix="copy or export it again",
    )  # fmt: skip


def _parse_header(head: bytes, path: Path) -> _Header:
    marker = head.find(b"\nend_header")
    end = head.find(b"\n", marker + 1)
    if not head.startswith((b"ply\n", b"ply\r\n")) or marker < 0 or end < 0:
        found = "no end_header in the first 64 KiB" if head.startswith(b"ply") else f"starts with {head[:4]!r}"
        raise DataFormatError("is no PLY file", file=path, field="header", found=found, fix="check the path")
    lines = head[:marker].decode("ascii", errors="replace").splitlines()[1:]
    counts: dict[str, tuple[int, int]] = {}
    fields: dict[str, dict[str, str] | None] = {}
    comments: list[str] = []
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
            case ["comment", *words]:
                comments.append(" ".join(words))
            case ["obj_info", *_] | []:
                pass
            case _:
                raise DataFormatError("unknown header line", **where, expected="element, typed property or comment")
    if kind not in ENCODINGS:
        where = {"file": path, "field": f"header line {kind_line}", "found": kind, "expected": ENCODINGS}
        raise DataFormatError("unknown encoding", **where, fix="save it as binary little endian")
    dtypes = {k: None if v is None else np.dtype(list(v.items())) for k, v in fields.items()}
    elements = {k: Element(count=n, dtype=dtypes[k], line=line) for k, (n, line) in counts.items()}
    return _Header(kind, elements, start=end + 1, num_lines=len(lines) + 2, comments=tuple(comments))

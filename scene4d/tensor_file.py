"""The header of a safetensors file, read with bounds before any tensor is: what is in it, and that it fits the file."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scene4d.errors import CheckpointError, Scene4DError
from scene4d.files import open_regular

MAX_HEADER = 1 << 24
MAX_TENSORS = 50_000
MAX_DIMS = 16
MAX_NAME = 1000
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 8),
}


@dataclass(frozen=True)
class TensorHeader:
    """What a safetensors file declares, checked against its size."""

    shapes: Mapping[str, tuple[int, ...]]
    """Shape of each tensor by name."""
    metadata: Mapping[str, str]
    """Free text that the writer added."""

    @property
    def num_values(self) -> int:
        """Numbers in all tensors together."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def tensor_header(path: str | os.PathLike, *, kind: type[Scene4DError] = CheckpointError) -> TensorHeader:
    """The header of a file, whose tensors are not read.

    Args:
        kind: the error that refuses it.
    Raises:
        Scene4DError: of that kind: it is no regular file, or its header is too large, too deep, names a tensor twice,
            or places tensors over one another, with gaps or outside the file. OSError: it cannot be read.
    """
    with open_regular(path, kind=kind) as file:
        size = os.fstat(file.fileno()).st_size
        length = _length(file.read(8), size, path=path, kind=kind)
        text = file.read(length)
    return _parsed(text, data_size=size - 8 - length, file=path, kind=kind)


def header_of_bytes(data: bytes, *, file: str | os.PathLike, field: str, kind: type[Scene4DError]) -> TensorHeader:
    """The header of what is in memory already. Raises as `tensor_header`, naming `field` of `file`."""
    try:
        length = _length(data[:8], len(data), path=file, kind=kind)
        return _parsed(data[8 : 8 + length], data_size=len(data) - 8 - length, file=file, kind=kind)
    except Scene4DError as error:
        field = field if error.field is None else f"{field}: {error.field}"
        raise kind(error.problem, file=file, field=field, found=error.found, expected=error.expected) from error


def _length(begin: bytes, size: int, *, path: Any, kind: type[Scene4DError]) -> int:
    length = struct.unpack("<Q", begin)[0] if len(begin) == 8 else -1
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        expected = f"8 bytes, and a header of 2 to {MAX_HEADER} bytes that fits in {size} bytes"
        found, fix = (
            f"a header of {length} bytes" if length >= 0 else f"{size} bytes",
            "it may be truncated: copy it again",
        )
        raise kind("cannot be read as safetensors", file=path, field="header", found=found, expected=expected, fix=fix)
    return length


def _parsed(text: bytes, *, data_size: int, file: Any, kind: type[Scene4DError]) -> TensorHeader:
    fix = "write it again with safetensors"

    def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for key, value in pairs:
            if key in table:
                raise kind("names a tensor twice", file=file, field=key[:80], fix=fix)
            table[key] = value
        return table

    try:
        table = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        found = str(error)[:80]
        raise kind("has a header that is no JSON", file=file, field="header", found=found, fix=fix) from error
    if not isinstance(table, dict) or len(table) > MAX_TENSORS:
        found, expected = (
            f"{len(table)} tensors" if isinstance(table, dict) else "no table",
            f"<= {MAX_TENSORS} tensors",
        )
        raise kind("has a header that is none", file=file, field="header", found=found, expected=expected, fix=fix)
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise kind("has a broken header", file=file, field="__metadata__", expected="texts by name", fix=fix)
    places = {name: _place(name, entry, file=file, kind=kind) for name, entry in table.items()}
    at = 0
    for name, (first, last) in sorted(places.items(), key=lambda item: item[1]):
        if first != at:
            problem = "lies over another tensor" if first < at else "leaves a gap before it"
            raise kind(problem, file=file, field=name[:80], found=first, expected=at, fix=fix)
        at = last
    if at != data_size:
        fix = "it may be truncated: copy it again"
        raise kind(
            "does not hold its tensors", file=file, field="header", found=data_size, expected=f"{at} bytes", fix=fix
        )
    return TensorHeader({name: tuple(entry["shape"]) for name, entry in table.items()}, metadata)


def _place(name: str, entry: Any, *, file: Any, kind: type[Scene4DError]) -> tuple[int, int]:
    """First and last byte of a tensor, which has as many as its shape asks for."""
    entry = entry if isinstance(entry, dict) else {}
    shape, place, bits = entry.get("shape"), entry.get("data_offsets"), _BITS.get(str(entry.get("dtype")), 0)
    fits = (
        bits
        and len(name) <= MAX_NAME
        and _are_sizes(shape, most=MAX_DIMS)
        and _are_sizes(place, most=2)
        and len(place) == 2
        and 8 * (place[1] - place[0]) == bits * math.prod(shape)
    )
    if not fits:
        found = f"{str(entry.get('dtype'))[:20]} {str(shape)[:60]} at {str(place)[:40]}"
        expected = "dtype, shape and data_offsets of as many bytes"
        raise kind("has a broken header", file=file, field=name[:80], found=found, expected=expected)
    return place[0], place[1]


def _are_sizes(values: Any, *, most: int) -> bool:
    return isinstance(values, list) and len(values) <= most and all(type(n) is int and 0 <= n < 1 << 62 for n in values)

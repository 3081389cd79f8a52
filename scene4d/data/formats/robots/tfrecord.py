"""TFRecord files and tf.train.Example by hand: framing with CRC-32C, and the few protobuf fields they use.

Source: TensorFlow, "TFRecord and tf.train.Example" and record_writer.h (mask of the checksum); RFC 3720, B.4 (CRC-32C).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scene4d.errors import DataFormatError

_POLYNOMIAL, _MASK_DELTA = 0x82F63B78, 0xA282EAD8
_LANES = 1024


@dataclass(frozen=True)
class Feature:
    """One feature of an Example, not yet decoded: where its values are in the record."""

    kind: str  # bytes, float or int64
    parts: Sequence[tuple[int, int]]  # (start, stop) of each value (bytes) or of each run of values


def record_places(path: Path) -> list[tuple[int, int]]:
    """(offset, length) of the data of each record; lengths are checked, data is not read.

    Raises:
        DataFormatError: compressed, truncated, or a length that its checksum denies.
    """
    places, size = [], path.stat().st_size
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise DataFormatError("is compressed", file=path, fix="unpack it first: gunzip")
        offset = 0
        while offset < size:
            file.seek(offset)
            head = file.read(12)
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else 0
            where = {"file": path, "frame": len(places)}
            if len(head) == 12 and masked_crc(head[:8]) != struct.unpack("<I", head[8:])[0]:
                problem = "is no TFRecord file" if not places else "a record's length is damaged"
                raise DataFormatError(problem, **where, field="length", found=length, fix="copy the file again")
            if len(head) < 12 or offset + 16 + length > size:
                fix = f"copy the file again; {len(places)} whole records come before"
                raise DataFormatError("is cut short", **where, field="record", found=f"{size} bytes", fix=fix)
            places.append((offset + 12, length))
            offset += 16 + length
    return places


def read_record(path: Path, place: tuple[int, int], *, verified: bool = True) -> bytes:
    """The data of one record; for metadata the checksum may be left alone.

    Raises:
        DataFormatError: the checksum denies it.
    """
    offset, length = place
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(length + 4)
    wrong = len(data) != length + 4
    if wrong or (verified and masked_crc(data[:length]) != struct.unpack("<I", data[length:])[0]):
        fix = "copy the file again"
        raise DataFormatError("a record's checksum does not fit", file=path, field=f"byte {offset}", fix=fix)
    return data[:length]


def parse_example(data: bytes, *, file: Path) -> dict[str, Feature]:
    """The features of a tf.train.Example by name.

    Raises:
        DataFormatError: it is no Example.
    """
    try:
        tables = [(a, b) for field, a, b in _fields(data, start=0, stop=len(data)) if field == 1]
        entries = [(c, d) for a, b in tables for field, c, d in _fields(data, start=a, stop=b) if field == 1]
        return dict(_entry(data, start=c, stop=d) for c, d in entries)
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise DataFormatError("a record is no tf.train.Example", file=file, found=str(error)[:80]) from error


def values_of(data: bytes, feature: Feature, *, file: Path) -> np.ndarray | list[bytes]:
    """The values of a feature: bytes, float32 or int64.

    Raises:
        DataFormatError: numbers that are cut short.
    """
    if feature.kind == "bytes":
        return [data[a:b] for a, b in feature.parts]
    try:
        if feature.kind == "float":
            return np.frombuffer(b"".join([data[a:b] for a, b in feature.parts]), "<f4")
        numbers = [value for a, b in feature.parts for value in _varints(data, start=a, stop=b)]
        return np.array(numbers, np.uint64).astype(np.int64)
    except ValueError as error:
        raise DataFormatError("a record is no tf.train.Example", file=file, found=str(error)[:80]) from error


def _entry(data: bytes, *, start: int, stop: int) -> tuple[str, Feature]:
    """One entry of the map: its name and its feature."""
    name, feature = "", Feature("bytes", ())
    for field, a, b in _fields(data, start=start, stop=stop):
        if field == 1:
            name = data[a:b].decode("utf-8")
        elif field == 2:
            for kind, c, d in _fields(data, start=a, stop=b):
                if kind in (1, 2, 3):
                    parts = [(e, f) for number, e, f in _fields(data, start=c, stop=d) if number == 1]
                    feature = Feature(("bytes", "float", "int64")[kind - 1], parts)
    return name, feature


def _fields(data: bytes, *, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, stop) of each field of a message; numbers have the place of their bytes."""
    at = start
    while at < stop:
        key, at = _varint(data, at, stop=stop)
        match key & 7:
            case 0:
                end = _varint(data, at, stop=stop)[1]
            case 1:
                end = at + 8
            case 2:
                length, at = _varint(data, at, stop=stop)
                end = at + length
            case 5:
                end = at + 4
            case _:
                raise ValueError(f"wire type {key & 7}")
        if end > stop:
            raise ValueError("a field is longer than its message")
        yield key >> 3, at, end
        at = end


def _varint(data: bytes, at: int, *, stop: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= stop or shift > 63:
            raise ValueError("a number has no end")
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value & (2**64 - 1), at
        shift += 7


def _varints(data: bytes, *, start: int, stop: int) -> Iterator[int]:
    while start < stop:
        value, start = _varint(data, start, stop=stop)
        yield value


def masked_crc(data: bytes) -> int:
    """The checksum as TFRecord stores it."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of the bytes.

    Long input is cut into lanes that run side by side in numpy; checksums of neighbours are then joined in pairs, as
    the checksum is linear: state(A B) = state(A) shifted by the length of B, plus state(B).
    """
    table = _table()
    if len(data) < 4 * _LANES:
        state = 0xFFFFFFFF
        for byte in data:
            state = (state >> 8) ^ int(table[(state ^ byte) & 255])
        return state ^ 0xFFFFFFFF
    width = -(-len(data) // _LANES)
    # Zeros in front do not change a checksum that starts at 0.
    lanes = np.zeros(width * _LANES, np.uint8)
    lanes[len(lanes) - len(data) :] = np.frombuffer(data, np.uint8)
    states = np.zeros(_LANES, np.uint32)
    for column in lanes.reshape(_LANES, width).T:
        states = (states >> 8) ^ table[(states ^ column) & 255]
    while len(states) > 1:
        states = _apply(_shift(width), states[0::2]) ^ states[1::2]
        width *= 2
    start = _apply(_shift(len(data)), np.array([0xFFFFFFFF], np.uint32))
    return int(states[0] ^ start[0]) ^ 0xFFFFFFFF


@functools.cache
def _table() -> np.ndarray:
    state = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        state = np.where(state & 1, (state >> 1) ^ np.uint32(_POLYNOMIAL), state >> 1)
    return state


@functools.lru_cache(maxsize=256)
def _shift(count: int) -> np.ndarray:
    """What `count` zero bytes do to a state: images of its 32 bits."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    if count == 0:
        return bits
    if count == 1:
        return (bits >> 8) ^ _table()[bits & 255]
    half = _shift(count // 2)
    whole = _apply(half, half)
    return _apply(_shift(1), whole) if count % 2 else whole


def _apply(images: np.ndarray, states: np.ndarray) -> np.ndarray:
    result = np.zeros_like(states)
    for bit in range(32):
        result ^= np.where((states >> np.uint32(bit)) & 1, images[bit], np.uint32(0))
    return result

"""Zarr stores, version 2 and 3, folders and .zip, read chunk by chunk with nothing believed that they claim.

Only plain numbers in known codecs are read: what a codec may make of bytes is bounded before it runs, pickles and other
objects are refused before anything is decoded, links that lead out of the store too, and there is no network store.
Source: Zarr specification, versions 2 and 3.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import itertools
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scene4d.data.formats.robots.tfrecord import crc32c
from scene4d.errors import DataFormatError, ResourceError, SecurityError
from scene4d.extras import optional

MAX_ARRAYS, MAX_DEPTH, MAX_AXES, MAX_SIZE = 1000, 4, 6, 1 << 40
MAX_CHUNK_BYTES, MAX_META_BYTES, MAX_PIECES = 1 << 28, 1 << 24, 4096
OBJECTS = ("pickle", "json2", "msgpack2", "msgpack", "vlen-utf8", "vlen-bytes", "vlen-array", "categorize")
PICTURES = ("imagecodecs_jpegxl", "imagecodecs_jpeg", "imagecodecs_png", "imagecodecs_webp")
PLAIN = ("blosc", "zstd", "lz4", "zlib", "gzip", "bz2", "crc32c")
NO_NUMBERS_IN_IT = "it holds objects or texts, not numbers"
NO_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class ZarrArray:
    """An array of a store: facts, and rows when they are read."""

    store: Store
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...]
    codecs: tuple[Mapping[str, Any], ...]  # in the order in which they were applied
    fill: Any
    order: Literal["C", "F"]  # of the values in a chunk
    key: str  # how the place of a chunk is named: "{name}/{place joined by the separator}"
    separator: str

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows start .. stop, which must be there."""
        if not 0 <= start <= stop <= len(self):
            where = {"file": self.store.path, "field": self.name}
            raise DataFormatError("ends early", **where, found=len(self), expected=f"row {stop - 1}")
        parts = [self.block(k) for k in range(start // self.chunks[0], -(-stop // self.chunks[0]))]
        whole = np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), self.dtype)
        first = start - start % self.chunks[0]
        return whole[start - first : stop - first]

    def block(self, k: int) -> np.ndarray:
        """Rows [<= chunks[0] *shape[1:]] that the k-th chunk along the first axis holds."""
        rows = min(self.chunks[0], len(self) - k * self.chunks[0])
        block = np.empty((rows, *self.shape[1:]), self.dtype)
        counts = [-(-size // chunk) for size, chunk in zip(self.shape[1:], self.chunks[1:], strict=True)]
        for place in itertools.product(*map(range, counts)):
            corner = [p * c for p, c in zip(place, self.chunks[1:], strict=True)]
            chunk = self._chunk((k, *place))
            spans = [min(c, s - at) for c, s, at in zip(self.chunks[1:], self.shape[1:], corner, strict=True)]
            target = tuple(slice(at, at + span) for at, span in zip(corner, spans, strict=True))
            block[(slice(None), *target)] = chunk[(slice(rows), *map(slice, spans))]
        return block

    def is_stored(self, k: int) -> bool:
        """Whether the first piece of the k-th chunk along the first axis is there."""
        name = self.key.format(self.separator.join(map(str, (k, *[0] * (self.ndim - 1)))))
        return self.store.has(name)

    def _chunk(self, place: tuple[int, ...]) -> np.ndarray:
        name = self.key.format(self.separator.join(map(str, place)))
        data = self.store.read(name, most=MAX_CHUNK_BYTES)
        if data is None:
            return np.full(self.chunks, self.fill, self.dtype)
        try:
            values = self._decoded(data)
        except (ValueError, RuntimeError, OSError, EOFError, zlib.error, MemoryError, TypeError) as error:
            where = {"file": self.store.path, "field": name, "found": str(error)[:80]}
            raise DataFormatError("a chunk cannot be decoded", **where, fix="copy the store again") from error
        return values

    def _decoded(self, data: bytes) -> np.ndarray:
        most = math.prod(self.chunks) * self.dtype.itemsize
        for codec in reversed(self.codecs):
            if codec["id"] in PICTURES:
                return _picture(codec["id"], data, shape=self.chunks)
            data = _unpacked(codec, data, most=most)
        if len(data) != most:
            raise ValueError(f"{len(data)} bytes, where {most} belong")
        return np.frombuffer(data, self.dtype).reshape(self.chunks, order=self.order)


@dataclass(frozen=True)
class Store:
    """The files of a store, by names with / in between."""

    path: Path
    inside: str = ""  # folder within a .zip that holds the store, with its last /
    members: Mapping[str, zipfile.ZipInfo] = field(default_factory=dict, repr=False)
    archive: zipfile.ZipFile | None = field(default=None, repr=False)

    def read(self, name: str, *, most: int) -> bytes | None:
        """The bytes of a file, None where there is none.

        Raises:
            SecurityError: a link leads out of the store. ResourceError: it is larger than `most`.
        """
        where = {"file": self.path, "field": name}
        try:
            if self.archive is not None:
                entry = self.members.get(self.inside + name)
                if entry is None:
                    return None
                if entry.file_size > most:
                    raise ResourceError("is too large", **where, found=entry.file_size, expected=f"<= {most} bytes")
                with self.archive.open(entry) as file:
                    return file.read(most + 1)
            path = self.path / name
            size = path.stat().st_size if path.is_file() else None
            if size is None:
                return None
            if not path.resolve().is_relative_to(self.path.resolve()):
                raise SecurityError("a link leads out of the store; it was not read", **where)
            if size > most:
                raise ResourceError("is too large", **where, found=size, expected=f"<= {most} bytes")
            return path.read_bytes()
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise DataFormatError(
                "cannot be read", **where, found=str(error)[:80], fix="copy the store again"
            ) from error

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.inside + name in self.members) if self.archive is not None else (self.path / name).is_file()

    def arrays(self) -> Iterator[str]:
        """Names of the folders that describe an array."""
        if self.archive is not None:
            names = [n.removeprefix(self.inside) for n in self.members if n.startswith(self.inside)]
            yield from sorted({n.rsplit("/", 1)[0] for n in names if n.endswith(("/.zarray", "/zarr.json"))})
            return
        level = [self.path]
        for _ in range(MAX_DEPTH):
            deeper: list[Path] = []
            for folder in level:
                if folder != self.path and ((folder / ".zarray").is_file() or (folder / "zarr.json").is_file()):
                    yield folder.relative_to(self.path).as_posix()
                if not (folder / ".zarray").is_file() and len(deeper) < MAX_ARRAYS:
                    deeper += self._folders(folder)
            level = deeper

    def _folders(self, folder: Path) -> list[Path]:
        text = (folder / "zarr.json").read_bytes()[:MAX_META_BYTES] if (folder / "zarr.json").is_file() else b""
        if b'"array"' in text:
            return []
        with os.scandir(folder) as entries:
            inside = [Path(e.path) for e in itertools.islice(entries, MAX_ARRAYS) if e.is_dir()]
        out = [path for path in inside if not path.resolve().is_relative_to(self.path.resolve())]
        if out:
            found = out[0].relative_to(self.path).as_posix()
            raise SecurityError("a link leads out of the store; it was not read", file=self.path, field=found)
        return sorted(inside)


def is_zarr_folder(folder: Path) -> bool:
    """Whether a folder is a store, of either version."""
    return (folder / ".zgroup").is_file() or (folder / "zarr.json").is_file()


def open_store(path: Path) -> dict[str, ZarrArray | str]:
    """The arrays of a store by name, or why one is not read; only metadata is looked at.

    Raises:
        DataFormatError: no store, or damaged. SecurityError: it holds pickles, or links lead out of it.
        ResourceError: it claims impossible sizes. EnvError: numcodecs is not installed.
    """
    with _described(path):
        store = _store(path)
        found = {name: _found(store, name) for name in itertools.islice(store.arrays(), MAX_ARRAYS)}
        return {name: item for name, item in found.items() if item is not None}


def open_array(path: Path, name: str) -> ZarrArray:
    """One array of a store.

    Raises:
        DataFormatError: there is none, or it cannot be read. What `open_store` raises.
    """
    with _described(path):
        item = _found(_store(path), name)
    if not isinstance(item, ZarrArray):
        raise DataFormatError("is missing", file=path, field=name, found=item)
    return item


@contextlib.contextmanager
def _described(path: Path) -> Iterator[None]:
    """What metadata may raise, as errors of ours."""
    try:
        yield
    except (OSError, zipfile.BadZipFile, ValueError, RuntimeError, zlib.error, EOFError) as error:
        fix = "was it copied whole?"
        raise DataFormatError("cannot be opened as zarr", file=path, found=str(error)[:80], fix=fix) from error


def _store(path: Path) -> Store:
    if not path.is_file():
        return Store(path)
    state = path.stat()
    # A process of its own has its own files: a .zip that a parent opened shares the place at which it is read.
    return _zipped(path, (os.getpid(), state.st_mtime_ns, state.st_size))


def _found(store: Store, name: str) -> ZarrArray | str | None:
    """The array of that name, why it is not read, or None where there is none."""
    facts = _json(store, f"{name}/.zarray")
    version = 2 if facts is not None else 3
    facts = _json(store, f"{name}/zarr.json") if facts is None else facts
    if facts is None or (version == 3 and facts.get("node_type") != "array"):
        return None
    return _array(store, name, facts=facts, version=version)


@functools.lru_cache(8)
def _zipped(path: Path, state: tuple[int, int, int]) -> Store:
    """A .zip in that state."""
    archive = zipfile.ZipFile(path)
    members = {entry.filename: entry for entry in archive.infolist()}
    roots = [n[: -len(end)] for n in members for end in (".zgroup", "zarr.json") if n == end or n.endswith(f"/{end}")]
    return Store(path, min(roots, key=len, default=""), members, archive)


def _json(store: Store, name: str) -> dict[str, Any] | None:
    data = store.read(name, most=MAX_META_BYTES)
    if data is None:
        return None
    value = json.loads(data)
    if not isinstance(value, dict):
        raise DataFormatError("is not a JSON object", file=store.path, field=name)
    return value


def _array(store: Store, name: str, *, facts: Mapping[str, Any], version: int) -> ZarrArray | str:
    """The array, or why it is not read."""
    where = {"file": store.path, "field": name}
    codecs, dtype, order = _codecs(facts, version=version)
    unsafe = [c["id"] for c in codecs if "pickle" in c["id"]]
    if unsafe:
        fix = "write it as plain numbers"
        raise SecurityError("holds pickled objects; nothing of it was decoded", **where, found=unsafe[0], fix=fix)
    if any(c["id"] in OBJECTS for c in codecs) or dtype is None:
        return f"{NO_NUMBERS_IN_IT} ({dtype or facts.get('dtype', facts.get('data_type'))})"
    unknown = [c["id"] for c in codecs if c["id"] not in PLAIN + PICTURES]
    if unknown:
        return f"its codec {unknown[0]} is not read"
    grid, encoding = facts.get("chunk_grid"), facts.get("chunk_key_encoding")
    chunks = facts.get("chunks") if version == 2 else _configured(grid).get("chunk_shape")
    shape = facts.get("shape")
    sizes = [shape, chunks]
    if not all(isinstance(s, list) and all(type(n) is int and 0 <= n <= MAX_SIZE for n in s) for s in sizes):
        raise DataFormatError("has no shape", **where, found=sizes)
    assert isinstance(shape, list) and isinstance(chunks, list)  # by the test above
    if len(shape) != len(chunks) or not 1 <= len(shape) <= MAX_AXES or not all(chunks):
        raise DataFormatError("has no shape", **where, found=sizes, expected=f"1 to {MAX_AXES} axes")
    row_chunks = math.prod(-(-s // c) for s, c in zip(shape[1:], chunks[1:], strict=True))
    large = max(math.prod(chunks), math.prod([chunks[0], *shape[1:]])) * dtype.itemsize
    if large > MAX_CHUNK_BYTES or row_chunks > MAX_PIECES:
        raise ResourceError(
            "claims impossibly large chunks", **where, found=sizes, expected=f"<= {MAX_CHUNK_BYTES} bytes"
        )
    fill = facts.get("fill_value") or 0
    fill = (
        {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(fill, 0) if isinstance(fill, str) else fill
    )
    flat = version == 2 or (isinstance(encoding, dict) and encoding.get("name") == "v2")
    separator = (
        facts.get("dimension_separator", ".")
        if version == 2
        else _configured(encoding).get("separator", "." if flat else "/")
    )
    if separator not in (".", "/") or isinstance(fill, list | dict):
        raise DataFormatError("is not described as zarr arrays are", **where, found=[separator, fill])
    key = f"{name}/{{}}" if flat else f"{name}/c{separator}{{}}"
    return ZarrArray(store, name, tuple(shape), dtype, tuple(chunks), tuple(codecs), fill, order, key, separator)


def _configured(value: Any) -> Mapping[str, Any]:
    inside = value.get("configuration") if isinstance(value, dict) else None
    return inside if isinstance(inside, dict) else {}


def _codecs(
    facts: Mapping[str, Any], *, version: int
) -> tuple[list[dict[str, Any]], np.dtype | None, Literal["C", "F"]]:
    """Codecs as {"id": name}, the type of the values (None: no numbers), and the order of axes."""
    if version == 2:
        stored = [*(facts.get("filters") or []), *([facts["compressor"]] if facts.get("compressor") else [])]
        codecs = [{"id": str(c.get("id")) if isinstance(c, dict) else str(c)} for c in stored]
        return codecs, _dtype(facts.get("dtype")), "F" if facts.get("order") == "F" else "C"
    dtype, codecs = _dtype(facts.get("data_type")), []
    order: Literal["C", "F"] = "C"
    for codec in facts.get("codecs") or []:
        name = str(codec.get("name") if isinstance(codec, dict) else codec).removeprefix("numcodecs.")
        if name == "bytes":
            if _configured(codec).get("endian") == "big" and dtype is not None:
                dtype = dtype.newbyteorder(">")
        elif name == "transpose":
            turned = _configured(codec).get("order")
            axes = len(facts.get("shape") or ())
            order = "F" if axes > 1 and turned in ("F", list(range(axes))[::-1]) else order
            codecs += [] if turned in ("C", "F", list(range(axes)), list(range(axes))[::-1]) else [{"id": name}]
        else:
            codecs.append({"id": name})
    return codecs, dtype, order


def _dtype(name: Any) -> np.dtype | None:
    try:
        dtype = np.dtype(name) if isinstance(name, str) else None
    except (TypeError, ValueError):
        return None
    return dtype if dtype is not None and dtype.kind in "fiub" and dtype.itemsize <= 8 else None


def _unpacked(codec: Mapping[str, Any], data: bytes, *, most: int) -> bytes:
    """What a codec makes of bytes, at most `most` of them (a checksum may follow)."""
    most += 64
    match codec["id"]:
        case "zlib" | "gzip":
            return _bounded(zlib.decompressobj(47).decompress(data, most + 1), most=most)
        case "bz2":
            return _bounded(bz2.BZ2Decompressor().decompress(data, most + 1), most=most)
        case "crc32c":
            if len(data) < 4 or crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
                raise ValueError("its checksum does not fit")
            return data[:-4]
    claimed = {"blosc": _blosc_size, "zstd": _zstd_size, "lz4": _lz4_size}[codec["id"]](data)
    if not 0 <= claimed <= most:
        raise ValueError(f"it claims {claimed} bytes, where {most} are the most")
    library = optional(f"numcodecs.{codec['id']}", extra="zarr", what="reading zarr")
    return bytes(library.decompress(data))


def _bounded(data: bytes, *, most: int) -> bytes:
    if len(data) > most:
        raise ValueError(f"more than the {most} bytes that belong there")
    return data


def _blosc_size(data: bytes) -> int:
    """Bytes that blosc's header claims; what is stored must be as long as it says too."""
    if len(data) < 16 or int.from_bytes(data[12:16], "little") != len(data):
        raise ValueError("it is cut short")
    return int.from_bytes(data[4:8], "little")


def _lz4_size(data: bytes) -> int:
    return int.from_bytes(data[:4], "little", signed=True) if len(data) > 4 else -1


def _zstd_size(data: bytes) -> int:
    """Bytes that the header of a single frame claims (RFC 8878, 3.1.1.1); a frame that does not tell is refused."""
    if data[:4] != ZSTD_MAGIC or len(data) < 6:
        raise ValueError("it is no zstd frame")
    single, flag = bool(data[4] & 32), data[4] >> 6
    start = 5 + (not single) + (0, 1, 2, 4)[data[4] & 3]
    length = (int(single), 2, 4, 8)[flag]
    if not length:
        raise ValueError("it does not tell its size")
    return int.from_bytes(data[start : start + length], "little") + (256 if length == 2 else 0)


def _picture(name: str, data: bytes, *, shape: Sequence[int]) -> np.ndarray:
    """A chunk [1 h w 3] uint8 that is one encoded picture."""
    library = optional("imagecodecs", extra="jpegxl", what="reading pictures of a zarr store")
    decode = getattr(library, name.replace("imagecodecs_", "") + "_decode")
    if len(shape) < 3 or math.prod(shape[:-3]) != 1:
        raise ValueError(f"a chunk {tuple(shape)} is not one picture")
    return decode(data, out=np.empty(shape[-3:], np.uint8)).reshape(shape)

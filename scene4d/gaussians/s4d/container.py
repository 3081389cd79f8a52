"""Stored zip archives: opened without trusting names, sizes or counts, and written a piece at a time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scene4d.errors import DataFormatError, ResourceError, SecurityError
from scene4d.files import atomic_file, open_regular

Chunks = Callable[[], Iterable[bytes]]
MEMBER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
MAX_MEMBERS = 100_000
MAX_DIRECTORY = 128 * MAX_MEMBERS
MAX_JSON = 1 << 24
_END, _LOCATOR, _END64 = 22, 20, 56  # bytes of the records that a zip ends in


def list_members(path: Path) -> dict[str, int]:
    """Names and sizes of the members of a stored zip.

    Raises:
        DataFormatError: no zip, truncated, compressed, encrypted, duplicate names, or sizes beyond the file's.
        SecurityError: a name that leaves the archive.
    """
    with _opened(path) as archive:
        return _checked(archive, path)


def read_members(path: Path, names: Sequence[str]) -> list[bytes]:
    """The bytes of the named members of a stored zip (checked as in `list_members`), each at most as long as the file.

    Raises:
        DataFormatError: missing or damaged.
    """
    fix = "copy or write the file again"
    with _opened(path) as archive:
        stored = _checked(archive, path)
        missing = [n for n in names if n not in stored]
        if missing:
            raise DataFormatError("is missing", file=path, field=missing[0], fix=fix)
        too_long = [n for n in names if n.endswith(".json") and stored[n] > MAX_JSON]
        if too_long:
            raise DataFormatError("is too long", file=path, field=too_long[0], expected=f"<= {MAX_JSON} bytes")
        try:
            return [archive.read(name) for name in names]
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, struct.error) as error:
            raise DataFormatError("has a damaged member", file=path, found=str(error)[:80], fix=fix) from error


def parse_json(data: bytes, *, file: Path, field: str) -> dict[str, Any]:
    """A JSON object; no NaN, no Infinity.

    Raises:
        DataFormatError: anything else, or more than 16 MiB.
    """
    if len(data) > MAX_JSON:
        raise DataFormatError("is too long", file=file, field=field, found=len(data), expected=f"<= {MAX_JSON} bytes")

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON number")

    try:
        value = json.loads(data.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise DataFormatError("is not JSON", file=file, field=field, found=str(error)[:80]) from error
    if not isinstance(value, dict):
        raise DataFormatError("is not a JSON object", file=file, field=field, found=type(value).__name__)
    return value


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        check_directory(path)
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, struct.error, ValueError, NotImplementedError) as error:
        problem = "is no .s4d (not a zip, or truncated)"
        raise DataFormatError(problem, file=path, found=str(error)[:80], fix="copy or write the file again") from error
    except OSError as error:
        raise DataFormatError(f"cannot be read: {error.strerror}", file=path, fix="check the path") from error


def check_directory(path: Path) -> None:
    """Refuse a list of members that would take much memory to read: zipfile reads it whole before anyone can look.

    The end record must be the file's last 22 bytes (no comment after it), so that it is the one that zipfile reads.
    """
    with open_regular(path) as file:
        file.seek(-min(path.stat().st_size, _END + _LOCATOR + _END64), os.SEEK_END)
        tail = file.read().rjust(_END + _LOCATOR + _END64, b"\0")
    end64, locator, end = tail[:_END64], tail[_END64:-_END], tail[-_END:]
    if not end.startswith(b"PK\x05\x06"):
        raise zipfile.BadZipFile("no end record at the end")
    size = struct.unpack_from("<I", end, 12)[0]
    if locator.startswith(b"PK\x06\x07"):
        size = struct.unpack_from("<Q", end64, 40)[0] if end64.startswith(b"PK\x06\x06") else MAX_DIRECTORY + 1
    if size > MAX_DIRECTORY:
        found = f"{size} bytes of names"
        raise DataFormatError("lists too many members", file=path, found=found, expected=f"<= {MAX_DIRECTORY}")


def _checked(archive: zipfile.ZipFile, path: Path) -> dict[str, int]:
    entries = archive.infolist()
    sizes: dict[str, int] = {}
    for entry in entries:
        name = entry.filename
        if not MEMBER_NAME.fullmatch(name):
            raise SecurityError("a member's name is unsafe; nothing was read", file=path, found=repr(name)[:80])
        odd = entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size
        if odd or entry.flag_bits & 1 or name in sizes:
            found = "a duplicate" if name in sizes else "compressed or encrypted"
            raise DataFormatError("members must be stored, once each", file=path, field=name[:80], found=found)
        sizes[name] = entry.file_size
    if len(entries) > MAX_MEMBERS or sum(sizes.values()) > path.stat().st_size:
        found, expected = f"{len(entries)} members, {sum(sizes.values())} bytes", f"at most {path.stat().st_size} bytes"
        raise DataFormatError("claims more than it holds", file=path, found=found, expected=expected)
    return sizes


def write_archive(
    path: str | os.PathLike, members: Mapping[str, Chunks], *, manifest: Callable[[Mapping[str, Any]], bytes]
) -> None:
    """Write a stored zip, whole or not at all, with `manifest.json` first; the same members give the same bytes.

    Every member gives its bytes twice, once to be hashed and once to be written, so that none is held whole.

    Args:
        members: {name: function that yields its bytes in pieces, the same each time}.
        manifest: makes manifest.json of {name: {sha256, bytes}}.
    Raises:
        ResourceError: the disk is full or read-only, or there are more members than a reader takes.
    """
    if len(members) >= MAX_MEMBERS:
        found = len(members) + 1
        expected, fix = f"<= {MAX_MEMBERS}", "write fewer instants to a file"
        raise ResourceError("has too many members", file=path, field="members", found=found, expected=expected, fix=fix)
    listed: dict[str, dict[str, Any]] = {}
    for name, chunks in members.items():
        digest, size = hashlib.sha256(), 0
        for chunk in chunks():
            digest.update(chunk)
            size += len(chunk)
        listed[name] = {"sha256": digest.hexdigest(), "bytes": size}
    first = manifest(listed)
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("manifest.json"), first)
        for name, chunks in members.items():
            entry = zipfile.ZipInfo(name)  # a fixed date: bytes depend on the content only
            entry.file_size = listed[name]["bytes"]
            with archive.open(entry, "w") as file:
                for chunk in chunks():
                    file.write(chunk)

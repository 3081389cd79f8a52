"""File names: those that come out of a file followed only where they stay inside the folder they belong to."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from scene4d.errors import DataFormatError, SecurityError

MAX_NAME_BYTES = 255
# "http:", "concat:", "subfile,,start,0,:", "C:": what programs take for more than the name of a file.
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.]*(,[^/]*)?:")
NUMBER = re.compile(r"([0-9]+)")


def inside_folder(root: Path, relative: str, *, file: Path, field: str | None = None) -> Path:
    """`root`/`relative`, which must lie inside `root`, links followed.

    Raises:
        SecurityError: it does not, or names a protocol; nothing was opened. DataFormatError: no file can have such a
            name.
    """
    path = root / relative
    if not all(map(_is_a_name, Path(relative).parts)):
        found, expected = ascii(relative[:120]), f"unicode, at most {MAX_NAME_BYTES} bytes between slashes"
        raise DataFormatError("names a file that cannot be", file=file, field=field, found=found, expected=expected)
    refuse_protocol(relative, path=path, file=file, field=field)
    leads_out = os.path.isabs(relative) or ".." in Path(relative).parts or "\0" in relative
    if leads_out or not _is_inside(path, root):
        problem = "a path leads out of the folder; it was not opened"
        raise SecurityError(problem, file=file, field=field, found=str(relative)[:120], expected=f"inside {root}")
    return path


def refuse_protocol(name: str, *, path: Path, file: str | os.PathLike | None, field: str | None = None) -> None:
    """Refuse a name that begins with a protocol or a drive, unless a file on this machine has that very name.

    Args:
        name: as it was given. path: where a file of that name would lie. file, field: what gave it.
    Raises:
        SecurityError: it does; nothing was opened, nothing was asked.
    """
    if _PROTOCOL.match(name) and ("://" in name or not os.path.lexists(path)):
        problem, expected = "a path names a protocol; it was not opened", "the name of a file on this machine"
        raise SecurityError(problem, file=file, field=field, found=ascii(name[:120]), expected=expected)


def regular_file(path: Path, *, root: Path) -> bool:
    """Whether a regular file lies there: pipes, sockets, devices and links to themselves are none.

    Raises:
        SecurityError: it is a link, or lies in one, that leads out of `root`; it was not opened.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    if not _is_inside(path, root):
        problem, fix = "is a link that leads out of the folder; it was not opened", "copy the file to its place"
        raise SecurityError(problem, file=path, found=str(path.resolve()), expected=f"inside {root}", fix=fix)
    return stat.S_ISREG(mode)


def listed_files(folder: Path, *, root: Path, suffixes: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The regular files of a folder with one of these endings, in natural order, and the names of what is none.

    Raises:
        SecurityError: one leads out of `root`. DataFormatError: the folder cannot be listed.
    """
    try:
        named = [p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.is_dir()]
    except FileNotFoundError:
        return [], []
    except OSError as error:
        problem = f"cannot be listed: {error.strerror}"
        raise DataFormatError(problem, file=folder, fix="check permissions") from error
    named.sort(key=lambda p: (natural_order(p.name), p.name))
    regular = [regular_file(p, root=root) for p in named]
    files = [p for p, there in zip(named, regular, strict=True) if there]
    return files, [p.name for p, there in zip(named, regular, strict=True) if not there]


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts episode2 before episode10; numbers of any length, digits of other scripts as letters."""
    parts = [w for w in NUMBER.split(name) if w]
    zeros = [(w, w.lstrip("0")) if NUMBER.fullmatch(w) else (w, None) for w in parts]
    return [(1, 0, word) if digits is None else (0, len(digits), digits) for word, digits in zeros]


def _is_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a link to itself leads nowhere: it cannot be opened
        return True


def _is_a_name(part: str) -> bool:
    try:
        return len(os.fsencode(part)) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False

"""File names: those that come out of a file followed only where they stay inside the folder they belong to."""

from __future__ import annotations

import os
import re
from pathlib import Path

from scene4d.errors import DataFormatError, SecurityError

MAX_NAME_BYTES = 255
# "http:", "concat:", "subfile,,start,0,:", "C:": what programs take for more than the name of a file.
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.]*(,[^/]*)?:")


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
    if leads_out or not path.resolve().is_relative_to(root.resolve()):
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


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts episode2 before episode10."""
    return [(0, int(w), "") if w.isdigit() else (1, 0, w) for w in re.findall(r"[0-9]+|[^0-9]+", name)]


def _is_a_name(part: str) -> bool:
    try:
        return len(os.fsencode(part)) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False

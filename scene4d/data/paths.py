"""File names that come out of a file: followed only where they stay inside the folder they belong to."""

from __future__ import annotations

import os
from pathlib import Path

from scene4d.errors import DataFormatError, SecurityError

MAX_NAME_BYTES = 255


def inside_folder(root: Path, relative: str, *, file: Path, field: str | None = None) -> Path:
    """`root`/`relative`, which must lie inside `root`, links followed.

    Raises:
        SecurityError: it does not; nothing was opened. DataFormatError: no file can have such a name.
    """
    path = root / relative
    if not all(map(_is_a_name, Path(relative).parts)):
        raise DataFormatError(
            "names a file that cannot be", file=file, field=field, found=ascii(relative[:120]),
            expected=f"unicode, at most {MAX_NAME_BYTES} bytes between slashes",
        )  # fmt: skip
    leads_out = os.path.isabs(relative) or ".." in Path(relative).parts or "\0" in relative
    if leads_out or not path.resolve().is_relative_to(root.resolve()):
        raise SecurityError(
            "a path leads out of the folder; it was not opened",
            file=file,
            field=field,
            found=str(relative)[:120],
            expected=f"inside {root}",
        )
    return path


def _is_a_name(part: str) -> bool:
    try:
        return len(os.fsencode(part)) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False

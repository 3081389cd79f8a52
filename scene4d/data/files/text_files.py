"""Text that others wrote, line by line, with bounds: a file that says more than its kind can is refused early."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scene4d.errors import DataFormatError
from scene4d.files import open_regular

MAX_LINE_BYTES = 1 << 16  # a pose takes some hundred
MAX_TEXT_BYTES = 1 << 26


def text_lines(path: Path, *, longest: int = MAX_LINE_BYTES, most: int = MAX_TEXT_BYTES) -> Iterator[str]:
    """The lines of a UTF-8 file, without their ends; at most `longest` bytes each and `most` in all.

    Raises:
        DataFormatError: a line or the file is too long. OSError, UnicodeDecodeError: as the file deserves.
    """
    read = 0
    with open_regular(path) as file:
        while line := file.readline(longest + 1):
            read += len(line)
            if len(line) > longest or read > most:
                what, limit = ("a line", longest) if len(line) > longest else ("the file", most)
                expected, fix = f"at most {limit} bytes", "write one pose a line"
                raise DataFormatError(f"{what} is too long", file=path, expected=expected, fix=fix)
            yield line.decode("utf-8").rstrip("\r\n")

"""What a file is that could not be read: a Git LFS pointer, or an array whose header means nothing."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import tokenize
from collections.abc import Iterator
from pathlib import Path

from scene4d.errors import EXIT_INPUT, DataFormatError, Scene4DError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
MAX_POINTER, MAX_SEARCHED = 1024, 2000  # bytes of a pointer; files of a folder that are looked at
NPY_ERRORS = (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError, MemoryError)
"""What `numpy.load` raises of a damaged .npy, whose header it reads as words of Python."""


@contextlib.contextmanager
def naming_pointers() -> Iterator[None]:
    """Say of what could not be read that it is a Git LFS pointer, where it is one; also a decorator.

    Raises:
        DataFormatError: in place of the reader's own error, which may be of any kind.
    """
    try:
        yield
    except Scene4DError as error:
        pointer = None
        if error.file is not None and error.exit_code == EXIT_INPUT:
            pointer = _pointer_at(Path(error.file))
        if pointer is None:
            raise
        problem, fix = "is a Git LFS pointer, not the file that it stands for", "run git lfs pull in its repository"
        raise DataFormatError(problem, file=pointer, field=error.field, frame=error.frame, fix=fix) from error


def _pointer_at(path: Path) -> Path | None:
    """A file, or the first file of a folder, that is a pointer."""
    found = (Path(folder, name) for folder, _, names in os.walk(path) for name in sorted(names))
    for file in [path] if not path.is_dir() else itertools.islice(found, MAX_SEARCHED):
        with contextlib.suppress(OSError, ValueError):
            facts = os.stat(file)
            small = stat.S_ISREG(facts.st_mode) and facts.st_size <= MAX_POINTER
            if small and file.read_bytes().startswith(LFS_POINTER):
                return file
    return None

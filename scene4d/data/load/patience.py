"""Reading from disks that come and go: tried again a few times, longer apart each time, then refused with the file."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from scene4d.errors import DataFormatError

T = TypeVar("T")
PASSING = {
    getattr(errno, name)
    for name in (
        "ENOENT", "EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "ENODEV", "ENXIO", "ENOTCONN", "EHOSTDOWN",
        "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ECONNRESET", "ECONNABORTED", "EREMOTEIO", "EBADF", "EACCES",
    )
    if hasattr(errno, name)
}  # fmt: skip


def read_patiently(
    read: Callable[[], T], *, file: str, retries: int, wait: float, sleep: Callable[[float], None] = time.sleep
) -> T:
    """`read()`, tried again after `wait`, 2 `wait`, 4 `wait`, ... seconds where the disk, not the data, failed.

    Raises:
        DataFormatError: it still fails after `retries` more tries. Whatever else `read` raises, at once.
    """
    for attempt in range(retries + 1):
        try:
            return read()
        except Exception as error:
            lost = _lost_file(error)
            if lost is None:
                raise
            if attempt == retries:
                raise DataFormatError(
                    f"could not be read in {retries + 1} tries over {wait * (2**retries - 1):.3g} s",
                    file=lost.filename or getattr(error, "file", None) or file,
                    found=os.strerror(lost.errno),
                    fix="is the disk still there? the loader's state is that of the last whole batch: go on from it",
                ) from error
        sleep(wait * 2**attempt)
    raise AssertionError("a try either returns or raises")


def _lost_file(error: BaseException) -> OSError | None:
    """The failure of the disk that an error was made of, if any; an image that is broken is none."""
    return next((e for e in _causes(error) if isinstance(e, OSError) and e.errno in PASSING), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

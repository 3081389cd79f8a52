"""Reading from network disks: tried again a few times, longer apart each time, then refused with the file's name."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from scene4d.disk_errors import shortage
from scene4d.errors import DataFormatError

T = TypeVar("T")
RETRIES = 4
WAIT_SECONDS = 0.5  # before the first retry; doubled each time
TEMPORARY = {
    getattr(errno, name)
    for name in (
        "ENOENT", "EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "ENODEV", "ENXIO", "ENOTCONN", "EHOSTDOWN",
        "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ECONNRESET", "ECONNABORTED", "EREMOTEIO", "EBADF", "EACCES",
    )
    if hasattr(errno, name)
}  # fmt: skip


def read_with_retries(read: Callable[[], T], *, file: str) -> T:
    """`read()`, tried again where the disk, not the data, failed.

    Raises:
        DataFormatError: it still fails after `RETRIES` more tries. ResourceError: so it does, for want of memory or
            threads. Whatever else `read` raises, at once.
    """
    for attempt in range(RETRIES + 1):
        try:
            return read()
        except Exception as error:
            lost = next((e for e in _causes(error) if isinstance(e, OSError) and e.errno in TEMPORARY), None)
            if lost is None:
                raise
            if attempt == RETRIES:
                problem = f"could not be read in {RETRIES + 1} tries over {WAIT_SECONDS * (2**RETRIES - 1):.3g} s"
                where = lost.filename or getattr(error, "file", None) or file
                short = shortage(lost, file=where)
                if short is not None:
                    raise short from error
                fix = "is the disk still there? start again: a training run goes on from its last checkpoint"
                raise DataFormatError(problem, file=where, found=os.strerror(lost.errno or 0), fix=fix) from error
        time.sleep(WAIT_SECONDS * 2**attempt)
    raise AssertionError("a try either returns or raises")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__

"""What a disk or a machine refuses, in the words of any library, as one ResourceError that names the file."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from scene4d.errors import ResourceError, Scene4DError

OURS = ".scene4d-"
"""In the names of all drafts and locks."""
OTHER_PLACE = "free space or name another place"
REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file is larger than this disk or this process may write",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk fails",
    errno.ESTALE: "the network disk has gone",
    errno.ENODEV: "the disk has gone",
    errno.ENXIO: "the disk has gone",
    errno.ETIMEDOUT: "the network disk does not answer",
    errno.EMFILE: "too many files are open in this process",
    errno.ENFILE: "too many files are open on this machine",
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
    errno.EISDIR: "is a folder",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EEXIST: "a part of the path is a file",
    errno.ENOTEMPTY: "holds something already",
    errno.ENOENT: "its folder was removed meanwhile",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOMEM: "out of memory",
    errno.EAGAIN: "no thread or memory is to be had",
    errno.ENOSYS: "this machine lacks what it takes (is /dev/shm there?)",
}
MORE_FILES = "raise the limit of open files (ulimit -n), or use fewer workers"
MORE_MEMORY = "free memory or threads (ulimit -v, -u), or use fewer workers"
FIXES = {errno.EMFILE: MORE_FILES, errno.ENFILE: MORE_FILES, errno.ENOMEM: MORE_MEMORY, errno.EAGAIN: MORE_MEMORY}
SHORT = frozenset(FIXES)
"""Errors that say nothing about the file concerned: the process or the machine lacks something."""


@contextlib.contextmanager
def writing(target: str | os.PathLike) -> Iterator[None]:
    """Turn what a disk refuses inside the block, whichever library asked for it, into a ResourceError about `target`.

    Errors that name another file pass, unless the process or the machine lacks something: they are about what is read.
    """
    try:
        yield
    except Scene4DError:
        raise
    except Exception as error:
        found = _refusal(error, target=Path(target))
        if found is None:
            raise
        raise found from error


@contextlib.contextmanager
def reading(file: str | os.PathLike) -> Iterator[None]:
    """Turn a lack of memory, threads or descriptors inside the block into a ResourceError: `file` is not damaged.

    Readers may raise what they like of it, as long as its cause goes with it.
    """
    try:
        yield
    except ResourceError:
        raise
    except Exception as error:
        refuse_shortage(error, file=getattr(error, "file", None) or file)
        raise


def refuse_shortage(error: BaseException, *, file: str | os.PathLike | None) -> None:
    """For readers that go on after an error: raise the ResourceError of `shortage`, if it is one.

    Raises:
        ResourceError: memory, threads or descriptors ran out; the error says nothing about the file.
    """
    found = shortage(error, file=file)
    if found is not None:
        raise found from error


def shortage(error: BaseException | None, *, file: str | os.PathLike | None) -> ResourceError | None:
    """The ResourceError for an error of any library whose cause is that files, memory or threads ran out; else None.

    A reader asks this before it calls a file damaged.
    """
    for each in _causes(error):
        number = _errno(each)
        if number in SHORT and not (isinstance(error, Scene4DError) and _is_claim_of_file(each)):
            return ResourceError(REASONS[number], file=file, fix=FIXES[number])
    return None


def _refusal(error: BaseException, *, target: Path) -> ResourceError | None:
    short = shortage(error, file=target)
    if short is not None:
        return short
    for each in _causes(error):
        number = _errno(each)
        if number and not isinstance(each, ConnectionError) and _concerns(each, target.absolute()):
            return ResourceError(REASONS.get(number, os.strerror(number)), file=target, fix=OTHER_PLACE)
    return None


def _concerns(error: BaseException, target: Path) -> bool:
    """Whether an error is about the target, a folder above it, a file in it, its draft or its lock; or does not say."""
    named = getattr(error, "filename", None)
    if not isinstance(named, str | bytes | os.PathLike):
        return True
    place = Path(os.fsdecode(named)).absolute()
    return OURS in str(place) or place == target or place in target.parents or target in place.parents


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _errno(error: BaseException) -> int:
    """The number of an error of the system, also where a library tells it in words; 0 if it is none."""
    if isinstance(error, OSError):
        return error.errno or 0
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    words = str(error)
    # Of torch, of threads, of a library that could not be loaded, of what Arrow has no word for.
    if isinstance(error, RuntimeError | ImportError) or type(error).__name__ == "ArrowException":
        if any(part in words for part in ("can't start new thread", "failed to map segment")):
            return errno.EAGAIN
        return next((number for number in SHORT if os.strerror(number) in words), 0)
    found = re.search(r"\(os error (\d+)\)", words) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else 0


def _is_claim_of_file(error: BaseException) -> bool:
    """Whether memory was asked for that no machine of this size has: a file that lies of its size is at fault."""
    if not isinstance(error, MemoryError) or hasattr(error, "errno") or not str(error):
        return False
    asked = re.search(r"malloc of size (\d+) failed", str(error))
    return asked is None or int(asked[1]) > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

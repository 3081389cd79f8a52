"""Outputs that appear whole or not at all: write beside the target, then rename over it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from scene4d.errors import DataFormatError, ResourceError, Scene4DError

if TYPE_CHECKING:
    from torch import Tensor

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
OTHER_PLACE = "free space or name another place"


def open_regular(path: str | os.PathLike, *, kind: type[Scene4DError] = DataFormatError) -> BinaryIO:
    """A file opened for reading, if it is one: a FIFO, a socket or a device is never opened, nor waited for.

    Args:
        kind: the error that refuses all others.
    Raises:
        Scene4DError: of that kind: it is none. OSError: there is nothing of that name, or it may not be read.
    """
    require_regular(path, kind=kind)
    # It may have been replaced since: an opening that does not wait, and a second look at what was opened.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _refuse_others(os.fstat(handle).st_mode, path, kind=kind)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def require_regular(path: str | os.PathLike, *, kind: type[Scene4DError] = DataFormatError) -> os.stat_result:
    """The facts of a file, for libraries that open it by its name. Raises as `open_regular`."""
    found = os.stat(path)
    _refuse_others(found.st_mode, path, kind=kind)
    return found


def _refuse_others(mode: int, path: str | os.PathLike, *, kind: type[Scene4DError]) -> None:
    if not stat.S_ISREG(mode):
        found, fix = _KINDS.get(stat.S_IFMT(mode), "something else"), "name a file, or remove what lies there"
        raise kind("is no file that can be read", file=path, found=found, expected="a regular file", fix=fix)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path of the same suffix; move it to `path` when the block ends well, remove it otherwise.

    Raises:
        ResourceError: the disk is full, read-only or the folder cannot be made.
    """
    target = Path(path)
    with _resources(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem[:40]}.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file (UTF-8) by `atomic_file`, whose errors it has."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder; move it to `path` (which must not exist or be empty) when the block ends well.

    Raises:
        ResourceError: `path` holds something already, or the disk is full or read-only.
    """
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ResourceError("exists already", file=target, fix="name a new folder, or remove this one")
    with _resources(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", dir=target.parent))
        try:
            yield temporary
            os.chmod(temporary, 0o777 & ~_umask())
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def save_safetensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> None:
    """Write contiguous tensors and a header to one safetensors file, atomically.

    Raises:
        ResourceError: the disk is full or cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file  # imported late: torch takes seconds to load

    with atomic_file(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        except SafetensorError as error:  # which is how safetensors reports a failed write
            raise ResourceError(f"cannot be written ({error})", file=path, fix=OTHER_PLACE) from error


@contextlib.contextmanager
def _resources(target: Path) -> Iterator[None]:
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the quota is used up",
        errno.EROFS: "the disk is read-only",
        errno.EACCES: "no permission to write",
        errno.EPERM: "no permission to write",
        errno.EISDIR: "is a folder",
        errno.ENOTDIR: "a part of the path is a file",
        errno.EEXIST: "a part of the path is a file",
        errno.ENAMETOOLONG: "the name is too long",
    }
    try:
        yield
    except OSError as error:
        if error.errno not in reasons:
            raise
        raise ResourceError(reasons[error.errno], file=target, fix=OTHER_PLACE) from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current

"""Outputs that appear whole or not at all: write beside the target, then rename over it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scene4d.errors import ResourceError

if TYPE_CHECKING:
    from torch import Tensor

OTHER_PLACE = "free space or name another place"


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

"""Outputs that appear whole or not at all, and are on disk when they do; a disk that fails is a ResourceError."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from scene4d.disk_errors import writing
from scene4d.drafts import DRAFT, OLD, OWNER, claimed, draft_folder
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
Run = TypeVar("Run", bound=Callable[[Any], Any])


def open_regular(path: str | os.PathLike, *, kind: type[Scene4DError] = DataFormatError) -> BufferedReader:
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
    """Yield the path of an empty draft of the same name; move it to `path` when the block ends well, else remove it.

    Before it is moved its bytes are on disk, so that a power cut leaves the old file or the new one.

    Raises:
        ResourceError: the disk is full or fails, or cannot be written: see `writing`.
    """
    target = Path(path)
    with writing(target), draft_folder(target) as folder:
        draft = folder / target.name
        draft.touch()
        mode = draft.stat().st_mode
        yield draft
        draft.chmod(mode)  # a library may have made the file anew, for its owner alone
        put_in_place(draft, target)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file (UTF-8) by `atomic_file`, whose errors it has."""
    with atomic_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty draft folder; move it to `path` when the block ends well.

    Args:
        replace: take the place of a folder that stands there; without it that folder must be empty or absent.
    Raises:
        ResourceError: `path` holds something already, or as `atomic_file`.
    """
    target = Path(path)
    with writing(target):
        if target.exists() and (not target.is_dir() or (not replace and any(target.iterdir()))):
            raise ResourceError("exists already", file=target, fix="name a new folder, or remove this one")
        with draft_folder(target) as folder:
            draft = folder / target.name
            draft.mkdir()
            yield draft
            put_in_place(draft, target)


@contextlib.contextmanager
def placed_together(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty draft folder; move each file and folder in it beside `path` when all are written.

    What stands there by the same names is replaced.

    Raises:
        ResourceError: as `atomic_file`.
    """
    target = Path(path)
    with writing(target), draft_folder(target) as folder:
        yield folder
        for draft in sorted(each for each in folder.iterdir() if each.name != OWNER):
            put_in_place(draft, target.with_name(draft.name))


def save_safetensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> None:
    """Write contiguous tensors and a header to one safetensors file, by `atomic_file`, whose errors it has."""
    from safetensors.torch import save_file  # imported late: torch takes seconds to load

    with atomic_file(path) as draft:
        save_file(dict(tensors), draft, metadata=dict(metadata))


def put_in_place(draft: Path, target: Path) -> None:
    """Move a file or folder from its draft folder to its place: its bytes are on disk before, its name after.

    Raises:
        OSError: it cannot be moved; what stood there still stands.
    """
    inner = any(parent.name.endswith(DRAFT) for parent in target.absolute().parents)  # the outer one is synced whole
    if not inner:
        sync(draft)
    old = draft.parent / OLD / target.name
    if draft.is_dir() and target.is_dir() and any(target.iterdir()):
        old.parent.mkdir(exist_ok=True)
        os.rename(target, old)
    try:
        os.replace(draft, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    if not inner:
        sync(target.parent, alone=True)


def sync(path: Path, *, alone: bool = False) -> None:
    """Bring a file, or a folder with all that is in it, to the disk; `alone`: of a folder the names in it.

    Raises:
        OSError: the disk does not take it.
    """
    if path.is_dir() and not alone:
        for root, _, names in os.walk(path, topdown=False):
            for name in names:
                _sync_one(Path(root) / name)
            _sync_one(Path(root))
    else:
        _sync_one(path)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise  # folders cannot be synced everywhere
    finally:
        os.close(handle)


class HasOutput(Protocol):
    """Options of a verb that writes one file or folder."""

    @property
    def output(self) -> Path:
        """Where to."""
        ...


def sole_writer(run: Run) -> Run:
    """A verb that holds its `options.output` from its start to its end, as `claimed`."""

    @functools.wraps(run)
    def held(options: HasOutput) -> Any:
        with claimed(options.output):
            return run(options)

    return held  # pyright: ignore[reportReturnType]  # wraps keeps the signature

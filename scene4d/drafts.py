"""One writer for an output, and what dead writers left.

What is written lies in a draft beside its target, a folder that its writer holds by a lock until it is done:

    .NAME.0.scene4d-draft/          one writer's; removed when it is done
        .scene4d-owner              locked while its writer lives; holds its process id
        NAME                        what is being written
    .NAME.scene4d-lock              held by the verb that makes NAME, from its start to its end

The kernel frees a lock when its process ends, however that ends, so a draft that nobody holds is a dead process's and
may go: process ids, which are given out again, are there for people. Where a disk has no locks, drafts of others stay.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scene4d.disk_errors import writing
from scene4d.errors import ResourceError

DRAFT, LOCK, OWNER, OLD = ".scene4d-draft", ".scene4d-lock", ".scene4d-owner", ".scene4d-old"
PARTS, JOB = ".scene4d-parts", "job.json"
"""What an unfinished `convert` goes on from; its output's lock tells whether one is at work."""


@contextlib.contextmanager
def draft_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside `target` that this process holds; it is removed when the block ends.

    What dead writers of the same target left is removed first.

    Raises:
        OSError: the folder cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    names = (target.with_name(f".{_short(target.name)}.{number}{DRAFT}") for number in itertools.count())
    folder, lock = next((name, held) for name in names if (held := _new_draft(name)) is not None)
    while remove_draft(next(names)):  # they are numbered without a gap
        pass
    try:
        yield folder
    finally:
        removed = _remove_held(folder)
        if not removed:  # hardly a file can be opened: under a name that no writer takes, it needs no lock
            rest = folder.with_name(f".{_short(target.name)}.{os.fstat(lock).st_ino}.rest{DRAFT}")
            with contextlib.suppress(OSError):
                os.rename(folder, rest)
        os.close(lock)
        if not removed:
            _remove_with_one_descriptor(rest)


def _remove_held(folder: Path) -> bool:
    """Remove a draft whose lock this process holds; False if something of it stays.

    Its owner goes after all else, so that a removal that is cut short leaves what the next one knows for a draft. From
    then on the folder may be another's, who made a new owner in it or removed it: it goes only if it is empty.
    """
    try:
        for path in [each for each in folder.iterdir() if each.name != OWNER]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        (folder / OWNER).unlink()
    except OSError:
        return False
    with contextlib.suppress(OSError):
        folder.rmdir()
    return True


def _remove_with_one_descriptor(folder: Path) -> None:
    """Remove a folder where hardly a file can be opened any more: `rmtree` opens one for each level."""
    for root, folders, files in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            for name in files:
                os.unlink(os.path.join(root, name))
            for name in folders:
                os.rmdir(os.path.join(root, name))
    with contextlib.suppress(OSError):
        folder.rmdir()


def _new_draft(folder: Path) -> int | None:
    """Make and lock a draft; its lock's descriptor, or None where a living process has one of this name."""
    while True:
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            if not remove_draft(folder):
                return None
            continue
        try:
            return _hold(folder / OWNER)
        except (FileNotFoundError, BlockingIOError):
            continue  # one who cleans up was faster: make it again
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            raise


def remove_draft(folder: Path) -> bool:
    """Remove a draft unless a living process holds it, or scene4d did not make it; whether it was removed.

    A folder that its writer had moved away to take its place goes back, if the new one did not come.
    """
    owner = folder / OWNER
    try:
        if not owner.exists():
            folder.rmdir()  # its maker was killed at once; what is not empty is somebody else's
            return True
        lock = _hold(owner, alone=True)
    except OSError:
        return False
    try:
        for moved in (folder / OLD).iterdir() if (folder / OLD).is_dir() else ():
            if not folder.with_name(moved.name).exists():
                os.rename(moved, folder.with_name(moved.name))
        return _remove_held(folder)
    finally:
        os.close(lock)


@contextlib.contextmanager
def claimed(target: str | os.PathLike) -> Iterator[None]:
    """Hold an output that takes long to make for this process alone; what dead writers left beside it is removed.

    Raises:
        ResourceError: another process holds it (its pid is named), or its folder cannot be written.
    """
    place = Path(target).resolve()
    lock = lock_of(place)
    made: list[Path] = []
    handle = None
    try:
        with writing(place):
            while handle is None:
                made += _make_folders(place.parent)
                handle = _claim(lock, target)
            for draft in place.parent.glob(f".*{DRAFT}"):
                remove_draft(draft)
        yield
    finally:
        if handle is not None:
            lock.unlink(missing_ok=True)  # while it is held: whoever opened it meanwhile sees that it is gone
            os.close(handle)
        with contextlib.suppress(OSError):
            for folder in reversed(made):
                folder.rmdir()  # where nothing came into it


def _claim(lock: Path, target: str | os.PathLike) -> int | None:
    """Hold a lock; None where its folder was removed meanwhile."""
    try:
        return _hold(lock)
    except BlockingIOError as error:
        fix = "wait for it, or name another output"
        raise ResourceError("another process writes this", file=target, found=holder(lock), fix=fix) from error
    except FileNotFoundError:
        return None


@dataclass(frozen=True)
class Leftover:
    """A draft, lock or unfinished `convert` in a folder."""

    path: Path
    num_bytes: int
    held: bool
    """A living process holds it, or that cannot be known."""


def leftovers(folder: Path) -> list[Leftover]:
    """What unfinished writers have in a folder and those below it; links are not followed."""
    found: list[Leftover] = []
    for root, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = Path(root) / name
            if path.is_symlink() or not name.startswith("."):
                continue
            if name.endswith(DRAFT) and name in folders and _is_draft(path):
                held = (path / OWNER).exists() and not is_free(path / OWNER)
            elif name.endswith(LOCK) and name in files:
                held = not is_free(path)
            elif name.endswith(PARTS) and name in folders and ((path / JOB).is_file() or not any(path.iterdir())):
                held = not is_free(lock_of(path.with_name(name[1 : -len(PARTS)])))
            else:
                continue
            found.append(Leftover(path, num_bytes=_size(path), held=held))
        folders[:] = [name for name in folders if not name.endswith((DRAFT, PARTS))]
    return found


def remove_leftovers(folder: Path) -> list[Leftover]:
    """Remove the `leftovers` of a folder that no living process holds; those that were removed."""
    removed = []
    for each in leftovers(folder):
        if each.held:
            continue
        with writing(each.path):
            if each.path.name.endswith(DRAFT):
                gone = remove_draft(each.path)
            elif each.path.name.endswith(LOCK):
                gone = _remove_lock(each.path)
            else:
                with claimed(each.path.with_name(each.path.name[1 : -len(PARTS)])):
                    shutil.rmtree(each.path)
                gone = True
        removed += [each] if gone else []
    return removed


def lock_of(target: Path) -> Path:
    """The lock of an output; it lies beside it."""
    return target.with_name(f".{_short(target.name)}{LOCK}")


def holder(lock: Path) -> str:
    """Who holds a lock, as far as it says."""
    with contextlib.suppress(OSError):
        return f"pid {lock.read_text(errors='replace')[:20].strip() or 'unknown'}"
    return "pid unknown"


def _is_draft(folder: Path) -> bool:
    """Whether scene4d made it: it has an owner, or is empty since its maker was killed at once."""
    return (folder / OWNER).exists() or not any(folder.iterdir())


def _remove_lock(lock: Path) -> bool:
    try:
        handle = _hold(lock, alone=True)
    except OSError:
        return False
    lock.unlink(missing_ok=True)
    os.close(handle)
    return True


def _size(path: Path) -> int:
    inside = path.rglob("*") if path.is_dir() else (path,)
    return sum(each.lstat().st_size for each in inside if each.is_file() and not each.is_symlink())


def is_free(lock: Path) -> bool:
    """Whether no living process holds a lock file; False also where that cannot be known."""
    try:
        os.close(_hold(lock, alone=True))
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _hold(path: Path, *, alone: bool = False) -> int:
    """Make and lock a file, and write this process's id into it; its descriptor, which holds the lock until it closes.

    Args:
        alone: only a file that is there, and only if it is certain that no other process lives that holds it.
    Raises:
        BlockingIOError: another process holds it. FileNotFoundError: its folder is not there; with `alone`, the file.
    """
    while True:
        handle = os.open(path, os.O_RDWR | (0 if alone else os.O_CREAT), 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # A disk without locks: one's own file is of use all the same, of others' nothing is known.
                if alone or error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP):
                    raise
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    if not alone:
                        _write_id(handle, path)
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # it was removed between its opening and its locking


def _write_id(handle: int, lock: Path) -> None:
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
    except OSError:
        lock.unlink(missing_ok=True)
        raise


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; the new ones, outermost first."""
    missing = list(itertools.takewhile(lambda each: not each.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _short(name: str) -> str:
    """A name that leaves room for what is added to it, and is no other's."""
    if len(os.fsencode(name)) <= 200:
        return name
    return f"{name[:40]}.{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"

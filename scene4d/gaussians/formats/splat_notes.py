"""Splats as a file gave them: the Gaussians, what was mended, and notes on what was read otherwise or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from scene4d.errors import DataFormatError
from scene4d.files import open_regular
from scene4d.gaussians.edit import sanitize
from scene4d.ledger import LeftOut
from scene4d.types import Gaussians

MAX_BYTES = 1 << 31
"""Of a packed file, and of what comes out of it: more is refused before it is read."""


@dataclass(frozen=True)
class Splats:
    """An unbatched set [n] with activated values, in the axes that `open_splats` names for its format."""

    gaussians: Gaussians
    form: str
    """Name of the format, such as "PLY" or "SPZ 3"."""
    mended: dict[str, int]
    """Rows that each rule of `sanitize` touched, by rule."""
    notes: tuple[LeftOut, ...] = ()

    def with_notes(self, *notes: LeftOut) -> Splats:
        """The same with more notes; those without names are none."""
        return replace(self, notes=(*self.notes, *(note for note in notes if note.names)))


def checked_splats(
    gaussians: Gaussians, *, form: str, file: Path, strict: bool, notes: tuple[LeftOut, ...] = ()
) -> Splats:
    """Splats without impossible values.

    Raises:
        GaussianError: `strict`, and a value is impossible.
    """
    good, mended = sanitize(gaussians, strict=strict, file=file)
    return Splats(good, form, mended).with_notes(*notes)


def antialiased_note(names: tuple[str, ...]) -> LeftOut:
    """Splats that were trained with the screen filter of Mip-Splatting; `names` of what says so."""
    reason = "trained with antialiasing: render with antialiased=True to see what was trained"
    return LeftOut("antialiased", "opacities", names, reason, lost=False)


def read_whole(path: Path, *, what: str) -> bytes:
    """The bytes of a file of at most 2 GiB.

    Raises:
        DataFormatError: larger, or not there.
    """
    try:
        size = path.stat().st_size
        check_size(size, path=path, what=what)
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise DataFormatError(f"cannot be read: {error.strerror}", file=path, fix="check the path") from error


def check_size(size: int, *, path: Path, what: str) -> None:
    """Refuse what takes more than 2 GiB.

    Raises:
        DataFormatError: it does.
    """
    if size > MAX_BYTES:
        problem, expected = f"{what} is larger than what is read at once", f"<= {MAX_BYTES} bytes (2 GiB)"
        fix = "split it, or export it as .ply"
        raise DataFormatError(problem, file=path, field="size", found=f"{size} bytes", expected=expected, fix=fix)

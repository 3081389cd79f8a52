"""Splats as a file gave them: the Gaussians, what was mended, and notes on what was read otherwise or not at all."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scene4d.errors import DataFormatError
from scene4d.files import open_regular
from scene4d.gaussians.edit import sanitize
from scene4d.types import Gaussians

MAX_BYTES = 1 << 31
"""Of a packed file, and of what comes out of it: more is refused before it is read."""


@dataclass(frozen=True)
class SplatNote:
    """One kind of what a reader of splats read otherwise than it lies in the file, or left out."""

    kind: str
    """Stable word for scripts, such as "columns", "flat", "filter_fused", "activated_values"."""
    field: str
    """What of the splats: columns, scales, opacities, sh, ..."""
    names: tuple[str, ...]
    """The columns or parts concerned."""
    reason: str
    """What was done, and why."""
    fix: str = ""
    """What to do, in words."""
    lost: bool = True
    """Whether a part of the file is lost or in doubt by it, which is a finding; False: it is only listed."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready with stable keys."""
        return {**asdict(self), "names": list(self.names)}

    def __str__(self) -> str:
        shown = ", ".join(self.names[:3]) + (" ..." if len(self.names) > 3 else "")
        return f"{shown}: {self.reason}"


@dataclass(frozen=True)
class Splats:
    """An unbatched set [n] with activated values, in the axes that `open_splats` names for its format."""

    gaussians: Gaussians
    form: str
    """Name of the format, such as "PLY" or "SPZ 3"."""
    mended: dict[str, int]
    """Rows that each rule of `sanitize` touched, by rule."""
    notes: tuple[SplatNote, ...] = ()

    def with_notes(self, *notes: SplatNote) -> Splats:
        """The same with more notes; those without names are none."""
        return replace(self, notes=(*self.notes, *(note for note in notes if note.names)))


def checked_splats(
    gaussians: Gaussians, *, form: str, file: Path, strict: bool, notes: tuple[SplatNote, ...] = ()
) -> Splats:
    """Splats without impossible values.

    Raises:
        GaussianError: `strict`, and a value is impossible.
    """
    good, mended = sanitize(gaussians, strict=strict, file=file)
    return Splats(good, form, mended).with_notes(*notes)


def antialiased_note(names: tuple[str, ...]) -> SplatNote:
    """Splats that were trained with the screen filter of Mip-Splatting; `names` of what says so."""
    reason = "trained with antialiasing: render with antialiased=True to see what was trained"
    return SplatNote("antialiased", "opacities", names, reason, lost=False)


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

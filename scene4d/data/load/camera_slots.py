"""Which camera of each recording fills which slot of a batch: by name, by one of several names, or by position."""

from __future__ import annotations

from collections.abc import Sequence

from scene4d.errors import ConfigError, DataFormatError
from scene4d.types import Recording

Slots = tuple[str | None, ...]


def fill_slots(recordings: Sequence[Recording], wanted: Sequence[str], *, missing: str) -> list[Slots]:
    """The camera of every recording for each slot, None where it has none.

    Args:
        wanted: a slot is "NAME", "#0" (the first camera of the recording), or several of these joined by "|", of which
            the first that is there is taken. None at all: the cameras of the first recording, by name.
        missing: "error", or "mask" to leave slots of a recording empty (but not all of them).
    Raises:
        DataFormatError: a recording lacks a camera, with the difference; or has none of them at all.
        ConfigError: the slots or `missing` cannot be.
    """
    if missing not in ("error", "mask"):
        raise ConfigError("is neither", field="missing_cameras", found=missing, expected=["error", "mask"])
    slots = tuple(wanted) or tuple(recordings[0].cameras)
    if len(set(slots)) != len(slots):
        raise ConfigError("names a camera twice", field="cameras", found=list(slots))
    filled = [tuple(_find(slot, recording.cameras) for slot in slots) for recording in recordings]
    lacking = [k for k, cameras in enumerate(filled) if None in cameras]
    if lacking and missing == "error":
        raise _difference(recordings, filled, slots=slots, lacking=lacking)
    for k in lacking:
        if not any(filled[k]):
            raise DataFormatError(
                f"recording {k} has none of the cameras asked for",
                file=recordings[k].path,
                field="cameras",
                found=list(recordings[k].cameras),
                expected=list(slots),
                fix="leave this recording out, or name a camera that it has",
            )
    for k, cameras in enumerate(filled):
        used = [name for name in cameras if name is not None]
        if len(set(used)) != len(used):
            where = {"file": recordings[k].path, "field": "cameras"}
            raise ConfigError("two slots take one camera", **where, found=dict(zip(slots, cameras, strict=True)))
    return filled


def _find(slot: str, cameras: Sequence[str]) -> str | None:
    for wanted in slot.split("|"):
        if wanted in cameras:
            return wanted
        if wanted.startswith("#") and wanted[1:].isdigit() and int(wanted[1:]) < len(cameras):
            return cameras[int(wanted[1:])]
    return None


def _difference(
    recordings: Sequence[Recording], filled: Sequence[Slots], *, slots: Slots, lacking: Sequence[int]
) -> DataFormatError:
    first = recordings[lacking[0]]
    lacks = [slot for slot, name in zip(slots, filled[lacking[0]], strict=True) if name is None]
    more = [name for name in first.cameras if name not in filled[lacking[0]]]
    found = f"lacks {', '.join(map(str, lacks))}" + (f"; has {', '.join(more)}" if more else "")
    return DataFormatError(
        f"the cameras differ: {len(lacking)} of {len(recordings)} recordings lack some, first number {lacking[0]}",
        file=first.path,
        field="cameras",
        found=found,
        expected=", ".join(map(str, slots)),
        fix='name only cameras that all have, join names by "|", or set missing_cameras = "mask"',
    )

"""What a reader met and did not use as it lies there: one list, kept in `info`, shown by `check` and `convert`.

Every reader writes here, and nowhere else, what it leaves out or reads otherwise: frames, masks, models, columns,
topics, terms of a lens, tasks, files. What is not listed was used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

LEDGER = "left_out"  # its key in the `info` of a recording or an episode


@dataclass(frozen=True)
class LeftOut:
    """One kind of what was not used."""

    kind: str
    """Stable word for scripts, such as "missing_images", "lost_poses", "topics"."""
    field: str
    """What of the recording: images, depth, mask, pose, lens, columns, topics, task, files, ..."""
    names: tuple[str, ...]
    """Each of them, by the name that it has in the recording."""
    reason: str
    """Why it was not used, and what is read instead."""
    fix: str = ""
    """What to do, in words."""
    camera: str | None = None
    """Camera concerned; None = all, or none in particular."""
    lost: bool = True
    """Whether a part of the recording is lost by it, which is a finding; False: it is only listed."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready with stable keys."""
        return {**asdict(self), "names": list(self.names)}

    def __str__(self) -> str:
        shown = ", ".join(self.names[:3]) + (" ..." if len(self.names) > 3 else "")
        return f"{len(self.names)}: {shown}; {self.reason}"


def with_left_out(info: Mapping[str, Any], *entries: LeftOut) -> dict[str, Any]:
    """`info` with entries added to its ledger; entries without names are none."""
    known = left_out(info)
    added = [entry for entry in dict.fromkeys(entries) if entry.names and entry not in known]
    ledger = [entry.as_dict() for entry in (*known, *added)]
    return {**info, LEDGER: ledger} if ledger else dict(info)


def left_out(info: Mapping[str, Any]) -> tuple[LeftOut, ...]:
    """The ledger of a recording or an episode."""
    return tuple(LeftOut(**{**entry, "names": tuple(entry["names"])}) for entry in info.get(LEDGER, ()))


def joined_info(info: Mapping[str, Any], notes: Mapping[str, Any]) -> dict[str, Any]:
    """`info` and what was found out later; the ledgers of both are kept."""
    return with_left_out({**info, **{k: v for k, v in notes.items() if k != LEDGER}}, *left_out(notes))


def missing_images(names: tuple[str, ...] | list[str]) -> LeftOut:
    """Images that are listed, and not there."""
    fix = "put them back; they are left out until then"
    return LeftOut("missing_images", "images", tuple(names), "listed, but not there", fix)


def lost_poses(names: tuple[str, ...] | list[str]) -> LeftOut:
    """Frames whose camera has no finite pose."""
    reason = "no finite pose: these frames are left out"
    return LeftOut("lost_poses", "pose", tuple(names), reason, "track the camera again, or go on without them")


def uncalibrated(names: tuple[str, ...] | list[str]) -> LeftOut:
    """Sources of pictures without a camera."""
    reason = "no calibration: these pictures are left out"
    return LeftOut("no_calibration", "cameras", tuple(names), reason, "add them to cameras.json")


def frame_counts(counts: Mapping[str, int], *, used: int) -> LeftOut:
    """Columns of a recording whose numbers of frames differ."""
    names = tuple(f"{name} {count}" for name, count in counts.items())
    return LeftOut("frame_counts", "frames", names, f"the numbers of frames differ: {used} are used", "record it again")


def missing_depth(names: Sequence[str], *, camera: str | None = None) -> LeftOut:
    """Frames whose depth is not there, while that of others is."""
    reason, fix = "no depth file: nothing is measured in these frames", "put the files back"
    return LeftOut("missing_depth", "depth", tuple(names), reason, fix, camera)


def missing_masks(names: Sequence[str], *, camera: str | None = None) -> LeftOut:
    """Frames whose mask is not there, while that of others is."""
    reason, fix = "no mask: the whole picture counts as usable", "put the masks back"
    return LeftOut("missing_masks", "mask", tuple(names), reason, fix, camera)


def turned_pictures(names: Sequence[str]) -> LeftOut:
    """Pictures with an orientation tag, which viewers show turned."""
    reason = (
        "an orientation tag: which picture was calibrated, the stored or the shown one, cannot be known; "
        "the stored one is read"
    )
    fix = "remove the tag where the stored pixels were calibrated, else turn the pixels, then remove it"
    return LeftOut("orientation_tags", "images", tuple(names), reason, fix)


def resized_depth(depth: tuple[int, int], color: tuple[int, int]) -> LeftOut:
    """Depth of another scale than colour; none where the sizes (width, height) are the same."""
    names = () if depth == color else ("{}x{}".format(*depth),)
    reason = "colour is {}x{}: depth is taken at the nearest pixels".format(*color)
    return LeftOut("depth_size", "depth", names, reason, lost=False)


def low_confidence(count: int) -> LeftOut:
    """Frames with a confidence map, whose lowest level is taken as not measured."""
    names = (f"{count} maps",) if count else ()
    return LeftOut(
        "low_confidence", "depth", names, "depth of the lowest confidence counts as not measured", lost=False
    )


def no_regular_files(names: Sequence[str]) -> LeftOut:
    """Entries of a folder that are named like pictures and are pipes, devices, or links that lead nowhere."""
    reason = "no regular files: they are not opened"
    return LeftOut("no_regular_files", "files", tuple(names), reason, "copy the files to their places")


def unused_files(names: Sequence[str]) -> LeftOut:
    """Files of a known layout that hold what is not read."""
    return LeftOut("unused_files", "files", tuple(names), "not read", lost=False)

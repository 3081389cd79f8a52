"""Pictures of one reconstruction that differ in size: which of them are one recording, and on what canvas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from scene4d.data.video.pictures import Canvas
from scene4d.ledger import LeftOut

MIN_SHARE = 0.5  # of the canvas that each picture of a group covers


def grouped_sizes(sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Indices of pictures that share a canvas, in order: a few pixels more or less, or upright and lying ones.

    Undistorted pictures of a model differ so. Pictures that would leave more than half of the canvas empty are apart.
    """
    groups: list[list[tuple[int, int]]] = []
    for size, _ in Counter(sizes).most_common():
        for group in groups:
            width, height = Canvas([*group, size]).size
            if all(w * h >= MIN_SHARE * width * height for w, h in (*group, size)):
                group.append(size)
                break
        else:
            groups.append([size])
    indices = [[i for i, size in enumerate(sizes) if size in group] for group in groups]
    return sorted(indices)


def sizes_entry(sizes: Sequence[tuple[int, int]], *, camera: str) -> LeftOut:
    """What becomes of pictures of several sizes, for the ledger; without names where all have one."""
    counts = Counter(sizes)
    names = tuple(f"{w}x{h}: {count}" for (w, h), count in counts.items()) if len(counts) > 1 else ()
    width, height = Canvas(sizes).size
    reason = f"each lies in the upper left corner of {width}x{height} pixels, with alpha 0 beside it"
    return LeftOut("picture_sizes", "images", names, reason, camera=camera, lost=False)

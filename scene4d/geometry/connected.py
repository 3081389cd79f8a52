"""What hangs together: rows joined by pairs, and pixels of a mask that touch."""

from __future__ import annotations

import numpy as np


def connected_parts(first: np.ndarray, second: np.ndarray, *, num_rows: int) -> np.ndarray:
    """[num_rows] the part of each row, named by the lowest row in it, where row first[i] is joined to row second[i]."""
    part = np.arange(num_rows)
    while True:  # each takes the lowest name that it touches, then that one's own
        lowest = np.minimum(part[first], part[second])
        joined = part.copy()
        for rows in (first, second):
            np.minimum.at(joined, rows, lowest)
            np.minimum.at(joined, part[rows], lowest)
        joined = joined[joined]
        if (joined == part).all():
            return part
        part = joined


def connected_regions(mask: np.ndarray) -> np.ndarray:
    """Numbers [h w] of the regions of a mask [h w]: 0 outside, one above 0 for all pixels that touch by a side."""
    begins = mask.copy()
    begins[:, 1:] &= ~mask[:, :-1]
    runs = begins.ravel().cumsum().reshape(mask.shape) * mask
    both = mask[1:] & mask[:-1]
    return connected_parts(runs[:-1][both], runs[1:][both], num_rows=int(runs.max(initial=0)) + 1)[runs]

"""What one instant's measurements do to the rows in memory: measure those that agree, find those that must go."""

from __future__ import annotations

import numpy as np

from scene4d.lift.stream.row_store import RowStore
from scene4d.lift.stream.visibility import AGREES, HIDDEN, RECOLOURED, UNKNOWN, VIOLATED, FrameObservation, Visibility


def contradicted_rows(memory: RowStore, observation: FrameObservation, *, visibility: Visibility) -> np.ndarray:
    """[n] rows that the cameras looked through, and moving rows that slid under or off their surface."""
    column = np.arange(len(memory))
    at_home, gap = visibility.status[memory.home, column], visibility.gap[memory.home, column]
    moving, agrees = memory.moving, visibility.agrees
    centre = -np.einsum("vab,va->vb", observation.viewmats[:, :3, :3], observation.viewmats[:, :3, 3])
    facing = ((centre[memory.home] - memory.x) * memory.normal).sum(-1) > 0
    sunk = moving & (at_home == HIDDEN) & (gap < 2.0 * memory.spacing) & facing & ~agrees
    recoloured = (at_home == RECOLOURED) & ~agrees
    if recoloured.sum() > 0.3 * max(1, (at_home != UNKNOWN).sum()):
        recoloured[:] = False  # the light or the exposure changed, not the surfaces
    return visibility.violated | sunk | recoloured | (moving & (at_home == VIOLATED) & ~agrees)


def measure_rows(
    memory: RowStore, observation: FrameObservation, *, visibility: Visibility, frame: int, colour_share: float
) -> None:
    """Give every pixel the row that is nearest to its centre; the others that agree there are spare for now.

    Args:
        frame: index of the instant. colour_share: of the new colour in what moving rows are recognised by.
    """
    good = visibility.status == AGREES
    column = np.arange(len(memory))
    at_home = good[memory.home, column]
    view = np.where(at_home, memory.home, good.argmax(0))
    seen = good.any(axis=0)
    pixel = view * observation.num_pixels + visibility.pixel[view, column]
    rank = visibility.off_centre[view, column] + np.where(at_home, 0.0, 10.0)
    rows = np.nonzero(seen)[0]
    order = rows[np.lexsort((memory.ids[rows], rank[rows], pixel[rows]))]
    first = np.ones(len(order), dtype=bool)
    first[1:] = pixel[order[1:]] != pixel[order[:-1]]
    winners = order[first]
    lifted_of_pixel = np.full(observation.num_views * observation.num_pixels, -1, dtype=np.int64)
    lifted_of_pixel[observation.pixel] = np.arange(len(observation.pixel))
    memory.lifted[:] = -1
    memory.lifted[winners] = lifted_of_pixel[pixel[winners]]
    spare = seen.copy()
    spare[winners] = False
    memory.spare[:] = np.where(spare, memory.spare + 1, 0)
    memory.home[rows] = view[rows]
    memory.seen[rows] = frame
    measured = np.nonzero(memory.lifted >= 0)[0]
    memory.spacing[measured] = observation.spacing[memory.lifted[measured]]
    share = np.where(memory.moving[measured], colour_share, 1.0)[:, None]
    memory.colour[measured] += share * (observation.colours[memory.lifted[measured]] - memory.colour[measured])

"""New rows for what nothing in memory explains, on the anchors of the moving rows that they continue."""

from __future__ import annotations

import numpy as np

from scene4d.lift.stream.point_search import nearest_in
from scene4d.lift.stream.rigid_anchors import Anchors, Skin, multiply_quats, rotate_by_quats
from scene4d.lift.stream.row_store import RowStore
from scene4d.lift.stream.visibility import FrameObservation


def spawn_rows(
    memory: RowStore, anchors: Anchors, *, observation: FrameObservation, chosen: np.ndarray, time: float, frame: int
) -> None:
    """Add rows for the lifted points `chosen` [k]; those next to moving rows are bound to the same anchors.

    Args:
        time: second from which they exist; frame: its index.
    """
    num = len(chosen)
    skin_index = np.zeros((num, memory.num_skin), dtype=np.int64)
    skin_weights = np.zeros((num, memory.num_skin), dtype=np.float32)
    means = observation.points[chosen].copy()
    turn = np.tile([1.0, 0.0, 0.0, 0.0], (num, 1))
    lifted = observation.lifted
    quats = lifted.quats.numpy()[chosen].astype(np.float64)
    normals = observation.normals[chosen].copy()
    mate = nearest_moving_rows(memory, observation, chosen=chosen)
    joins = mate >= 0
    if joins.any():
        skin_index[joins] = memory.skin_index[mate[joins]]
        skin_weights[joins] = memory.skin_weights[mate[joins]]
        skin = Skin(skin_index[joins], skin_weights[joins].astype(np.float64))
        means[joins] = anchors.rest_of(means[joins], skin)
        turn[joins] = anchors.turn(skin)
        back = turn[joins] * [1.0, -1.0, -1.0, -1.0]
        quats[joins] = multiply_quats(back, quats[joins])
        normals[joins] = rotate_by_quats(back, normals[joins])
    columns = {
        "place": means,
        "means": means.astype(np.float32),
        "quats": quats.astype(np.float32),
        "skin_index": skin_index,
        "skin_weights": skin_weights,
        "extra_normals": normals.astype(np.float32),
        "turn": turn,
        "spacing": observation.spacing[chosen],
        "spawn_scales": lifted.scales.numpy()[chosen],
        "home": observation.pixel[chosen] // observation.num_pixels,
        "seen": np.full(num, frame),
    }
    memory.spawn(lifted, chosen, columns=columns, time=time)


def nearest_moving_rows(memory: RowStore, observation: FrameObservation, *, chosen: np.ndarray) -> np.ndarray:
    """[k] the moving row that each new point continues, -1 where it is nearer to a static row or to none."""
    mate = np.full(len(chosen), -1, dtype=np.int64)
    if len(memory) == 0 or not memory.moving.any():
        return mate
    spacing = observation.typical_spacing

    def features(points: np.ndarray, normals: np.ndarray, *, colours: np.ndarray) -> np.ndarray:
        return np.concatenate([points / spacing, normals, 4.0 * colours], -1)

    query = features(observation.points[chosen], observation.normals[chosen], colours=observation.colours[chosen])

    def nearest(rows: np.ndarray):
        known = features(memory.x[rows], memory.normal[rows], colours=memory.colour[rows])
        return nearest_in(known, query, limit=4.0)

    moving = np.nonzero(memory.moving)[0]
    low, high = observation.points[chosen].min(0) - 4 * spacing, observation.points[chosen].max(0) + 4 * spacing
    static = np.nonzero(~memory.moving & (memory.x > low).all(1) & (memory.x < high).all(1))[0]
    distance, index = nearest(moving)
    found = index < len(moving)
    if len(static):
        # In doubt a point is static: background laid bare beside something that moves must not be dragged along.
        found &= distance < 0.8 * nearest(static)[0]
    mate[found] = moving[index[found]]
    return mate

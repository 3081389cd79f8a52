"""Where rows are over time, which is all that grouping by motion asks for: from a scene, or from tracked points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.errors import ShapeError
from scene4d.geometry.neighbours import farthest_points, nearest
from scene4d.geometry.sh import rgb_from_sh
from scene4d.scene import Scene4D, alive_at
from scene4d.tensor_struct import TensorStruct, shapes


@dataclass(frozen=True)
class Tracks(TensorStruct):
    """Points followed over time.

    positions [t n 3] m, float64; valid [t n] bool: the point exists and its place is known then; times [t] s;
    ids [n] int64 persistent, -1 = no point; colours [n 3] in [0, 1]; normals [n 3] at the last valid time, 0 = unknown;
    solid [n] bool: False = belongs to no object by itself (the sky, what is nearly transparent).
    """

    positions: Tensor
    valid: Tensor
    times: Tensor
    ids: Tensor
    colours: Tensor
    normals: Tensor
    solid: Tensor

    SHAPES = shapes(positions="t n 3", valid="t n", times="t", ids="n", colours="n 3", normals="n 3", solid="n")

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """None: tracks are one scene's."""
        return ()

    @property
    def num_rows(self) -> int:
        """Points."""
        return len(self.ids)

    def rows(self, index: Tensor) -> Tracks:
        """Those of some points: a [n] mask or an index list."""
        return Tracks(
            positions=self.positions[:, index],
            valid=self.valid[:, index],
            times=self.times,
            ids=self.ids[index],
            colours=self.colours[index],
            normals=self.normals[index],
            solid=self.solid[index],
        )

    def instants(self, index: Tensor) -> Tracks:
        """Those at some of the times."""
        return self.replace(positions=self.positions[index], valid=self.valid[index], times=self.times[index])

    @property
    def last(self) -> Tensor:
        """[n 3] where each point is at its last valid time; where it lies first if it never is."""
        steps = torch.arange(len(self.times))[:, None].expand_as(self.valid)
        late = torch.where(self.valid, steps, -1).amax(0).clamp_min(0)
        return self.positions[late, torch.arange(self.num_rows)]


def tracks_of_scene(scene: Scene4D, *, times: Tensor | None = None, min_opacity: float = 0.05) -> Tracks:
    """The rows of an unbatched scene at its times, or at `times` [t] s, observed and predicted alike.

    Solid are rows of at least `min_opacity` that extras["confidence"], where there is one, does not call sky (0).

    Raises:
        ShapeError: the scene has batch axes, or there is no instant.
    """
    if scene.batch_shape:
        raise ShapeError("tracks are of one scene", field="scene", found=scene.batch_shape, expected="no batch axes")
    times = scene.times if times is None else times.to(torch.float64)
    if len(times) == 0:
        raise ShapeError("has no instant", field="times", found=0, expected="at least one")
    base, positions, valid = scene.base, [], []
    normals = base.extras.get("normals", torch.zeros_like(base.means))
    with torch.no_grad():
        for time in times:
            now, alive = scene.at(time), alive_at(scene, time)
            positions.append(now.means.double())
            valid.append(alive & (base.ids >= 0))
            if "normals" in now.extras:
                normals = torch.where(alive[:, None], now.extras["normals"].to(normals), normals)
    solid = (base.ids >= 0) & (base.opacities >= min_opacity)
    if "confidence" in base.extras:
        solid &= base.extras["confidence"][:, 0] > 0
    return Tracks(
        positions=torch.stack(positions),
        valid=torch.stack(valid),
        times=times,
        ids=base.ids,
        colours=rgb_from_sh(base.sh).double().clamp(0, 1),
        normals=normals.double(),
        solid=solid,
    )


def tracks_of_points(
    positions: Tensor,
    *,
    times: Tensor,
    valid: Tensor | None = None,
    ids: Tensor | None = None,
    colours: Tensor | None = None,
) -> Tracks:
    """Tracks of points [t n 3] m from any tracker; where a coordinate is not finite the point is not known.

    Args:
        valid: [t n] bool, all by default. ids: [n], by default counted. colours: [n 3], by default all alike.
    """
    num = positions.shape[1]
    known = positions.isfinite().all(-1)
    return Tracks(
        positions=torch.where(known[..., None], positions, 0.0).double(),
        valid=known if valid is None else known & valid,
        times=times.to(torch.float64),
        ids=torch.arange(num) if ids is None else ids,
        colours=torch.full((num, 3), 0.5).double() if colours is None else colours.double(),
        normals=torch.zeros(num, 3).double(),
        solid=torch.ones(num, dtype=torch.bool) if ids is None else ids >= 0,
    )


def track_noise(tracks: Tracks, *, num_rows: int = 512) -> float:
    """Standard deviation in m, an axis, of the places of points about their true ones.

    Read off the distance between close points, which no rigid motion changes; 0 where too little is followed.
    """
    rows = (tracks.valid.sum(0) >= 4).nonzero()[:, 0]
    if len(rows) < 2:
        return 0.0
    places = tracks.rows(rows).last
    chosen = farthest_points(places, min(num_rows, len(rows)), start=None)
    _, near = nearest(places, places[chosen], num=min(4, len(rows)))
    first, second = rows[chosen][:, None].expand(-1, near.shape[1] - 1), rows[near[:, 1:]]
    both = tracks.valid[:, first] & tracks.valid[:, second]  # [t s k]
    distance = (tracks.positions[:, first] - tracks.positions[:, second]).norm(dim=-1)
    count = both.sum(0)
    mean = (both * distance).sum(0) / count.clamp_min(1)
    spread = ((both * (distance - mean).square()).sum(0) / (count - 1).clamp_min(1)).sqrt()
    known = spread[count >= 4]
    return float(known.median()) / 2**0.5 if len(known) else 0.0


def colour_feature(colours: Tensor) -> Tensor:
    """Colours [n 3] with brightness, which changes with light and attitude, at 0.4 of its weight."""
    grey = colours.mean(-1, keepdim=True)
    return colours - 0.6 * grey

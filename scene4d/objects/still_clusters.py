"""What never moved: large planes are the background, the rest is clustered by place, and within a cluster by colour."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.geometry.neighbours import farthest_points, nearest
from scene4d.objects.rigid_bodies import parts_of
from scene4d.objects.tracks import Tracks, colour_feature

PLANE_REACH = 0.1
"""Gap in m across which a plane goes on: what stands on it hides some of it."""


@dataclass(frozen=True)
class StillConfig:
    """How rows that never moved are grouped."""

    reach: float = 0.03
    """Gap in m that parts two objects."""
    colour: float = 0.15
    """Step of colour, all channels together, that parts two objects that touch."""
    min_rows: int = 8
    """Rows that an object has at least."""
    min_share: float = 0.08
    """Share of its cluster that a patch of another colour has at least to be an object of its own."""
    plane_length: float = 0.5
    """Metres that a plane is long at least to be background: a table, a wall, the floor."""
    plane_width: float = 0.02
    """Metres that it is wide at least."""
    plane_rows: int = 40
    """Rows that it has at least, of those that are looked at."""
    plane_height: float = 0.008
    """Distance in m from a plane up to which rows lie in it."""
    plane_turn: float = 0.85
    """Least cosine between a row's normal and that of its plane."""
    num_seeds: int = 64
    """Places that a plane is looked for from at once."""
    max_planes: int = 12
    """Most planes."""
    max_rows: int = 6000
    """Most rows that planes are looked for among."""
    margin: float = 0.02
    """Metres from the rim of the largest plane up to which what stands there belongs to the rim."""
    overhang: float = 0.3
    """Metres beyond that rim up to which what is above `clearance` is still an object: an arm that reaches over a
    table."""
    clearance: float = 0.15
    """Metres over the largest plane from which nothing is its rim."""


@dataclass(frozen=True)
class Plane:
    """A point [3] in the plane, its normal [3], and the rows [r 3] of it that were looked at."""

    point: Tensor
    normal: Tensor
    members: Tensor


def still_clusters(tracks: Tracks, *, config: StillConfig) -> tuple[Tensor, Tensor]:
    """Group rows [n] that never moved.

    Background are planes longer than an object, what lies beside the largest of them (the rim of a table, the room
    round it), specks, and what is no longer there at the end.

    Returns:
        The object of each row [n], -1 = background, and the cluster by place alone [n], -1 likewise: a cluster holds
        one object or several that touch.
    """
    points, colours, normals, alive = tracks.last, tracks.colours, tracks.normals, tracks.valid[-1]
    place, number = torch.full((len(points),), -1), torch.full((len(points),), -1)
    background = torch.zeros(len(points), dtype=torch.bool)
    support, most = None, 0
    for plane in background_planes(points, normals=normals, config=config):
        inside = lies_in(points, normals, plane=plane, config=config)
        background |= inside
        if int(inside.sum()) > most:
            support, most = plane, int(inside.sum())
    left = (~background).nonzero()[:, 0]
    above = 1.0 if support is None else _side_of(points[left], support, config=config)
    part, count = parts_of(points[left], reach=config.reach), 0
    for name in part.unique():
        rows = left[part == name]
        if int(alive[rows].sum()) < config.min_rows:
            continue
        patches = _colour_patches(points[rows], colours[rows], config=config)
        for patch in range(int(patches.max()) + 1):
            own = rows[patches == patch]
            if int(alive[own].sum()) < config.min_rows:
                continue
            if support is None or _stands_on(points[own], support, above=above, config=config):
                place[own], number[own] = int(name), count
                count += 1
    return number, place


def _side_of(points: Tensor, plane: Plane, *, config: StillConfig) -> float:
    """1 or -1: the side of a plane on which most of the points [r 3] over it are, along its normal."""
    inside = _beyond_rim(points, plane) < 0
    height = (points[inside] - plane.point) @ plane.normal
    return 1.0 if float((height > config.plane_height).sum()) >= float((height < -config.plane_height).sum()) else -1.0


def _beyond_rim(points: Tensor, plane: Plane, *, num_directions: int = 32) -> Tensor:
    """[r] by how many m points lie beyond the rim of what is seen of a plane, along it; less than 0 = over it."""
    centre, axes = _principal(plane.members)
    angle = torch.arange(num_directions, dtype=torch.float64) * (2 * torch.pi / num_directions)
    directions = axes[:, 1:] @ torch.stack([angle.cos(), angle.sin()])  # [3 d]
    rim = ((plane.members - centre) @ directions).quantile(0.995, 0)
    return ((points - centre) @ directions - rim).amax(-1)


def _stands_on(points: Tensor, plane: Plane, *, above: float, config: StillConfig) -> bool:
    """Whether most of points [r 3] stand on a plane, within its rim, or reach over it from beside it."""
    beyond = _beyond_rim(points, plane)
    high = above * ((points - plane.point) @ plane.normal) > config.clearance
    return float(((beyond < -config.margin) | (high & (beyond < config.overhang))).double().mean()) > 0.5


def background_planes(points: Tensor, *, normals: Tensor, config: StillConfig) -> list[Plane]:
    """Planes longer and wider than an object, the one with most rows first."""
    rows = torch.arange(len(points))
    if len(rows) > config.max_rows:
        rows = rows[:: -(-len(rows) // config.max_rows)]
    planes: list[Plane] = []
    while len(rows) >= config.min_rows and len(planes) < config.max_planes:
        x, n = points[rows], normals[rows]
        seeds = farthest_points(x, min(config.num_seeds, len(rows)), start=None)
        _, near = nearest(x, x[seeds], num=min(24, len(rows)))
        centre, axes = _principal(x[near])  # [s 3], [s 3 3]
        height = ((x[None] - centre[:, None]) @ axes[:, :, :1])[..., 0].abs()  # [s n]
        inside = (height < config.plane_height) & _turned_alike(n, axes[:, :, 0], config=config)
        found = None
        for seed in inside.sum(1).argsort(descending=True, stable=True):
            found = _plane_at(x, n, inside=inside[seed], config=config)
            if found is not None:
                break
        if found is None:
            break
        planes.append(found)
        rows = rows[~lies_in(x, n, plane=found, config=config)]
    return planes


def _plane_at(points: Tensor, normals: Tensor, *, inside: Tensor, config: StillConfig) -> Plane | None:
    """The plane through the largest connected piece of some rows [n], refitted; None where it is no larger than
    objects."""
    plane = None
    for _ in range(3):
        if int(inside.sum()) < config.plane_rows:
            return None
        rows = inside.nonzero()[:, 0]
        part = parts_of(points[rows], reach=PLANE_REACH)
        rows = rows[part == part.mode().values]
        if len(rows) < config.plane_rows:
            return None
        centre, axes = _principal(points[rows])
        plane = Plane(centre, axes[:, 0], points[rows])
        along = (points[rows] - centre) @ axes[:, 1:]  # [r 2] width, length
        width, length = (along.quantile(0.97, 0) - along.quantile(0.03, 0)).tolist()
        if length < config.plane_length or width < config.plane_width:
            return None
        inside = lies_in(points, normals, plane=plane, config=config)
    return plane


def lies_in(points: Tensor, normals: Tensor, *, plane: Plane, config: StillConfig) -> Tensor:
    """[n] whether points lie in a plane, where it was seen."""
    inside = ((points - plane.point) @ plane.normal).abs() < config.plane_height
    inside &= _turned_alike(normals, plane.normal[None], config=config)[0]
    distance, _ = nearest(plane.members, points[inside], num=1)
    inside[inside.nonzero()[:, 0]] = distance[:, 0] < PLANE_REACH
    return inside


def _turned_alike(normals: Tensor, axes: Tensor, *, config: StillConfig) -> Tensor:
    """[s n] whether normals [n 3] are along axes [s 3], or unknown."""
    return ((normals @ axes.T).abs() > config.plane_turn * normals.norm(dim=-1, keepdim=True)).T | (normals == 0).all(
        -1
    )


def _principal(points: Tensor) -> tuple[Tensor, Tensor]:
    """Centre [*b 3] and principal axes [*b 3 3] (columns) of points [*b r 3], the thinnest first."""
    centre = points.mean(-2)
    off = points - centre[..., None, :]
    return centre, torch.linalg.eigh(off.mT @ off)[1]


def _colour_patches(points: Tensor, colours: Tensor, *, config: StillConfig) -> Tensor:
    """[n] 0.. the patch of like colour of each row of one cluster; patches too small go to the nearest large one."""
    feature = torch.cat([points, colour_feature(colours) * (config.reach / config.colour)], -1)
    part = parts_of(feature, reach=config.reach)
    _, index, count = part.unique(return_inverse=True, return_counts=True)
    large = count >= max(config.min_rows, config.min_share * len(points))
    if int(large.sum()) < 2:
        return torch.zeros(len(points), dtype=torch.int64)
    number = torch.where(large, large.cumsum(0) - 1, -1)[index]
    small = number < 0
    if bool(small.any()):
        _, near = nearest(feature[~small], feature[small], num=1)
        number[small] = number[~small][near[:, 0]]
    return number

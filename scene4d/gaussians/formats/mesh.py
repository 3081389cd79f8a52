"""Surfaces out of depth images: a truncated signed distance field on the voxels near what was seen, and its mesh."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scene4d.check import check
from scene4d.errors import ResourceError, ShapeError
from scene4d.extras import optional
from scene4d.geometry.camera import pixel_centres, unproject
from scene4d.geometry.connected import connected_parts
from scene4d.types import Frames

BLOCK = 8
CHUNK = 1 << 17  # voxels at a time: what fits into a cache
MAX_VOXELS = 1 << 27
TRUNCATION = 4.0  # voxels


@dataclass(frozen=True)
class Mesh:
    """Triangles in the world: vertices [p 3] m, faces [f 3] int64, anticlockwise from outside, colors [p 3] or None."""

    vertices: Tensor
    faces: Tensor
    colors: Tensor | None = None

    def __post_init__(self) -> None:
        check(vertices=(self.vertices, "p 3"), colors=(self.colors, "p 3"))
        check(faces=(self.faces, "f 3"))


@dataclass(frozen=True)
class Tsdf:
    """A signed distance field on a grid of voxels, known only near surfaces (weights > 0).

    Voxel (i, j, k) has its centre at `origin` + `voxel` (i, j, k) m. distances [x y z] in units of the truncation, 1 in
    the open and -1 inside; weights [x y z] number of images that saw the voxel; colors [a 3] of the voxels whose flat
    indices are `known` [a].
    """

    origin: Tensor
    voxel: float
    distances: Tensor
    weights: Tensor
    known: Tensor
    colors: Tensor


def mesh_from_depth(
    frames: Frames, *, voxel: float | None = None, min_weight: float = 1.0, min_faces: int = 64
) -> Mesh:
    """The surface that depth images [*v] agree on, coloured by them.

    Args:
        frames: recorded or rendered; depth 0 is a hole; float alpha below 1/2 makes it one.
        voxel: edge of a voxel in m; by default `fitting_voxel`.
        min_weight: images that must have seen a voxel.
        min_faces: connected pieces of fewer triangles are left out.
    Raises:
        ShapeError: there is no depth. ResourceError: the grid would be too large. EnvError: scikit-image is missing.
    Source: Curless and Levoy, A Volumetric Method for Building Complex Models from Range Images, 1996.
    """
    return mesh_from_tsdf(fuse_depth(frames, voxel=voxel), min_weight=min_weight, min_faces=min_faces)


def fuse_depth(frames: Frames, *, voxel: float | None = None) -> Tsdf:
    """Depth images [*v] averaged into one field, in blocks of 8^3 voxels where any of them saw a surface.

    Raises:
        ShapeError: there is no depth. ResourceError: the grid would be too large.
    """
    views = flat_views(frames)
    points = unproject(views.known_depth, views.cameras.viewmats, Ks=views.cameras.Ks)[views.known_depth > 0]
    low, high = _bounds(points)
    voxel = voxel or fitting_voxel(frames)
    truncation = TRUNCATION * voxel
    origin = low - 2 * truncation
    shape = (((high + 2 * truncation - origin) / voxel / BLOCK).ceil().long().clamp_min(1) * BLOCK).tolist()
    if shape[0] * shape[1] * shape[2] > MAX_VOXELS:
        found = f"{shape} voxels of {voxel:.3g} m"
        expected, fix = f"at most {MAX_VOXELS}", "name a larger voxel"
        raise ResourceError("the grid would be too large", field="voxel", found=found, expected=expected, fix=fix)
    known = _voxels_near(points, origin=origin, voxel=voxel, shape=shape)
    averages = [_averages(part, views, origin=origin, voxel=voxel, shape=shape) for part in known.split(CHUNK)]
    distances, weights, colors = (torch.cat(parts) for parts in zip(*averages, strict=True))
    grid = [torch.zeros(shape).flatten().index_copy(0, known, x).view(shape) for x in (distances, weights)]
    return Tsdf(origin=origin, voxel=voxel, distances=grid[0], weights=grid[1], known=known, colors=colors)


def fitting_voxel(frames: Frames) -> float:
    """The edge in m of a voxel as wide as a pixel is where most was seen, and a 256th of all that is seen or more.

    Raises:
        ShapeError: there is no depth.
    """
    views = flat_views(frames)
    points = unproject(views.known_depth, views.cameras.viewmats, Ks=views.cameras.Ks)[views.known_depth > 0]
    low, high = _bounds(points)
    focal = 0.5 * (views.cameras.Ks[:, 0, 0] + views.cameras.Ks[:, 1, 1])
    width = (views.known_depth / focal[:, None, None])[views.known_depth > 0].median()
    return max(float((high - low).max()) / 256, float(width), 1e-6)


def mesh_from_tsdf(tsdf: Tsdf, *, min_weight: float = 1.0, min_faces: int = 64) -> Mesh:
    """Marching cubes over the cubes whose eight corners were all seen by `min_weight` images.

    Raises:
        EnvError: scikit-image is missing.
    """
    measure = optional("skimage.measure", extra="geometry", what="marching cubes")
    seen = (tsdf.weights >= min_weight).numpy()
    distances = tsdf.distances.numpy()
    cubes = seen[1:, 1:, 1:].copy()
    for corner in np.ndindex(2, 2, 2):
        cubes &= seen[tuple(slice(c, c - 1 or None) for c in corner)]
    mask = np.pad(cubes, ((1, 0),) * 3)  # scikit-image wants the mask of a cube at its far corner
    if min(distances.shape) < 2 or not mask.any() or not distances[seen].min() < 0 < distances[seen].max():
        return Mesh(vertices=torch.zeros(0, 3), faces=torch.zeros(0, 3, dtype=torch.int64), colors=torch.zeros(0, 3))
    corners, faces, _, _ = measure.marching_cubes(distances, 0.0, mask=mask, gradient_direction="descent")
    kept, faces = _large_pieces(faces.astype(np.int64), num_vertices=len(corners), min_faces=min_faces)
    corners = torch.from_numpy(np.ascontiguousarray(corners[kept], np.float32))
    colors = _colors_at(tsdf, corners)
    vertices = corners.to(tsdf.origin) * tsdf.voxel + tsdf.origin
    return Mesh(vertices=vertices, faces=torch.from_numpy(faces), colors=colors)


def flat_views(frames: Frames) -> Frames:
    """Frames [*v] as [v] with depth 0 where it is not finite or coverage is below 1/2.

    Raises:
        ShapeError: nothing has depth.
    """
    depth = frames.depth
    if depth is not None:
        depth = torch.where(depth.isfinite() & (depth > 0), depth, 0.0)
        if frames.alpha is not None:
            depth = torch.where(frames.alpha >= 0.5, depth, 0.0)
    if depth is None or not bool((depth > 0).any()):
        raise ShapeError("no image has depth", field="depth", expected="depth > 0 somewhere")
    lead = len(frames.batch_shape)
    return Frames(rgb=frames.rgb, depth=depth, alpha=None, cameras=frames.cameras).map(
        lambda x: x.detach().cpu().float().reshape(-1, *x.shape[lead:])
    )


def _bounds(points: Tensor) -> tuple[Tensor, Tensor]:
    """Corners of the box of the points, but for stray ones further out than half its robust size."""
    sample = points[:: max(1, len(points) // 200_000)].sort(0).values
    low, high = (sample[round(q * (len(sample) - 1))] for q in (0.005, 0.995))
    slack = 0.5 * (high - low).max()
    return torch.maximum(points.amin(0), low - slack), torch.minimum(points.amax(0), high + slack)


def _voxels_near(points: Tensor, *, origin: Tensor, voxel: float, shape: list[int]) -> Tensor:
    """Flat indices [a], increasing, of the voxels in every block within the truncation of a point."""
    blocks = torch.tensor([n // BLOCK for n in shape])
    # One point a voxel is enough, and far fewer than pixels; the half voxel it may be off is added to the truncation.
    place = ((points - origin) / voxel).round().long()
    place = place[((place >= 0) & (place < torch.tensor(shape))).all(-1)]
    flat = (place[:, 0] * shape[1] + place[:, 1]) * shape[2] + place[:, 2]
    place = torch.stack(torch.unravel_index(flat.unique(), shape), -1)
    truncation = math.ceil(TRUNCATION + 0.5)
    cells = []
    # Steps shorter than a block from one face of the cube to the other meet every block that it touches.
    for offset in itertools.product((-truncation, 0, truncation), repeat=3):
        cell = (place + torch.tensor(offset)).div(BLOCK, rounding_mode="floor")
        inside = ((cell >= 0) & (cell < blocks)).all(-1)
        cells.append(((cell[:, 0] * blocks[1] + cell[:, 1]) * blocks[2] + cell[:, 2])[inside].unique())
    chosen = torch.stack(torch.unravel_index(torch.cat(cells).unique(), tuple(blocks.tolist())), -1) * BLOCK
    within = torch.stack(torch.meshgrid(*[torch.arange(BLOCK)] * 3, indexing="ij"), -1).reshape(-1, 3)
    voxels = (chosen[:, None] + within).reshape(-1, 3)
    return ((voxels[:, 0] * shape[1] + voxels[:, 1]) * shape[2] + voxels[:, 2]).sort().values


def _averages(
    known: Tensor, views: Frames, *, origin: Tensor, voxel: float, shape: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean truncated distances [a], image counts [a] and mean colours [a 3] of the voxels with flat indices [a].

    Distances are taken along the ray rather than along z, so that a surface seen at a slant is not pushed back.
    """
    truncation = TRUNCATION * voxel
    places = torch.stack(torch.unravel_index(known, shape)).to(origin) * voxel + origin[:, None]  # [3 a]
    cameras, count = views.cameras, len(known)
    distance, weight, color = places.new_zeros(count), places.new_zeros(count), places.new_zeros(count, 4)
    rays = torch.linalg.inv(cameras.Ks)
    centres = pixel_centres(cameras.width, cameras.height, like=places)
    centres = torch.cat([centres, torch.ones_like(centres[..., :1])], -1).reshape(-1, 3)
    for index in range(views.batch_shape[0]):
        viewmat = cameras.viewmats[index]
        x, y, z = cameras.Ks[index] @ (viewmat[:3, :3] @ places + viewmat[:3, 3:])
        column, row = (x / z).floor(), (y / z).floor()
        inside = (z > 0) & (column >= 0) & (column < cameras.width) & (row >= 0) & (row < cameras.height)
        rows = inside.nonzero()[:, 0]
        pixel = row[rows].long() * cameras.width + column[rows].long()
        depth = views.known_depth[index].flatten()[pixel]
        slant = (centres @ rays[index].T).norm(dim=-1)[pixel]
        gap = (depth - z[rows]) * slant / truncation
        counts = (gap > -1) & (depth > 0)
        rows, pixel, gap = rows[counts], pixel[counts], gap[counts]
        distance[rows] += gap.clamp_max(1.0)
        weight[rows] += 1
        near = gap < 1
        rows = rows[near]
        color[rows, :3] += views.rgb[index].reshape(-1, 3)[pixel[near]]
        color[rows, 3] += 1
    return distance / weight.clamp_min(1), weight, color[:, :3] / color[:, 3:].clamp_min(1)


def _large_pieces(faces: np.ndarray, *, num_vertices: int, min_faces: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices to keep (indices) and the faces, renumbered, of connected pieces of at least `min_faces`."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    piece = connected_parts(edges[:, 0], edges[:, 1], num_rows=num_vertices)
    faces = faces[np.bincount(piece[faces[:, 0]], minlength=piece.max() + 1)[piece[faces[:, 0]]] >= min_faces]
    kept, renumbered = np.unique(faces, return_inverse=True)
    return kept, renumbered.reshape(-1, 3)


def _colors_at(tsdf: Tsdf, corners: Tensor) -> Tensor:
    """Colours [p 3] at places in voxels [p 3]: of the known voxels round each, by their nearness."""
    shape = torch.tensor(tsdf.distances.shape)
    low = corners.floor().long().minimum(shape - 2).clamp_min(0)
    part = corners - low
    total, weight = corners.new_zeros(len(corners), 3), corners.new_full((len(corners), 1), 1e-9)
    for offset in np.ndindex(2, 2, 2):
        voxel = low + torch.tensor(offset)
        flat = (voxel[:, 0] * shape[1] + voxel[:, 1]) * shape[2] + voxel[:, 2]
        slot = torch.searchsorted(tsdf.known, flat).clamp_max(len(tsdf.known) - 1)
        near = torch.where(torch.tensor(offset) == 1, part, 1 - part).prod(-1) * (tsdf.known[slot] == flat)
        total += near[:, None] * tsdf.colors[slot]
        weight += near[:, None]
    return (total / weight).clamp(0, 1)

"""Per-anchor rigid motion over one step: as-rigid-as-possible iterative closest points with colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from scene4d.lift.stream.rigid_anchors import rotations_from_rotvecs, skew


@dataclass(frozen=True)
class ArapIcpConfig:
    """How the motion of anchors is found."""

    num_iterations: int = 4
    """Gauss-Newton steps, each with new correspondences."""
    colour_scale: float = 4.0
    """Colour difference 1 counts as this many pixel spacings in the search for correspondences."""
    normal_scale: float = 0.7
    """A right angle between normals counts as this many (times sqrt 2) pixel spacings in that search."""
    point_weight: float = 0.05
    """Weight of point-to-point residuals beside point-to-plane ones: what holds matter from sliding along itself."""
    rigidity: float = 3.0
    """Weight of as-rigid-as-possible residuals between neighbouring anchors, in points of evidence."""
    prior: float = 0.02
    """Pull towards last step's motion, in points of evidence: rules where nothing is seen."""
    outlier: float = 1.0
    """Residual in pixel spacings at which a correspondence counts a quarter."""
    joint: float = 0.01
    """Disagreement in m between neighbouring anchors at which their tie counts a quarter: parts may come apart."""
    max_points: int = 600
    """Most sources and most targets used."""


@dataclass(frozen=True)
class Cloud:
    """Oriented coloured points: points, normals, colours [n 3]."""

    points: np.ndarray
    normals: np.ndarray
    colours: np.ndarray

    def pick(self, index: np.ndarray) -> Cloud:
        """Some of them."""
        return Cloud(self.points[index], self.normals[index], self.colours[index])


@dataclass(frozen=True)
class SkinnedCloud:
    """Sources on anchors: `per_anchor` [n j 3] where each anchor alone puts them, index and weights [n j]."""

    cloud: Cloud
    per_anchor: np.ndarray
    index: np.ndarray
    weights: np.ndarray

    def pick(self, index: np.ndarray) -> SkinnedCloud:
        """Some of them."""
        return SkinnedCloud(self.cloud.pick(index), self.per_anchor[index], self.index[index], self.weights[index])


@dataclass(frozen=True)
class StepMotion:
    """Motion of anchors [m] over one step: rotation [m 3 3] about `centre` [m 3], then shift [m 3]."""

    centre: np.ndarray
    rotation: np.ndarray
    shift: np.ndarray

    def apply(self, per_anchor: np.ndarray, index: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Where skinned points go: [n 3]."""
        return (weights[..., None] * self.apply_each(per_anchor, index)).sum(1)

    def apply_each(self, per_anchor: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Where each anchor alone moves its copy [n j 3] of a point."""
        arm = per_anchor - self.centre[index]
        return np.einsum("njab,njb->nja", self.rotation[index], arm) + self.centre[index] + self.shift[index]


def motion_of_step(
    sources: SkinnedCloud,
    targets: Cloud,
    *,
    centres: np.ndarray,
    start: np.ndarray,
    spacing: float,
    config: ArapIcpConfig,
    front: np.ndarray,
) -> StepMotion:
    """The motion of every anchor that takes the sources onto the targets.

    Closest points in position, normal and colour are drawn together along the target's normal (and weakly across),
    sources to targets and, for the targets marked `front` (matter that came there), targets to sources; neighbouring
    anchors are kept rigid to each other. Robust weights let outliers and joints go.

    Args:
        sources: [n] on m anchors. targets: [p], front [p].
        centres: positions [m 3] of the anchors. start: motion [m 6] (turn, shift) to begin from, last step's.
        spacing: distance in m between neighbouring pixels on the surface.
    """
    sources, targets, front = _thinned(sources, targets, front, config.max_points)
    num_anchors = len(centres)
    edges = _edges(centres, spacing=spacing)
    rotation, shift = rotations_from_rotvecs(start[:, :3]), start[:, 3:].copy()
    tree = cKDTree(_features(targets, spacing, config), balanced_tree=False, compact_nodes=False)
    # Early on any match within a few pixels pulls; later only near ones do.
    widths = np.geomspace(3.0, 1.0, config.num_iterations) * config.outlier * spacing
    for width in widths:
        motion = StepMotion(centres, rotation, shift)
        each = motion.apply_each(sources.per_anchor, sources.index)
        points = (sources.weights[..., None] * each).sum(1)
        normals = np.einsum("nab,nb->na", rotation[sources.index[:, 0]], sources.cloud.normals)
        moved = Cloud(points, normals, sources.cloud.colours)
        source, target = _matches(moved, targets, tree, front=front, spacing=spacing, config=config)
        offset = targets.points[target] - points[source]
        facing = (targets.normals[target] * normals[source]).sum(-1) > 0.2
        distance = np.linalg.norm(offset, axis=-1)
        trust = facing / (1 + (distance / width) ** 2) ** 2
        normal = targets.normals[target]
        info = trust[:, None, None] * (normal[:, :, None] * normal[:, None, :] + config.point_weight * np.eye(3))
        arm = each[source] - (centres + shift)[sources.index[source]]
        system = _point_terms(info, offset, arm, sources.index[source], sources.weights[source], num_anchors)
        _rigid_terms(system, edges, centres, rotation, shift, config=config)
        _prior_terms(system, rotation, shift, start, spacing=spacing, weight=config.prior)
        matrix, vector = system
        step = _solved(matrix + 1e-9 * np.eye(len(matrix)), vector).reshape(-1, 6)
        rotation = rotations_from_rotvecs(step[:, :3]) @ rotation
        shift = shift + step[:, 3:]
        if np.abs(step[:, 3:]).max() < 5e-5:
            break
    return StepMotion(centres, rotation, shift)


def _solved(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """matrix^-1 vector, positive definite; in torch, since scipy's own threads are slow where cores are shared."""
    lower = torch.linalg.cholesky(torch.from_numpy(matrix))
    return torch.cholesky_solve(torch.from_numpy(vector).reshape(-1, 1), lower)[:, 0].numpy()


def _thinned(
    sources: SkinnedCloud, targets: Cloud, front: np.ndarray, limit: int
) -> tuple[SkinnedCloud, Cloud, np.ndarray]:
    if len(sources.index) > limit:
        sources = sources.pick(np.linspace(0, len(sources.index) - 1, limit).astype(np.int64))
    if len(targets.points) > 3 * limit:
        index = np.linspace(0, len(targets.points) - 1, 3 * limit).astype(np.int64)
        targets, front = targets.pick(index), front[index]
    return sources, targets, front


def _features(cloud: Cloud, spacing: float, config: ArapIcpConfig) -> np.ndarray:
    """[n 9] in pixel spacings."""
    return np.concatenate(
        [cloud.points / spacing, config.normal_scale * cloud.normals, config.colour_scale * cloud.colours], -1
    )


def _matches(moved: Cloud, targets: Cloud, tree: cKDTree, *, front: np.ndarray, spacing: float, config: ArapIcpConfig):
    """Pairs (source index, target index): nearest target of every source, nearest source of every front target."""
    features = _features(moved, spacing, config)
    _, target = tree.query(features, distance_upper_bound=4.0)
    source = np.nonzero(target < len(targets.points))[0]
    target = target[source]
    back = np.nonzero(front)[0]
    if len(back) > config.max_points:
        back = back[np.linspace(0, len(back) - 1, config.max_points).astype(np.int64)]
    if len(back):
        reverse = cKDTree(features, balanced_tree=False, compact_nodes=False)
        _, found = reverse.query(_features(targets.pick(back), spacing, config), distance_upper_bound=4.0)
        hit = found < len(features)
        source = np.concatenate([source, found[hit]])
        target = np.concatenate([target, back[hit]])
    return source, target


def _point_terms(
    info: np.ndarray, offset: np.ndarray, arm: np.ndarray, index: np.ndarray, weights: np.ndarray, num_anchors: int
):
    """Normal equations [6m 6m], [6m] of points [n]: weight matrices info [n 3 3], arms [n j 3] to their anchors."""
    num, num_skin = index.shape
    jacobian = np.empty((num, 3, num_skin, 6))
    jacobian[..., :3] = -(weights[..., None, None] * skew(arm)).transpose(0, 2, 1, 3)
    jacobian[..., 3:] = weights[:, None, :, None] * np.eye(3)[None, :, None, :]
    jacobian = jacobian.reshape(num, 3, num_skin * 6)
    weighted = info @ jacobian  # [n 3 6j]
    blocks = jacobian.transpose(0, 2, 1) @ weighted  # [n 6j 6j]
    right = (weighted * offset[:, :, None]).sum(1)
    unknown = (index[:, :, None] * 6 + np.arange(6)).reshape(num, num_skin * 6)
    size = num_anchors * 6
    flat = (unknown[:, :, None] * size + unknown[:, None, :]).reshape(-1)
    matrix = np.bincount(flat, weights=blocks.reshape(-1), minlength=size * size).reshape(size, size)
    vector = np.bincount(unknown.reshape(-1), weights=right.reshape(-1), minlength=size)
    # Of nothing bincount counts in integers, to which the other terms could not be added.
    return matrix.astype(np.float64, copy=False), vector.astype(np.float64, copy=False)


def _edges(centres: np.ndarray, *, spacing: float, num: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (a, b) of neighbouring anchors, both directions."""
    if len(centres) < 2:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    num = min(num, len(centres) - 1)
    _, index = cKDTree(centres).query(centres, k=num + 1)
    first = np.repeat(np.arange(len(centres)), num)
    second = index[:, 1:].reshape(-1)
    return np.concatenate([first, second]), np.concatenate([second, first])


def _rigid_terms(
    system, edges, centres: np.ndarray, rotation: np.ndarray, shift: np.ndarray, *, config: ArapIcpConfig
) -> None:
    """Anchor a's rigid motion should take anchor b where b goes, and turn as b does."""
    first, second = edges
    if len(first) == 0:
        return
    matrix, vector = system
    arm = np.einsum("eab,eb->ea", rotation[first], centres[second] - centres[first])
    error = centres[second] + shift[second] - (centres[first] + shift[first] + arm)
    length = np.linalg.norm(arm, axis=-1)
    trust = config.rigidity / (1 + ((error**2).sum(-1) / config.joint**2)) ** 2
    num = len(first)
    jacobian = np.zeros((num, 6, 12))  # residuals: place of b, turn difference times distance
    jacobian[:, :3, :3] = -skew(arm)
    jacobian[:, :3, 3:6] = np.eye(3)
    jacobian[:, :3, 9:] = -np.eye(3)
    jacobian[:, 3:, :3] = np.eye(3) * length[:, None, None] * 0.5
    jacobian[:, 3:, 6:9] = -np.eye(3) * length[:, None, None] * 0.5
    turned = np.einsum("eab,ecb->eac", rotation[second], rotation[first])
    twist = 0.5 * np.stack(
        [turned[:, 2, 1] - turned[:, 1, 2], turned[:, 0, 2] - turned[:, 2, 0], turned[:, 1, 0] - turned[:, 0, 1]], -1
    )
    residual = np.concatenate([error, twist * length[:, None] * 0.5], -1)
    weighted = jacobian * trust[:, None, None]
    blocks = jacobian.transpose(0, 2, 1) @ weighted
    right = (weighted * residual[:, :, None]).sum(1)
    unknown = np.concatenate([first[:, None] * 6 + np.arange(6), second[:, None] * 6 + np.arange(6)], 1)
    size = len(vector)
    flat = (unknown[:, :, None] * size + unknown[:, None, :]).reshape(-1)
    matrix += np.bincount(flat, weights=blocks.reshape(-1), minlength=size * size).reshape(size, size)
    vector += np.bincount(unknown.reshape(-1), weights=right.reshape(-1), minlength=size)


def _prior_terms(
    system, rotation: np.ndarray, shift: np.ndarray, start: np.ndarray, *, spacing: float, weight: float
) -> None:
    """A weak pull towards the motion of the last step."""
    matrix, vector = system
    relative = rotation @ rotations_from_rotvecs(start[:, :3]).transpose(0, 2, 1)
    twist = 0.5 * np.stack(
        [
            relative[:, 2, 1] - relative[:, 1, 2],
            relative[:, 0, 2] - relative[:, 2, 0],
            relative[:, 1, 0] - relative[:, 0, 1],
        ],
        -1,
    )
    lever = (4 * spacing) ** 2
    scale = weight * np.tile([lever, lever, lever, 1.0, 1.0, 1.0], len(shift))
    matrix[np.diag_indices(len(vector))] += scale
    vector -= scale * np.concatenate([twist, shift - start[:, 3:]], -1).reshape(-1)

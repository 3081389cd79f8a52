"""Per-anchor rigid motion over one step: as-rigid-as-possible iterative closest points with colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from scene4d.lift.stream.point_search import nearest_in
from scene4d.lift.stream.rigid_anchors import Skin, rotations_from_rotvecs, skew


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
    """Weight of point-to-point residuals beside point-to-plane ones: keeps a surface from sliding along itself."""
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
    """Sources on anchors: `per_anchor` [n j 3] where each anchor alone puts them, and their skin."""

    cloud: Cloud
    per_anchor: np.ndarray
    skin: Skin

    def pick(self, index: np.ndarray) -> SkinnedCloud:
        """Some of them."""
        return SkinnedCloud(self.cloud.pick(index), self.per_anchor[index], self.skin.pick(index))


@dataclass(frozen=True)
class StepMotion:
    """Motion of anchors [m] over one step: rotation [m 3 3] about `centre` [m 3], then shift [m 3]."""

    centre: np.ndarray
    rotation: np.ndarray
    shift: np.ndarray

    def apply(self, per_anchor: np.ndarray, skin: Skin) -> np.ndarray:
        """Where skinned points go: [n 3]."""
        return skin.blend(self.apply_each(per_anchor, skin.index))

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
    sources to targets and, for the targets marked `front` (a surface that came there), targets to sources; neighbouring
    anchors are kept rigid to each other. Robust weights let outliers and joints go.

    Args:
        sources: [n] on m anchors. targets: [p], front [p].
        centres: positions [m 3] of the anchors. start: motion [m 6] (turn, shift) to begin from, last step's.
        spacing: distance in m between neighbouring pixels on the surface.
    Source: Sorkine and Alexa, As-Rigid-As-Possible Surface Modeling, 2007; Chen and Medioni, 1992 (point to plane).
    """
    sources = sources.pick(_evenly(len(sources.cloud.points), limit=config.max_points))
    kept = _evenly(len(targets.points), limit=3 * config.max_points)
    targets, front = targets.pick(kept), front[kept]
    edges = _edges(centres)
    motion = before = StepMotion(centres, rotations_from_rotvecs(start[:, :3]), start[:, 3:].copy())
    known = _features(targets, spacing=spacing, config=config)
    # Early on any match within a few pixels pulls; later only near ones do.
    for width in np.geomspace(3.0, 1.0, config.num_iterations) * config.outlier * spacing:
        equations = NormalEquations(len(centres))
        each = motion.apply_each(sources.per_anchor, sources.skin.index)
        points = sources.skin.blend(each)
        normals = np.einsum("nab,nb->na", motion.rotation[sources.skin.index[:, 0]], sources.cloud.normals)
        moved = Cloud(points, normals, sources.cloud.colours)
        source, target = _matches(moved, targets, known=known, front=front, spacing=spacing, config=config)
        offset, normal = targets.points[target] - points[source], targets.normals[target]
        facing = (normal * normals[source]).sum(-1) > 0.2
        distance = np.linalg.norm(offset, axis=-1)
        weight = facing / (1 + (distance / width) ** 2) ** 2
        info = weight[:, None, None] * (normal[:, :, None] * normal[:, None, :] + config.point_weight * np.eye(3))
        skin = sources.skin.pick(source)
        equations.add_points(info, offset, arm=each[source] - (centres + motion.shift)[skin.index], skin=skin)
        equations.add_rigidity(motion, edges, config=config)
        equations.add_prior(motion, before, spacing=spacing, weight=config.prior)
        step = equations.solution()
        motion = StepMotion(centres, rotations_from_rotvecs(step[:, :3]) @ motion.rotation, motion.shift + step[:, 3:])
        if np.abs(step[:, 3:]).max() < 5e-5:
            break
    return motion


def _evenly(count: int, *, limit: int) -> np.ndarray:
    """Index of at most `limit` of `count` rows, evenly spread."""
    return np.linspace(0, count - 1, min(count, limit)).astype(np.int64)


def _features(cloud: Cloud, *, spacing: float, config: ArapIcpConfig) -> np.ndarray:
    """[n 9] in pixel spacings."""
    scaled = (cloud.points / spacing, config.normal_scale * cloud.normals, config.colour_scale * cloud.colours)
    return np.concatenate(scaled, -1)


def _matches(
    moved: Cloud, targets: Cloud, *, known: np.ndarray, front: np.ndarray, spacing: float, config: ArapIcpConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (source index, target index): nearest target of every source, nearest source of every front target."""
    features = _features(moved, spacing=spacing, config=config)
    _, target = nearest_in(known, features, limit=4.0)
    source = np.nonzero(target < len(targets.points))[0]
    target = target[source]
    back = np.nonzero(front)[0]
    back = back[_evenly(len(back), limit=config.max_points)]
    if len(back):
        queries = _features(targets.pick(back), spacing=spacing, config=config)
        _, found = nearest_in(features, queries, limit=4.0)
        hit = found < len(features)
        source = np.concatenate([source, found[hit]])
        target = np.concatenate([target, back[hit]])
    return source, target


def _edges(centres: np.ndarray, *, num: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (a, b) of neighbouring anchors, both directions."""
    if len(centres) < 2:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    num = min(num, len(centres) - 1)
    _, index = nearest_in(centres, centres, num=num + 1)
    first = np.repeat(np.arange(len(centres)), num)
    second = index[:, 1:].reshape(-1)
    return np.concatenate([first, second]), np.concatenate([second, first])


class NormalEquations:
    """matrix [6m 6m] x = vector [6m] for the step (turn, shift) of m anchors, gathered term by term."""

    def __init__(self, num_anchors: int) -> None:
        self.matrix = np.zeros((6 * num_anchors, 6 * num_anchors))
        self.vector = np.zeros(6 * num_anchors)

    def _add(self, jacobian: np.ndarray, weighted: np.ndarray, *, residual: np.ndarray, anchors: np.ndarray) -> None:
        """Residuals [n r] with derivatives [n r 6k], plain and times the weights, by the steps of `anchors` [n k]."""
        blocks = jacobian.transpose(0, 2, 1) @ weighted  # [n 6k 6k]
        right = (weighted * residual[:, :, None]).sum(1)
        unknown = (anchors[:, :, None] * 6 + np.arange(6)).reshape(len(anchors), anchors.shape[1] * 6)
        size = len(self.vector)
        flat = (unknown[:, :, None] * size + unknown[:, None, :]).reshape(-1)
        self.matrix += np.bincount(flat, weights=blocks.reshape(-1), minlength=size * size).reshape(size, size)
        self.vector += np.bincount(unknown.reshape(-1), weights=right.reshape(-1), minlength=size)

    def add_points(self, info: np.ndarray, offset: np.ndarray, *, arm: np.ndarray, skin: Skin) -> None:
        """Points [n] that should move by `offset` [n 3]: weights info [n 3 3], arms [n j 3] to their anchors."""
        num, num_skin = skin.index.shape
        jacobian = np.empty((num, 3, num_skin, 6))
        jacobian[..., :3] = -(skin.weights[..., None, None] * skew(arm)).transpose(0, 2, 1, 3)
        jacobian[..., 3:] = skin.weights[:, None, :, None] * np.eye(3)[None, :, None, :]
        jacobian = jacobian.reshape(num, 3, num_skin * 6)
        self._add(jacobian, info @ jacobian, residual=offset, anchors=skin.index)

    def add_rigidity(self, motion: StepMotion, edges: tuple[np.ndarray, np.ndarray], *, config: ArapIcpConfig) -> None:
        """Anchor a's rigid motion should take anchor b where b goes, and turn as b does."""
        first, second = edges
        if len(first) == 0:
            return
        centres, rotation, shift = motion.centre, motion.rotation, motion.shift
        arm = np.einsum("eab,eb->ea", rotation[first], centres[second] - centres[first])
        error = centres[second] + shift[second] - (centres[first] + shift[first] + arm)
        length = np.linalg.norm(arm, axis=-1)
        weight = config.rigidity / (1 + ((error**2).sum(-1) / config.joint**2)) ** 2
        jacobian = np.zeros((len(first), 6, 12))  # residuals: place of b, turn difference times distance
        jacobian[:, :3, :3] = -skew(arm)
        jacobian[:, :3, 3:6] = np.eye(3)
        jacobian[:, :3, 9:] = -np.eye(3)
        jacobian[:, 3:, :3] = np.eye(3) * length[:, None, None] * 0.5
        jacobian[:, 3:, 6:9] = -np.eye(3) * length[:, None, None] * 0.5
        turned = np.einsum("eab,ecb->eac", rotation[second], rotation[first])
        residual = np.concatenate([error, _small_turn(turned) * length[:, None] * 0.5], -1)
        self._add(jacobian, jacobian * weight[:, None, None], residual=residual, anchors=np.stack(edges, 1))

    def add_prior(self, motion: StepMotion, before: StepMotion, *, spacing: float, weight: float) -> None:
        """A weak pull towards the motion of the last step."""
        turn = _small_turn(motion.rotation @ before.rotation.transpose(0, 2, 1))
        lever = (4 * spacing) ** 2
        scale = weight * np.tile([lever, lever, lever, 1.0, 1.0, 1.0], len(motion.shift))
        self.matrix[np.diag_indices(len(self.vector))] += scale
        self.vector -= scale * np.concatenate([turn, motion.shift - before.shift], -1).reshape(-1)

    def solution(self) -> np.ndarray:
        """The step [m 6]; in torch, since scipy's own threads are slow where cores are shared."""
        lower = torch.linalg.cholesky(torch.from_numpy(self.matrix + 1e-9 * np.eye(len(self.matrix))))
        return torch.cholesky_solve(torch.from_numpy(self.vector).reshape(-1, 1), lower)[:, 0].numpy().reshape(-1, 6)


def _small_turn(rotations: np.ndarray) -> np.ndarray:
    """Rotation vectors [n 3] of rotations [n 3 3] by a small angle, to first order."""
    r = rotations
    return 0.5 * np.stack([r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], -1)

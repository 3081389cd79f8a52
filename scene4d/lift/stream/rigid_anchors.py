"""Anchors: points on moving objects, chosen once and then carried, each with the rigid motion of what is round it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from scene4d.geometry.rotation import multiply_quat, quat_from_matrix, rotate


@dataclass(frozen=True)
class Skin:
    """Which anchors carry each row, `index` [n j], and how much, `weights` [n j]; all 0 = static."""

    index: np.ndarray
    weights: np.ndarray

    def pick(self, rows: np.ndarray) -> Skin:
        """Some of them."""
        return Skin(self.index[rows], self.weights[rows])

    def blend(self, per_anchor: np.ndarray) -> np.ndarray:
        """The weighted mean [n 3] of what each anchor alone gives, [n j 3]."""
        return (self.weights[..., None] * per_anchor).sum(1)


class Anchors:
    """Rest positions and world-from-rest poses of anchors, now and at the instants so far that are not forgotten.

    Rows that start to move later than their surroundings cannot use the same anchors: those have a past that the rows
    did not share. They get mirrors of them, which rest until then and follow their `parent` afterwards.
    Anchor 0 is the world: it never moves.
    """

    def __init__(self) -> None:
        self.rest = np.zeros((1, 3))
        self.parent = np.zeros(1, dtype=np.int64)
        self.rotation = np.eye(3)[None].copy()
        self.shift = np.zeros((1, 3))
        self.velocity = np.zeros((1, 6))
        """Motion [m 6] (turn about the anchor, shift) over the last step."""
        self.history: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.rest)

    @property
    def now(self) -> np.ndarray:
        """Where the anchors [m 3] are."""
        return np.einsum("mab,mb->ma", self.rotation, self.rest) + self.shift

    @property
    def roots(self) -> np.ndarray:
        """Index of the anchors that have a motion of their own."""
        index = np.arange(1, len(self))
        return index[self.parent[1:] == index]

    def add(self, positions: np.ndarray, *, parent: np.ndarray | None = None) -> np.ndarray:
        """New anchors that have rested at `positions` [k 3] until now; returns their index."""
        index = np.arange(len(self), len(self) + len(positions))
        self.rest = np.concatenate([self.rest, positions])
        self.parent = np.concatenate([self.parent, index if parent is None else parent])
        self.rotation = np.concatenate([self.rotation, np.broadcast_to(np.eye(3), (len(positions), 3, 3))])
        self.shift = np.concatenate([self.shift, np.zeros((len(positions), 3))])
        velocity = np.zeros((len(positions), 6)) if parent is None else self.velocity[parent]
        self.velocity = np.concatenate([self.velocity, velocity])
        return index

    def mirrored(self, index: np.ndarray) -> np.ndarray:
        """For each entry of `index`, a mirror that rests now: the anchor itself if it has never moved."""
        unique, inverse = np.unique(index, return_inverse=True)
        fresh = (self.shift[unique] == 0).all(-1) & (self.rotation[unique] == np.eye(3)).all((-1, -2))
        mirror = unique.copy()
        moved = unique[~fresh]
        mirror[~fresh] = self.add(self.now[moved], parent=self.parent[moved])
        return mirror[inverse].reshape(index.shape)

    def move(self, rotation: np.ndarray, shift: np.ndarray, *, velocity: np.ndarray) -> None:
        """Apply the motion over one step, given for all anchors [m], to the roots and their mirrors."""
        rotation, shift = rotation[self.parent], shift[self.parent]
        self.velocity = velocity[self.parent]
        self.rotation = rotation @ self.rotation
        self.shift = np.einsum("mab,mb->ma", rotation, self.shift) + shift

    def record(self) -> None:
        """Close the present instant."""
        self.history.append(np.concatenate([quats_from_matrices(self.rotation), self.shift], -1))

    def forget(self, count: int) -> None:
        """Drop the poses of the first `count` instants in memory."""
        self.history = self.history[count:]

    def poses(self) -> np.ndarray:
        """World-from-rest poses [t m 7] of all instants in memory; an anchor rests before it is added."""
        poses = np.zeros((len(self.history), len(self), 7))
        poses[..., 0] = 1
        for time, known in enumerate(self.history):
            poses[time, : len(known)] = known
        return poses

    def per_anchor(self, rest: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Where each of its anchors alone would carry rest points [n 3]: [n j 3]."""
        return np.einsum("njab,nb->nja", self.rotation[index], rest) + self.shift[index]

    def carry(self, rest: np.ndarray, skin: Skin) -> np.ndarray:
        """Where rest points [n 3] are now."""
        return skin.blend(self.per_anchor(rest, skin.index))

    def rest_of(self, points: np.ndarray, skin: Skin) -> np.ndarray:
        """The rest points [n 3] that are now at `points`: the inverse of `carry`."""
        rotation = (skin.weights[..., None, None] * self.rotation[skin.index]).sum(1)
        return np.linalg.solve(rotation, (points - skin.blend(self.shift[skin.index]))[..., None])[..., 0]

    def turn(self, skin: Skin) -> np.ndarray:
        """Blended rotations [n 4] (wxyz) of skinned rows, as Scene4D.at blends them."""
        quats = quats_from_matrices(self.rotation)[skin.index]
        first = np.take_along_axis(quats, skin.weights.argmax(1)[:, None, None], 1)
        sign = np.where((quats * first).sum(-1) < 0, -skin.weights, skin.weights)
        blended = (sign[..., None] * quats).sum(1)
        return blended / np.maximum(np.linalg.norm(blended, axis=-1, keepdims=True), 1e-12)


def rotations_from_rotvecs(rotvecs: np.ndarray) -> np.ndarray:
    """Rotation matrices [m 3 3] of rotation vectors [m 3] (Rodrigues)."""
    angle = np.linalg.norm(rotvecs, axis=-1)[:, None, None]
    safe = np.where(angle < 1e-8, 1.0, angle)
    cross = skew(rotvecs) / safe
    return np.eye(3) + np.where(angle < 1e-8, 0.0, np.sin(angle)) * cross + (1 - np.cos(angle)) * cross @ cross


def rotvecs_from_rotations(rotations: np.ndarray) -> np.ndarray:
    """Rotation vectors [m 3] of rotation matrices [m 3 3] (angles below pi)."""
    quats = quats_from_matrices(rotations)
    sine = np.linalg.norm(quats[:, 1:], axis=-1, keepdims=True)
    factor = np.where(sine < 1e-9, 2.0, 2 * np.arctan2(sine, quats[:, :1]) / np.maximum(sine, 1e-9))
    return factor * quats[:, 1:]


def skew(vectors: np.ndarray) -> np.ndarray:
    """Matrices [... 3 3] that take the cross product with vectors [... 3]."""
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    zero = np.zeros_like(x)
    rows = [np.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return np.stack(rows, -2)


def quats_from_matrices(matrices: np.ndarray) -> np.ndarray:
    """Unit quaternions [m 4] (wxyz, w >= 0) of rotation matrices [m 3 3]."""
    return quat_from_matrix(torch.from_numpy(np.ascontiguousarray(matrices))).numpy()


def multiply_quats(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton products [n 4]: the rotation b, then a."""
    return multiply_quat(torch.from_numpy(a), torch.from_numpy(b)).numpy()


def rotate_by_quats(quats: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Vectors [n 3] turned by unit quaternions [n 4]."""
    return rotate(torch.from_numpy(quats), torch.from_numpy(vectors)).numpy()


def skin_to(points: np.ndarray, anchors: np.ndarray, *, num: int, spacing: float) -> Skin:
    """Points [n 3] bound to the nearest `num` of `anchors` [m 3], weights fading with distance; 0 beyond those."""
    used = min(num, len(anchors))
    square = ((points[:, None] - anchors[None]) ** 2).sum(-1)  # [n m]
    index = np.argpartition(square, used - 1, axis=1)[:, :used]
    near = np.take_along_axis(square, index, 1)
    order = np.argsort(near, axis=1, kind="stable")
    index, near = np.take_along_axis(index, order, 1), np.take_along_axis(near, order, 1)
    weights = np.exp(-(near - near[:, :1]) / (2 * (0.6 * spacing) ** 2))
    missing = ((0, 0), (0, num - used))
    return Skin(np.pad(index, missing), np.pad(weights / weights.sum(1, keepdims=True), missing))

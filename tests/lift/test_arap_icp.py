"""Anchor motion: a known motion is found, bodies come apart, mirrored anchors share the future but not the past."""

from __future__ import annotations

import numpy as np
import pytest

from scene4d.lift.stream.arap_icp import ArapIcpConfig, Cloud, NormalEquations, SkinnedCloud, motion_of_step
from scene4d.lift.stream.rigid_anchors import Anchors, Skin, quats_from_matrices, rotations_from_rotvecs, skin_to

SPACING = 0.02


def _blob(centre, *, seed: int, num: int = 900) -> Cloud:
    """A bumpy coloured ball of radius about 0.12 m."""
    random = np.random.default_rng(seed)
    direction = random.normal(size=(num, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    radius = 0.12 + 0.02 * np.sin(4 * direction[:, :1]) * np.cos(3 * direction[:, 1:2])
    colours = 0.5 + 0.3 * np.sin(5 * direction + [0, 1, 2])
    return Cloud(centre + radius * direction, direction, colours)


def _skinned(cloud: Cloud, centres: np.ndarray) -> SkinnedCloud:
    skin = skin_to(cloud.points, centres, num=3, spacing=0.08)
    return SkinnedCloud(cloud, np.repeat(cloud.points[:, None], 3, 1), skin)


def _moved(cloud: Cloud, rotvec, shift) -> Cloud:
    rotation = rotations_from_rotvecs(np.array([rotvec], dtype=np.float64))[0]
    centre = cloud.points.mean(0)
    return Cloud((cloud.points - centre) @ rotation.T + centre + shift, cloud.normals @ rotation.T, cloud.colours)


def _solve(sources: SkinnedCloud, targets: Cloud, centres: np.ndarray):
    return motion_of_step(
        sources,
        targets,
        centres=centres,
        start=np.zeros((len(centres), 6)),
        spacing=SPACING,
        config=ArapIcpConfig(num_iterations=8),
        front=np.ones(len(targets.points), dtype=bool),
    )


def _anchors_of(cloud: Cloud, num: int = 8) -> np.ndarray:
    chosen = [0]
    while len(chosen) < num:
        distance = np.linalg.norm(cloud.points[:, None] - cloud.points[chosen][None], axis=-1).min(1)
        chosen.append(int(distance.argmax()))
    return cloud.points[chosen]


def test_a_known_motion_is_found():
    cloud = _blob(np.zeros(3), seed=0)
    centres = _anchors_of(cloud)
    target = _moved(cloud, [0.02, -0.03, 0.05], np.array([0.012, -0.008, 0.006]))
    sources = _skinned(cloud, centres)
    motion = _solve(sources, target, centres)
    found = motion.apply(sources.per_anchor, sources.skin)
    assert np.linalg.norm(found - target.points, axis=-1).mean() < 0.0015


def test_two_bodies_move_apart():
    left, right = _blob(np.array([-0.13, 0, 0]), seed=1), _blob(np.array([0.13, 0, 0]), seed=2)
    both = Cloud(*(np.concatenate(pair) for pair in zip(vars(left).values(), vars(right).values(), strict=True)))
    centres = np.concatenate([_anchors_of(left), _anchors_of(right)])
    ends = _moved(left, [0, 0, 0], np.array([-0.015, 0, 0])), right
    target = Cloud(*(np.concatenate(pair) for pair in zip(vars(ends[0]).values(), vars(ends[1]).values(), strict=True)))
    each = [_skinned(left, centres[:8]), _skinned(right, centres[8:])]
    sources = SkinnedCloud(
        both,
        np.concatenate([s.per_anchor for s in each]),
        Skin(
            np.concatenate([each[0].skin.index, each[1].skin.index + 8]),
            np.concatenate([s.skin.weights for s in each]),
        ),
    )
    motion = _solve(sources, target, centres)
    found = motion.apply(sources.per_anchor, sources.skin) - both.points
    assert abs(found[: len(left.points), 0].mean() + 0.015) < 0.002
    assert np.abs(found[len(left.points) :].mean(0)).max() < 0.002


def test_an_anchor_without_evidence_keeps_its_motion():
    cloud = _blob(np.zeros(3), seed=3)
    centres = np.concatenate([_anchors_of(cloud), [[5.0, 0, 0]]])
    start = np.zeros((9, 6))
    start[-1, 3:] = [0.01, 0, 0]
    sources = _skinned(cloud, centres)
    motion = motion_of_step(
        sources,
        cloud,
        centres=centres,
        start=start,
        spacing=SPACING,
        config=ArapIcpConfig(rigidity=0.0),
        front=np.zeros(len(cloud.points), dtype=bool),
    )
    np.testing.assert_allclose(motion.shift[-1], [0.01, 0, 0], atol=1e-4)
    assert np.abs(motion.shift[:-1]).max() < 1e-3


def test_rest_is_the_inverse_of_carry():
    anchors, random = Anchors(), np.random.default_rng(0)
    index = anchors.add(random.normal(size=(4, 3)))
    for _ in range(3):
        rotation = rotations_from_rotvecs(0.2 * random.normal(size=(len(anchors), 3)))
        shift = 0.1 * random.normal(size=(len(anchors), 3))
        rotation[0], shift[0] = np.eye(3), 0
        anchors.move(rotation, shift, velocity=np.zeros((len(anchors), 6)))
    points = random.normal(size=(20, 3))
    skin = Skin(np.tile(index[:3], (20, 1)), np.tile([0.5, 0.3, 0.2], (20, 1)))
    np.testing.assert_allclose(anchors.carry(anchors.rest_of(points, skin), skin), points, atol=1e-9)


def test_mirrored_anchors_rest_until_they_are_made_and_follow_afterwards():
    anchors = Anchors()
    parent = anchors.add(np.array([[0.1, 0.2, 0.3]]))
    rotation = rotations_from_rotvecs(np.array([[0.0, 0, 0], [0, 0, 0.1]]))
    shift = np.array([[0.0, 0, 0], [0.05, 0, 0]])
    assert anchors.mirrored(parent[:, None])[0, 0] == parent[0]  # it has never moved: no mirror is needed
    anchors.record()
    anchors.move(rotation, shift, velocity=np.zeros((2, 6)))
    anchors.record()
    mirror = int(anchors.mirrored(parent[:, None])[0, 0])
    assert mirror != parent[0]
    anchors.move(rotation[[0, 1, 1]], shift[[0, 1, 1]], velocity=np.zeros((3, 6)))
    anchors.record()
    poses = anchors.poses()
    np.testing.assert_allclose(poses[:2, mirror], np.tile([1.0, 0, 0, 0, 0, 0, 0], (2, 1)))
    np.testing.assert_allclose(poses[2, mirror, :4], quats_from_matrices(rotation)[1], atol=1e-9)
    np.testing.assert_allclose(poses[2, mirror, 4:], shift[1], atol=1e-9)
    np.testing.assert_allclose(poses[:, 0], np.tile([1.0, 0, 0, 0, 0, 0, 0], (3, 1)))


@pytest.mark.parametrize("num_anchors", [1, 8])
@pytest.mark.parametrize("num_targets", [0, 900])
def test_where_nothing_matches_the_last_motion_goes_on(num_anchors, num_targets):
    """Sources that no target is near to, and no target at all."""
    cloud = _blob(np.zeros(3), seed=0)
    centres = _anchors_of(cloud, num=num_anchors)
    index = np.arange(3)[None].repeat(len(cloud.points), 0) % num_anchors
    sources = SkinnedCloud(cloud, np.repeat(cloud.points[:, None], 3, 1), Skin(index, np.full(index.shape, 1 / 3)))
    far = _blob(np.array([5.0, 0.0, 0.0]), seed=1, num=num_targets)
    start = np.tile([0.0, 0.0, 0.0, 0.01, 0.0, -0.02], (num_anchors, 1))
    motion = motion_of_step(
        sources,
        far,
        centres=centres,
        start=start,
        spacing=SPACING,
        config=ArapIcpConfig(),
        front=np.ones(num_targets, dtype=bool),
    )
    assert np.allclose(motion.shift, start[:, 3:], atol=1e-6) and np.allclose(motion.rotation, np.eye(3), atol=1e-6)


def test_the_terms_of_no_points_are_numbers_that_others_can_be_added_to():
    nothing = np.zeros((0, 3), dtype=np.int64)
    equations = NormalEquations(2)
    skin = Skin(nothing, np.zeros((0, 3)))
    equations.add_points(np.zeros((0, 3, 3)), np.zeros((0, 3)), arm=np.zeros((0, 3, 3)), skin=skin)
    matrix, vector = equations.matrix, equations.vector
    assert matrix.dtype == vector.dtype == np.float64 and matrix.shape == (12, 12) and vector.shape == (12,)
    assert not matrix.any() and not vector.any()

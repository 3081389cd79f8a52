"""Targets against known motion."""

from __future__ import annotations

import torch

from scene4d.geometry.rotation import apply_pose, pose_about, quat_from_rotvec
from scene4d.models.tokens.motion_targets import MotionScale, fitted_anchor_motion, rigid_fit


def test_rigid_fit_finds_the_pose():
    points = torch.randn(5, 20, 3, dtype=torch.float64)
    quats = quat_from_rotvec(torch.randn(5, 3, dtype=torch.float64))
    pose = torch.cat([quats, torch.randn(5, 3, dtype=torch.float64)], -1)
    moved = apply_pose(pose[:, None].expand(-1, 20, -1), points)
    weights = torch.rand(5, 20, dtype=torch.float64)
    moved[:, 0] += 9.0
    weights[:, 0] = 0.0
    fit = rigid_fit(points, moved, weights=weights, ridge=0.0)
    torch.testing.assert_close(apply_pose(fit[:, None].expand(-1, 19, -1), points[:, 1:]), moved[:, 1:])


def test_rigid_fit_does_not_spin_what_it_cannot_know():
    line = torch.linspace(0, 0.05, 8)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    fit = rigid_fit(line, line + torch.tensor([0.0, 0.1, 0.0]), weights=torch.ones(8))
    torch.testing.assert_close(fit, torch.tensor([1.0, 0, 0, 0, 0, 0.1, 0]), atol=1e-5, rtol=0)


def test_fitted_anchor_motion_is_that_of_its_body():
    """A turning disc on a floor at rest: the disc's anchor turns, the floor's beside it rests exactly."""
    torch.manual_seed(0)
    floor = torch.rand(400, 3) * torch.tensor([0.6, 0.6, 0.0])
    disc = torch.rand(200, 3) * torch.tensor([0.1, 0.1, 0.02]) + torch.tensor([0.25, 0.25, 0.01])
    points, centre = torch.cat([floor, disc]), torch.tensor([0.3, 0.3, 0.02])
    turns = torch.tensor([0.0, 0.0, 0.04]) * torch.arange(1, 5)[:, None]
    poses = pose_about(centre, turns, shift=torch.zeros(4, 3))
    shift = apply_pose(poses[:, None].expand(-1, 200, -1), disc) - disc
    displacement = torch.cat([torch.zeros(4, 400, 3), shift], 1)
    far = (floor - centre).norm(dim=-1)
    beside = torch.where(far > 0.1, far, 9.0).argmin()
    index = torch.stack([400 + (disc - centre).norm(dim=-1).argmax(), beside])
    segments = (torch.arange(600) >= 400).long()
    for known_segments in (None, segments):
        motion, known = fitted_anchor_motion(
            points,
            displacement,
            anchor_index=index,
            valid=torch.ones(600, dtype=torch.bool),
            segments=known_segments,
        )
        assert known.all()
        torch.testing.assert_close(motion[:, 0, :3], turns, atol=0.025, rtol=0.2)
        torch.testing.assert_close(motion[:, 0, 3:], displacement[:, index[0]])
        assert float(motion[:, 1].abs().max()) < 5e-3 and not motion[:, 1, 3:].any()


def test_scale_is_the_spread_of_what_moves():
    scale = MotionScale(2)
    motion = torch.randn(4, 2, 100, 6) * torch.tensor([0.1] * 3 + [0.03] * 3)
    moving = torch.rand(4, 2, 100) > 0.5
    scale.update(motion * moving[..., None], moving)
    torch.testing.assert_close(scale.scale[0], torch.tensor([0.1] * 3 + [0.03] * 3), rtol=0.2, atol=0)
    torch.testing.assert_close(scale.denormalize(scale.normalize(motion)), motion)
    assert not scale.normalize(torch.zeros(2, 5, 6)).any()

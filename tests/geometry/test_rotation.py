import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scene4d.geometry import rotation as r

unit = st.floats(-1, 1, allow_nan=False, width=32)
angles = st.sampled_from([0.0, 1e-9, 1e-6, 1e-4, 0.3, 1.5, 3.0, 3.14159, 3.1415926])


def random_poses(*shape: int) -> torch.Tensor:
    quats = r.normalize_quat(torch.randn(*shape, 4, dtype=torch.float64))
    return torch.cat([quats, torch.randn(*shape, 3, dtype=torch.float64)], -1)


def test_recorded_quaternions_have_their_scalar_last_and_any_length():
    quarter = np.array([0.0, 0.0, 3.0, 3.0])  # about z
    assert np.allclose(r.matrices_from_xyzw(quarter), [[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert r.matrices_from_xyzw(np.tile(quarter, (2, 5, 1))).shape == (2, 5, 3, 3)


@settings(max_examples=60, deadline=None)
@given(st.tuples(unit, unit, unit), angles)
def test_matrix_quat_rotvec_agree_at_every_angle(axis, angle):
    axis = torch.tensor(axis, dtype=torch.float64)
    axis = axis / axis.norm() if axis.norm() > 1e-3 else torch.tensor([0.0, 0, 1], dtype=torch.float64)
    quat = r.quat_from_rotvec(axis * angle)
    matrix = torch.linalg.matrix_exp(r_cross(axis * angle))
    torch.testing.assert_close(r.matrix_from_quat(quat), matrix, atol=1e-9, rtol=0)
    back = r.matrix_from_quat(r.quat_from_matrix(matrix))
    torch.testing.assert_close(back, matrix, atol=1e-9, rtol=0)
    torch.testing.assert_close(r.rotvec_from_quat(quat), axis * angle, atol=1e-6, rtol=0)


def r_cross(v: torch.Tensor) -> torch.Tensor:
    x, y, z = v.tolist()
    return torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)


def test_quat_from_matrix_is_exact_for_half_turns():
    axes = torch.nn.functional.normalize(torch.randn(500, 3, dtype=torch.float64), dim=-1)
    axes = torch.cat([axes, torch.eye(3, dtype=torch.float64)])
    matrices = 2 * axes[:, :, None] * axes[:, None] - torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(r.matrix_from_quat(r.quat_from_matrix(matrices)), matrices, atol=1e-12, rtol=0)


@pytest.mark.parametrize("batch", [(), (2,), (1, 3)])
def test_poses_are_a_group_that_acts_on_points(batch):
    a, b, points = random_poses(*batch), random_poses(*batch), torch.randn(*batch, 3, dtype=torch.float64)
    both = r.apply_pose(a, r.apply_pose(b, points))
    torch.testing.assert_close(r.apply_pose(r.compose_pose(a, b), points), both)
    torch.testing.assert_close(r.apply_pose(r.invert_pose(a), r.apply_pose(a, points)), points)
    matrix = r.matrix_from_pose(a)
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    torch.testing.assert_close((matrix @ homogeneous[..., None]).squeeze(-1)[..., :3], r.apply_pose(a, points))
    torch.testing.assert_close(r.matrix_from_pose(r.pose_from_matrix(matrix)), matrix)


def test_motion_about_is_the_inverse_of_pose_about():
    points, poses = torch.randn(50, 3, dtype=torch.float64), random_poses(50)
    motion = r.motion_about(points, poses)
    back = r.pose_about(points, motion[:, :3], shift=motion[:, 3:])
    torch.testing.assert_close(r.matrix_from_pose(back), r.matrix_from_pose(poses))


def test_slerp_turns_at_constant_speed_on_the_shorter_arc():
    axis = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=-1)
    angle = torch.linspace(0, 3.1, 20, dtype=torch.float64)[:, None]
    start = r.normalize_quat(torch.randn(20, 4, dtype=torch.float64))
    stop = r.multiply_quat(r.quat_from_rotvec(axis * angle), start)
    for weight in (0.0, 0.25, 0.7, 1.0):
        expected = r.multiply_quat(r.quat_from_rotvec(axis * angle * weight), start)
        for sign in (1, -1):
            got = r.slerp(start, sign * stop, weight=torch.full((20,), weight, dtype=torch.float64))
            torch.testing.assert_close(r.matrix_from_quat(got), r.matrix_from_quat(expected), atol=3e-8, rtol=0)


def test_interpolated_pose_is_exact_at_its_ends_and_carries_its_point_straight():
    a, b, about = random_poses(30), random_poses(30), torch.randn(30, 3, dtype=torch.float64)
    assert torch.equal(r.interpolate_pose(a, b, weight=torch.zeros(30, dtype=torch.float64), about=about), a)
    assert torch.equal(r.interpolate_pose(a, b, weight=torch.ones(30, dtype=torch.float64), about=about), b)
    middle = r.interpolate_pose(a, b, weight=torch.full((30,), 0.5, dtype=torch.float64), about=about)
    straight = 0.5 * (r.apply_pose(a, about) + r.apply_pose(b, about))
    torch.testing.assert_close(r.apply_pose(middle, about), straight)


def test_gradients_are_finite_where_formulas_are_singular():
    zero = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    quat = r.quat_from_rotvec(zero)
    r.rotvec_from_quat(quat).sum().backward()
    assert zero.grad.isfinite().all()
    torch.testing.assert_close(zero.grad, torch.ones_like(zero.grad))
    same = r.normalize_quat(torch.randn(1, 4, dtype=torch.float64)).requires_grad_()
    r.slerp(same, same, weight=torch.full((1,), 0.3, dtype=torch.float64)).sum().backward()
    assert same.grad.isfinite().all()


def test_zero_quaternion_is_the_identity():
    assert torch.equal(r.normalize_quat(torch.zeros(2, 4)), torch.tensor([1.0, 0, 0, 0]).expand(2, 4))

import time

import pytest
import torch
from scipy.spatial.transform import Rotation

from scene4d.geometry.rotation import apply_pose, matrix_from_quat, multiply_quat, normalize_quat, quat_from_rotvec
from scene4d.geometry.sh import sh_basis
from scene4d.scene import Motion, Scene4D, alive_at
from scene4d.types import Gaussians


def make_scene(
    *, n=40, m=5, t=4, j=3, k=4, dtype=torch.float64, turn=1.0, residual=False, static_every=3, step=0.1
) -> Scene4D:
    base = Gaussians(
        means=torch.randn(n, 3, dtype=dtype),
        quats=normalize_quat(torch.randn(n, 4, dtype=dtype)),
        scales=torch.rand(n, 3, dtype=dtype) + 0.01,
        opacities=torch.rand(n, dtype=dtype),
        sh=torch.randn(n, k, 3, dtype=dtype),
        extras={"normals": torch.randn(n, 3, dtype=dtype), "confidence": torch.rand(n, 1, dtype=dtype)},
    )
    weights = torch.rand(n, j, dtype=dtype)
    weights = weights / weights.sum(-1, keepdim=True)
    weights[::static_every] = 0
    quats = quat_from_rotvec(turn * torch.randn(t, m, 3, dtype=dtype))
    poses = torch.cat([quats, torch.randn(t, m, 3, dtype=dtype)], -1)
    poses[0] = poses.new_tensor([1.0, 0, 0, 0, 0, 0, 0])
    motion = Motion(
        anchors=torch.randn(m, 3, dtype=dtype),
        world_from_rest=poses,
        skin_index=torch.randint(m, (n, j)),
        skin_weights=weights,
    )
    return Scene4D(
        base=base,
        motion=motion,
        alive=torch.tensor([-1e9, 1e9]).expand(n, 2),
        times=torch.arange(t, dtype=torch.float64) * step,
        observed=torch.ones(t, dtype=torch.bool),
        residual={"means": torch.randn(t, n, 3, dtype=dtype), "sh": torch.randn(t, n, k * 3, dtype=dtype)}
        if residual
        else None,
    )


def test_means_are_the_blend_of_rigid_motions():
    scene = make_scene()
    for frame in range(4):
        got = scene.at(0.1 * frame)
        motion = scene.motion
        poses = motion.world_from_rest[frame][motion.skin_index]  # [n j 7]
        moved = apply_pose(poses, scene.base.means[:, None].expand(-1, 3, 3))
        expected = (motion.skin_weights[..., None] * moved).sum(1)
        expected = torch.where((motion.skin_weights == 0).all(-1, keepdim=True), scene.base.means, expected)
        torch.testing.assert_close(got.means, expected)


def test_one_anchor_moves_and_turns_everything_rigidly():
    scene = make_scene(m=1, j=1, k=16)
    got = scene.at(0.3)
    pose = scene.motion.world_from_rest[3, 0]
    moving = scene.motion.skin_weights[:, 0] > 0
    torch.testing.assert_close(got.means[moving], apply_pose(pose.expand(40, 7), scene.base.means)[moving])
    turned = matrix_from_quat(multiply_quat(pose[:4].expand(40, 4), scene.base.quats))
    torch.testing.assert_close(matrix_from_quat(got.quats)[moving], turned[moving])
    rotation = matrix_from_quat(pose[:4])
    torch.testing.assert_close(got.extras["normals"][moving], (scene.base.extras["normals"] @ rotation.T)[moving])
    assert torch.equal(got.extras["confidence"], scene.base.extras["confidence"])
    ray = torch.nn.functional.normalize(torch.randn(1, 3, dtype=torch.float64), dim=-1)
    before, after = sh_basis(ray, 3) @ scene.base.sh, sh_basis(ray @ rotation.T, 3) @ got.sh
    torch.testing.assert_close(after[moving], before[moving])


@pytest.mark.parametrize("turn", [0.1, 3.0])
def test_blended_rotation_does_not_depend_on_quaternion_signs(turn):
    scene = make_scene(turn=turn)
    flipped = scene.motion.world_from_rest.clone()
    flipped[:, ::2, :4] *= -1
    other = scene.replace(motion=scene.motion.replace(world_from_rest=flipped))
    for when in (0.1, 0.17):
        a, b = scene.at(when), other.at(when)
        torch.testing.assert_close(matrix_from_quat(a.quats), matrix_from_quat(b.quats))
        torch.testing.assert_close(a.means, b.means)


def test_static_rows_come_back_bit_equal():
    scene = make_scene(dtype=torch.float32)
    still = (scene.motion.skin_weights == 0).all(-1)
    got = scene.at(0.27)
    for name in ("means", "quats", "scales", "opacities", "sh"):
        assert torch.equal(getattr(got, name)[still], getattr(scene.base, name)[still]), name
    flow, valid = scene.flow(0.0, 0.27)
    assert (flow[still] == 0).all() and valid.all() and (flow[~still] != 0).any()


def test_between_frames_a_single_rigid_body_turns_about_its_anchor_and_goes_straight():
    scene = make_scene(m=1, j=1, t=2, static_every=1000)
    scene.motion.skin_weights[:] = 1
    anchor = scene.motion.anchors.clone()
    poses = scene.motion.world_from_rest[:, 0]
    rotations = Rotation.from_quat(poses[:, [1, 2, 3, 0]].numpy())
    share = (rotations[1] * rotations[0].inv()).as_rotvec() * 0.25
    middle = (Rotation.from_rotvec(share) * rotations[0]).as_matrix()
    places = apply_pose(poses, anchor.expand(2, 3))
    offset = (scene.base.means - anchor) @ torch.from_numpy(middle).T
    got = scene.at(0.025)
    torch.testing.assert_close(got.means, 0.75 * places[0] + 0.25 * places[1] + offset)


def test_time_is_held_before_the_first_and_after_the_last_frame():
    scene = make_scene()
    assert torch.equal(scene.at(-5.0).means, scene.at(0.0).means)
    assert torch.equal(scene.at(9.0).means, scene.at(float(scene.times[-1])).means)


def test_birth_and_death_hide_and_make_flow_invalid():
    scene = make_scene(n=3, static_every=1)
    alive = torch.tensor([[0.0, 0.1], [0.1, 0.3], [0.0, 0.3]])  # float32 0.1 is above 0.1
    scene = scene.replace(alive=alive)
    assert (scene.at(0.1).opacities > 0).tolist() == [True, True, True]
    assert (scene.at(0.05).opacities > 0).tolist() == [True, False, True]
    assert (scene.at(0.2).opacities > 0).tolist() == [False, True, True]
    assert alive_at(scene, 0.05).tolist() == [True, False, True]
    flow, valid = scene.flow(0.05, 0.2)
    assert valid.tolist() == [False, False, True] and (flow == 0).all()
    empty = scene.replace(base=scene.base.replace(ids=torch.tensor([0, 1, -1])))
    assert empty.flow(0.05, 0.1)[1].tolist() == [True, False, False]


def test_residual_is_interpolated_and_added_at_rest():
    scene = make_scene(residual=True, static_every=1)  # everything static: what moves is the residual
    got = scene.at(0.15)
    mean = 0.5 * (scene.residual["means"][1] + scene.residual["means"][2])
    torch.testing.assert_close(got.means, scene.base.means + mean)
    sh = 0.5 * (scene.residual["sh"][1] + scene.residual["sh"][2])
    torch.testing.assert_close(got.sh, scene.base.sh + sh.reshape(scene.base.sh.shape))
    flow, _ = scene.flow(0.1, 0.2)
    torch.testing.assert_close(flow, scene.residual["means"][2] - scene.residual["means"][1])


@pytest.mark.parametrize("residual", [False, True])
def test_batched_equals_one_by_one(residual):
    scenes = [make_scene(residual=residual, step=0.1 * (i + 1)) for i in range(2)]
    batch = Scene4D.stack(scenes)
    for seconds in ([0.13, 0.13], [0.13, 0.2]):
        when = torch.tensor(seconds, dtype=torch.float64)
        got = batch.at(when)
        flow, valid = batch.flow(0.0, when)
        for i, scene in enumerate(scenes):
            alone = scene.at(seconds[i])
            for name in ("means", "quats", "opacities", "sh"):
                torch.testing.assert_close(getattr(got[i], name), getattr(alone, name))
            expected, _ = scene.flow(0.0, seconds[i])
            torch.testing.assert_close(flow[i], expected)
        assert valid.all()
    assert torch.equal(batch.at(0.1).means, batch.at(torch.tensor([0.1, 0.1], dtype=torch.float64)).means)


def test_scenes_without_anchors_rows_or_frames_are_just_their_base():
    for scene in (make_scene(m=1, j=0), make_scene(n=0), make_scene(t=1)):
        assert torch.equal(scene.at(0.0).ids, scene.base.ids)
    scene = make_scene(t=1)
    none = scene.replace(
        motion=scene.motion.replace(world_from_rest=scene.motion.world_from_rest[:0]),
        times=scene.times[:0],
        observed=scene.observed[:0],
    )
    assert torch.equal(none.at(0.0).means, scene.base.means)


def test_gradients_reach_poses_weights_and_means():
    scene = make_scene(n=4, m=2, t=2, j=2, k=1, turn=0.3, static_every=100)
    poses, means = scene.motion.world_from_rest, scene.base.means
    weights = torch.rand(4, 2, dtype=torch.float64)  # none is 0: static rows take no part

    def moved(poses, means, weights):
        motion = scene.motion.replace(world_from_rest=poses, skin_weights=weights)
        got = scene.replace(base=scene.base.replace(means=means), motion=motion).at(0.04)
        return got.means, got.quats

    inputs = [x.clone().requires_grad_() for x in (poses, means, weights)]
    assert torch.autograd.gradcheck(moved, inputs)


def test_hundred_thousand_gaussians_are_fast():
    scene = make_scene(n=100_000, m=96, t=8, j=4, k=1, dtype=torch.float32, turn=0.3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runs = []
        for _ in range(5):
            start = time.thread_time()  # the core's own time: other programs on the machine do not count
            scene.at(0.33)
            runs.append(time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert min(runs) < 0.12, "about 25 ms on a free core"

"""The arm as geometry against the simulator's own truth: links where they are, and how they move."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("metaworld")

from scene4d.errors import ConfigError
from scene4d.eval.forecast.forecasters.kinematic_robot import (
    LINK_RADIUS_M,
    KinematicRobotForecaster,
    moved_with_links,
)
from scene4d.geometry.camera import transform_points
from scene4d.geometry.rotation import apply_pose, compose_pose, invert_pose, matrix_from_pose, pose_from_matrix
from scene4d.scene import Motion, Scene4D
from scene4d.sim.metaworld import MetaWorldSim
from scene4d.sim.robot import MujocoRobot, RobotConfig
from scene4d.types import Gaussians


@pytest.fixture(scope="module")
def course():
    """A robot, and what truly happened in 30 frames: proprio [t 4], poses [t k 7] of its links."""
    generator = torch.Generator().manual_seed(0)
    with MetaWorldSim("pick-place-v3", seed=1501, cameras=()) as sim:
        robot = MujocoRobot(sim._env.model, qpos=sim._env.data.qpos)
        columns = [robot.links.index(name) for name in sim.segment_names if name in robot.links]
        rows = [i for i, name in enumerate(sim.segment_names) if name in robot.links]
        proprio, poses = [], []
        for _ in range(30):
            proprio.append(sim.proprio())
            poses.append(sim.segment_poses()[rows])
            sim.step((sim.expert_action() + 0.3 * torch.randn(4, generator=generator)).clamp(-1, 1))
    return robot, columns, torch.stack(proprio), torch.stack(poses)


def test_links_are_where_the_simulator_has_them(course):
    robot, columns, proprio, poses = course
    assert len(columns) >= 9
    found = robot.link_poses(proprio)[:, columns]
    error = (found[..., :3, 3] - poses[..., 4:]).norm(dim=-1)
    assert float(error.mean()) < 0.015 and float(error[:, -2:].mean()) < 0.008  # the fingers, which proprio tells of


def test_motion_of_the_arm_is_most_of_it_explained(course):
    """Over 8 frames, at points 10 cm off every link's origin; the elbow is free to go as it likes."""
    robot, columns, proprio, poses = course
    found = pose_from_matrix(robot.link_poses(proprio)[:, columns])
    moved = lambda p: compose_pose(p[8:], invert_pose(p[:-8]))
    at = poses[:-8, :, 4:] + torch.tensor([0.06, 0.06, 0.06])
    truth, predicted = (apply_pose(moved(p), at) - at for p in (poses, found))
    assert float(truth.norm(dim=-1).mean()) > 0.03
    assert float((predicted - truth).norm(dim=-1).mean()) < 0.25 * float(truth.norm(dim=-1).mean())


def test_batches_are_solved_alone(course):
    robot, _, proprio, _ = course
    both = robot.link_poses(torch.stack([proprio[:3], proprio[10:13]]))
    assert torch.equal(both[1], robot.link_poses(proprio[10:13]))
    eye = both[..., :3, :3] @ both[..., :3, :3].transpose(-1, -2)
    torch.testing.assert_close(eye, torch.eye(3).expand_as(eye), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="claw"):
        MujocoRobot(robot._model, qpos=robot._start, config=RobotConfig(fingers=("claw", "leftclaw")))


def test_points_near_a_link_are_bound_to_it(course):
    """Its own surface is, whatever the pose; the air beside it is not."""
    robot, _, proprio, _ = course
    stub = KinematicRobotForecaster(None, None, robot=robot)
    points, links = robot.surface(points_per_link=200, seed=1)  # other points than those it compares with
    poses = robot.link_poses(proprio[20:21])[0]
    places = transform_points(poses[links], points[:, None])[:, 0]
    bound = stub.link_of(places, poses)
    # Where two links meet, either may be nearest.
    assert (bound >= 0).float().mean() > 0.99 and (bound == links).float().mean() > 0.8
    top = places[:, 2].max() + 2 * LINK_RADIUS_M
    assert (stub.link_of(places + torch.tensor([0.0, 0.0, float(top)]), poses) == -1).all()


def test_rows_ride_on_their_link_and_others_stay_as_they_were():
    torch.manual_seed(0)
    num = 6
    times = torch.arange(3.0, dtype=torch.float64)
    scene = Scene4D(
        base=Gaussians(torch.rand(num, 3), torch.tensor([1.0, 0, 0, 0]).expand(num, 4), torch.ones(num, 3),
                       torch.ones(num), torch.zeros(num, 1, 3)),
        motion=Motion(
            anchors=torch.zeros(2, 3),
            world_from_rest=torch.tensor([1.0, 0, 0, 0, 0.1, 0, 0]).repeat(3, 2, 1),
            skin_index=torch.ones(num, 2, dtype=torch.int64),
            skin_weights=torch.full((num, 2), 0.5),
            log_var=torch.zeros(3, 2, 6),
        ),
        alive=torch.stack([times[0], times[-1]]).expand(num, 2),
        times=times,
        observed=times == 0,
    )  # fmt: skip
    quats = torch.nn.functional.normalize(torch.randn(3, 2, 4), dim=-1)
    poses = torch.cat([quats, torch.randn(3, 2, 3)], -1)
    link = torch.tensor([0, 1, -1, 1, -1, 0])
    out = moved_with_links(scene, link, motion=matrix_from_pose(poses))
    on = link >= 0
    expected = apply_pose(poses[2][link[on]], scene.base.means[on])
    torch.testing.assert_close(out.at(2.0).means[on], expected, atol=1e-5, rtol=0)
    assert torch.equal(out.at(2.0).means[~on], scene.at(2.0).means[~on])
    assert out.motion.log_var.shape == (3, 4, 6)

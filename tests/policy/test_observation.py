"""What an observation builder gives the world model: cameras, past actions, and before them the action of rest."""

from __future__ import annotations

import pytest
import torch
from box_scene import cast_boxes

from scene4d.errors import ConfigError
from scene4d.lift.rgbd.unproject import lift_frames
from scene4d.policy.observation_builder import CameraObservationBuilder, ObservationBuilder
from scene4d.policy.virtual_cameras import virtual_cameras
from scene4d.robot.spec import RobotSpec
from scene4d.world.observation import Observation

HAND = torch.tensor([0.0, 0.1, 0.2, 0.08])
ROBOT = RobotSpec.from_info(
    {
        "action_spec": [{"name": name, "unit": "m"} for name in ("x", "y", "z")],
        "proprio_spec": [{"name": name} for name in ("hand_x", "hand_y", "hand_z", "gripper_opening")],
    }
)
"""Its actions name places, so that rest is the place of the hand."""


class Heard(Exception):
    """What the world model was asked, and no answer."""


class Listener:
    """A world model that only listens."""

    def observe(self, observation):
        raise Heard(observation)


class Newest:
    """A memory of the newest frames alone."""

    def update(self, frames, *, time):
        self.lifted = lift_frames(frames)

    def gaussians(self):
        return self.lifted

    def scene(self):
        return None


def asked(builder) -> Observation:
    with pytest.raises(Heard) as heard:
        builder.views()
    return heard.value.args[0]


def test_the_world_model_hears_of_cameras_and_of_rest_first():
    builder = ObservationBuilder(Newest, robot=ROBOT, task="t", world_model=Listener(), view_size=16)
    frames = cast_boxes(virtual_cameras(HAND[:3], size=16)).replace(extras={})[:2]
    builder.observe(frames, proprio=HAND, time=0.0)
    first = asked(builder)
    assert torch.equal(first.actions, HAND[None, :3]) and first.task.text == "t" and first.robot == ROBOT
    cameras = list(first.cameras.values())
    assert [c.batch_shape for c in cameras] == [(), ()]
    assert torch.equal(torch.stack([c.viewmats for c in cameras]), frames.cameras.viewmats)
    builder.acted(torch.zeros(3))
    builder.observe(frames, proprio=HAND + 0.01, time=0.1)
    later = asked(builder)
    assert torch.equal(later.actions, torch.zeros(1, 3)) and len(later.proprio) == 2
    builder.reset()
    assert builder.cameras == {}


def test_what_a_builder_needs_is_asked_for_at_once():
    with pytest.raises(TypeError, match="robot"):
        ObservationBuilder(Newest, world_model=Listener())
    with pytest.raises(ConfigError, match="nothing was observed"):
        CameraObservationBuilder().views()

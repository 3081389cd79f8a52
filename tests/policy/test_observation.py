"""What an observation builder gives the world model: cameras, past actions, and before them the action of rest."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from scene4d.errors import ConfigError
from scene4d.lift.rgbd.unproject import lift_frames
from scene4d.policy.observation_builder import CameraObservationBuilder, ObservationBuilder
from scene4d.policy.virtual_cameras import virtual_cameras
from scene4d.sim.synthetic import cast_boxes

HAND = torch.tensor([0.0, 0.1, 0.2, 0.08])
REST = torch.tensor([1.0, 2.0, 3.0])


class Heard(Exception):
    """What the world model was asked, and no answer."""


class Listener:
    """A world model that only listens."""

    def observe(self, scene, *, actions, proprio, context, memory):
        raise Heard(SimpleNamespace(actions=actions, proprio=proprio, context=context))


class Newest:
    """A memory of the newest frames alone."""

    def update(self, frames, *, time):
        self.lifted = lift_frames(frames)

    def gaussians(self):
        return self.lifted

    def scene(self):
        return None


def asked(builder) -> SimpleNamespace:
    with pytest.raises(Heard) as heard:
        builder.views()
    return heard.value.args[0]


def test_the_world_model_hears_of_cameras_and_of_rest_first():
    builder = ObservationBuilder(
        Newest, world_model=Listener(), context={"task": "t"}, view_size=16, resting=lambda proprio: REST + proprio[:3]
    )
    frames = cast_boxes(virtual_cameras(HAND[:3], size=16)).replace(extras={})[:2]
    builder.observe(frames, proprio=HAND, time=0.0)
    first = asked(builder)
    assert torch.equal(first.actions, (REST + HAND[:3])[None]) and first.context["task"] == "t"
    cameras = list(first.context["cameras"].values())
    assert [c.batch_shape for c in cameras] == [(), ()]
    assert torch.equal(torch.stack([c.viewmats for c in cameras]), frames.cameras.viewmats)
    builder.acted(torch.zeros(3))
    builder.observe(frames, proprio=HAND + 0.01, time=0.1)
    later = asked(builder)
    assert torch.equal(later.actions, torch.zeros(1, 3)) and len(later.proprio) == 2
    builder.reset()
    assert builder.cameras == {}


def test_what_a_builder_needs_is_asked_for_at_once():
    with pytest.raises(ConfigError, match="resting"):
        ObservationBuilder(lambda: None, world_model=SimpleNamespace())
    with pytest.raises(ConfigError, match="nothing was observed"):
        CameraObservationBuilder().views()

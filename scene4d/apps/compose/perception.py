"""An action head's perception, put together: the same while demonstrations are prepared and while a robot runs."""

from __future__ import annotations

import functools
from collections.abc import Callable

from scene4d.lift.stream.stream import SceneStream, StreamConfig
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.policy.observation_builder import (
    CameraObservationBuilder,
    HeadWorldModel,
    ObservationBuilder,
    Stream,
    observation_builder_for,
)
from scene4d.robot.spec import RobotSpec

new_memory = functools.partial(SceneStream, StreamConfig(keep_instants=4, polish=4))
"""Makes an agent's scene memory. Of the past a world model looks at two steps, three instants; what is older goes, so
that an episode may last. Polished half as long as a reconstruction, for speed."""


def perception(
    head: ActionHeadConfig,
    *,
    robot: RobotSpec,
    task: str,
    world_model: HeadWorldModel | None,
    horizon: int,
    make_stream: Callable[[], Stream] = new_memory,
) -> ObservationBuilder | CameraObservationBuilder:
    """What a head observes of one episode, from its first frame on.

    Args:
        head: whose modality and image size count. world_model: forecasts for the head; None = it looks at now only.
        horizon: steps ahead of the forecast.
    """
    return observation_builder_for(head, make_stream, robot=robot, task=task, world_model=world_model, horizon=horizon)

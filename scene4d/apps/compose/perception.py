"""An action head's perception, put together: the same while demonstrations are prepared and while a robot runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from scene4d.lift.stream.stream import SceneStream, StreamConfig
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.policy.observation import CameraObservationBuilder, ObservationBuilder, Stream, observation_builder_for
from scene4d.robot.actions import resting_action
from scene4d.world.contract import WorldModel

new_memory = functools.partial(SceneStream, StreamConfig(keep_instants=4, polish=4))
"""Makes an agent's scene memory. Of the past a world model looks at two steps, three instants; what is older goes, so
that an episode may last. Polished half as long as a reconstruction, for speed."""


def perception(
    head: ActionHeadConfig,
    *,
    world_model: WorldModel | None,
    context: Mapping[str, Any],
    horizon: int,
    make_stream: Callable[[], Stream] = new_memory,
) -> ObservationBuilder | CameraObservationBuilder:
    """What a head observes of one episode, from its first frame on.

    Args:
        head: whose modality, image size and width of actions count.
        world_model: forecasts for the head; None = it looks at now only.
        context: of the task and the robot, for the world model.
        horizon: steps ahead of the forecast.
    """
    resting = functools.partial(resting_action, context=context, width=head.action_dim)
    return observation_builder_for(
        head, make_stream, world_model=world_model, context=context, resting=resting, horizon=horizon
    )

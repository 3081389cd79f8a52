"""What agents see and do: gymnasium spaces, and tensors to the arrays that fill them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scene4d.env.batched_sim import Outcome
from scene4d.extras import optional
from scene4d.robot.bounds import action_bounds
from scene4d.types import Frames
from scene4d.world.observation import Observation

if TYPE_CHECKING:
    import gymnasium
    import gymnasium.utils.seeding
else:
    gymnasium = optional("gymnasium", extra="env", what="the learned simulator")


def action_space_of(starts: Sequence[Observation]) -> gymnasium.spaces.Box:
    """Box [a] of the actions of starts of one robot: as wide as `action_bounds` gives for any of them.

    Raises:
        ConfigError: an action spec has impossible bounds.
    """
    bounds = [action_bounds(start.robot) for start in starts]
    low, high = (torch.stack(side) for side in zip(*bounds, strict=True))
    return gymnasium.spaces.Box(low.amin(0).numpy(), high.amax(0).numpy(), dtype=np.float32)


def observation_space_of(names: Sequence[str], *, size: int, proprio_width: int) -> gymnasium.spaces.Dict:
    """{"pixels": {camera: uint8 [size size 3]}, "agent_pos": float32 [q]}, as LeRobot's environments have it."""
    picture = lambda: gymnasium.spaces.Box(0, 255, (size, size, 3), dtype=np.uint8)
    return gymnasium.spaces.Dict(
        {
            "pixels": gymnasium.spaces.Dict({name: picture() for name in names}),
            "agent_pos": gymnasium.spaces.Box(-np.inf, np.inf, (proprio_width,), dtype=np.float32),
        }
    )


def observation(frames: Frames, proprio: Tensor, *, names: Sequence[str]) -> dict[str, Any]:
    """The observations of episodes [b] as arrays: pixels [b h w 3] a camera, agent_pos [b q]."""
    pixels = (frames.rgb * 255).round().byte().cpu().numpy()  # [b v h w 3]
    return {
        "pixels": {name: np.ascontiguousarray(pixels[:, i]) for i, name in enumerate(names)},
        "agent_pos": proprio.float().cpu().numpy().copy(),
    }


def start_info() -> dict[str, Any]:
    """The info of an episode that has just begun: the keys of `info_of`."""
    return {"success": 0.0, "uncertainty": 0.0, "ended": ""}


def info_of(outcome: Outcome, index: int) -> dict[str, Any]:
    """The info of one episode's step: success (probability), uncertainty (m), ended (why; "" = it goes on)."""
    return {
        "success": float(outcome.success[index]),
        "uncertainty": float(outcome.uncertainty[index]),
        "ended": outcome.ended[index],
    }


def one_of(values: Any) -> Any:
    """The first of batched arrays, in dictionaries too."""
    return {k: one_of(v) for k, v in values.items()} if isinstance(values, dict) else values[0]

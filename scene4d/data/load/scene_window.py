"""What every stage after the cache trains on: a moment of an episode, its past, and the truth about its near future."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.types import Frames, Gaussians


@dataclass(frozen=True)
class Window(TensorStruct):
    """One moment t (batch axes `*b`; a batch is a stack): h future steps, and as many past ones as each field names.

    memory: Gaussians [*b n] at t, what a stream over the input cameras knows; ids < 0 are padding; extras
        `segments` [*b n 1] float (segment id, -1 = none) and whatever the stream carries (`confidence`, ...).
    past_flow [*b g n 3] m: displacement of each row over the past steps; [.., 0, ..] from t - 1 to t, [.., 1, ..] from
        t - 2 to t - 1; past_flow_valid [*b g n] bool (the row existed at both ends); 0 where not valid.
    past_actions [*b p a]: oldest first, the last one led to t. past_proprio [*b p+1 q]: oldest first, the last is now.
    past_valid [*b p] bool: False before the episode began, where actions are 0 and proprio is repeated.
    actions [*b h a]: actions[0] leads from t to t + 1. proprio [*b h q]: truth at t + 1 .. t + h (a target, no input).
    displacement [*b f n 3] m: truth, position at f later instants (by default the h frames) minus position at t of what
        each memory row shows; displacement_valid [*b n] bool.
    frames: Frames [*b v] at t; targets: Frames [*b h v] at t + 1 .. t + h (or none of them: [*b 0 v]); cameras in the
        order of `WindowCache.cameras` (the inputs first); depth in m, 0 = not measured; extras {}.
    task [*b] int64 index into the cache's tasks; time [*b] s since the episode's start; reward [*b h];
        success [*b h] 0 or 1; NaN where unknown.
    """

    memory: Gaussians
    past_flow: Tensor
    past_flow_valid: Tensor
    past_actions: Tensor
    past_proprio: Tensor
    past_valid: Tensor
    actions: Tensor
    proprio: Tensor
    displacement: Tensor
    displacement_valid: Tensor
    frames: Frames
    targets: Frames
    task: Tensor
    time: Tensor
    reward: Tensor
    success: Tensor

    SHAPES = shapes(
        past_flow="*b g n 3",
        past_flow_valid="*b g n",
        past_actions="*b p a",
        past_proprio="*b pp q",
        past_valid="*b p",
        actions="*b h a",
        proprio="*b h q",
        displacement="*b f n 3",
        displacement_valid="*b n",
        task="*b",
        time="*b",
        reward="*b h",
        success="*b h",
        **{"memory.means": "*b n 3", "frames.rgb": "*b v y x 3", "targets.rgb": "*b ht v y x 3"},
    )


def stack_windows(windows: Sequence[Window]) -> Window:
    """Windows without batch axes as one batch [b]; memories of fewer rows get empty slots (id -1, opacity 0)."""
    num_rows = max(w.memory.num_gaussians for w in windows)
    return Window.stack([_with_rows(w, num_rows) for w in windows])


def _with_rows(window: Window, num_rows: int) -> Window:
    missing = num_rows - window.memory.num_gaussians
    return window.replace(
        memory=window.memory.padded(num_rows),
        past_flow=pad(window.past_flow, (0, 0, 0, missing)),
        past_flow_valid=pad(window.past_flow_valid, (0, missing)),
        displacement=pad(window.displacement, (0, 0, 0, missing)),
        displacement_valid=pad(window.displacement_valid, (0, missing)),
    )

"""What the loader hands to training: a stretch of recording at one rate, in camera slots and columns of one layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.check import check
from scene4d.tensor_struct import TensorStruct
from scene4d.types import Frames, Gaussians


@dataclass(frozen=True)
class Clip(TensorStruct):
    """`context` steps up to now and `horizon` steps after it (batch axes `*b`; a batch is a stack).

    frames: Frames [*b s v] of the first s steps (all of them, or the context alone), a view a camera slot; where there
        is no view or no depth, depth is 0; where there is no view, alpha is 0 too. has_view, has_depth [*b v] bool.
    times [*b t] s float64 from the recording's start; valid [*b t] bool (False = padding, or nothing was recorded).
    actions [*b t a] (actions[t] leads from step t to t + 1) and proprio [*b t p], 0 where action_valid [*b t a] or
        proprio_valid [*b t p] is False: padding, or a column that this recording does not have.
    rewards, success [*b t]: 0 where not recorded.
    task, recording, step [*b] int64: the text (index into `WindowSet.tasks`), the recording, and the step of the first
        row of times, which is negative where the window begins before its recording does.
    scene: Gaussians [*b n] lifted from the views at now (rows with id -1 are padding), where a cache makes them.
    scaled: whether actions and proprio have been normalised.
    """

    frames: Frames
    has_view: Tensor
    has_depth: Tensor
    times: Tensor
    valid: Tensor
    actions: Tensor
    action_valid: Tensor
    proprio: Tensor
    proprio_valid: Tensor
    rewards: Tensor
    success: Tensor
    task: Tensor
    recording: Tensor
    step: Tensor
    scene: Gaussians | None = None
    scaled: bool = False

    def __post_init__(self) -> None:
        check(
            frames=(self.frames.rgb, "*b s v y x 3"),
            has_view=(self.has_view, "*b v"),
            has_depth=(self.has_depth, "*b v"),
            times=(self.times, "*b t"),
            valid=(self.valid, "*b t"),
            actions=(self.actions, "*b t a"),
            action_valid=(self.action_valid, "*b t a"),
            proprio=(self.proprio, "*b t p"),
            proprio_valid=(self.proprio_valid, "*b t p"),
            rewards=(self.rewards, "*b t"),
            success=(self.success, "*b t"),
            task=(self.task, "*b"),
            recording=(self.recording, "*b"),
            step=(self.step, "*b"),
            scene=(None if self.scene is None else self.scene.means, "*b n 3"),
        )

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.task.shape)

    @property
    def num_bytes(self) -> int:
        """Memory of all tensors."""
        sizes: list[int] = []

        def note(x: Tensor) -> Tensor:
            sizes.append(x.numel() * x.element_size())
            return x

        self.map(note)
        return sum(sizes)


def stack_clips(clips: Sequence[Clip]) -> Clip:
    """Clips as one batch [b]; scenes of fewer Gaussians get empty slots (id -1, opacity 0)."""
    if clips[0].scene is None:
        return Clip.stack(clips)
    scenes = Gaussians.stack([c.scene for c in clips if c.scene is not None])
    return Clip.stack([c.replace(scene=None) for c in clips]).replace(scene=scenes)


def equal_clips(one: Clip, other: Clip) -> bool:
    """Whether two clips are the same to the bit."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for clip, found in zip((one, other), parts, strict=True):
        clip.map(lambda x, found=found: found.append(x) or x)
    return len(parts[0]) == len(parts[1]) and all(torch.equal(a, b) for a, b in zip(*parts, strict=True))

"""Which instants of the future a chunk of steps speaks of: a step may span one frame of a recording or many."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.layers import sinusoidal_embedding

TIME_FEATURES = 32
"""Numbers of `Steps.time_features`."""


@dataclass(frozen=True)
class Steps:
    """The h steps of a chunk: `ahead`, frames since now at which each of them ends, ascending from 1 on.

    frame_seconds: of a frame.
    """

    ahead: tuple[int, ...]
    frame_seconds: float = 0.025

    @classmethod
    def regular(cls, num_frames: int, *, stride: int, frame_seconds: float = 0.025) -> Steps:
        """Steps of `stride` frames that reach `num_frames`; the last is shorter where they do not divide it."""
        return cls((*range(stride, num_frames, stride), num_frames), frame_seconds)

    @property
    def num(self) -> int:
        """h."""
        return len(self.ahead)

    @property
    def num_frames(self) -> int:
        """Frames, n, until the last step ends."""
        return self.ahead[-1]

    def split(self, num: int) -> tuple[Steps, Steps]:
        """The first `num` steps, and the rest of them counted from there on."""
        first, rest = self.ahead[:num], self.ahead[num:]
        return replace(self, ahead=first), replace(self, ahead=tuple(frames - first[-1] for frames in rest))

    @property
    def single(self) -> bool:
        """Whether every step is one frame."""
        return self.num == self.num_frames

    @property
    def gaps(self) -> tuple[int, ...]:
        """Frames of each step."""
        return tuple(b - a for a, b in itertools.pairwise((0, *self.ahead)))

    @property
    def time_features(self) -> Tensor:
        """[1+h f] of now and each step: seconds since now, and those of the step that led there."""
        seconds = self.frame_seconds * torch.tensor([[0, 0], *zip(self.ahead, self.gaps, strict=True)])  # [1+h 2]
        return sinusoidal_embedding(seconds.float(), TIME_FEATURES // 2, shortest=0.1, longest=12.0).flatten(1)

    def frames(self, like: Tensor) -> Tensor:
        """`ahead` as numbers [h]."""
        return torch.tensor(self.ahead, dtype=like.dtype, device=like.device)

    def pick(self, frames: Tensor, *, dim: int = 1) -> Tensor:
        """Of what is known for every frame after now, [b n ..], the steps' ends [b h ..]."""
        if self.single:
            return frames.narrow(dim, 0, self.num)
        return frames.index_select(dim, torch.tensor(self.ahead, device=frames.device) - 1)

    def mean(self, frames: Tensor) -> Tensor:
        """Means [b h c] over the frames of each step, of [b n c]."""
        if self.single:
            return frames[:, : self.num]
        total = frames.new_zeros(frames.shape[0], self.num, frames.shape[2])
        total.index_add_(1, self._step_of_frame(frames), frames[:, : self.num_frames])
        return total / torch.tensor(self.gaps, dtype=frames.dtype, device=frames.device)[:, None]

    def held(self, steps: Tensor) -> Tensor:
        """For each frame [b n ..] the value of the step [b h ..] that it lies in."""
        return steps if self.single else steps.index_select(1, self._step_of_frame(steps))

    def between(self, steps: Tensor) -> Tensor:
        """For each frame [b n ..] the straight way between values [b h ..] of the steps' ends, 0 now."""
        if self.single:
            return steps
        number = self._step_of_frame(steps)
        ends, gaps = self.frames(steps), torch.tensor(self.gaps, dtype=steps.dtype, device=steps.device)
        passed = torch.arange(1, self.num_frames + 1, dtype=steps.dtype, device=steps.device)
        share = ((passed - (ends - gaps)[number]) / gaps[number]).reshape(1, -1, *[1] * (steps.dim() - 2))
        starts = torch.cat([torch.zeros_like(steps[:, :1]), steps[:, :-1]], 1)
        return torch.lerp(starts.index_select(1, number), steps.index_select(1, number), share)

    def _step_of_frame(self, like: Tensor) -> Tensor:
        """[n] the step that each frame belongs to."""
        gaps = torch.tensor(self.gaps, device=like.device)
        return torch.arange(self.num, device=like.device).repeat_interleave(gaps)


def steps_ahead(num: int, *, ahead: Sequence[int] | None, most: int, frame_seconds: float) -> Steps:
    """The `num` steps that end `ahead` frames from now, by default 1, 2, ...

    Raises:
        ConfigError: these are other numbers than one ascending row from 1 on, or farther than `most`.
    """
    found = tuple(ahead or range(1, num + 1))
    if len(found) != num or any(b <= a for a, b in itertools.pairwise((0, *found))) or found[-1] > most:
        expected = f"{num} ascending numbers, at most {most}"
        raise ConfigError("are no steps", field="ahead", found=list(found), expected=expected)
    return Steps(found, frame_seconds)


def prepared_instants(horizon: int, *, strides: Sequence[int]) -> tuple[int, ...]:
    """Frames ahead for which a window keeps the truth, so that chunks of `horizon` steps of each stride can learn."""
    return tuple(sorted({stride * step for stride in strides for step in range(1, horizon + 1)}))


def drawn_steps(horizon: int, *, strides: Sequence[int], irregular: float, frame_seconds: float = 0.025) -> Steps:
    """Steps of a training batch, by torch's generator: of a stride, or, with probability `irregular`, of any length."""
    if len(strides) == 1:
        return Steps.regular(horizon * strides[0], stride=strides[0], frame_seconds=frame_seconds)
    if float(torch.rand(())) < irregular:
        instants = prepared_instants(horizon, strides=strides)
        chosen = torch.randperm(len(instants))[:horizon].sort().values.tolist()
        return Steps(tuple(instants[i] for i in chosen), frame_seconds)
    stride = strides[int(torch.randint(len(strides), ()))]
    return Steps.regular(horizon * stride, stride=stride, frame_seconds=frame_seconds)

"""The nouns: frozen dataclasses of tensors that every stage speaks.

Axes: `*b` batch, `t` time, `h w` image, `v` views, `n` Gaussians, `k` SH bases, `l` tokens, `m` anchors, `c` channels,
`a` action, `p` proprio, `g` segments. Units: metres, radians, seconds; colour and alpha in [0, 1]. Cameras are OpenCV
(x right, y down, z forward), the world has z up, pixel (row i, column j) has its centre at (j + 0.5, i + 0.5),
quaternions are w x y z, a pose is 7 numbers (quaternion, translation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from scene4d.errors import DataFormatError, ShapeError
from scene4d.tensor_struct import TensorStruct, shapes


@dataclass(frozen=True)
class Cameras(TensorStruct):
    """Pinhole cameras of one image size.

    viewmats [*b 4 4] is camera-from-world and rigid (OpenCV); Ks [*b 3 3] in pixels; width, height in pixels.
    """

    viewmats: Tensor
    Ks: Tensor
    width: int
    height: int

    SHAPES = shapes(viewmats="*b 4 4", Ks="*b 3 3")

    def resized(self, width: int, height: int) -> Cameras:
        """The same cameras for images resized to width x height."""
        scale = self.Ks.new_tensor([[width / self.width], [height / self.height], [1.0]])
        return Cameras(viewmats=self.viewmats, Ks=self.Ks * scale, width=width, height=height)


@dataclass(frozen=True)
class Frames(TensorStruct):
    """Images with their cameras; what a sensor recorded or what a render returned.

    rgb [*b h w 3] in [0, 1]; depth [*b h w] z-depth in metres, 0 = not measured;
    alpha [*b h w]: recorded = colour usable, rendered = coverage;
    extras {name: [*b h w c]} (segments, flow, normals, variance, features).
    """

    rgb: Tensor
    depth: Tensor | None
    alpha: Tensor | None
    cameras: Cameras
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    SHAPES = shapes(rgb="*b h w 3", depth="*b h w", alpha="*b h w", extras="*b h w _")

    def __post_init__(self) -> None:
        super().__post_init__()
        size, expected = tuple(self.rgb.shape[-3:-1]), (self.cameras.height, self.cameras.width)
        if size != expected or self.cameras.batch_shape != self.batch_shape:
            raise ShapeError(
                "images and cameras differ",
                field="cameras",
                found=(*self.cameras.batch_shape, *expected),
                expected=(*self.batch_shape, *size),
            )

    @property
    def known_depth(self) -> Tensor:
        """The depth, for what cannot do without; ShapeError where there is none."""
        return _known(self.depth, "depth")

    @property
    def known_alpha(self) -> Tensor:
        """The alpha, for what cannot do without; ShapeError where there is none."""
        return _known(self.alpha, "alpha")


def _known(value: Tensor | None, field: str) -> Tensor:
    if value is None:
        raise ShapeError("is missing", field=field, found=None, expected="a tensor")
    return value


@dataclass(frozen=True)
class Episode(TensorStruct):
    """One recording in memory: several cameras over time, with the robot's actions and state.

    views {camera name: Frames [*b t]}; times [*b t] s float64 from the start; valid [*b t] bool (False = padding);
    actions [*b t a] (actions[t] leads from t to t + 1); proprio [*b t p]; rewards, success [*b t] or None;
    segment_poses [*b t g 7] world-from-segment of segment id g (exact motion; simulation only) or None;
    info: task, action_spec and proprio_spec (lists of {name, unit, frame}), robot, source, seed.
    """

    views: Mapping[str, Frames]
    times: Tensor
    valid: Tensor
    actions: Tensor
    proprio: Tensor
    rewards: Tensor | None = None
    success: Tensor | None = None
    segment_poses: Tensor | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    SHAPES = shapes(
        times="*b t",
        valid="*b t",
        rewards="*b t",
        success="*b t",
        actions="*b t a",
        proprio="*b t p",
        segment_poses="*b t g 7",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, frames in self.views.items():
            if frames.batch_shape != self.batch_shape:
                raise ShapeError(
                    "views and times differ", field=f"views.{name}", found=frames.batch_shape, expected=self.batch_shape
                )

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """(*b, t): time is indexed like a batch axis, so `episode[3:8]` is a stretch of time."""
        return tuple(self.times.shape)

    @property
    def known_segment_poses(self) -> Tensor:
        """The exact motion, for what cannot do without; ShapeError where there is none."""
        return _known(self.segment_poses, "segment_poses")

    def stacked(self, names: Sequence[str] | None = None) -> Frames:
        """Views of one size as one Frames [*b t v] (extras that all of them have are kept)."""
        names = list(names if names is not None else self.views)
        missing = [n for n in names if n not in self.views]
        if missing:
            raise DataFormatError("no such camera", field="cameras", found=missing, expected=list(self.views))
        frames = [self.views[n] for n in names]
        shared = set.intersection(*(set(f.extras) for f in frames))
        frames = [f.replace(extras={k: f.extras[k] for k in sorted(shared)}) for f in frames]
        if len({(f.cameras.width, f.cameras.height) for f in frames}) != 1:
            raise ShapeError(
                "views differ in size",
                field="views",
                found={n: (f.cameras.width, f.cameras.height) for n, f in self.views.items()},
            )
        return Frames.stack(frames, dim=len(self.batch_shape))


@dataclass(frozen=True)
class Task(TensorStruct):
    """What is to be done: text, the name of a task or its words; goal [3] m in the world, where the object of the task
    should come to be, or None; phrases: verb, object, relation and place, "" where there is none, or None where they
    are to be read from the text."""

    text: str = ""
    goal: Tensor | None = None
    phrases: tuple[str, str, str, str] | None = None

    SHAPES = shapes(goal="3")


class Recording(Protocol):
    """A recorded episode on disk: metadata at once, images when asked for."""

    @property
    def path(self) -> str:
        """The folder or file."""
        ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """Their names."""
        ...

    @property
    def num_frames(self) -> int:
        """How many there are to read."""
        ...

    @property
    def fps(self) -> float:
        """Frames a second."""
        ...

    @property
    def info(self) -> Mapping[str, Any]:
        """JSON-ready: source, task, robot, specs."""
        ...

    def read(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        stride: int = 1,
        cameras: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Episode:
        """Frames start, start + stride, ... below stop, of the named cameras, resized to `size` (width, height) px."""
        ...


@dataclass(frozen=True)
class Gaussians(TensorStruct):
    """A set of 3D Gaussians with activated, physical values.

    means [*b n 3] m; quats [*b n 4] wxyz; scales [*b n 3] standard deviations in m, > 0; opacities [*b n] in [0, 1];
    sh [*b n k 3] spherical-harmonics colour (rgb = 0.5 + 0.2820948 sh_0 + ...), k = 1, 4, 9 or 16;
    ids [*b n] int64 persistent identity, -1 = empty slot; extras {name: [*b n c]}.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor
    ids: Tensor = None  # type: ignore[assignment]  # __post_init__ numbers the rows where none are given
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    SHAPES = shapes(
        means="*b n 3", quats="*b n 4", scales="*b n 3", opacities="*b n", sh="*b n k 3", ids="*b n", extras="*b n _"
    )

    def __post_init__(self) -> None:
        if self.ids is None:
            shape = self.means.shape[:-1]
            ids = torch.arange(shape[-1], dtype=torch.int64, device=self.means.device)
            object.__setattr__(self, "ids", ids.expand(shape))
        super().__post_init__()

    @property
    def num_gaussians(self) -> int:
        """Rows, empty slots included."""
        return self.means.shape[-2]

    def pick(self, index: Tensor) -> Self:
        """The rows that a [n] mask or an index list names, of an unbatched set."""
        if self.batch_shape:
            raise ShapeError(
                "pick works on one set", field="Gaussians", found=self.batch_shape, expected="no batch axes"
            )
        return self.map(lambda x: x[index])

    def padded(self, num_gaussians: int) -> Self:
        """The set with empty slots (id -1, opacity 0) added up to `num_gaussians` rows."""
        extra = num_gaussians - self.num_gaussians
        if extra < 0:
            raise ShapeError(
                "cannot pad to fewer rows",
                field="num_gaussians",
                found=num_gaussians,
                expected=f">= {self.num_gaussians}",
            )
        if extra == 0:
            return self
        axis = len(self.batch_shape)

        def pad(x: Tensor, value: float) -> Tensor:
            return torch.cat([x, x.new_full((*x.shape[:axis], extra, *x.shape[axis + 1 :]), value)], dim=axis)

        return self.replace(
            means=pad(self.means, 0.0),
            quats=torch.cat(
                [self.quats, self.quats.new_tensor([1.0, 0, 0, 0]).expand(*self.batch_shape, extra, 4)], axis
            ),
            scales=pad(self.scales, 1e-6),
            opacities=pad(self.opacities, 0.0),
            sh=pad(self.sh, 0.0),
            ids=pad(self.ids, -1),
            extras={k: pad(v, 0) for k, v in self.extras.items()},
        )

    @classmethod
    def stack(cls, items: Sequence[Any], dim: int = 0) -> Self:
        """Stack sets of any sizes; shorter ones get empty slots (id -1, opacity 0)."""
        rows = max(g.num_gaussians for g in items)
        return super().stack([g.padded(rows) for g in items], dim)

"""Gaussians that live and move, with the law of their motion: skinning by the rigid motion of anchors."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scene4d.geometry.rotation import interpolate_pose, normalize_quat
from scene4d.geometry.skinning import skinned_gaussians
from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.types import Gaussians

ALIVE_TOLERANCE = 1e-6
"""Seconds by which a time may miss the first or last instant of a Gaussian."""


@dataclass(frozen=True)
class Motion(TensorStruct):
    """Rigid motion of anchors, and how Gaussians hang on them.

    anchors [*b m 3] rest positions in m; world_from_rest [*b t m 7]; log_var [*b t m 6] (twist variance) or None;
    skin_index [*b n j] int64 into the anchors; skin_weights [*b n j], all 0 = static.
    A rest point x of Gaussian i is at sum_j w_ij T_j(x) when its weights sum to 1.
    """

    anchors: Tensor
    world_from_rest: Tensor
    skin_index: Tensor
    skin_weights: Tensor
    log_var: Tensor | None = None

    SHAPES = shapes(
        anchors="*b m 3", world_from_rest="*b t m 7", skin_index="*b n j", skin_weights="*b n j", log_var="*b t m 6"
    )


@dataclass(frozen=True)
class Scene4D(TensorStruct):
    """Gaussians that live and move: what reconstruction finds and what the forecaster predicts.

    base: Gaussians [*b n] at rest; motion; alive [*b n 2] first and last second a Gaussian exists (inclusive);
    times [*b t] s float64; observed [*b t] bool (False = predicted); residual {name: [*b t n c]} added to base or None.
    info: provenance (source, seed, model), JSON-ready.
    """

    base: Gaussians
    motion: Motion
    alive: Tensor
    times: Tensor
    observed: Tensor
    residual: Mapping[str, Tensor] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    SHAPES = shapes(
        alive="*b n 2",
        times="*b t",
        observed="*b t",
        **{"base.means": "*b n 3", "motion.world_from_rest": "*b t m 7", "motion.skin_index": "*b n j"},
    )

    def at(self, time: float | Tensor) -> Gaussians:
        """The Gaussians [*b n] at `time` s (a number, or one a batch element [*b]).

        Anchor poses are interpolated between the two nearest times (held before the first and after the last);
        positions are the blend of the anchors' rigid motions by skin weights, weights that sum to less than 1 keep the
        rest still; quats, sh and extras["normals"] turn by the blended rotation. `residual` is interpolated and added
        to the rest state. Rows whose weights are all 0 come back bit-equal.

        Returns:
            Gaussians with the rows and ids of `base`; those not alive get opacity 0. Differentiable in everything but
            the times.
        """
        when = _when(self, time)
        moved = _moved(self, _with_residual(self, when), when=when, turn=True)
        alive = alive_at(self, time)
        return moved.replace(opacities=torch.where(alive, moved.opacities, torch.zeros_like(moved.opacities)))

    def flow(self, start: float | Tensor, stop: float | Tensor) -> tuple[Tensor, Tensor]:
        """Displacement [*b n 3] in m from `start` to `stop` s, and where it is valid [*b n].

        Valid: alive at both, no empty slot. Elsewhere, and for static rows, the displacement is exactly 0.
        """
        places, alive = [], []
        for time in (start, stop):
            when = _when(self, time)
            places.append(_moved(self, _with_residual(self, when), when=when, turn=False).means)
            alive.append(alive_at(self, time))
        valid = alive[0] & alive[1] & (self.base.ids >= 0)
        flow = places[1] - places[0]
        return torch.where(valid[..., None], flow, torch.zeros_like(flow)), valid


class RememberedScene(Scene4D):
    """The same scene, which works out each of its instants once and then keeps it: for those who look often."""

    @classmethod
    def of(cls, scene: Scene4D) -> RememberedScene:
        """The scene, unbatched, with no instant looked at yet."""
        named = {name: getattr(scene, name) for name in ("alive", "times", "observed", "residual", "info")}
        return cls(base=scene.base, motion=scene.motion, **named)

    @functools.cached_property
    def _instants(self) -> dict[float, Gaussians]:
        return {}

    def at(self, time: float | Tensor) -> Gaussians:
        """As that of `Scene4D`."""
        if (second := float(time)) not in self._instants:
            self._instants[second] = super().at(second)
        return self._instants[second]

    def flow(self, start: float | Tensor, stop: float | Tensor) -> tuple[Tensor, Tensor]:
        """As that of `Scene4D`, to the bit."""
        valid = alive_at(self, start) & alive_at(self, stop) & (self.base.ids >= 0)
        return torch.where(valid[..., None], self.at(stop).means - self.at(start).means, 0.0), valid


def _when(scene: Scene4D, time: float | Tensor) -> Tensor:
    """`time` as one float64 a batch element, flattened [b]."""
    time = torch.as_tensor(time, dtype=torch.float64, device=scene.times.device)
    return time.expand(scene.batch_shape).reshape(-1)


def alive_at(scene: Scene4D, time: float | Tensor) -> Tensor:
    """[*b n] whether each Gaussian exists at `time` s.

    Times are compared in the precision that `alive` has: 0.1 is not before a float32 0.1.
    """
    alive = scene.alive
    time = _when(scene, time).to(alive.dtype).reshape(*scene.batch_shape, 1)
    return (time >= alive[..., 0] - ALIVE_TOLERANCE) & (time <= alive[..., 1] + ALIVE_TOLERANCE)


def _bracket(scene: Scene4D, when: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two frames round `when` [b] and the weight of the later one."""
    times = scene.times.reshape(-1, scene.times.shape[-1]).to(torch.float64)
    num_times = times.shape[-1]
    after = torch.searchsorted(times.contiguous(), when[:, None].contiguous())[:, 0]
    late = after.clamp(min(1, num_times - 1), num_times - 1)
    early = (late - 1).clamp_min(0)
    rows = torch.arange(len(when), device=times.device)
    span = times[rows, late] - times[rows, early]
    weight = torch.where(span > 0, (when - times[rows, early]) / span.clamp_min(1e-12), torch.zeros_like(span))
    return early, late, weight.clamp(0, 1)


def _between(
    values: Tensor, bracket: tuple[Tensor, Tensor, Tensor], *, num_batch: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Values [*b t ...] at the two frames, [b ...] each, and the weight shaped to multiply them."""
    early, late, weight = bracket
    axis = num_batch
    flat = values.reshape(-1, *values.shape[axis:])
    rows = torch.arange(len(early), device=values.device)
    weight = weight.to(values.dtype).reshape(-1, *[1] * (flat.ndim - 2))
    return flat[rows, early], flat[rows, late], weight


def _with_residual(scene: Scene4D, when: Tensor) -> Gaussians:
    base = scene.base
    if not scene.residual:
        return base
    bracket = _bracket(scene, when)
    changes, extras = {}, dict(base.extras)
    for name, values in scene.residual.items():
        a, b, weight = _between(values, bracket, num_batch=len(scene.batch_shape))
        added = (1 - weight) * a + weight * b  # [b n c]
        if name in extras:
            extras[name] = extras[name] + added.reshape(extras[name].shape).to(extras[name].dtype)
            continue
        field = getattr(base, name)
        field = field + added.reshape(field.shape).to(field.dtype)
        match name:
            case "quats":
                field = normalize_quat(field)
            case "scales":
                field = field.clamp_min(1e-9)
            case "opacities":
                field = field.clamp(0, 1)
        changes[name] = field
    return base.replace(extras=extras, **changes)


def _moved(scene: Scene4D, rest: Gaussians, *, when: Tensor, turn: bool) -> Gaussians:
    """`rest` carried by the anchors; with `turn`, what has a direction turns too (else only the means are right)."""
    motion = scene.motion
    if motion.anchors.shape[-2] == 0 or scene.times.shape[-1] == 0:
        return rest
    a, b, weight = _between(motion.world_from_rest, _bracket(scene, when), num_batch=len(scene.batch_shape))  # [b m 7]
    about = motion.anchors.reshape(*a.shape[:-1], 3).to(a.dtype)
    poses = interpolate_pose(a, b, weight=weight.squeeze(-1), about=about)
    return skinned_gaussians(rest, poses, skin_index=motion.skin_index, skin_weights=motion.skin_weights, turn=turn)

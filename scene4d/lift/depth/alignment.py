"""Scale, and shift, of estimated depth: from a few measured pixels, from known points, or from known cameras alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from scene4d.check import check
from scene4d.errors import DepthError
from scene4d.geometry.camera import project
from scene4d.lift.depth.joint_alignment import joint_scales
from scene4d.lift.depth.photo_consistency import (
    Measured,
    Pictures,
    hypothesis_scores,
    neighbours_of,
    pictures_of,
    plane_sweep,
    share_confirmed,
    shrunk,
)
from scene4d.lift.depth.scale_fit import AlignConfig, Kind, fit_scale
from scene4d.types import Frames


@dataclass(frozen=True)
class Aligned:
    """Depth in the scale of the cameras: 1 / depth = scale x + shift, with x the prediction or its inverse (metric).

    depth [v h w] m; scale, shift [v]; agreement [v]: the share of what was measured within 10 % of the depth, or of
    textured pixels that look alike in other views, NaN where there was neither.
    """

    depth: Tensor
    scale: Tensor
    shift: Tensor
    agreement: Tensor


def align_depth(
    prediction: Tensor,
    frames: Frames,
    *,
    kind: Kind,
    points: Tensor | None = None,
    visible: Tensor | None = None,
    groups: Tensor | None = None,
    config: AlignConfig | None = None,
) -> Aligned:
    """Depth [v h w] in m from an estimator's predictions [v h w].

    A view is aligned by its own depth sensor where at least `min_points` pixels measured something, else by `points`
    that project into it, else by matching its picture with neighbouring views: a search over all scales (and shifts),
    then rounds of local matching and robust least squares, in which views must also agree with one another (alone
    they would agree best at infinity).

    Args:
        prediction: "relative": inverse depth up to scale and shift; "metric": depth up to scale.
        frames: [v] pictures with cameras; depth, if any, is the sensor's.
        points: world points [p 3] (of a COLMAP model, say); visible [v p] bool where they are seen, all if None.
        groups: [v] views of one number saw the same instant and may be matched; None = nothing moves.
    Raises:
        DepthError: a view has nothing to be aligned by.
    """
    config = config or AlignConfig()
    check(prediction=(prediction, "v h w"), rgb=(frames.rgb, "v h w 3"), points=(points, "p 3"))
    values = _inverse_like(prediction, kind)
    shape = values.shape
    known = [
        _sensor(frames, i, config=config) or _points(frames, i, points=points, visible=visible, config=config)
        for i in range(shape[0])
    ]
    solution = values.new_zeros(shape[0], 2)
    for i, measured in enumerate(known):
        if measured is not None:
            solution[i] = fit_scale(values[i].flatten()[measured.pixels], measured, kind=kind, config=config)
    open_views = [i for i, measured in enumerate(known) if measured is None]
    agreement = _agreement(values, known, solution=solution)
    if open_views:
        solution, matched = _matched(
            values, frames, solution=solution, open_views=open_views, kind=kind, groups=groups, config=config
        )
        agreement[open_views] = matched[open_views]
    inverse = solution[:, 0, None, None] * values + solution[:, 1, None, None]
    depth = 1 / inverse.clamp(1 / config.far, 1 / config.near)
    return Aligned(depth=depth, scale=solution[:, 0], shift=solution[:, 1], agreement=agreement)


def _inverse_like(prediction: Tensor, kind: Kind) -> Tensor:
    prediction = prediction.float()
    if not bool(prediction.isfinite().all()):
        raise DepthError("the estimator predicted something that is no number", field="prediction")
    return prediction if kind == "relative" else 1 / prediction.clamp_min(1e-6)


def _sensor(frames: Frames, index: int, *, config: AlignConfig) -> Measured | None:
    if frames.depth is None:
        return None
    depth = frames.depth[index].flatten()
    pixels = (depth.isfinite() & (depth > 0)).nonzero()[:, 0]
    depth = depth[pixels]
    return None if len(pixels) < config.min_points else Measured(pixels, 1 / depth, torch.ones_like(depth))


def _points(
    frames: Frames, index: int, *, points: Tensor | None, visible: Tensor | None, config: AlignConfig
) -> Measured | None:
    if points is None:
        return None
    camera = frames.cameras[index]
    pixels, depth = project(points.to(camera.viewmats), camera.viewmats, Ks=camera.Ks)
    column, row = pixels.floor().long().unbind(-1)
    seen = (depth > 1e-3) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    if visible is not None:
        seen &= visible[index]
    if int(seen.sum()) < config.min_points:
        return None
    inverse = 1 / depth[seen]
    return Measured((row * camera.width + column)[seen], inverse, torch.ones_like(inverse))


def _agreement(values: Tensor, known: list[Measured | None], *, solution: Tensor) -> Tensor:
    shares = torch.full((len(known),), math.nan)
    for i, measured in enumerate(known):
        if measured is not None and len(measured.pixels):
            inverse = solution[i, 0] * values[i].flatten()[measured.pixels] + solution[i, 1]
            shares[i] = ((inverse / measured.inverse - 1).abs() < 0.1).float().mean()
    return shares


def _matched(
    values: Tensor,
    frames: Frames,
    *,
    solution: Tensor,
    open_views: list[int],
    kind: Kind,
    groups: Tensor | None,
    config: AlignConfig,
) -> tuple[Tensor, Tensor]:
    """(solution [v 2], agreement [v]) of views that only other views can align."""
    others = neighbours_of(
        frames.cameras,
        num=config.num_neighbours,
        min_baseline=config.min_baseline,
        max_angle=config.max_angle,
        groups=groups,
    )
    alone = [i for i in open_views if not others[i]]
    if alone:
        raise DepthError(
            "cannot be brought to scale: no other camera sees the scene from elsewhere at that instant",
            field="depth", frame=alone[0], found=f"{len(alone)} such views",
            fix="give depth for a few pixels, points of a COLMAP model, or a camera that moves",
        )  # fmt: skip
    coarse = pictures_of(frames, width=config.coarse_width)
    small = shrunk(values, width=config.coarse_width)
    solution = solution.clone()
    for i in open_views:
        solution[i] = _searched(small[i], coarse, here=i, others=others[i], kind=kind, config=config)
    pictures = pictures_of(frames, width=config.width)
    small = shrunk(values, width=config.width)
    measured: list[Measured | None] = [None] * len(values)
    for spread in config.spreads:
        for i in open_views:
            inverse = (solution[i, 0] * small[i] + solution[i, 1]).clamp(1 / config.far, 1 / config.near)
            found = [plane_sweep(pictures, inverse, here=i, there=j, spread=spread) for j in others[i]]
            measured[i] = Measured(*(torch.cat([getattr(f, k.name) for f in found]) for k in fields(Measured)))
        solution = joint_scales(
            small, pictures, measured=measured, others=others, solution=solution, kind=kind, config=config
        )
    inverse = (solution[:, 0, None, None] * small + solution[:, 1, None, None]).clamp(1 / config.far, 1 / config.near)
    shares = [share_confirmed(pictures, inverse[i], here=i, others=others[i]) for i in range(len(small))]
    return solution, torch.tensor(shares)


def _searched(
    values: Tensor, pictures: Pictures, *, here: int, others: list[int], kind: Kind, config: AlignConfig
) -> Tensor:
    """The (scale, shift) [2], of a grid over all that are possible, at which the pictures agree best."""
    low, high = (float(values.quantile(q)) for q in (0.05, 0.95))
    ends = [math.log(1 / config.far), math.log(1 / config.near)]
    far = torch.linspace(ends[0], ends[1], config.num_depths).exp().to(values)
    if kind == "metric":
        scale = far / max(float(values.median()), 1e-9)
        options = torch.stack([scale, torch.zeros_like(scale)], -1)
    else:
        contrast = torch.linspace(0.0, math.log(config.max_contrast), config.num_contrasts).exp().to(values)
        near = (far[:, None] * contrast).flatten()
        far = far.repeat_interleave(config.num_contrasts)
        possible = near <= 1.0 / config.near
        far, near = far[possible], near[possible]
        scale = (near - far) / max(high - low, 1e-9)
        options = torch.stack([scale, far - scale * low], -1)
    inverse = (options[:, 0, None, None] * values + options[:, 1, None, None]).clamp(0.5 / config.far, 2 / config.near)
    scores = hypothesis_scores(pictures, inverse, here=here, others=others)
    return options[int(scores.argmax())]

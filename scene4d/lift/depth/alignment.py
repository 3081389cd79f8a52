"""Scale, and shift, of estimated depth: from a few measured pixels, from known points, or from known cameras alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scene4d.check import check
from scene4d.errors import DepthError
from scene4d.geometry.camera import project
from scene4d.lift.depth.photo_consistency import (
    Measured,
    Pictures,
    hypothesis_scores,
    neighbours_of,
    pictures_of,
    plane_sweep,
    share_confirmed,
    shrunk,
    warp_between,
)
from scene4d.types import Frames

Kind = Literal["relative", "metric"]


@dataclass(frozen=True)
class AlignConfig:
    """How predictions are brought to the scale of the cameras."""

    near: float = 0.1
    """Nearest depth in m that a scene may have."""
    far: float = 20.0
    """Farthest depth in m that a scene may have."""
    width: int = 160
    """Width in px at which pictures are matched."""
    coarse_width: int = 64
    """Width in px at which the first guess is searched."""
    num_neighbours: int = 4
    """Other views that each view is matched with."""
    min_baseline: float = 0.01
    """Distance in m from which two cameras see depth."""
    max_angle: float = 0.8
    """Angle in rad between axes up to which two cameras are matched."""
    spreads: tuple[float, ...] = (0.25, 0.1, 0.05)
    """Relative search range of each round of matching."""
    num_depths: int = 28
    """Depths of the first search."""
    num_contrasts: int = 10
    """Ratios of near to far inverse depth of the first search (relative predictions only)."""
    max_contrast: float = 12.0
    """Largest such ratio."""
    noise: float = 0.015
    """Relative depth error from which a measurement counts half or less."""
    agreement_weight: float = 0.05
    """Weight of two views' depths agreeing, against what was matched."""
    min_points: int = 12
    """Measured pixels, or points, that a view needs to be aligned by them."""


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
            solution[i] = _fitted(values[i].flatten()[measured.pixels], measured, kind=kind, config=config)
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
    if len(pixels) < config.min_points:
        return None
    return Measured(pixels, 1 / depth[pixels], torch.ones_like(depth[pixels]))


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


def _fitted(x: Tensor, measured: Measured, *, kind: Kind, config: AlignConfig, rounds: int = 30) -> Tensor:
    """(scale, shift) [2] that bring x [n] to the measured inverse depths: least absolute relative error, reweighted."""
    depth = 1 / measured.inverse
    columns = torch.stack([x * depth, depth], -1).double()
    if kind == "metric":
        columns = columns[:, :1]
    weights, solution = measured.weights.double(), columns.new_zeros(columns.shape[1])
    for step in range(rounds):
        matrix = columns.T @ (weights[:, None] * columns)
        ridge = 1e-9 * matrix.diagonal().mean() * torch.eye(len(matrix)).to(matrix)
        solution = torch.linalg.solve(matrix + ridge, columns.T @ weights)
        error = (columns @ solution - 1).abs()
        # From least absolute deviations, which outliers hardly move, to the bounded influence of a Cauchy weight.
        noise = max(config.noise, float(error.median()))
        loose = step < rounds // 2
        weights = measured.weights / (error.clamp_min(1e-3) if loose else 1 + (error / noise) ** 2)
    return torch.cat([solution, solution.new_zeros(2 - len(solution))]).to(x)


def _agreement(values: Tensor, known: list[Measured | None], *, solution: Tensor) -> Tensor:
    shares = []
    for i, measured in enumerate(known):
        if measured is None or len(measured.pixels) == 0:
            shares.append(math.nan)
            continue
        inverse = solution[i, 0] * values[i].flatten()[measured.pixels] + solution[i, 1]
        shares.append(float(((inverse / measured.inverse - 1).abs() < 0.1).float().mean()))
    return torch.tensor(shares)


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
            measured[i] = Measured(
                *(torch.cat([getattr(f, k) for f in found]) for k in ("pixels", "inverse", "weights"))
            )
        solution = _joined(
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


def _joined(
    values: Tensor,
    pictures: Pictures,
    *,
    measured: list[Measured | None],
    others: list[list[int]],
    solution: Tensor,
    kind: Kind,
    config: AlignConfig,
) -> Tensor:
    """All views' (scale, shift) [v 2] at once: what was matched in each, and that pairs of views agree.

    Robust Gauss-Newton on relative depth errors; views without matches are held only by their neighbours.
    """
    solution = solution.clone()
    for i, found in enumerate(measured):
        if found is not None and len(found.pixels) >= config.min_points:
            fitted = _fitted(values[i].flatten()[found.pixels], found, kind=kind, config=config)
            solution[i] = torch.where((fitted[0] > 0) & fitted.isfinite().all(), fitted, solution[i])
    free = torch.tensor([m is not None for m in measured]).repeat_interleave(2)
    if kind == "metric":
        free[1::2] = False
    if config.agreement_weight <= 0:
        return solution
    for _ in range(4):
        system = _Normal(len(values), noise=config.noise)
        for i, found in enumerate(measured):
            if found is not None:
                x = values[i].flatten()[found.pixels]
                rows = torch.stack([x, torch.ones_like(x)], -1) / found.inverse[:, None]
                error = rows @ solution[i] - 1
                system.add(rows, error=error, at=[i], weights=found.weights)
        for i, row in enumerate(others):
            for j in row:
                _add_pair(system, values, pictures=pictures, solution=solution, here=i, there=j, config=config)
        step = system.step(free)
        changed = solution + step.view(-1, 2).to(solution)
        solution = torch.where((changed[:, :1] > 0) & changed.isfinite().all(-1, keepdim=True), changed, solution)
    return solution


class _Normal:
    """The normal equations of all views' (scale, shift): robust least squares, gathered pair by pair."""

    def __init__(self, num_views: int, *, noise: float):
        self.matrix = torch.zeros(2 * num_views, 2 * num_views, dtype=torch.float64)
        self.vector = torch.zeros(2 * num_views, dtype=torch.float64)
        self.noise = noise

    def add(self, rows: Tensor, *, error: Tensor, at: list[int], weights: Tensor) -> None:
        """Take in residuals [n] with their derivatives [n 2k] by the (scale, shift) of the k views `at`."""
        columns = torch.tensor([2 * i + k for i in at for k in (0, 1)])
        # Every pair and view counts alike, however many pixels it has.
        weights = (weights / (1 + (error / self.noise) ** 2) / max(1, len(error))).double()
        rows = rows.double()
        self.matrix[columns[:, None], columns[None]] += rows.T @ (weights[:, None] * rows)
        self.vector[columns] += rows.T @ (weights * error.double())

    def step(self, free: Tensor) -> Tensor:
        """The change [2v] of the values in the mask `free` [2v] that lowers the squares most; the others' is 0."""
        matrix = self.matrix[free][:, free]
        damping = (1e-6 * matrix.diagonal().mean() + 1e-12) * torch.eye(len(matrix), dtype=torch.float64)
        step = torch.zeros_like(self.vector)
        step[free] = torch.linalg.solve(matrix + damping, -self.vector[free])
        return step


def _add_pair(
    system: _Normal,
    values: Tensor,
    *,
    pictures: Pictures,
    solution: Tensor,
    here: int,
    there: int,
    config: AlignConfig,
) -> None:
    """Add that view `here` and view `there` agree: a point of one must lie on the surface of the other."""
    x = values[here]
    inverse = (solution[here, 0] * x + solution[here, 1]).clamp(1 / config.far, 1 / config.near)
    warp = warp_between(pictures.cameras, here=here, there=there)
    seen, inside = warp.sample(values[there], inverse[None])
    keep = inside[0].flatten().nonzero()[:, 0][:: max(1, inside[0].numel() // 2000)]
    if len(keep) == 0:
        return
    x, inverse, y = x.flatten()[keep], inverse.flatten()[keep], seen[0].flatten()[keep]
    # Homogeneous pixels have z-depth over the depth here as their third entry.
    along = warp.far.reshape(-1, 3)[keep, 2]
    depth = along / inverse + warp.near[2]
    there_inverse = solution[there, 0] * y + solution[there, 1]
    mine = -there_inverse * along / inverse**2
    ones = torch.ones_like(x)
    rows = torch.stack([mine * x, mine * ones, depth * y, depth * ones], -1)
    weights = ones * config.agreement_weight
    system.add(rows, error=there_inverse * depth - 1, at=[here, there], weights=weights)

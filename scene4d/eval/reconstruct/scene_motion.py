"""How right a reconstruction's motion and identity are, at the surface points that its cameras see, against truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import DataFormatError
from scene4d.eval.forecast.ground_truth import measured_depth_at, segment_displacement
from scene4d.geometry.camera import unproject
from scene4d.geometry.neighbours import nearest
from scene4d.scene import Scene4D
from scene4d.types import Episode


@dataclass(frozen=True)
class MotionEvalConfig:
    """Which points are asked, and what counts."""

    steps: tuple[int, ...] = (1, 8)
    """Frames ahead."""
    start_every: int = 4
    """Every how many-th frame is a start."""
    stride: int = 2
    """Every how many-th pixel of a row and a column is a point."""
    moving_m: float = 0.005
    """Displacement in m over the steps from which a point counts as moving."""
    reach_m: float = 0.02
    """Distance in m within which a Gaussian counts as the one that shows a point."""
    visible_m: float = 0.01
    """Depth difference in m within which a point counts as seen."""


def motion_scores(
    scene: Scene4D, episode: Episode, *, cameras: Sequence[str], config: MotionEvalConfig | None = None
) -> dict[str, dict[str, Any]]:
    """Flow errors and kept identity of a scene, at every surface point that `cameras` see.

    The Gaussian that shows a point is the nearest that exists then. A point that none shows, or whose Gaussian is gone
    by the end, counts as predicted to rest; so gaps cannot improve a figure. Identity is kept where that very Gaussian
    (by its id) still exists and lies within `reach_m` of where the point truly went, counted over points that a camera
    still sees there.

    Args:
        episode: unbatched, with exact segment poses and extras["segments"] in `cameras`.
    Returns:
        {"1": {flow_epe_moving, flow_epe_static, rest_epe_moving (of predicting no motion), identity, identity_moving,
        shown, num_moving, num_static}, ...} in m and shares; None where there is nothing to measure.
    Raises:
        DataFormatError: the episode has no exact motion.
    """
    config = config or MotionEvalConfig()
    if episode.segment_poses is None or any("segments" not in episode.views[n].extras for n in cameras):
        raise DataFormatError("has no exact motion", field="segment_poses", fix="record with scene4d record")
    at = lambda t, step: _scores_at(scene, episode, start=t, stop=t + step, cameras=cameras, config=config)
    starts = lambda step: range(0, len(episode.times) - step, config.start_every)
    return {str(step): _pooled([at(t, step) for t in starts(step)]) for step in config.steps}


def surface_points(episode: Episode, *, cameras: Sequence[str], index: int, stride: int) -> tuple[Tensor, Tensor]:
    """Points [p 3] that `cameras` see at frame `index`, and the segments [p] they belong to.

    Every `stride`-th pixel of rows and columns counts that has a depth and a segment.
    """
    points, segments = [], []
    for name in cameras:
        frames = episode.views[name][index]
        places = unproject(frames.known_depth, frames.cameras.viewmats, Ks=frames.cameras.Ks)
        under = frames.extras["segments"][..., 0].long()
        keep = torch.zeros_like(under, dtype=torch.bool)
        keep[stride // 2 :: stride, stride // 2 :: stride] = True
        keep &= (frames.known_depth > 0) & (under >= 0)
        points.append(places[keep])
        segments.append(under[keep])
    return torch.cat(points), torch.cat(segments)


def seen_by(episode: Episode, points: Tensor, *, cameras: Sequence[str], index: int, tolerance: float) -> Tensor:
    """Whether [p] a camera measures each of the points [p 3] at frame `index`, to `tolerance` m of depth."""
    seen = torch.zeros(len(points), dtype=torch.bool)
    for name in cameras:
        measured, depth = measured_depth_at(points, episode.views[name][index])
        seen |= (measured > 0) & ((measured - depth).abs() < tolerance)
    return seen


@torch.no_grad()
def _scores_at(
    scene: Scene4D, episode: Episode, *, start: int, stop: int, cameras: Sequence[str], config: MotionEvalConfig
) -> dict[str, tuple[float, int]]:
    """{figure: (sum over points, number of points)} of one pair of frames."""
    points, segments = surface_points(episode, cameras=cameras, index=start, stride=config.stride)
    truth = segment_displacement(episode, points, segments=segments, start=start, stop=stop)
    begin, end = float(episode.times[start]), float(episode.times[stop])
    now = scene.at(begin)
    rows = ((now.opacities > 0) & (now.ids >= 0)).nonzero()[:, 0]
    flow, valid = scene.flow(begin, end)
    if len(rows) == 0 or len(points) == 0:
        return {}
    distance, index = nearest(now.means[rows], points, num=1)
    row = rows[index[:, 0]]
    shown = distance[:, 0] < config.reach_m
    exists = shown & valid[row]
    error = (torch.where(exists[:, None], flow[row], 0.0) - truth).norm(dim=-1)
    moving = truth.norm(dim=-1) > config.moving_m
    gone = points + truth
    kept = exists & ((now.means[row] + flow[row] - gone).norm(dim=-1) < config.reach_m)
    still_seen = seen_by(episode, gone, cameras=cameras, index=stop, tolerance=config.visible_m)
    total = lambda x, mask: (float(x[mask].sum()), int(mask.sum()))
    return {
        "flow_epe_moving": total(error, moving),
        "flow_epe_static": total(error, ~moving),
        "rest_epe_moving": total(truth.norm(dim=-1), moving),
        "identity": total(kept.float(), still_seen),
        "identity_moving": total(kept.float(), still_seen & moving),
        "shown": total(shown.float(), torch.ones_like(shown)),
    }


def _pooled(parts: Sequence[dict[str, tuple[float, int]]]) -> dict[str, Any]:
    """Means over all points of all pairs of frames."""
    table: dict[str, Any] = {}
    for name in ("flow_epe_moving", "flow_epe_static", "rest_epe_moving", "identity", "identity_moving", "shown"):
        sums = [part[name] for part in parts if name in part]
        number = sum(n for _, n in sums)
        table[name] = sum(s for s, _ in sums) / number if number else None
        if name in ("flow_epe_moving", "flow_epe_static"):
            table[name.replace("flow_epe", "num")] = number
    return table

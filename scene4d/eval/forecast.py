"""How good is a forecast? Exact truth on test seeds, one table for every forecaster, the same episodes for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scene4d.eval.forecasters import INPUTS, PastStream, by_id
from scene4d.geometry.camera import project, unproject
from scene4d.geometry.rotation import apply_pose, compose_pose, invert_pose
from scene4d.render.losses import psnr, ssim
from scene4d.types import Episode, Frames, Gaussians, Scene4D
from scene4d.worldmodel import Forecaster

KEYS = ("psnr", "psnr_moving", "ssim", "flow_epe_moving", "flow_epe_static", "depth_absrel", "psnr_novel")
DIGITS = {"psnr": 3, "psnr_moving": 3, "psnr_novel": 3}


@dataclass(frozen=True)
class ForecastEvalConfig:
    """What is forecast and scored. Changing a number here changes every row of the table alike."""

    tasks: tuple[str, ...] = ("button-press-v3", "door-open-v3", "drawer-open-v3")
    """Meta-World tasks."""
    seeds: tuple[int, ...] = (2000, 2001, 2002, 2003)
    """Episode seeds of each task; test seeds are 2000..2099."""
    starts: tuple[int, ...] = (8, 16, 24, 32)
    """Frames of an episode that are "now"."""
    horizons: tuple[int, ...] = (1, 4, 8)
    """Steps ahead that are scored."""
    size: int = 64
    """Width and height of the images in px."""
    novel: tuple[str, ...] = ("front", "top")
    """Cameras that are never an input."""
    noise: tuple[float, ...] = (0.1, 0.3, 0.5)
    """Action noise of the recording expert; seed s takes the entry s modulo 3."""
    moving_m: float = 0.005
    """Motion between now and the horizon from which matter counts as moving."""
    visible_m: float = 0.02
    """Depth difference to the image within which a memory row counts as the matter seen there."""


def evaluate_forecast(
    forecasters: Sequence[Forecaster],
    *,
    config: ForecastEvalConfig | None = None,
    past_stream: PastStream | None = None,
    record: Callable[..., Episode] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Forecast from every start of every recorded episode and score it against the recording.

    Args:
        forecasters: the first is "ours": its figures are the table's own, the others go under their names.
        past_stream: the memory that the forecasters share, asked here for the rows whose flow is scored.
        record: (task, seed=, noise=, num_frames=, size=) -> Episode; by default the simulator's.
        progress: called with (windows done, windows in all).
    Returns:
        {"horizon": {"1": {psnr, psnr_moving, ssim, flow_epe_moving, flow_epe_static, depth_absrel, psnr_novel,
        copy_last: {the same}, ...}, ...}, "tasks": {name: the same}, "windows": count}. PSNR in dB: mean over images of
        left and right, over moving pixels, over front and top; flow errors in m.
    """
    config = config or ForecastEvalConfig()
    past_stream = past_stream or PastStream()
    record = record or _simulated
    num_frames = max(config.starts) + max(config.horizons) + 1
    scores: dict[str, list[dict]] = {task: [] for task in config.tasks}
    total, done = len(config.tasks) * len(config.seeds) * len(config.starts), 0
    for task in config.tasks:
        for seed in config.seeds:
            noise = config.noise[seed % len(config.noise)]
            episode = record(task, seed=seed, noise=noise, num_frames=num_frames, size=(config.size, config.size))
            for start in sorted(config.starts):
                scores[task].append(
                    score_window(forecasters, episode, start=start, config=config, past_stream=past_stream)
                )
                done += 1
                if progress is not None:
                    progress(done, total)
    everything = [s for group in scores.values() for s in group]
    return {
        "horizon": _table(everything, forecasters, config),
        "tasks": {task: _table(group, forecasters, config) for task, group in scores.items()},
        "windows": len(everything),
    }


@torch.no_grad()
def score_window(
    forecasters: Sequence[Forecaster],
    episode: Episode,
    *,
    start: int,
    config: ForecastEvalConfig,
    past_stream: PastStream,
    actions: Tensor | None = None,
) -> dict[tuple[str, int], dict[str, float]]:
    """Scores {(forecaster, horizon): {metric: value}} of one start; NaN where a metric has nothing to measure.

    `actions` [h a] replaces the recorded ones, for a controllability check.
    """
    past = past_of(episode, start, inputs=past_stream.inputs)
    actions = episode.actions[start : start + max(config.horizons)] if actions is None else actions
    ahead = start + torch.tensor(config.horizons)
    cameras = {name: episode.views[name].cameras[ahead] for name in (*past_stream.inputs, *config.novel)}
    memory = past_stream.remember(past).memory
    rows = visible_rows(memory, episode, start=start, inputs=past_stream.inputs, tolerance=config.visible_m)
    out: dict[tuple[str, int], dict[str, float]] = {}
    for forecaster in forecasters:
        frames, scene = forecaster.forecast(past, actions=actions, cameras=cameras, seed=start, steps=config.horizons)
        for i, horizon in enumerate(config.horizons):
            pick = {name: f[i] for name, f in frames.items()}
            score = image_scores(pick, episode, start=start, horizon=horizon, config=config, inputs=past_stream.inputs)
            if scene is not None:
                score |= flow_scores(scene, rows, episode=episode, start=start, horizon=horizon, config=config)
            out[forecaster.name, horizon] = score
    return out


def past_of(episode: Episode, now: int, *, inputs: Sequence[str] = INPUTS) -> Episode:
    """The episode up to and including frame `now`, input cameras only: all that a forecaster may see.

    The last action of it, which leads out of now, is blanked.
    """
    past = episode.replace(views={n: episode.views[n] for n in inputs}, segment_poses=None)[: now + 1]
    actions = past.actions.clone()
    actions[-1] = 0
    views = {n: f.replace(extras={}) for n, f in past.views.items()}
    return past.replace(views=views, actions=actions, rewards=None, success=None)


def image_scores(
    frames: dict[str, Frames],
    episode: Episode,
    *,
    start: int,
    horizon: int,
    config: ForecastEvalConfig,
    inputs: Sequence[str],
) -> dict[str, float]:
    """Picture metrics of predicted frames {camera: Frames []} at start + horizon."""
    per: dict[str, list[float]] = {k: [] for k in ("psnr", "psnr_moving", "ssim", "depth_absrel", "psnr_novel")}
    for name, predicted in frames.items():
        truth = episode.views[name][start + horizon]
        rgb = predicted.rgb.clamp(0, 1)
        if name not in inputs:
            per["psnr_novel"].append(float(psnr(rgb, truth.rgb)))
            continue
        mask = moving_pixels(episode, name, start=start, stop=start + horizon, threshold=config.moving_m)
        per["psnr"].append(float(psnr(rgb, truth.rgb)))
        if bool(mask.any()):
            per["psnr_moving"].append(float(psnr(rgb, truth.rgb, mask)))
        per["ssim"].append(float(ssim(rgb[None], truth.rgb[None])[0]))
        if truth.depth is not None and predicted.depth is not None:
            known = truth.depth > 0
            per["depth_absrel"].append(float(((predicted.depth - truth.depth).abs() / truth.depth)[known].mean()))
    return {k: _mean(v) for k, v in per.items()}


def moving_pixels(episode: Episode, camera: str, *, start: int, stop: int, threshold: float) -> Tensor:
    """[h w] bool: pixels whose matter, seen at `start` or at `stop`, moves more than `threshold` m between the two."""
    mask = None
    for here, there in ((start, stop), (stop, start)):
        frames = episode.views[camera][here]
        points = unproject(frames.depth, frames.cameras.viewmats, frames.cameras.Ks)  # [h w 3]
        segments = frames.extras["segments"][..., 0].long()
        moved = segment_displacement(episode, points, segments, start=here, stop=there).norm(dim=-1) > threshold
        moved &= (frames.depth > 0) & (segments >= 0)
        mask = moved if mask is None else mask | moved
    return mask


def segment_displacement(episode: Episode, points: Tensor, segments: Tensor, *, start: int, stop: int) -> Tensor:
    """Exact displacement [.. 3] of points [.. 3] that belong to segments [..] from frame `start` to `stop`."""
    poses = episode.segment_poses
    motion = compose_pose(poses[stop], invert_pose(poses[start]))  # [g 7]
    return apply_pose(motion[segments.clamp_min(0)], points) - points


@dataclass(frozen=True)
class VisibleRows:
    """Memory rows that are seen now: their ids [r], places [r 3] and segments [r]."""

    ids: Tensor
    points: Tensor
    segments: Tensor


def visible_rows(
    memory: Gaussians, episode: Episode, *, start: int, inputs: Sequence[str], tolerance: float
) -> VisibleRows:
    """Memory rows that an input camera sees at frame `start`, bound to the segment under them."""
    segments = torch.full((memory.num_gaussians,), -1)
    for name in inputs:
        frames = episode.views[name][start]
        pixels, depth = project(memory.means, frames.cameras.viewmats, frames.cameras.Ks)
        height, width = frames.depth.shape
        column, row = pixels[:, 0].floor().long(), pixels[:, 1].floor().long()
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (depth > 0)
        column, row = column.clamp(0, width - 1), row.clamp(0, height - 1)
        seen = inside & ((frames.depth[row, column] - depth).abs() < tolerance) & (frames.depth[row, column] > 0)
        under = frames.extras["segments"][row, column, 0].long()
        segments = torch.where(seen & (segments < 0), under, segments)
    keep = (segments >= 0) & (memory.ids >= 0)
    return VisibleRows(memory.ids[keep], memory.means[keep], segments[keep])


def flow_scores(
    scene: Scene4D, rows: VisibleRows, *, episode: Episode, start: int, horizon: int, config: ForecastEvalConfig
) -> dict[str, float]:
    """End-point error in m of the scene's flow over `horizon` steps, for visible rows that move and that rest."""
    truth = segment_displacement(episode, rows.points, rows.segments, start=start, stop=start + horizon)
    flow, valid = scene.flow(float(scene.times[0]), float(scene.times[horizon]))
    predicted, _ = by_id(flow * valid[:, None], scene.base.ids, wanted=rows.ids)
    error = (predicted - truth).norm(dim=-1)
    moving = truth.norm(dim=-1) > config.moving_m
    return {
        "flow_epe_moving": float(error[moving].mean()) if bool(moving.any()) else float("nan"),
        "flow_epe_static": float(error[~moving].mean()) if bool((~moving).any()) else float("nan"),
    }


def _table(scores: list[dict], forecasters: Sequence[Forecaster], config: ForecastEvalConfig) -> dict[str, Any]:
    """Means over windows; the first forecaster's figures lie at the top, the others' under their names."""
    table: dict[str, Any] = {}
    for horizon in config.horizons:
        rows = {
            f.name: {k: _rounded(k, _mean([s[f.name, horizon].get(k, float("nan")) for s in scores])) for k in KEYS}
            for f in forecasters
        }
        first = forecasters[0].name
        table[str(horizon)] = {**rows[first], **{name: row for name, row in rows.items() if name != first}}
    return table


def _mean(values: Sequence[float]) -> float:
    """The mean of what is a number; NaN if nothing is."""
    numbers = [v for v in values if v == v]
    return sum(numbers) / len(numbers) if numbers else float("nan")


def _rounded(key: str, value: float) -> float | None:
    return round(value, DIGITS.get(key, 5)) if value == value else None


def _simulated(task: str, **options: Any) -> Episode:
    from scene4d.sim.metaworld import record_episode

    return record_episode(task, **options)

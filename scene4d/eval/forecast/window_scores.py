"""How good is a forecast? Exact truth on test seeds, one table for every forecaster, the same episodes for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scene4d.eval.forecast.forecast_table import CONTROL, MEDIAN_FILL, forecast_table, mean_of_numbers
from scene4d.eval.forecast.forecasters.past_stream import INPUTS, PastMemory, PastStream
from scene4d.eval.forecast.ground_truth import VisibleRows, moving_pixels, never_seen_pixels, visible_rows
from scene4d.geometry.camera import unproject
from scene4d.geometry.neighbours import chamfer
from scene4d.render.losses import psnr, ssim
from scene4d.render.render import render
from scene4d.scene import Scene4D
from scene4d.sim.recorder import record_episode
from scene4d.types import Episode, Frames
from scene4d.world.evaluated import Forecaster, ForecastQuestion

Scores = dict[tuple[str, int], dict[str, float]]


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
    control: int = 8
    """Steps ahead at which true actions are compared with shuffled ones, if it is among the horizons."""
    size: int = 64
    """Width and height of the images in px."""
    inputs: tuple[str, ...] = INPUTS
    """Cameras that the forecasters see."""
    novel: tuple[str, ...] = ("front", "top")
    """Cameras that are never an input."""
    noise: tuple[float, ...] = (0.1, 0.3, 0.5)
    """Action noise of the recording expert; seed s takes the entry s modulo 3."""
    moving_m: float = 0.005
    """Motion between now and the horizon from which a point counts as moving."""
    visible_m: float = 0.02
    """Depth difference to the image within which a memory row counts as the surface seen there."""
    min_pixels: int = 16
    """Fewest pixels never seen before that an image must show to be scored on them."""


@dataclass(frozen=True)
class Target:
    """What one camera truly records at the horizon: frames [h w]; whether it is an input; its moving pixels (inputs),
    those never seen before (other cameras) [h w], and what the last observed scene shows there on the median."""

    frames: Frames
    given: bool
    moving: Tensor | None = None
    unseen: Tensor | None = None
    median: Tensor | None = None


def evaluate_forecast(
    forecasters: Sequence[Forecaster],
    *,
    config: ForecastEvalConfig | None = None,
    past_stream: PastStream | None = None,
    oracles: Sequence[Callable[[Episode], Forecaster]] = (),
    record: Callable[..., Episode] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Forecast from every start of every recorded episode and score it against the recording.

    Args:
        forecasters: the first is "ours": its figures are the table's own, the others go under their names.
        past_stream: the memory that the forecasters share, asked here for the rows whose flow is scored.
        oracles: each makes, from a whole episode, a forecaster that knows its future.
        record: (task, seed=, noise=, num_frames=, size=, cameras=) -> Episode; by default the simulator's. Where an
            episode has no exact motion, neither moving pixels nor flow nor what was never seen are known: None.
        progress: called with (windows done, windows in all).
    Returns:
        {"horizon": {"1": {metric: ours, ..., copy_last: {the same metrics}, ..., median_fill: {psnr_unseen}}, ...},
        "tasks": {name: the same}, "windows": count}; the metrics are those of `forecast_table.KEYS`.
    """
    config = config or ForecastEvalConfig()
    past_stream = past_stream or PastStream(config.inputs)
    scores: dict[str, list[list[Scores]]] = {task: [] for task in config.tasks}
    total, done = len(config.tasks) * len(config.seeds) * len(config.starts), 0
    names = [f.name for f in forecasters]
    for task in config.tasks:
        for episode, other in recorded_pairs(task, config, record=record or record_episode):
            exact = episode.segment_poses is not None
            everyone = [*forecasters, *(make(episode) for make in oracles if exact)]
            names = [f.name for f in everyone]
            scores[task].append([])
            for start in sorted(config.starts):
                past = past_of(episode, start, inputs=config.inputs)
                if oracles and exact:
                    past_stream.remember(past, labels=labels_of(episode, start, inputs=config.inputs))
                score = score_window(everyone, episode, start=start, config=config, past_stream=past_stream)
                add_controllability(score, everyone, episode=episode, other=other, start=start, config=config)
                scores[task][-1].append(score)
                done += 1
                if progress is not None:
                    progress(done, total)
    everything = [s for group in scores.values() for s in group]
    table = lambda group: forecast_table(group, names, horizons=config.horizons)
    return {
        "horizon": table(everything),
        "tasks": {task: table(group) for task, group in scores.items()},
        "windows": sum(map(len, everything)),
    }


def recorded_pairs(
    task: str, config: ForecastEvalConfig, *, record: Callable[..., Episode]
) -> Iterator[tuple[Episode, Tensor]]:
    """Every episode of a task with the actions [t a] of the next one, the last with those of the first."""
    num, size = max(config.starts) + max(config.horizons) + 1, (config.size, config.size)
    cameras, noise = (*config.inputs, *config.novel), lambda seed: config.noise[seed % len(config.noise)]
    episodes = (record(task, seed=s, noise=noise(s), num_frames=num, size=size, cameras=cameras) for s in config.seeds)
    previous = next(episodes, None)
    if previous is None:
        return
    first = previous.actions
    for episode in episodes:
        yield previous, episode.actions
        previous = episode
    yield previous, first


@torch.no_grad()
def score_window(
    forecasters: Sequence[Forecaster],
    episode: Episode,
    *,
    start: int,
    config: ForecastEvalConfig,
    past_stream: PastStream,
) -> Scores:
    """Scores {(forecaster, horizon): {metric: value}} of one start; NaN where a metric has nothing to measure."""
    past = past_of(episode, start, inputs=config.inputs)
    actions = episode.actions[start : start + max(config.horizons)]
    ahead = start + torch.tensor(config.horizons)
    cameras = {name: episode.views[name].cameras[ahead] for name in (*config.inputs, *config.novel)}
    question = ForecastQuestion(past, actions, cameras=cameras, seed=start, steps=config.horizons)
    known = past_stream.remember(past)
    exact, rows = episode.segment_poses is not None, None
    if exact:
        rows = visible_rows(known.memory, episode, start=start, inputs=config.inputs, tolerance=config.visible_m)
    targets = {h: targets_at(episode, start=start, horizon=h, config=config, known=known) for h in config.horizons}
    out: Scores = {}
    for forecaster in forecasters:
        frames, scene = forecaster.forecast(question)
        for i, horizon in enumerate(config.horizons):
            score = image_scores({name: f[i] for name, f in frames.items()}, targets[horizon])
            if scene is not None and rows is not None:
                score |= flow_scores(scene, rows, episode=episode, start=start, horizon=horizon, config=config)
            out[forecaster.name, horizon] = score
    for horizon in config.horizons:
        fills = [
            float(psnr(t.median.expand_as(t.frames.rgb), t.frames.rgb, mask=t.unseen))
            for t in targets[horizon].values()
            if t.unseen is not None and t.median is not None
        ]
        out[MEDIAN_FILL, horizon] = {"psnr_unseen": mean_of_numbers(fills)}
    return out


@torch.no_grad()
def add_controllability(
    scores: Scores,
    forecasters: Sequence[Forecaster],
    *,
    episode: Episode,
    other: Tensor,
    start: int,
    config: ForecastEvalConfig,
) -> None:
    """Add, for forecasters that use actions, what the true ones gain on moving pixels over others of the same task.

    The others are those of `other` [t a] from another start, drawn from this one and the episode's seed.
    """
    listening = [f for f in forecasters if getattr(f, "uses_actions", False)]
    if not listening or config.control not in config.horizons or episode.segment_poses is None:
        return
    rest = [s for s in config.starts if s != start] or [start]
    draw = torch.Generator().manual_seed(1_000_003 * int(episode.info.get("seed", 0)) + start)
    begin = rest[int(torch.randint(len(rest), (1,), generator=draw))]
    past, horizon = past_of(episode, start, inputs=config.inputs), config.control
    cameras = {name: episode.views[name].cameras[start + horizon :][:1] for name in config.inputs}
    truth, others = episode.actions[start : start + horizon], other[begin : begin + horizon]
    question = ForecastQuestion(past, others, cameras=cameras, seed=start, steps=(horizon,))
    stop = start + horizon
    mask = lambda name: moving_pixels(episode, name, start=start, stop=stop, threshold=config.moving_m)
    targets = {name: (episode.views[name].rgb[stop], mask(name)) for name in config.inputs}
    for forecaster in listening if not torch.equal(others, truth) else ():
        found = [(image.rgb[0].clamp(0, 1), targets[name]) for name, image in forecaster.forecast(question)[0].items()]
        shuffled = [float(psnr(rgb, recorded, mask=moving)) for rgb, (recorded, moving) in found]
        row = scores[forecaster.name, horizon]
        row[CONTROL] = row["psnr_moving"] - mean_of_numbers(shuffled)


def past_of(episode: Episode, now: int, *, inputs: Sequence[str] = INPUTS) -> Episode:
    """The episode up to and including frame `now`, input cameras only: all that a forecaster may see.

    The last action of it, which leads out of now, is blanked.
    """
    past = episode.replace(views={n: episode.views[n] for n in inputs}, segment_poses=None)[: now + 1]
    actions = past.actions.clone()
    actions[-1] = 0
    views = {n: f.replace(extras={}) for n, f in past.views.items()}
    return past.replace(views=views, actions=actions, rewards=None, success=None)


def labels_of(episode: Episode, now: int, *, inputs: Sequence[str]) -> Tensor:
    """Exact segments [t v h w 1] of the input cameras up to and including frame `now`, for the oracles' memory."""
    return torch.stack([episode.views[n].extras["segments"][: now + 1] for n in inputs], 1)


def targets_at(
    episode: Episode, *, start: int, horizon: int, config: ForecastEvalConfig, known: PastMemory
) -> dict[str, Target]:
    """The truth {camera: Target} at start + horizon."""
    stop, names = start + horizon, (*config.inputs, *config.novel)
    out = {name: Target(episode.views[name][stop], given=name in config.inputs) for name in names}
    for name, target in out.items() if episode.segment_poses is not None else ():
        if target.given:
            moving = moving_pixels(episode, name, start=start, stop=stop, threshold=config.moving_m)
            out[name] = dataclasses.replace(target, moving=moving)
            continue
        unseen = never_seen_pixels(episode, name, start=start, stop=stop, inputs=config.inputs)
        if int(unseen.sum()) >= config.min_pixels:
            last = render(known.memory, target.frames.cameras, background=known.background)
            shown = last.rgb[last.known_alpha > 0.5]
            median = shown.median(0).values if len(shown) else known.background
            out[name] = dataclasses.replace(target, unseen=unseen, median=median)
    return out


def image_scores(frames: Mapping[str, Frames], targets: Mapping[str, Target]) -> dict[str, float]:
    """Image and surface metrics of predicted frames {camera: Frames [h w]}."""
    keys = ("psnr", "psnr_moving", "ssim", "depth_absrel", "chamfer", "chamfer_moving", "psnr_novel", "psnr_unseen")
    per: dict[str, list[float]] = {k: [] for k in keys}
    for name, predicted in frames.items():
        target, rgb = targets[name], predicted.rgb.clamp(0, 1)
        truth = target.frames
        if not target.given:
            per["psnr_novel"].append(float(psnr(rgb, truth.rgb)))
            if target.unseen is not None:
                per["psnr_unseen"].append(float(psnr(rgb, truth.rgb, mask=target.unseen)))
            continue
        per["psnr"].append(float(psnr(rgb, truth.rgb)))
        if target.moving is not None and bool(target.moving.any()):
            per["psnr_moving"].append(float(psnr(rgb, truth.rgb, mask=target.moving)))
        per["ssim"].append(float(ssim(rgb[None], truth.rgb[None])[0]))
        if truth.depth is not None and predicted.depth is not None:
            known = truth.depth > 0
            per["depth_absrel"].append(float(((predicted.depth - truth.depth).abs() / truth.depth)[known].mean()))
            per["chamfer"].append(surface_distance(predicted, truth, mask=known))
            if target.moving is not None:
                per["chamfer_moving"].append(surface_distance(predicted, truth, mask=known & target.moving))
    return {k: mean_of_numbers(v) for k, v in per.items()}


def surface_distance(predicted: Frames, truth: Frames, *, mask: Tensor) -> float:
    """Chamfer distance in m (mean distance to the other surface, both ways, summed) of the surfaces that two images
    [h w] of one camera show at the pixels of `mask`; NaN where either shows none."""
    points = lambda f: unproject(f.known_depth, f.cameras.viewmats, Ks=f.cameras.Ks)[mask & (f.known_depth > 0)]
    ours, other = points(predicted), points(truth)
    return float(chamfer(ours, other, squared=False)) if len(ours) and len(other) else float("nan")


def flow_scores(
    scene: Scene4D, rows: VisibleRows, *, episode: Episode, start: int, horizon: int, config: ForecastEvalConfig
) -> dict[str, float]:
    """End-point error in m of the scene's flow over `horizon` steps, for visible rows that move and that rest."""
    truth = rows.true_displacement(episode, start=start, stop=start + horizon)
    error = (rows.predicted_displacement(scene, horizon) - truth).norm(dim=-1)
    moving = truth.norm(dim=-1) > config.moving_m
    return {"flow_epe_moving": float(error[moving].mean()), "flow_epe_static": float(error[~moving].mean())}

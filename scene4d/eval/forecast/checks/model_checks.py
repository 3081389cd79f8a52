"""Further checks of a world model: few sampling steps, honest intervals, several futures, stable long rollouts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from scene4d.eval.forecast.checks.diversity import both_futures_found, forked_pair
from scene4d.eval.forecast.checks.interval_coverage import Calibration
from scene4d.eval.forecast.forecast_table import mean_of_numbers
from scene4d.eval.forecast.forecasters.model_forecaster import ModelForecaster
from scene4d.eval.forecast.forecasters.past_stream import PastStream
from scene4d.eval.forecast.ground_truth import visible_rows
from scene4d.eval.forecast.window_scores import ForecastEvalConfig, past_of, recorded_pairs, score_window
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.render.losses import psnr
from scene4d.render.render import render
from scene4d.sim.recorder import record_episode
from scene4d.types import Episode
from scene4d.world.capabilities import Decodes, Proposes

MANY_STEPS = 32
ROLLOUT_STEPS = 150
COVERED = 0.9
"""Opacity from which a pixel counts as covered."""
REST_M = 1e-3
"""Distance in m that a point which counts as resting may truly move over a whole long rollout."""


def _windows(config: ForecastEvalConfig, record: Callable[..., Episode]) -> Iterator[tuple[Episode, int, Episode]]:
    """(episode, frame that is now, past) of every window of `config`."""
    for task in config.tasks:
        for episode, _ in recorded_pairs(task, config, record=record):
            for start in sorted(config.starts):
                yield episode, start, past_of(episode, start, inputs=config.inputs)


def check_sampling(
    model: Decodes, config: ForecastEvalConfig, *, steps: int = 4, record: Callable[..., Episode] = record_episode
) -> dict[str, Any]:
    """Few sampling steps against many, and their predicted against their true error, on the windows of `config`.

    Returns:
        {"sampling": {steps, many_steps, psnr, psnr_many, psnr_moving, psnr_moving_many, lost_db} at the last horizon,
        "uncertainty": {"1": as `Calibration.report`, ...}}.
    """
    stream = PastStream(config.inputs)
    few, many = (ModelForecaster(model, stream, steps=num, name=str(num)) for num in (steps, MANY_STEPS))
    calibration, last = Calibration(), max(config.horizons)
    found: dict[str, list[float]] = {"psnr": [], "psnr_many": [], "psnr_moving": [], "psnr_moving_many": []}
    for episode, start, past in _windows(config, record):
        scores = score_window([few, many], episode, start=start, config=config, past_stream=stream)
        for key in ("psnr", "psnr_moving"):
            found[key].append(scores[few.name, last][key])
            found[f"{key}_many"].append(scores[many.name, last][key])
        scene = few.scene(past, actions=episode.actions[start : start + last], seed=start)
        memory = stream.remember(past).memory
        rows = visible_rows(memory, episode, start=start, inputs=config.inputs, tolerance=config.visible_m)
        calibration.add(scene, rows, episode=episode, start=start, horizons=config.horizons, moving_m=config.moving_m)
    means = {key: round(mean_of_numbers(values), 3) for key, values in found.items()}
    lost = round(means["psnr_many"] - means["psnr"], 3)
    sampling = {"steps": steps, "many_steps": MANY_STEPS, **means, "lost_db": lost}
    return {"sampling": sampling, "uncertainty": calibration.report()}


def check_codec(
    model: GaussianWorldModel, config: ForecastEvalConfig, *, record: Callable[..., Episode] = record_episode
) -> dict[str, Any]:
    """What the autoencoder keeps: decode(encode(g)) against g itself, both rendered for cameras that are no input.

    Returns:
        {psnr: over pixels that g covers, psnr_full: over all, on black, views}; means over the windows of `config`.
    """
    stream = PastStream(config.inputs)
    forecaster, covered, full = ModelForecaster(model, stream), [], []
    for episode, start, past in _windows(config, record):
        memory = stream.remember(past).memory
        # Confidence 0 marks the sky shell metres behind everything, which is not coded.
        given = memory.pick(memory.extras["confidence"][:, 0] > 0)
        coded = model.codec.decode(forecaster.state(past).latent)
        for name in config.novel:
            camera = episode.views[name].cameras[start]
            truth, found = render(given, camera), render(coded, camera)
            covered.append(float(psnr(found.rgb, truth.rgb, mask=truth.known_alpha > COVERED)))
            full.append(float(psnr(found.rgb, truth.rgb)))
    mean = lambda values: round(mean_of_numbers(values), 3) if values else None
    return {"psnr": mean(covered), "psnr_full": mean(full), "views": len(covered)}


def check_futures(
    model: Decodes, config: ForecastEvalConfig, *, steps: int = 4, fork: int = 16
) -> dict[str, Any] | None:
    """How often both recorded futures of one past are among 16 samples that do not get the actions.

    Returns:
        {pairs, found (of twice as many futures), nearest_m, apart_m, spread_m: means}, a pair from each seed of each
        task; None for a model that needs the actions: it has no futures to choose among.
    """
    if not isinstance(model, Proposes):
        return None
    results = []
    for task, seed in itertools.product(config.tasks, config.seeds):
        forecaster = ModelForecaster(model, PastStream(config.inputs), steps=steps)
        pair = forked_pair(task, seed=seed, fork=fork)
        results.append(both_futures_found(forecaster, pair, now=fork))
    mean = lambda values: round(mean_of_numbers(list(values)), 4)
    return {
        "pairs": len(results),
        "found": sum(sum(r["found"]) for r in results),
        "nearest_m": mean(n for r in results for n in r["nearest_m"]),
        "apart_m": mean(r["apart_m"] for r in results),
        "spread_m": mean(r["spread_m"] for r in results),
    }


def check_rollout(
    model: Decodes, config: ForecastEvalConfig, *, steps: int = 4, record: Callable[..., Episode] = record_episode
) -> dict[str, list[dict[str, Any]]]:
    """{task: [as `long_rollout` over 150 steps, for each seed]}."""
    start, out = min(config.starts), {task: [] for task in config.tasks}
    for task, seed in itertools.product(config.tasks, config.seeds):
        noise, size = config.noise[seed % len(config.noise)], (config.size, config.size)
        num = start + ROLLOUT_STEPS + 1
        episode = record(task, seed=seed, noise=noise, num_frames=num, size=size, cameras=config.inputs)
        forecaster = ModelForecaster(model, PastStream(config.inputs), steps=steps)
        out[task].append(long_rollout(forecaster, episode, start=start, num_steps=ROLLOUT_STEPS))
    return out


@torch.no_grad()
def long_rollout(
    forecaster: ModelForecaster, episode: Episode, *, start: int, num_steps: int, seed: int = 0
) -> dict[str, Any]:
    """Forecast `num_steps` at once from frame `start` of a recording that is longer than that.

    Returns:
        steps; finite: every Gaussian of the last step is; static_drift_m: mean displacement of visible rows that truly
        rest all the time; static_drift_p95_m, static_drift_max_m; static_rows.
    """
    inputs = forecaster.past_stream.inputs
    past = past_of(episode, start, inputs=inputs)
    scene = forecaster.scene(past, actions=episode.actions[start : start + num_steps], seed=seed)
    memory = forecaster.past_stream.remember(past).memory
    rows = visible_rows(memory, episode, start=start, inputs=inputs, tolerance=0.02)
    stops = range(start + 1, start + num_steps + 1)
    moved = [rows.true_displacement(episode, start=start, stop=stop).norm(dim=-1) for stop in stops]
    drift = rows.predicted_displacement(scene, -1).norm(dim=-1)[torch.stack(moved).amax(0) < REST_M]
    last = scene.at(float(scene.times[-1]))
    finite = all(bool(x.isfinite().all()) for x in (last.means, last.quats, last.scales, last.opacities, last.sh))
    share = lambda q: float(drift.quantile(q)) if len(drift) else float("nan")
    return {
        "steps": num_steps,
        "finite": finite,
        "static_drift_m": round(float(drift.mean()), 5),
        "static_drift_p95_m": round(share(0.95), 5),
        "static_drift_max_m": round(share(1.0), 5),
        "static_rows": len(drift),
    }

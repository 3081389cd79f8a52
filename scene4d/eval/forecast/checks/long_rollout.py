"""Does a long forecast stay whole? What rests must rest, and nothing may become a NaN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scene4d.eval.forecast.forecasters.model_forecaster import ModelForecaster
from scene4d.eval.forecast.ground_truth import segment_displacement, visible_rows
from scene4d.eval.forecast.window_scores import past_of
from scene4d.gaussians.edit import by_id
from scene4d.scene import Scene4D
from scene4d.types import Episode

REST_M = 1e-3
"""Distance in m that a point which counts as resting may truly move over the whole rollout."""


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
    farthest = torch.zeros(len(rows.ids))
    for stop in range(start + 1, start + num_steps + 1):
        moved = segment_displacement(episode, rows.points, segments=rows.segments, start=start, stop=stop).norm(dim=-1)
        farthest = torch.maximum(farthest, moved)
    drift = _moved(scene, rows.ids)[farthest < REST_M]
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


def _moved(scene: Scene4D, ids: Tensor) -> Tensor:
    """How far the rows with these ids [r] have gone at the end of a scene, [r] m."""
    flow, valid = scene.flow(float(scene.times[0]), float(scene.times[-1]))
    return by_id(flow * valid[:, None], scene.base.ids, wanted=ids)[0].norm(dim=-1)

"""Speed of the forecast: `python scripts/bench_forecast.py [--weights tiny] [--sampler 1 4] [--precision bfloat16]`.

One JSON line a case: predicted frames a second from observation to pictures (two cameras of 64 px a frame), and latent
steps a second of a batch of 64 chunks without rendering. The past is the built-in episode.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
from bench import commit

from scene4d.apps.compose.assets import DEMO_EPISODE
from scene4d.apps.compose.models import load_models
from scene4d.data.detect import open_recordings
from scene4d.eval.forecast.forecasters.model_forecaster import ModelForecaster
from scene4d.eval.forecast.forecasters.past_stream import INPUTS, PastStream
from scene4d.eval.forecast.window_scores import past_of
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.models.gaussian_flow.state import GaussianState
from scene4d.world.evaluated import ForecastQuestion


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sampler", type=int, nargs="+", default=[1, 4], help="steps of the sampler")
    parser.add_argument("--start", type=int, default=20, help="frame that is now")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--weights", default=None, help="a file, or the name of shipped ones (small, tiny)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models, episode = load_models(options.weights), open_recordings(DEMO_EPISODE)[0].read()
    model, horizon = models.world, models.world.spec.horizon
    model.denoiser.precision = getattr(torch, options.precision)
    past = past_of(episode, options.start)
    actions = episode.actions[options.start : options.start + horizon]
    stream = PastStream()
    cameras = {name: episode.views[name].cameras[options.start + 1 : options.start + 1 + horizon] for name in INPUTS}
    state = ModelForecaster(model, stream).state(past)
    many, chunks, seeds = state.expand(64), actions.expand(64, -1, -1), list(range(64))
    if options.precision != "float32":
        print_moved(model, state, actions)
    report = functools.partial(
        printed, threads=options.threads, weights=options.weights or "shipped", precision=options.precision
    )
    question = ForecastQuestion(past, actions, cameras=cameras)
    for steps in options.sampler:
        forecaster = ModelForecaster(model, stream, steps=steps)
        whole = timed(lambda f=forecaster: f.forecast(question), options.repeats)
        report("forecast_rendered_2x64px", horizon / whole, unit="frames/s", steps=steps)
        sampled = model.with_sampler(steps)
        alone = timed(lambda m=sampled: m.predict(many, actions=chunks, seeds=seeds), options.repeats)
        report("latent_batch_64", 64 * horizon / alone, unit="steps/s", steps=steps)


def print_moved(model: GaussianWorldModel, state: GaussianState, actions: torch.Tensor) -> None:
    """One JSON line: how far, in mm, the precision moves predicted anchors from where float32 has them."""
    precision, places = model.denoiser.precision, []
    for model.denoiser.precision in (torch.float32, precision):
        places.append(model.with_sampler(1).predict(state, actions=actions).world_from_now[..., 4:])
    mean = 1000 * float((places[1] - places[0]).norm(dim=-1).mean())
    print(json.dumps({"case": "moved_by_precision", "value": round(mean, 3), "unit": "mm"}), flush=True)


def timed(call: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, after one to warm up."""
    call()
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def printed(case: str, value: float, **rest: object) -> None:
    """One JSON line."""
    line = {"case": case, "value": round(value, 1), **rest, "machine": platform.machine(), "torch": torch.__version__}
    line["commit"] = commit()
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

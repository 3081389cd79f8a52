"""What each part of the forecaster is worth, as rows of one table: `python scripts/ablations.py [--weights FILE]`.

no_memory, no_transport, no_vae_decode and regenerated take a part out of the very model whose row is `ours`. A part
that the weights depend on needs weights of its own, trained with the same budget: `--trained NAME=FILE` adds them
as a row, for example cross_attention=runs/cross/weights.safetensors of a run whose actions enter by cross-attention.
The last line is one JSON object as that of `scene4d eval forecast`.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

from scene4d.apps.compose.models import load_models
from scene4d.apps.terminal.progress import counter_shown
from scene4d.apps.verbs.evaluate_forecast import EvalForecastOptions, exact_flow, forecast_config
from scene4d.eval.forecast.checks.ablations import ABLATIONS
from scene4d.eval.forecast.forecast_table import printed_table
from scene4d.eval.forecast.forecasters.baselines import CopyLast
from scene4d.eval.forecast.forecasters.model_forecaster import ModelForecaster
from scene4d.eval.forecast.forecasters.past_stream import PastStream
from scene4d.eval.forecast.window_scores import evaluate_forecast
from scene4d.sim.metaworld import MetaWorldSim

PRINTED = (
    ("psnr", "psnr_moving", "flow_epe_moving", "flow_epe_static", "psnr_novel", "psnr_unseen"),
    ("controllability", "gain", "gain_moving", "gain_unseen", "gap_closed", "gap_closed_moving"),
)


def main() -> None:
    """Forecast the same episodes with every part taken out once."""
    defaults = EvalForecastOptions()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="by default the shipped ones")
    parser.add_argument("--trained", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--tasks", nargs="+", default=defaults.tasks)
    parser.add_argument("--seeds", nargs=2, type=int, default=defaults.seeds, metavar=("FIRST", "LAST"))
    parser.add_argument("--windows", type=int, default=defaults.windows)
    parser.add_argument("--horizons", nargs="+", type=int, default=[8, 12])
    given = parser.parse_args()
    config = forecast_config(
        EvalForecastOptions(
            tasks=tuple(given.tasks),
            seeds=tuple(given.seeds),
            windows=given.windows,
            horizons=tuple(given.horizons),
        ),
        fps=MetaWorldSim.fps,
    )
    stream, model = PastStream(config.inputs), load_models(given.weights).world
    forecasters = [ModelForecaster(model, stream), CopyLast(stream), *(make(model, stream) for make in ABLATIONS)]
    for entry in given.trained:
        name, _, path = entry.partition("=")
        forecasters.append(ModelForecaster(load_models(path).world, stream, name=name))
    with counter_shown("forecasting") as progress:
        result = evaluate_forecast(
            forecasters,
            config=config,
            past_stream=stream,
            oracles=[functools.partial(exact_flow, stream, memory=True)],
            progress=progress,
        )
    for keys in PRINTED:
        print(printed_table(result["horizon"], keys=keys), end="\n\n")
    print(json.dumps({**result, "seeds": list(given.seeds)}))


if __name__ == "__main__":
    main()

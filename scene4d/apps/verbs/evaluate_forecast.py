"""`scene4d eval forecast`: the shipped weights (or others) on test seeds, one JSON line."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from scene4d.apps.compose.models import load_models
from scene4d.apps.terminal.progress import counter_shown
from scene4d.apps.terminal.tables import result_table
from scene4d.apps.verbs.options.evaluation import EvalForecastOptions
from scene4d.data.detect import open_recordings
from scene4d.errors import ConfigError
from scene4d.eval.forecast.checks.model_checks import check_codec, check_futures, check_rollout, check_sampling
from scene4d.eval.forecast.forecast_table import KEYS, printed_table
from scene4d.eval.forecast.forecasters.baselines import ConstantVelocity, CopyLast, ExactFlow
from scene4d.eval.forecast.forecasters.kinematic_robot import KinematicRobotForecaster, RobotWorldModel
from scene4d.eval.forecast.forecasters.model_forecaster import ImageForecaster, ModelForecaster
from scene4d.eval.forecast.forecasters.past_stream import PastStream
from scene4d.eval.forecast.window_scores import ForecastEvalConfig, evaluate_forecast
from scene4d.eval.metrics.seeds import seed_range
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.sim.metaworld import MetaWorldSim
from scene4d.types import Episode, Recording
from scene4d.world.capabilities import Decodes, Renders, require
from scene4d.world.evaluated import Forecaster

FIRST_START, LAST_START = 8, 32
PRINTED = (KEYS[:6], KEYS[6:11], KEYS[11:])


def run_eval_forecast(options: EvalForecastOptions) -> dict:
    """Returns {horizon: {"1": {psnr, ..., copy_last: {...}, ...}, ...}, tasks, windows, seeds, seconds, size, inputs,
    deep}.

    horizon: by frames ahead; seconds: {frames ahead: seconds}.

    With recordings, `episodes` (their paths) stand in place of seeds.
    """
    models = load_models(options.weights)
    recordings = [r for path in options.episodes for r in open_recordings(path)]
    fps = recordings[0].fps if recordings else MetaWorldSim.fps
    config = forecast_config(options, fps=fps)
    stream = PastStream(options.inputs)
    world = require(models.world, RobotWorldModel, what="forecasts of scenes")
    forecasters = forecasters_of(world, stream, options=options)
    record = None
    if options.episodes:
        config = dataclasses.replace(config, tasks=("recorded",), seeds=tuple(range(len(recordings))))
        record = functools.partial(read_recorded, recordings)
    oracles = [functools.partial(exact_flow, stream, memory=memory) for memory in (False, True)]
    with counter_shown("forecasting") as progress:
        result = evaluate_forecast(
            forecasters, config=config, past_stream=stream, oracles=oracles, record=record, progress=progress
        )
    if options.deep:
        result["deep"] = deep_checks(models.world, config, steps=options.sampler_steps)
    # Recordings have no seeds, and the tasks of the options are not theirs.
    asked = {"episodes": [str(p) for p in options.episodes]} if options.episodes else {"seeds": list(options.seeds)}
    seconds = {str(horizon): round(horizon / fps, 4) for horizon in config.horizons}
    return {**result, **asked, "seconds": seconds, "size": options.size, "inputs": list(options.inputs)}


def forecasters_of(model: RobotWorldModel, stream: PastStream, *, options: EvalForecastOptions) -> list[Forecaster]:
    """The rows that the options ask for, ours first.

    Raises:
        ConfigError: the 2D baseline sees other cameras; CheckpointError: its weights cannot be read.
    """
    ours = ModelForecaster(model, stream, steps=options.sampler_steps)
    forecasters: list[Forecaster] = [ours, CopyLast(stream), ConstantVelocity(stream)]
    if options.pixels_weights is not None:
        pixels = require(load_models(options.pixels_weights).world, Renders, what="the row of a 2D baseline")
        if pixels.cameras != options.inputs:
            wanted = " ".join(pixels.cameras)
            fix = f"add --inputs {wanted}"
            raise ConfigError("sees other cameras", file=options.pixels_weights, found=wanted, fix=fix)
        forecasters.append(ImageForecaster(pixels, steps=options.sampler_steps))
    for path in options.also:
        models = load_models(path)
        world = require(models.world, Decodes, what="a row of forecast scenes")
        forecasters.append(ModelForecaster(world, stream, steps=options.sampler_steps, name=models.family.name))
    names = [f.name for f in forecasters]
    if len(set(names)) < len(names):
        raise ConfigError("names a row twice", field="also", found=names, expected="one file of each other family")
    if options.robot:
        from scene4d.sim.robot import metaworld_robot  # it needs MuJoCo, which no other row does

        # The same arm serves all tasks; only what stands round it differs.
        robot = metaworld_robot(options.tasks[0])
        forecasters.append(KinematicRobotForecaster(model, stream, robot=robot, steps=options.sampler_steps))
    return forecasters


def text_of(result: Mapping[str, Any]) -> str:
    """The table of the forecasters, horizon by horizon, and the checks of the model itself."""
    tables = [printed_table(result["horizon"], keys=keys) for keys in PRINTED]
    rest = {key: value for key, value in result.items() if key not in ("horizon", "deep")}
    deep = [result_table(result["deep"])] if "deep" in result else []
    return "\n\n".join([*tables, *deep, result_table(rest)])


def deep_checks(model: GaussianWorldModel, config: ForecastEvalConfig, *, steps: int) -> dict:
    """{sampling, uncertainty, codec, futures, rollout} of a world model: two seeds, three starts at most."""
    starts = tuple(config.starts[i] for i in sorted({0, len(config.starts) // 2, len(config.starts) - 1}))
    few = dataclasses.replace(config, seeds=config.seeds[:2], starts=starts, horizons=(1, 4, 8), novel=())
    return {
        **check_sampling(model, few, steps=steps),
        "codec": check_codec(model, dataclasses.replace(few, novel=config.novel)),
        "futures": check_futures(model, few, steps=steps),
        "rollout": check_rollout(model, few, steps=steps),
    }


def forecast_config(options: EvalForecastOptions, *, fps: float) -> ForecastEvalConfig:
    """What the options ask to be forecast and scored, of recordings of so many frames a second."""
    gap = (LAST_START - FIRST_START) / max(1, options.windows - 1)
    starts = tuple(sorted({FIRST_START + round(i * gap) for i in range(options.windows)}))
    frames = [max(1, round(second * fps)) for second in options.seconds] or options.horizons
    seeds, horizons = tuple(seed_range(options.seeds)), tuple(sorted(set(frames)))
    size, inputs, novel = options.size, options.inputs, options.novel
    return ForecastEvalConfig(
        tasks=options.tasks, seeds=seeds, starts=starts, horizons=horizons, size=size, inputs=inputs, novel=novel
    )


def read_recorded(
    recordings: Sequence[Recording],
    _task: str,
    *,
    seed: int,
    num_frames: int,
    size: tuple[int, int],
    cameras: Sequence[str],
    noise: float = 0.0,
) -> Episode:
    """The first `num_frames` of recording number `seed`, as `evaluate_forecast` asks for an episode.

    Raises:
        ConfigError: the recording is too short.
    """
    recording = recordings[seed]
    if recording.num_frames < num_frames:
        found, fix = f"{recording.num_frames} frames", "lower --horizons or --windows 1"
        raise ConfigError("is too short", file=recording.path, found=found, expected=f">= {num_frames}", fix=fix)
    episode = recording.read(0, num_frames, cameras=cameras, size=size)
    # Whatever is kept of an episode is kept under its seed.
    return episode.replace(info={**episode.info, "seed": seed})


def exact_flow(stream: PastStream, episode: Episode, *, memory: bool) -> ExactFlow:
    """The forecaster that knows how everything in an episode moves, with or without the memory."""
    return ExactFlow(stream, episode=episode, memory=memory)

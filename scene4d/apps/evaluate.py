"""`scene4d eval forecast` and `scene4d eval policy`: the shipped weights (or others) on test seeds, one JSON line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scene4d.apps.agent import agent_maker
from scene4d.apps.build.models import load_models
from scene4d.apps.pictures import colour_picture, enlarge
from scene4d.apps.progress import counter_shown
from scene4d.apps.render import write_pictures
from scene4d.errors import ConfigError
from scene4d.eval.control import Rollout, RolloutConfig, evaluate_policy
from scene4d.eval.forecast import KEYS, ForecastEvalConfig, evaluate_forecast
from scene4d.eval.forecasters import ConstantVelocity, CopyLast, ModelForecaster, PastStream

FIRST_TEST_SEED = 2000


@dataclass(frozen=True)
class EvalForecastOptions:
    """Forecast recorded-on-the-fly episodes and score them against copying and constant velocity."""

    tasks: tuple[str, ...] = ("button-press-v3", "door-open-v3", "drawer-open-v3")
    """Meta-World tasks."""
    seeds: tuple[int, int] = (2000, 2005)
    """First and last episode seed; test seeds are 2000 to 2099, validation 1000 to 1099."""
    weights: Path | None = None
    """A weights file; by default the shipped one."""
    sampler_steps: int = 4
    """Steps of the diffusion sampler."""


@dataclass(frozen=True)
class EvalPolicyOptions:
    """Run the action head in closed loop in Meta-World."""

    tasks: tuple[str, ...] = ()
    """Meta-World tasks; by default those that the action head was trained on."""
    seeds: tuple[int, int] = (2000, 2019)
    """First and last environment seed; test seeds are 2000 to 2099, validation 1000 to 1099."""
    weights: Path | None = None
    """A weights file; by default the shipped one."""
    forecast: bool = True
    """Show the head the predicted future too (slower)."""
    videos: Path | None = None
    """Folder for one video a rollout."""


def run_eval_forecast(options: EvalForecastOptions) -> dict:
    """Returns {horizon: {"1": {psnr, ..., copy_last: {...}, constant_velocity: {...}}, ...}, tasks, windows, seeds}."""
    models = load_models(options.weights)
    stream = PastStream()
    forecasters = [
        ModelForecaster(models.dynamics, stream, steps=options.sampler_steps),
        CopyLast(stream),
        ConstantVelocity(stream),
    ]
    config = ForecastEvalConfig(tasks=options.tasks, seeds=_range(options.seeds))
    with counter_shown("forecasting") as progress:
        result = evaluate_forecast(forecasters, config=config, past_stream=stream, progress=progress)
    _print_table(result["horizon"], [f.name for f in forecasters[1:]])
    return {**result, "seeds": list(options.seeds)}


def run_eval_policy(options: EvalPolicyOptions) -> dict:
    """Returns {success, interval, tasks: {name: {success, interval, ...}}, ...}."""
    models = load_models(options.weights)
    if models.policy is None:
        raise ConfigError("holds no action head", file=options.weights, fix="run: scene4d train configs/tiny.toml")
    tasks = options.tasks or tuple(models.info.get("policy_tasks", ()))
    if not tasks:
        raise ConfigError("no task is named", field="tasks", fix="add --tasks NAME")
    film = "front" if options.videos else None
    with counter_shown("rolling out") as count:

        def progress(done: int, total: int, rollout: Rollout) -> None:
            count(done, total)
            if options.videos:
                _write_rollout(options.videos, rollout)

        maker = agent_maker(models, forecast=options.forecast)
        result = evaluate_policy(
            maker, tasks, _range(options.seeds), config=RolloutConfig(), film=film, progress=progress
        )
    return {**result, "seeds": list(options.seeds), "forecast": options.forecast}


def _range(seeds: tuple[int, int]) -> tuple[int, ...]:
    first, last = seeds
    if last < first:
        raise ConfigError("is an empty range", field="seeds", found=seeds, expected="FIRST <= LAST")
    return tuple(range(first, last + 1))


def _write_rollout(folder: Path, rollout: Rollout) -> None:
    result = "success" if rollout.success else "failure"
    pictures = [enlarge(colour_picture(f.rgb), height=256) for f in rollout.video]
    write_pictures(folder / f"{rollout.task}_{rollout.seed}_{result}.mp4", pictures, fps=20.0)


def _print_table(horizon: dict, others: list[str]) -> None:
    print(f"{'steps':>5}  {'':<18}" + "".join(f"{key:>17}" for key in KEYS))
    for steps, row in horizon.items():
        for name in ("ours", *others):
            values = row if name == "ours" else row[name]
            cells = (f"{values[k]:>17.4f}" if values.get(k) is not None else f"{'-':>17}" for k in KEYS)
            print(f"{steps:>5}  {name:<18}" + "".join(cells))

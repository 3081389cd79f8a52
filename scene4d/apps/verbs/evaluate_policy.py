"""`scene4d eval policy`: the action head of the shipped weights (or of others) in closed loop on test seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scene4d.apps.agent.agent import agent_maker
from scene4d.apps.compose.models import Models, load_models, models_once
from scene4d.apps.terminal.options import check_at_least, check_within
from scene4d.apps.terminal.picture_strips import colour_picture, enlarge
from scene4d.apps.terminal.progress import counter_shown
from scene4d.apps.training.processes import in_processes
from scene4d.apps.verbs.run_render import write_pictures
from scene4d.errors import ConfigError
from scene4d.eval.control.closed_loop import Rollout, RolloutConfig, paired_success, report, roll_out
from scene4d.eval.metrics.seeds import seed_range

FILMING = "front"
"""Camera whose pictures become the videos; the agent never gets them."""


@dataclass(frozen=True)
class EvalPolicyOptions:
    """Run the action head in closed loop in Meta-World."""

    tasks: tuple[str, ...] = ()
    """Meta-World tasks; by default those that the action head was trained on."""
    seeds: tuple[int, int] = (2000, 2019)
    """First and last environment seed; test seeds are 2000 to 2099, validation 1000 to 1099."""
    weights: Path | None = None
    """A weights file, or the name of shipped ones (small, tiny); by default the best of those."""
    forecast: bool = True
    """Show the head the predicted future too (slower)."""
    paired: bool = False
    """Run every rollout without the forecast as well, and report the difference that the forecast makes."""
    turned: float = 0.0
    """Degrees that the cameras are turned about the workspace, away from where they stood in training."""
    max_frames: int = 250
    """Steps after which a rollout counts as failed. Meta-World's usual 500 are half as long."""
    processes: int = 1
    """Rollouts that run at once, one thread each."""
    videos: Path | None = None
    """Folder for one video a rollout."""


def run_eval_policy(options: EvalPolicyOptions) -> dict[str, Any]:
    """Returns {success, interval, tasks: {name: {success, interval, ...}}, ...}; paired: without_forecast, difference.

    Raises:
        ConfigError: the weights hold no action head or never learned a task, no task is named, the seeds are an empty
            range, or a number is out of its range.
    """
    models = load_models(options.weights)
    tasks, seeds = _asked(options, models)
    rollouts = _rollouts(options, tasks, seeds)
    told = {"seeds": list(options.seeds), "forecast": options.forecast, "turned": options.turned}
    if not options.paired:
        return {**report(rollouts), **told}
    without = _rollouts(dataclasses.replace(options, forecast=False, videos=None), tasks, seeds)
    difference = paired_success(rollouts, without)
    return {**report(rollouts), "without_forecast": report(without), "difference": difference, **told}


def _asked(options: EvalPolicyOptions, models: Models) -> tuple[tuple[str, ...], range]:
    if models.policy is None:
        raise ConfigError("holds no action head", file=options.weights, fix="run: scene4d train configs/tiny.toml")
    tasks = options.tasks or tuple(models.tasks)
    if not tasks:
        raise ConfigError("no task is named", field="tasks", fix="add --tasks NAME")
    check_at_least(1, processes=options.processes)
    check_within(-180, 180, turned=options.turned)
    if strange := sorted(set(tasks) - set(models.tasks)):
        raise ConfigError(
            "were never learned by this action head", field="tasks", found=strange, expected=sorted(models.tasks),
            fix="take weights that were trained on them",
        )  # fmt: skip
    _rollout_config(options, models)
    if options.paired and not options.forecast:
        raise ConfigError("needs the forecast", field="paired", fix="leave --no-forecast out")
    return tasks, seed_range(options.seeds)


def _rollouts(options: EvalPolicyOptions, tasks: Sequence[str], seeds: Sequence[int]) -> list[Rollout]:
    """One rollout for each task and seed, in that order."""
    with counter_shown("rolling out") as count:
        return in_processes(
            _rollout,
            [(options, task, seed) for task in tasks for seed in seeds],
            num=options.processes,
            progress=lambda done, total, _: count(done, total),
        )


def _rollout(options: EvalPolicyOptions, task: str, seed: int) -> Rollout:
    models = models_once(options.weights)
    config = _rollout_config(options, models)
    agent = agent_maker(models, forecast=options.forecast)(task)
    rollout = roll_out(agent, task, seed=seed, config=config, film=FILMING if options.videos else None)
    if options.videos:
        _write_video(options.videos, rollout)
    # Only the numbers are kept: pictures of a hundred rollouts would not fit.
    return dataclasses.replace(rollout, video=[])


def _rollout_config(options: EvalPolicyOptions, models: Models) -> RolloutConfig:
    return RolloutConfig(
        max_frames=options.max_frames,
        size=(models.policy_size, models.policy_size),
        cameras=models.policy_cameras,
        turned_deg=options.turned,
    )


def _write_video(folder: Path, rollout: Rollout) -> None:
    result = "success" if rollout.success else "failure"
    pictures = [enlarge(colour_picture(f.rgb), height=256) for f in rollout.video]
    write_pictures(folder / f"{rollout.task}_{rollout.seed}_{result}.mp4", pictures, fps=20.0)

"""`scene4d eval policy`: the action head of the shipped weights (or of others) in closed loop on test seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scene4d.apps.agent.agent import agent_maker
from scene4d.apps.compose.models import Models, load_models, models_once
from scene4d.apps.terminal.picture_strips import colour_picture, enlarge
from scene4d.apps.terminal.progress import counter_shown
from scene4d.apps.terminal.scene_pictures import write_pictures
from scene4d.apps.training.processes import in_processes
from scene4d.apps.verbs.options.evaluation import EvalPolicyOptions
from scene4d.errors import ConfigError
from scene4d.eval.control.closed_loop import Rollout, RolloutConfig, paired_success, report, roll_out
from scene4d.eval.metrics.seeds import seed_range

FILMING = "front"
"""Camera whose pictures become the videos; the agent never gets them."""


def run_eval_policy(options: EvalPolicyOptions) -> dict[str, Any]:
    """Returns {success, interval, tasks: {name: {success, interval, ...}}, ...}; paired: without_forecast, difference.

    Raises:
        ConfigError: the weights hold no action head or never learned a task, no task is named, the seeds are an empty
            range, or a number is out of its range.
    """
    models = load_models(options.weights)
    tasks, seeds = _asked(options, models)
    rollouts = _rollouts(options, tasks=tasks, seeds=seeds)
    asked = {"seeds": list(options.seeds), "forecast": options.forecast, "turned": options.turned}
    if not options.paired:
        return {**report(rollouts), **asked}
    bare = dataclasses.replace(options, forecast=False, paired=False, videos=None)
    without = _rollouts(bare, tasks=tasks, seeds=seeds)
    difference = paired_success(rollouts, without)
    return {**report(rollouts), "without_forecast": report(without), "difference": difference, **asked}


def _asked(options: EvalPolicyOptions, models: Models) -> tuple[tuple[str, ...], range]:
    if models.policy is None:
        raise ConfigError("holds no action head", file=options.weights, fix="run: scene4d train configs/tiny.toml")
    tasks = options.tasks or tuple(models.tasks)
    if not tasks:
        raise ConfigError("no task is named", field="tasks", fix="add --tasks NAME")
    if strange := sorted(set(tasks) - set(models.tasks)):
        problem, fix = "were never learned by this action head", "take weights that were trained on them"
        raise ConfigError(problem, field="tasks", found=strange, expected=sorted(models.tasks), fix=fix)
    rollout_config(models, max_frames=options.max_frames, turned=options.turned)
    return tasks, seed_range(options.seeds)


def _rollouts(options: EvalPolicyOptions, *, tasks: Sequence[str], seeds: Sequence[int]) -> list[Rollout]:
    """One rollout for each task and seed, in that order."""
    jobs = [{"task": task, "seed": seed, "options": options} for task in tasks for seed in seeds]
    with counter_shown("rolling out") as count:
        return in_processes(_rollout, jobs, num=options.processes, progress=count)


def _rollout(task: str, seed: int, *, options: EvalPolicyOptions) -> Rollout:
    models = models_once(options.weights)
    config = rollout_config(models, max_frames=options.max_frames, turned=options.turned)
    agent = agent_maker(models, forecast=options.forecast)(task)
    rollout = roll_out(agent, task, seed=seed, config=config, film=FILMING if options.videos else None)
    if options.videos:
        _write_video(options.videos, rollout)
    # Only the numbers are kept: pictures of a hundred rollouts would not fit.
    return dataclasses.replace(rollout, video=[])


def rollout_config(models: Models, *, max_frames: int, turned: float = 0.0) -> RolloutConfig:
    """Rollouts of at most `max_frames` as the action head learned, its cameras `turned` degrees about the workspace."""
    size, cameras = (models.policy_size, models.policy_size), models.policy_cameras
    return RolloutConfig(max_frames=max_frames, size=size, cameras=cameras, turned_deg=turned)


def _write_video(folder: Path, rollout: Rollout) -> None:
    result = "success" if rollout.success else "failure"
    pictures = [enlarge(colour_picture(f.rgb), height=256) for f in rollout.video]
    write_pictures(folder / f"{rollout.task}_{rollout.seed}_{result}.mp4", pictures, fps=20.0)

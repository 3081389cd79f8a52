"""Record the training episodes in simulation, in several processes, to compact files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scene4d.apps.training.processes import in_processes
from scene4d.apps.training.run_config import RecordConfig
from scene4d.data.load.stored_episode import save_episode
from scene4d.sim.drawing.simulator import Simulator
from scene4d.sim.recorder import open_sim, record_parts
from scene4d.sim.rig import kinds_for
from scene4d.sim.viewpoints import Viewpoints, drawn_names
from scene4d.train.checkpoint import load_tensors
from scene4d.train.log import line_progress

_kept: dict[tuple[str, RecordConfig], Simulator] = {}


def record_stage(folder: Path, config: RecordConfig, *, processes: int) -> dict[str, Any]:
    """Record every episode that is not there yet; result: episodes, frames, success_rate."""
    numbered = [(config.first_seed + i, config.noise[i % len(config.noise)]) for i in range(config.episodes)]
    same = {"folder": folder, "config": config}
    jobs = [{"task": task, "seed": seed, "noise": noise, **same} for task in config.tasks for seed, noise in numbered]
    try:
        wins = in_processes(record_one, jobs, num=processes, progress=line_progress("record"))
    finally:
        _close_simulator()  # where the episodes were recorded in this very process
    rate = round(sum(wins) / len(wins), 3)
    return {"episodes": len(jobs), "frames": len(jobs) * config.num_frames, "success_rate": rate}


def episode_path(folder: Path, *, task: str, seed: int) -> Path:
    """File of one episode."""
    return folder / f"{task.replace('/', '.')}_{seed:04d}.safetensors"


def record_one(task: str, seed: int, *, noise: float, folder: Path, config: RecordConfig) -> bool:
    """Record one episode unless its file is there; returns whether the task was solved."""
    path = episode_path(folder, task=task, seed=seed)
    if path.exists():
        return bool(load_tensors(path)[1]["success"])
    sim, (num_inputs, num_targets) = _simulator(task, config), config.viewpoints
    if num_inputs:
        sim.look_from(Viewpoints().episode(task, seed=seed, num_inputs=num_inputs, num_targets=num_targets))
    num, num_tail = config.num_frames, config.num_tail
    failure = failure_of(task, seed - config.first_seed, config=config)
    episode, tail = record_parts(sim, seed=seed, noise=noise, num_frames=num, num_tail=num_tail, failure=failure)
    save_episode(path, episode, tail=tail)
    return any(part.success is not None and bool(part.success.any()) for part in (episode, tail))


def failure_of(task: str, number: int, *, config: RecordConfig) -> str:
    """What goes wrong in the episode of this number, kinds taken in turn; "" where nothing does."""
    kinds = [kind for kind in kinds_for(task) if kind in config.failures]
    if not kinds or number % config.failing_every:
        return ""
    return kinds[number // config.failing_every % len(kinds)]


def _simulator(task: str, config: RecordConfig) -> Simulator:
    """The simulator of this process, kept as long as the task stays: its OpenGL context takes long to make."""
    if (task, config) not in _kept:
        _close_simulator()
        # Segments of the targets would cost a third of the time, and nothing is learned from them.
        drawn, size = any(config.viewpoints), (config.size, config.size)
        segments = drawn_names(config.viewpoints[0], 0) if drawn else True
        cameras = () if drawn else config.cameras
        _kept[task, config] = open_sim(task, size=size, cameras=cameras, segments=segments)
    return _kept[task, config]


def _close_simulator() -> None:
    for key in list(_kept):
        _kept.pop(key).close()

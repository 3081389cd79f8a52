"""Record the training episodes in simulation, in several processes, to compact files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scene4d.apps.training.processes import in_processes
from scene4d.apps.training.run_config import RecordConfig
from scene4d.data.load.stored_episode import save_episode
from scene4d.sim.recorder import open_sim, record_with
from scene4d.sim.viewpoints import Viewpoints, drawn_names
from scene4d.train.checkpoint import load_tensors
from scene4d.train.log import line_progress


def record_stage(folder: Path, config: RecordConfig, *, processes: int) -> dict[str, Any]:
    """Record every episode that is not there yet; result: episodes, frames, success_rate."""
    numbered = [(config.first_seed + i, config.noise[i % len(config.noise)]) for i in range(config.episodes)]
    same = {"folder": folder, "config": config}
    jobs = [{"task": task, "seed": seed, "noise": noise, **same} for task in config.tasks for seed, noise in numbered]
    wins = in_processes(record_one, jobs, num=processes, progress=line_progress("record"))
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
    cameras, segments, (num_inputs, num_targets) = config.cameras, True, config.viewpoints
    if num_inputs:
        cameras = Viewpoints().episode(task, seed=seed, num_inputs=num_inputs, num_targets=num_targets)
        segments = drawn_names(num_inputs, 0)  # those of the others would cost a third of the time, for nothing
    size = (config.size, config.size)
    with open_sim(task, seed=seed, size=size, cameras=cameras, segments=segments) as sim:
        episode = record_with(sim, seed=seed, noise=noise, num_frames=config.num_frames)
    save_episode(path, episode)
    return episode.success is not None and bool(episode.success.any())

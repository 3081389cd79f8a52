"""Record the training episodes, in several processes, to compact files that are read frame by frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from scene4d.apps.training.processes import in_processes
from scene4d.apps.training.run_config import RecordConfig
from scene4d.sim.metaworld import record_episode
from scene4d.train.checkpoint import load_tensors, save_tensors
from scene4d.train.log import Progress
from scene4d.types import Cameras, Episode, Frames

PICTURES = ("rgb", "depth", "segments")
"""Columns that are read from disk when asked for."""
DEPTH_STEP_M = 1e-4
"""Depth is kept as uint16 in steps of 0.1 mm, up to 6.5 m; farther counts as not measured."""


def record_stage(
    folder: Path, config: RecordConfig, *, processes: int, progress: Progress | None = None
) -> dict[str, Any]:
    """Record every episode that is not there yet; result: episodes, frames, success_rate."""
    jobs = []
    for task in config.tasks:
        for i in range(config.episodes):
            jobs.append((folder, config, task, config.first_seed + i, config.noise[i % len(config.noise)]))
    wins = in_processes(record_one, jobs, num=processes, progress=progress)
    return {
        "episodes": len(jobs),
        "frames": len(jobs) * config.num_frames,
        "success_rate": round(sum(wins) / len(wins), 3),
    }


def episode_path(folder: Path, task: str, seed: int) -> Path:
    """File of one episode."""
    return folder / f"{task}_{seed:04d}.safetensors"


def record_one(folder: Path, config: RecordConfig, task: str, seed: int, noise: float) -> bool:
    """Record one episode unless its file is there; returns whether the task was solved."""
    path = episode_path(folder, task, seed)
    if path.exists():
        return bool(load_tensors(path)[1]["success"])
    size = (config.size, config.size)
    episode = record_episode(
        task, seed=seed, noise=noise, num_frames=config.num_frames, size=size, cameras=config.cameras
    )
    save_episode(path, episode)
    return bool(episode.success.any())


def save_episode(path: Path, episode: Episode) -> None:
    """Write an episode of cameras of one size: colour as uint8, depth in 0.1 mm, poses, actions, and what is known.

    Segments and their exact motion are there in simulation only; rewards and success may be unknown.
    """
    frames = episode.stacked()
    depth = (frames.depth / DEPTH_STEP_M).round()
    depth = torch.where(depth < 65535, depth, torch.zeros_like(depth))
    tensors = {
        "rgb": (frames.rgb * 255).round().to(torch.uint8),
        "depth": depth.to(torch.int32).to(torch.uint16),
        "viewmats": frames.cameras.viewmats,
        "Ks": frames.cameras.Ks,
        "times": episode.times,
        "actions": episode.actions,
        "proprio": episode.proprio,
    }
    if episode.segment_poses is not None:
        tensors |= {"segments": frames.extras["segments"].to(torch.int16), "segment_poses": episode.segment_poses}
    tensors |= {k: v for k in ("rewards", "success") if (v := getattr(episode, k)) is not None}
    solved = episode.success is not None and bool(episode.success.any())
    state = {"cameras": list(episode.views), "info": dict(episode.info), "success": solved}
    save_tensors(path, tensors, state=state)


class StoredEpisode:
    """An episode on disk: the small columns in memory, pictures read when asked for.

    cameras: names; info as Episode.info; times [t]; actions [t a]; proprio [t p]; rewards, success [t] float, NaN where
    unknown; segment_poses [t g 7], or None where exact motion is unknown.
    """

    def __init__(self, path: Path):
        self.path = path
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            columns = {name: file.get_tensor(name) for name in set(file.keys()) - set(PICTURES)}
        self.cameras: list[str] = state["cameras"]
        self.info: dict[str, Any] = state["info"]
        self.times, self.actions, self.proprio = columns["times"], columns["actions"], columns["proprio"]
        unknown = torch.full((len(self.times),), torch.nan)
        self.rewards = columns.get("rewards", unknown)
        self.success = columns.get("success", unknown).float()
        self.segment_poses = columns.get("segment_poses")
        self._viewmats, self._Ks = columns["viewmats"], columns["Ks"]

    def frames(self, start: int, stop: int, *, views: Sequence[int] | None = None, segments: bool = False) -> Frames:
        """Frames [t v] from start up to stop, of the cameras numbered `views` (all by default)."""
        index = list(range(len(self.cameras))) if views is None else list(views)
        with safe_open(self.path, framework="pt") as file:
            read = lambda name: file.get_slice(name)[start:stop][:, index]
            rgb, depth = read("rgb").float() / 255, read("depth").to(torch.float32) * DEPTH_STEP_M
            extras = {"segments": read("segments").long()} if segments else {}
        cameras = Cameras(
            viewmats=self._viewmats[start:stop, index],
            Ks=self._Ks[start:stop, index],
            width=rgb.shape[-2],
            height=rgb.shape[-3],
        )
        return Frames(rgb=rgb, depth=depth, alpha=None, cameras=cameras, extras=extras)

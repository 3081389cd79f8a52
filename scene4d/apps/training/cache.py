"""The cache: every training episode goes through the scene memory once; its windows are read from snapshots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from scene4d.apps.training.import_recordings import taken_in
from scene4d.apps.training.processes import in_processes
from scene4d.apps.training.run_config import CacheConfig, RecordConfig
from scene4d.apps.training.stored_episodes import StoredEpisode, episode_path
from scene4d.data.load.scene_window import Window, stack_windows
from scene4d.gaussians.edit import by_id
from scene4d.geometry.rotation import apply_pose, compose_pose, invert_pose
from scene4d.lift.stream.stream import SceneStream
from scene4d.models.gaussian_flow.networks.proprio import ProprioFutures, track_in_slots, track_of
from scene4d.models.gaussian_flow.scene.anchors import PAST_FLOW
from scene4d.models.gaussian_flow.scene.observe import memory_of
from scene4d.robot.actions import action_slots
from scene4d.robot.slots import proprio_slots, task_embedding
from scene4d.scene import Scene4D
from scene4d.train.checkpoint import load_tensors, save_tensors
from scene4d.train.log import Progress
from scene4d.types import Frames, Gaussians

CONTEXT = ("action_spec", "proprio_spec", "robot", "action_meaning")
"""What the world model is told of the robot, from `Episode.info`."""


def cache_stage(
    folder: Path,
    config: CacheConfig,
    *,
    record: RecordConfig,
    episodes: Path,
    processes: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Snapshot every episode of `episodes` that is not there yet; result: windows, rows (mean Gaussians a snapshot)."""
    paths = episode_paths(episodes, record)
    counts = in_processes(snapshot_one, [(folder, config, path) for path in paths], num=processes, progress=progress)
    rows = [n for each in counts for n in each]
    return {"windows": len(rows), "rows": round(sum(rows) / max(1, len(rows)))}


def episode_paths(folder: Path, config: RecordConfig) -> list[Path]:
    """Files of the episodes that the record stage leaves: seed by seed, or source by source."""
    if config.sources:
        return taken_in(folder)
    seeds = range(config.first_seed, config.first_seed + config.episodes)
    return [episode_path(folder, task, seed) for seed in seeds for task in config.tasks]


def window_starts(num_frames: int, config: CacheConfig) -> list[int]:
    """Moments t that have the asked-for past and future."""
    return list(range(config.num_past, num_frames - config.horizon, config.window_stride))


def snapshot_one(folder: Path, config: CacheConfig, path: Path) -> list[int]:
    """Run one episode through the memory and keep what it knows at each window's start; returns rows a window."""
    target = folder / path.name
    if target.exists():
        return load_tensors(target)[1]["counts"]
    episode = StoredEpisode(path)
    starts, exact = window_starts(len(episode.times), config), episode.segment_poses is not None
    last = starts[-1] if exact else starts[-1] + config.horizon
    frames = episode.frames(0, last + 1, views=range(config.num_inputs), segments=exact)
    stream, kept = SceneStream(), []
    for t in range(last + 1):
        stream.update(frames[t], time=float(episode.times[t]))
        if t in starts:
            # The very function that the world model observes with, so that training and use see the same memory.
            kept.append(memory_of(stream.scene(), memory=stream.gaussians()))
    columns = _columns(kept)
    if not exact:
        columns |= _tracked(stream.scene(), kept, times=[episode.times[t : t + 1 + config.horizon] for t in starts])
    save_tensors(target, columns, state={"starts": starts, "counts": [g.num_gaussians for g in kept]})
    return [g.num_gaussians for g in kept]


def _tracked(scene: Scene4D, memories: Sequence[Gaussians], *, times: Sequence[Tensor]) -> dict[str, Tensor]:
    """How the rows of each snapshot went on, by what the scene memory tracked later: the truth where none is exact.

    Returns:
        displacement [n h 3] m, half precision; displacement_valid [n]: the row was followed to the last of `times`.
    """
    ways, known = [], []
    for memory, moments in zip(memories, times, strict=True):
        steps = [scene.flow(float(moments[0]), float(moment)) for moment in moments[1:]]
        found = [by_id(torch.cat([f, v[:, None]], -1), scene.base.ids, wanted=memory.ids)[0] for f, v in steps]
        way = torch.stack(found, 1)  # [n h 4]
        valid = way[..., 3] > 0
        ways.append((way[..., :3] * valid[..., None]).half())
        known.append(valid.all(1))
    return {"displacement": torch.cat(ways), "displacement_valid": torch.cat(known)}


def _columns(memories: Sequence[Gaussians]) -> dict[str, Tensor]:
    """All rows of all snapshots behind one another; half precision where its 0.05 % does no harm."""
    join = lambda field: torch.cat([field(g) for g in memories])
    none = lambda g: g.means.new_full((g.num_gaussians, 1), -1.0)
    return {
        "means": join(lambda g: g.means),
        "quats": join(lambda g: g.quats).half(),
        "log_scales": join(lambda g: g.scales).log().half(),
        "opacities": join(lambda g: g.opacities).half(),
        "sh": join(lambda g: g.sh[:, :1]).half(),
        "ids": join(lambda g: g.ids).to(torch.int32),
        "segments": join(lambda g: g.extras.get("segments", none(g))).round().to(torch.int16),
        "confidence": join(lambda g: g.extras.get("confidence", -none(g))).half(),
        "past_flow": join(lambda g: g.extras[PAST_FLOW]).half(),
    }


class WindowCache:
    """Windows on disk, by number; what a training stage draws its batches from.

    tasks: names that `Window.task` counts in; cameras: names in the order of the views; context: action_spec,
    proprio_spec and robot, as the world model is told.
    """

    def __init__(
        self, folder: Path, config: CacheConfig, *, record: RecordConfig, episodes: Path, only: Path | None = None
    ):
        """
        Args:
            only: the one episode to take windows of, for a job that asks for no other; all by default.
        """
        self.config, self.cameras = config, list(record.cameras)
        self._windows: list[tuple[Path, StoredEpisode, int, int, int]] = []
        for path in [only] if only else episode_paths(episodes, record):
            episode, (starts, counts) = StoredEpisode(path), _index(folder / path.name)
            first = 0
            for start, count in zip(starts, counts, strict=True):
                self._windows.append((folder / path.name, episode, start, first, count))
                first += count
        self.tasks = list(dict.fromkeys(str(episode.info["task"]) for _, episode, *_ in self._windows))
        info = self._windows[0][1].info
        self.context = {name: info.get(name) for name in CONTEXT}
        self.step_seconds = float(self._windows[0][1].times.diff().median())

    def __len__(self) -> int:
        return len(self._windows)

    def window(self, number: int, *, futures: bool = True) -> Window:
        """One window without batch axes; without `futures` the target pictures are left out (h = 0 of them)."""
        path, episode, t, first, count = self._windows[number]
        horizon = self.config.horizon
        track = track_of(episode.actions[:t], episode.proprio[: t + 1], num_past=self.config.num_past_actions)
        memory, flow = _memory(path, first, count, exact=episode.segment_poses is not None)
        displacement, valid = self._displacement(number, memory)
        frames = episode.frames(t, t + 1 + (horizon if futures else 0))
        return Window(
            memory=memory,
            past_flow=flow,
            past_flow_valid=torch.ones(flow.shape[:2], dtype=torch.bool),
            past_actions=track.actions,
            past_proprio=track.proprio,
            past_valid=track.valid,
            actions=episode.actions[t : t + horizon],
            proprio=episode.proprio[t + 1 : t + 1 + horizon],
            displacement=displacement,
            displacement_valid=valid,
            frames=frames[0],
            targets=frames[1:],
            task=torch.tensor(self.tasks.index(episode.info["task"])),
            time=episode.times[t],
            # reward[t] and success[t] are the outcome of actions[t].
            reward=episode.rewards[t : t + horizon],
            success=episode.success[t : t + horizon],
        )

    def _displacement(self, number: int, memory: Gaussians) -> tuple[Tensor, Tensor]:
        """The truth about a window's rows: displacement [h n 3] m and whether it is known [n]."""
        path, episode, t, first, count = self._windows[number]
        if episode.segment_poses is None:
            with safe_open(path, framework="pt") as file:
                way = file.get_slice("displacement")[first : first + count].float()
                return way.movedim(1, 0), file.get_slice("displacement_valid")[first : first + count]
        # What belongs to no segment is the sky behind everything: it stands still.
        segments = memory.extras["segments"][:, 0].long()
        poses = episode.segment_poses[t : t + 1 + self.config.horizon]
        return displacement_of(memory.means, segments, poses), memory.ids >= 0

    def batch(self, numbers: Sequence[int], *, futures: bool = True) -> Window:
        """Windows [b]."""
        return stack_windows([self.window(int(i), futures=futures) for i in numbers])

    def frames(self, number: int, *, views: Sequence[int] | None = None) -> Frames:
        """The pictures [v] at a window's moment, of all cameras or of those numbered `views`."""
        _, episode, t, _, _ = self._windows[number]
        return episode.frames(t, t + 1, views=views)[0]

    def moment(self, number: int) -> tuple[StoredEpisode, int]:
        """The episode of a window, and the frame of it that is the window's moment."""
        return self._windows[number][1:3]

    def proprio_futures(self, numbers: Sequence[int]) -> ProprioFutures:
        """What the forecast of the robot's own state learns from: every moment [w] of the windows' episodes."""
        rows, horizon = [], self.config.horizon
        for episode in dict.fromkeys(self._windows[n][1] for n in numbers):
            actions, proprio = episode.actions, episode.proprio
            slots, task = proprio_slots(proprio, self.context), task_embedding(episode.info["task"])
            for t in range(1, len(actions) - horizon):
                track = track_of(actions[:t], proprio[: t + 1], num_past=self.config.num_past_actions)
                rows.append(
                    ProprioFutures(
                        actions=action_slots(actions[t : t + horizon], self.context, proprio=proprio[t]),
                        track=track_in_slots(track, self.context),
                        proprio_change=slots[t + 1 : t + 1 + horizon] - slots[t],
                        task=task,
                    )
                )
        return ProprioFutures.stack(rows)

    def by_task(self) -> dict[str, list[list[int]]]:
        """The numbers of the windows of each episode, task by task."""
        tasks: dict[str, list[list[int]]] = {}
        for group in self.groups():
            tasks.setdefault(str(self._windows[group[0]][1].info["task"]), []).append(group)
        return tasks

    def groups(self) -> list[list[int]]:
        """The numbers of the windows of each episode."""
        groups: dict[Path, list[int]] = {}
        for number, (path, *_) in enumerate(self._windows):
            groups.setdefault(path, []).append(number)
        return list(groups.values())


def kept_apart(groups: Mapping[str, Sequence[Sequence[int]]], *, every: int) -> tuple[list[int], list[int]]:
    """Of windows grouped by task and episode: the numbers to train on, and those of every `every`-th episode of each
    task, to judge by."""
    judged = {n for episodes in groups.values() for group in episodes[every - 1 :: every] for n in group}
    everything = {n for episodes in groups.values() for group in episodes for n in group}
    return sorted(everything - judged), sorted(judged)


def draw_numbers(count: int, *, num: int, step: int, seed: int) -> Tensor:
    """`num` of the numbers 0..count-1 for a training step: a new order every epoch; (seed, step) alone decide."""
    picked = []
    for place in range(step * num, (step + 1) * num):
        epoch, index = divmod(place, count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
        picked.append(order[index])
    return torch.stack(picked)


def displacement_of(points: Tensor, segments: Tensor, poses: Tensor) -> Tensor:
    """Displacement [h n 3] m of points [n 3] that ride on segments [n]; poses [1+h g 7] are those of now and later."""
    motion = compose_pose(poses[1:], invert_pose(poses[:1]).expand_as(poses[1:]))  # [h g 7] later from now
    each = motion[:, segments.clamp_min(0)]  # [h n 7]
    moved = apply_pose(each, points.expand(each.shape[0], -1, 3)) - points
    return torch.where((segments >= 0)[:, None], moved, torch.zeros_like(moved))


def _memory(path: Path, first: int, count: int, *, exact: bool) -> tuple[Gaussians, Tensor]:
    """Rows `first` and on of a snapshot, and their past flow [2 n 3]; their segments where those are exact."""
    with safe_open(path, framework="pt") as file:
        read = lambda name: file.get_slice(name)[first : first + count]
        flow = read("past_flow").float()  # [n 6]
        memory = Gaussians(
            means=read("means"),
            quats=read("quats").float(),
            scales=read("log_scales").float().exp(),
            opacities=read("opacities").float(),
            sh=read("sh").float(),
            ids=read("ids").long(),
            extras={"confidence": read("confidence").float(), PAST_FLOW: flow}
            | ({"segments": read("segments").float()} if exact else {}),
        )
    return memory, flow.unflatten(-1, (-1, 3)).movedim(1, 0)


def _index(path: Path) -> tuple[list[int], list[int]]:
    with safe_open(path, framework="pt") as file:
        state = json.loads(file.metadata()["state"])
    return state["starts"], state["counts"]

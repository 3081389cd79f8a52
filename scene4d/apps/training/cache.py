"""The cache: every training episode goes through the scene memory once; its windows are read from snapshots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from scene4d.apps.training.import_recordings import check_robots, imported_episodes
from scene4d.apps.training.processes import in_processes
from scene4d.apps.training.record_episodes import episode_path
from scene4d.apps.training.run_config import CacheConfig, RecordConfig
from scene4d.data.load.scene_window import Window
from scene4d.data.load.stored_episode import StoredEpisode, StoredWindows
from scene4d.data.load.window_set import WindowConfig
from scene4d.gaussians.edit import by_id
from scene4d.geometry.rotation import apply_pose, compose_pose, invert_pose
from scene4d.lift.stream.stream import SceneStream
from scene4d.robot.several_robots import distinct_robots
from scene4d.robot.spec import RobotSpec
from scene4d.robot.track import track_of
from scene4d.scene import Scene4D
from scene4d.train.checkpoint import load_tensors, save_tensors
from scene4d.train.log import line_progress
from scene4d.types import Frames, Gaussians
from scene4d.world.current import PAST_FLOW, memory_of


def cache_stage(
    folder: Path, config: CacheConfig, *, record: RecordConfig, episodes: Path, processes: int
) -> dict[str, Any]:
    """Snapshot every episode of `episodes` that is not there yet; result: windows, rows (mean Gaussians a snapshot)."""
    paths = episode_paths(episodes, record)
    jobs = [{"path": path, "folder": folder, "config": config} for path in paths]
    counts = in_processes(snapshot_one, jobs, num=processes, progress=line_progress("cache"))
    rows = [n for each in counts for n in each]
    return {"windows": len(rows), "rows": round(sum(rows) / max(1, len(rows)))}


def episode_paths(folder: Path, config: RecordConfig) -> list[Path]:
    """Files of the episodes that the record stage leaves: seed by seed, or source by source."""
    if config.sources:
        return imported_episodes(folder)
    seeds = range(config.first_seed, config.first_seed + config.episodes)
    return [episode_path(folder, task=task, seed=seed) for seed in seeds for task in config.tasks]


def window_config(config: CacheConfig, *, cameras: Sequence[str]) -> WindowConfig:
    """How episodes are cut."""
    return WindowConfig(
        context=config.num_past + 1, horizon=config.num_future, stride=config.window_stride, cameras=tuple(cameras)
    )


def snapshot_one(path: Path, *, folder: Path, config: CacheConfig) -> list[int]:
    """Run one episode through the memory and keep what it knows at each window's start; returns rows a window."""
    target = folder / path.name
    if target.exists():
        return load_tensors(target)[1]["counts"]
    episode = StoredEpisode(path)
    windows = StoredWindows([episode], window_config(config, cameras=episode.cameras))
    starts, exact = [windows.moment(number)[1] for number in range(len(windows))], episode.segment_poses is not None
    last = starts[-1] if exact else starts[-1] + config.num_future
    frames = episode.read(0, last + 1, cameras=episode.cameras[: config.num_inputs]).stacked()
    stream, kept = SceneStream(), []
    for t in range(last + 1):
        stream.update(frames[t], time=float(episode.times[t]))
        if t in starts:
            # The very function that the world model observes with, so that training and use see the same memory.
            kept.append(memory_of(stream.scene(), memory=stream.gaussians()))
    columns = _columns(kept)
    if not exact:
        instants = torch.tensor((0, *config.instants))
        columns |= _tracked(stream.scene(), kept, times=[episode.times[t + instants] for t in starts])
    save_tensors(target, columns, state={"starts": starts, "counts": [g.num_gaussians for g in kept]})
    return [g.num_gaussians for g in kept]


def _tracked(scene: Scene4D, memories: Sequence[Gaussians], *, times: Sequence[Tensor]) -> dict[str, Tensor]:
    """How the rows of each snapshot went on, by what the scene memory tracked later: the truth where none is exact.

    Returns:
        displacement [n f 3] m, half precision; displacement_valid [n]: the row was followed to the last of `times`.
    """
    ways, known = [], []
    for memory, moments in zip(memories, times, strict=True):
        steps = [scene.flow(float(moments[0]), float(moment)) for moment in moments[1:]]
        found = [by_id(torch.cat([f, v[:, None]], -1), scene.base.ids, wanted=memory.ids)[0] for f, v in steps]
        way = torch.stack(found, 1)  # [n f 4]
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


class WindowCache(StoredWindows):
    """The windows of stored episodes with the scene memory at each; what a training stage draws its batches from.

    robots: of the recordings, with the length of their frames. Implements `Windows`.
    """

    def __init__(
        self, folder: Path, config: CacheConfig, *, record: RecordConfig, episodes: Path, only: Path | None = None
    ):
        """
        Args:
            only: the one episode to take windows of, for a job that asks for no other; all by default.
        Raises:
            ConfigError: the episodes are of different robots, and `record.several_robots` does not allow it.
        """
        paths = [only] if only else episode_paths(episodes, record)
        cut = replace(window_config(config, cameras=record.camera_names), union=record.several_robots)
        super().__init__([StoredEpisode(path) for path in paths], cut)
        self.num_inputs, self.num_past_actions = config.num_inputs, config.num_past_actions
        self._rows: list[tuple[Path, int, int]] = []
        for path in paths:
            first = 0
            for count in _counts(folder / path.name):
                self._rows.append((folder / path.name, first, count))
                first += count
        self.horizon, self.instants = config.num_future, config.instants
        self._robot_of_episode = [_robot_of(episode) for episode in self.recordings]
        check_robots(self._robot_of_episode, self.recordings, several=record.several_robots)
        self.robots = distinct_robots(self._robot_of_episode)

    def robot_of(self, number: int) -> RobotSpec:
        """The robot of a window, as its episode describes it."""
        return self._robot_of_episode[self._moments[number][0]]

    def window(self, number: int, *, futures: bool = True) -> Window:
        """One window without batch axes; without `futures` the target pictures are left out (h = 0 of them)."""
        episode, t = self.moment(number)
        horizon = self.config.horizon
        track = track_of(episode.actions[:t], episode.proprio[: t + 1], num_past=self.num_past_actions)
        path, first, count = self._rows[number]
        memory, flow = _memory(path, first=first, count=count, exact=episode.segment_poses is not None)
        displacement, valid = self._displacement(number, memory)
        frames = self.frames(number, horizon=horizon if futures else 0)
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
        """The truth about a window's rows: displacement [f n 3] m at the instants, and whether it is known [n]."""
        (path, first, count), (episode, t) = self._rows[number], self.moment(number)
        if episode.segment_poses is None:
            with safe_open(path, framework="pt") as file:
                way = file.get_slice("displacement")[first : first + count].float()
                return way.movedim(1, 0), file.get_slice("displacement_valid")[first : first + count]
        # What belongs to no segment is the sky behind everything: it stands still.
        segments = memory.extras["segments"][:, 0].long()
        poses = episode.segment_poses[t + torch.tensor((0, *self.instants))]
        return displacement_of(memory.means, segments, poses=poses), memory.ids >= 0

    def frames(self, number: int, *, horizon: int = 0) -> Frames:
        """The pictures [1 + h v] of all cameras at a window's moment and after it.

        Raises:
            DataFormatError: the episode has no pictures any more by then.
        """
        episode, t = self.moment(number)
        self.check_pictured(number, horizon=horizon)
        return episode.read(t, t + 1 + horizon, cameras=self.cameras).stacked().replace(extras={})


def _robot_of(episode: StoredEpisode) -> RobotSpec:
    """The robot of an episode, with its step."""
    return RobotSpec.from_info(
        episode.info,
        num_actions=episode.actions.shape[-1],
        num_proprio=episode.proprio.shape[-1],
        step_seconds=float(episode.times.diff().median()),
    )


def displacement_of(points: Tensor, segments: Tensor, *, poses: Tensor) -> Tensor:
    """Displacement [f n 3] m of points [n 3] that ride on segments [n]; poses [1+f g 7] are those of now and later."""
    motion = compose_pose(poses[1:], invert_pose(poses[:1]).expand_as(poses[1:]))  # [f g 7] later from now
    each = motion[:, segments.clamp_min(0)]  # [f n 7]
    moved = apply_pose(each, points.expand(each.shape[0], -1, 3)) - points
    return torch.where((segments >= 0)[:, None], moved, torch.zeros_like(moved))


def _memory(path: Path, *, first: int, count: int, exact: bool) -> tuple[Gaussians, Tensor]:
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


def _counts(path: Path) -> list[int]:
    """Gaussians of each snapshot in a file."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["state"])["counts"]

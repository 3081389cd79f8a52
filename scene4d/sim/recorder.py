"""Simulators by the names of their tasks, and the episodes of scripted experts in them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from scene4d.disk_errors import refuse_shortage
from scene4d.errors import ConfigError, EnvError
from scene4d.sim.drawing.simulator import Simulator
from scene4d.sim.failures import Failing
from scene4d.sim.metaworld import MetaWorldSim
from scene4d.sim.rig import RigCamera
from scene4d.sim.tabletop.captions import PREFIX, read_task
from scene4d.types import Episode, Frames


def open_sim(
    task: str,
    *,
    seed: int = 0,
    size: tuple[int, int] = (64, 64),
    cameras: Sequence[str] | Mapping[str, RigCamera] = ("left", "right", "front", "top"),
    segments: bool | Sequence[str] = True,
    turned_deg: float = 0.0,
) -> Simulator:
    """The simulator of a task: our own table where its name begins with "tabletop/", else Meta-World.

    Args: as `Simulator`.
    Raises:
        ConfigError: no such task or camera.
        EnvError: the simulator is not installed.
    """
    kind = _table_class() if task.startswith(PREFIX) else MetaWorldSim
    return kind(task, seed=seed, size=size, cameras=cameras, segments=segments, turned_deg=turned_deg)


def robot_of(task: str) -> str:
    """What `Simulator.robot` of a task is.

    Raises:
        ConfigError: it is no task of the table, though its name begins like one.
    """
    return read_task(task).robot if task.startswith(PREFIX) else MetaWorldSim.robot


def record_episode(
    task: str,
    *,
    seed: int,
    noise: float = 0.1,
    num_frames: int = 60,
    size: tuple[int, int] = (64, 64),
    cameras: Sequence[str] | Mapping[str, RigCamera] = ("left", "right", "front", "top"),
    sim: Simulator | None = None,
) -> Episode:
    """The scripted expert with Gaussian noise of standard deviation `noise` on its actions.

    `sim` of the same task, when given, is reset and used instead of a new one (its size and cameras then hold).

    Returns:
        Episode [t]; see `record_with`.
    """
    if sim is not None:
        if sim.task != task:
            raise ConfigError("the simulator runs another task", field="sim", found=sim.task, expected=task)
        return record_with(sim, seed=seed, noise=noise, num_frames=num_frames)
    with open_sim(task, seed=seed, size=size, cameras=cameras) as own:
        return record_with(own, seed=seed, noise=noise, num_frames=num_frames)


def record_with(
    sim: Simulator,
    *,
    seed: int,
    noise: float = 0.1,
    num_frames: int = 60,
    progress: Callable[[int], None] | None = None,
) -> Episode:
    """The scripted expert with Gaussian noise of standard deviation `noise` on its actions, after a reset to `seed`.

    rewards[t] and success[t] are the outcome of actions[t]. `progress` is called with the number of frames made so far.

    Returns:
        Episode [t] with segment_poses [t g 7]; info: task, seed, noise, segments, specs, robot, source, and
        viewpoints where the cameras are free ones.
    """
    return record_parts(sim, seed=seed, noise=noise, num_frames=num_frames, progress=progress)[0]


def record_parts(
    sim: Simulator,
    *,
    seed: int,
    noise: float = 0.1,
    num_frames: int = 60,
    num_tail: int = 0,
    failure: str = "",
    progress: Callable[[int], None] | None = None,
) -> tuple[Episode, Episode]:
    """As `record_with`, and how it goes on for `num_tail` frames more, which cost no drawing: they have no views.

    The first part is the same, bit for bit, whatever `num_tail` is. `failure` names what the expert does wrong (see
    `Failing`), and `info` does then.

    Raises:
        ConfigError: that failure does not fit the task.
    """
    failing = Failing(failure, task=sim.task, seed=seed) if failure else None
    sim.reset(seed)
    # The task is part of the stream's seed: equal seeds of different tasks do not share their noise.
    generator = np.random.default_rng([seed, zlib.crc32(sim.task.encode())])
    frames, rows = [], []
    for index in range(num_frames + num_tail):
        if index < num_frames:
            frames.append(sim.observe())
        proprio, poses = sim.proprio(), sim.segment_poses()
        shake = torch.from_numpy(generator.standard_normal(len(sim.action_spec))).float()
        wish = failing.action(sim) if failing is not None and isinstance(sim, MetaWorldSim) else sim.expert_action()
        action = (wish + noise * shake).clamp(-1, 1)
        reward, success = sim.step(action)
        rows.append((action, proprio, poses, torch.tensor(reward, dtype=torch.float32), torch.tensor(success)))
        if progress is not None:
            progress(index + 1)
    actions, proprio, poses, rewards, success = (torch.stack(column) for column in zip(*rows, strict=True))
    whole = Episode(
        views={},
        times=torch.arange(num_frames + num_tail, dtype=torch.float64) / sim.fps,
        valid=torch.ones(num_frames + num_tail, dtype=torch.bool),
        actions=actions,
        proprio=proprio,
        rewards=rewards,
        success=success,
        segment_poses=poses,
        info={
            "task": sim.text,
            "seed": int(seed),
            "noise": float(noise),
            "robot": sim.robot,
            "source": sim.source,
            "segments": sim.segment_names,
            "action_spec": [dict(row) for row in sim.action_spec],
            "proprio_spec": [dict(row) for row in sim.proprio_spec],
            **({"viewpoints": sim.viewpoints} if sim.viewpoints else {}),
            **({"failure": failure} if failure else {}),
            **sim.notes(),
        },
    )
    views = {name: Frames.stack([frame[name] for frame in frames]) for name in sim.cameras if frames}
    return whole[:num_frames].replace(views=views), whole[num_frames:]


def _table_class() -> type[Simulator]:
    try:
        from scene4d.sim.tabletop.tabletop import TabletopSim
    except ImportError as error:
        refuse_shortage(error, file=None)
        raise EnvError("mujoco is not installed", field="mujoco", fix='pip install "scene4d[sim]"') from error
    return TabletopSim

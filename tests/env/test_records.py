"""Records of episodes: none replaces another, whoever wrote it, and they say what their actions mean."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

pytest.importorskip("gymnasium", reason="gymnasium is not installed")

import toy_world

from scene4d.env import episode_log as record
from scene4d.env.batched_sim import BatchedSim, WorldConfig
from scene4d.env.vector_env import WorldVectorEnv
from scene4d.env.world_env import WorldEnv
from scene4d.errors import ResourceError
from scene4d.gaussians.s4d.s4d import open_s4d

replace = os.replace  # before a test makes it fail
QUICK = WorldConfig(size=8, max_steps=2)


def start():
    return toy_world.toy_start(num_floor=8, action_meaning="change of the hand's place")


def run(folder, *, seed):
    """One episode of a simulator of its own."""
    env = WorldEnv(toy_world.ToyWorld(), [start()], cameras=toy_world.cameras(), config=QUICK, record_to=folder)
    env.reset(seed=seed)
    for _ in range(2):
        env.step(torch.zeros(4))
    env.close()
    return env.sim.logs[0].seed


def begun_log(seed):
    sim = BatchedSim(toy_world.ToyWorld(), toy_world.cameras(), config=QUICK)
    sim.start({0: (start(), seed)})
    return sim.logs[0]


def seeds_in(folder):
    assert not [p.name for p in folder.iterdir() if p.name.startswith(".")]
    return [open_s4d(path).info["seed"] for path in sorted(folder.iterdir())]


def test_a_second_simulator_replaces_nothing(tmp_path):
    seeds = [run(tmp_path, seed=i) for i in range(2)]
    vector = WorldVectorEnv(
        toy_world.ToyWorld(), [start()], num_envs=2, cameras=toy_world.cameras(), config=QUICK, record_to=tmp_path
    )
    vector.reset(seed=5)
    for _ in range(2):
        vector.step(torch.zeros(2, 4))
    vector.close()
    seeds += [log.seed for log in vector.sim.logs]
    assert [p.name for p in sorted(tmp_path.iterdir())] == [f"episode_000{i}.s4d" for i in range(4)]
    assert seeds_in(tmp_path) == seeds and len(set(seeds)) == 4


def test_what_others_put_there_stays(tmp_path):
    (tmp_path / "episode_0000.s4d").write_bytes(b"another's")
    (tmp_path / "episode_0002.s4d").mkdir()
    assert begun_log(7).write(tmp_path) == 1 and begun_log(8).write(tmp_path) == 3
    assert (tmp_path / "episode_0000.s4d").read_bytes() == b"another's"


@pytest.mark.parametrize("links", [True, False])
def test_writers_at_the_same_time_lose_nothing(tmp_path, monkeypatch, links):
    """All find the same numbers free at the same moment; also where the file system knows no links."""
    if not links:

        def refuse(source, target):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(record.os, "link", refuse)
    logs, together = [begun_log(seed) for seed in range(8)], Barrier(8)

    def write(log):
        together.wait()
        return log.write(tmp_path)

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(write, logs))
    assert sorted(numbers) == list(range(8))
    assert [seeds_in(tmp_path)[number] for number in numbers] == list(range(8))


def test_a_record_that_could_not_be_put_there_is_not_reported_as_written(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log = begun_log(3)
    log.num_written = -1
    with monkeypatch.context() as patched:
        patched.setattr(record.os, "link", full)
        patched.setattr(record.os, "replace", lambda a, b: replace(a, b) if ".scene4d-draft" in str(b) else full())
        with pytest.raises(ResourceError, match="the disk is full"):
            log.write(tmp_path)
    assert log.num_written == -1 and not list(tmp_path.iterdir())
    assert log.write(tmp_path) == 0


def test_records_hold_what_their_actions_mean(tmp_path):
    run(tmp_path, seed=0)
    assert open_s4d(tmp_path / "episode_0000.s4d").info["action_meaning"] == "change of the hand's place"

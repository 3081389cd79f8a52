"""What an action is, and how long a step takes, stays the same for as long as a simulator lives."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

pytest.importorskip("gymnasium", reason="gymnasium is not installed")

import toy_world

from scene4d.env.batched_sim import BatchedSim, WorldConfig
from scene4d.env.vector_env import WorldVectorEnv
from scene4d.env.world_env import WorldEnv
from scene4d.errors import ConfigError, EnvError
from scene4d.robot.spec import VectorSpec
from scene4d.text.task_vectors import task_vector
from scene4d.types import Task

QUICK = WorldConfig(size=8, max_steps=2)
ABSOLUTE = [*({"name": n, "unit": "m"} for n in ("x", "y", "z")), {"name": "gripper", "unit": "1"}]


def toy_start(**facts):
    """A start that says how long its steps take; `facts` of its recording to change."""
    return toy_world.toy_start(**{"step_seconds": 0.025, **facts})


def wide(*, spec=None):
    """A start whose robot has seven numbers an action."""
    return toy_start(action_spec=spec, num_actions=7)


OTHERS = {
    "spec": (toy_start(action_spec=ABSOLUTE), r"action_spec\[0\]"),
    "step": (toy_start(step_seconds=0.1), "step_seconds"),
    "proprio": (toy_start(proprio_spec=[{"name": n} for n in "abcd"]), r"proprio_spec\[0\]"),
    "width": (wide(), "action_spec"),
    "width and spec": (wide(spec=[{"name": f"joint{i}"} for i in range(7)]), "action_spec"),
}


@dataclass(frozen=True)
class TaskState(toy_world.ToyState):
    """A state that holds the task too."""

    task_vector: torch.Tensor


class TaskWorld(toy_world.ToyWorld):
    """A world whose states hold the task."""

    def observe(self, observation, *, state=None):
        seen = super().observe(observation, state=state)
        return TaskState(**vars(seen), task_vector=task_vector(observation.task, text="words"))


def envs(starts):
    yield lambda: WorldEnv(toy_world.ToyWorld(), starts, cameras=toy_world.cameras(), config=QUICK)
    yield lambda: WorldVectorEnv(toy_world.ToyWorld(), starts, num_envs=2, cameras=toy_world.cameras(), config=QUICK)


def drawing(*starts):
    """A function of starts that gives these in turn, the last one for ever."""
    left = list(starts)
    return lambda generator: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize("name", OTHERS)
def test_listed_starts_of_two_kinds_make_no_env(name):
    other, field = OTHERS[name]
    for make in envs([toy_start(), other]):
        with pytest.raises(ConfigError, match=field) as raised:
            make()
        assert raised.value.fix and raised.value.found is not None


@pytest.mark.parametrize("name", OTHERS)
def test_drawn_starts_of_another_kind_are_refused_at_reset(name):
    """One world alone: there is nobody beside it to differ from, but the kind of the first start still holds."""
    other, field = OTHERS[name]
    env = WorldEnv(
        toy_world.ToyWorld(), drawing(toy_start(), toy_start(), other), cameras=toy_world.cameras(), config=QUICK
    )
    env.reset(seed=0)
    for options in (None, None, {"start": other}):
        with pytest.raises(ConfigError, match=field):
            env.reset(options=options)
    assert env.sim.state.robot.action == VectorSpec.from_rows(toy_world.SPEC)  # and the world is as it was
    env.step(torch.zeros(4))


def test_the_first_episode_must_fit_the_spaces_too():
    """The spaces are those of the first draw, so the second one, with which the first episode begins, has to agree."""
    other, field = OTHERS["width"]
    env = WorldEnv(toy_world.ToyWorld(), drawing(toy_start(), other), cameras=toy_world.cameras(), config=QUICK)
    with pytest.raises(ConfigError, match=field):
        env.reset(seed=0)


def test_worlds_that_begin_anew_are_of_the_kind_of_the_others():
    other, field = OTHERS["step"]
    starts = drawing(*[toy_start()] * 3, other)
    env = WorldVectorEnv(toy_world.ToyWorld(), starts, num_envs=2, cameras=toy_world.cameras(), config=QUICK)
    env.reset(seed=0)
    rest = torch.zeros(2, 4)
    for _ in range(2):
        env.step(rest)
    with pytest.raises(ConfigError, match=field):
        env.step(rest)


def test_two_meanings_of_an_action_are_two_kinds_and_one_without_meaning_is_none():
    change, place = (
        toy_start(action_meaning="change of the gripper's pose"),
        toy_start(action_meaning="the gripper's pose"),
    )
    for make in envs([change, place]):
        with pytest.raises(ConfigError, match="action_meaning"):
            make()
    for make in envs([change, toy_start()]):
        make()


def test_a_refused_start_decides_nothing():
    sim = BatchedSim(toy_world.ToyWorld(), toy_world.cameras(), num=2, config=QUICK)
    place, change = (toy_start(action_meaning=text) for text in ("the gripper's place", "change"))
    with pytest.raises(ConfigError, match="action_spec"):
        sim.start({0: (place, 0), 1: (toy_start(action_spec=toy_world.SPEC[:3]), 0)})
    assert sim.robot is None and not sim.logs
    sim.start({0: (change, 0), 1: (toy_start(), 0)})
    assert sim.robot.meaning.text == "change"


def test_what_is_left_open_and_what_is_null_are_the_same():
    """Specs that went through a file: rows with nulls, lists for tuples, no meaning for an empty one."""
    stored = tuple({**row, "frame": None} for row in toy_world.SPEC)
    for make in envs([toy_start(), toy_start(action_spec=stored, action_meaning="")]):
        make()


def test_a_single_episode_has_the_task_of_its_start():
    """The text belongs to the episode, unlike what an action is."""
    env = WorldEnv(TaskWorld(), [toy_start()], cameras=toy_world.cameras(), config=QUICK)
    env.reset(seed=0)
    env.reset(options={"start": toy_start().replace(task=Task("pull"))})
    assert torch.equal(env.sim.state.task_vector, task_vector(Task("pull"), text="words")[None])
    assert env.sim.logs[0].start.task.text == "pull"


def test_facts_that_only_some_starts_have_make_no_difference():
    """Also where states hold tensors of their own, which are put in row by row."""
    full, bare = toy_start(robot="arm").replace(task=Task("pull")), toy_start(proprio_spec=None)
    sim = BatchedSim(TaskWorld(), toy_world.cameras(), num=2, config=QUICK)
    sim.start({0: (full, 0), 1: (bare, 0)})
    sim.start({1: (full, 0)})
    sim.start({0: (bare, 0)})
    wanted = [task_vector(Task(text), text="words") for text in ("push", "pull")]
    assert torch.equal(sim.state.task_vector, torch.stack(wanted))
    assert sim.robot.name == "arm" and sim.robot.proprio.names == tuple(row["name"] for row in toy_world.PROPRIO)


def test_a_simulator_that_nothing_was_begun_in_has_no_state():
    sim = BatchedSim(toy_world.ToyWorld(), toy_world.cameras(), config=QUICK)
    with pytest.raises(EnvError, match="call start"):
        sim.state  # noqa: B018

"""What `scene4d serve` serves, without its transport: episodes by id, each with an agent of its own."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scene4d.apps.agent.agent import AgentConfig, SceneAgent, agent_config, agent_maker
from scene4d.apps.agent.server.messages import VERSION, ObservationMessage, View
from scene4d.apps.agent.task_names import names_and_units, task_from_text
from scene4d.apps.compose.action_head import head_of, robot_of_head
from scene4d.apps.compose.models import Models
from scene4d.errors import DataFormatError, ResourceError
from scene4d.types import Cameras, Frames


@dataclass
class Served:
    """One episode: its agent, the task as understood, and the steps it has taken."""

    agent: SceneAgent
    task: str
    num_steps: int = 0


class PolicyHost:
    """What is served, without its transport: episodes by id, one computed at a time."""

    def __init__(
        self,
        models: Models,
        *,
        config: AgentConfig | None = None,
        forecast: bool = True,
        max_episodes: int = 4,
        patience: float = 30.0,
    ) -> None:
        """
        Args:
            models: with an action head. config: of every agent, what it leaves open as the weights learned; its seed is
                given with each episode.
            forecast: whether the head also looks at the predicted future.
            max_episodes: kept at a time. patience: seconds a request waits for those before it.
        Raises:
            CheckpointError: the weights hold no action head, or an unfit one.
        """
        self.config = agent_config(models, config)
        self._models, self._forecast, self._max_episodes = models, forecast, max_episodes
        agent_maker(models, forecast=forecast, config=self.config)  # refuses unfit weights before anyone asks
        self._lock, self._patience = threading.Lock(), patience
        self._episodes: OrderedDict[str, Served] = OrderedDict()
        self.num_episodes, self.num_steps = 0, 0

    @property
    def tasks(self) -> list[str]:
        """Names the head was trained on."""
        return self._models.tasks

    def info(self) -> dict[str, Any]:
        """What a client has to know, JSON-ready."""
        head, robot = head_of(self._models).config, robot_of_head(self._models)
        vectors = ("action", robot.action, head.action_dim), ("proprio", robot.proprio, head.proprio_dim)
        columns = {}
        for name, spec, width in vectors:
            names, units = names_and_units(spec, width=width)
            columns[name] = [{"name": n, "unit": u} for n, u in zip(names, units, strict=True)]
        return {
            "version": VERSION,
            "tasks": self.tasks,
            "cameras": list(self.config.input_cameras),
            "size": None if self.config.size is None else list(self.config.size),
            **columns,
            "chunk": head.chunk,
            "replan_every": self.config.replan_every,
            "forecast": self._forecast,
            "goal": head.goal_conditioned,
            "fps": round(1 / self.config.seconds_per_frame, 6),
        }

    def begin(self, *, task: str, seed: int = 0) -> dict[str, Any]:
        """A new episode: {episode, task} with its id and the task as understood.

        Raises:
            ConfigError: nothing was trained for the task; lists what was.
        """
        name = task_from_text(task, self.tasks) if self.tasks else task
        config = replace(self.config, seed=seed)
        agent = agent_maker(self._models, forecast=self._forecast, config=config)(name)
        key = secrets.token_hex(8)
        with self._alone():
            while len(self._episodes) >= self._max_episodes:
                self._episodes.popitem(last=False)
            self._episodes[key] = Served(agent, name)
            self.num_episodes += 1
        return {"episode": key, "task": name}

    def step(self, key: str, message: ObservationMessage) -> dict[str, Any]:
        """The next action: {action [a], step}. Raises as `SceneAgent.step`; DataFormatError: no such episode."""
        with self._turn(key) as served:
            if message.actions is not None:
                raise DataFormatError("belong to a chunk", field="actions", fix="leave them out, or ask for a chunk")
            frames, state, goal = self._frames(message), _tensor(message.proprio), _given(message.goal)
            action = served.agent.step(frames, proprio=state, task=served.task, goal=goal)
            return {"action": action.tolist(), "step": self._counted(served)}

    def chunk(self, key: str, message: ObservationMessage) -> dict[str, Any]:
        """A fresh chunk: {actions [h][a], step}; errors as `step`."""
        with self._turn(key) as served:
            frames, state = self._frames(message), _tensor(message.proprio)
            done, goal = _given(message.actions), _given(message.goal)
            actions = served.agent.step_chunk(frames, proprio=state, task=served.task, done=done, goal=goal)
            return {"actions": actions.tolist(), "step": self._counted(served)}

    def end(self, key: str) -> dict[str, Any]:
        """Forget an episode; one that is not there is no error, so that it can be asked twice."""
        with self._alone():
            return {"ended": self._episodes.pop(key, None) is not None}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The one place at the models; waiting for it has an end."""
        if not self._lock.acquire(timeout=self._patience):
            fix = "ask fewer at a time, or --no-forecast"
            raise ResourceError("is busy with others", field="server", found=f"{self._patience:g} s waited", fix=fix)
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _turn(self, key: str) -> Iterator[Served]:
        """An episode, while nobody else computes."""
        with self._alone():
            served = self._episodes.get(key)
            if served is None:
                fix = "begin another; the one not asked for longest is forgotten when the server is full"
                raise DataFormatError("no such episode", field="episode", found=key[:40], fix=fix)
            self._episodes.move_to_end(key)
            yield served

    def _frames(self, message: ObservationMessage) -> dict[str, Frames]:
        """What the agent's cameras sent. Unpacked in turn: as floats pictures are several times the body, and many may
        wait."""
        return {n: frames_of(view) for n, view in message.views.items() if n in self.config.input_cameras}

    def _counted(self, served: Served) -> int:
        """The number of this step in its episode."""
        served.num_steps += 1
        self.num_steps += 1
        return served.num_steps


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.copy())  # the body's own bytes cannot be written to


def _given(values: np.ndarray | None) -> Tensor | None:
    return None if values is None else _tensor(values)


def frames_of(view: View) -> Frames:
    """A view as Frames []."""
    values: dict[str, Tensor] = {name: _tensor(array) for name, array in vars(view).items()}
    height, width = view.depth.shape
    cameras = Cameras(viewmats=values["viewmat"], Ks=values["K"], width=width, height=height)
    return Frames(rgb=values["rgb"].float() / 255, depth=values["depth"], alpha=None, cameras=cameras)

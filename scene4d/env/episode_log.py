"""What happened in one episode of the learned simulator, as a Scene4D and as a .s4d file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from scene4d.disk_errors import writing
from scene4d.drafts import draft_folder
from scene4d.files import sync
from scene4d.gaussians.s4d.s4d import write_s4d
from scene4d.scene import Scene4D
from scene4d.world.carry import AnchoredGaussians, AnchorMotion, later_times, scene_of_motion
from scene4d.world.observation import Observation

STEP_SECONDS = 0.025
"""Seconds of a step where a start does not say."""


@dataclass
class EpisodeLog:
    """The start of an episode, its Gaussians on their anchors, and what each step added; rows of lists are steps.

    poses [l 7] since the start, log_var [l 6] summed over chunks, actions [a], proprio [q] after the step.
    """

    start: Observation
    anchored: AnchoredGaussians
    seed: int
    poses: list[Tensor] = field(default_factory=list)
    log_var: list[Tensor] = field(default_factory=list)
    actions: list[Tensor] = field(default_factory=list)
    proprio: list[Tensor] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    success: list[float] = field(default_factory=list)
    ended: str = ""
    """Why it ended; "" while it goes on."""
    num_written: int = 0
    """Steps of it that are on disk."""

    def scene(self) -> Scene4D:
        """The start carried through all steps: its first instant was observed, the others predicted."""
        anchored, num_anchors = self.anchored.to("cpu"), self.anchored.anchors.shape[0]
        stacked = lambda rows, width: torch.stack(rows) if rows else anchored.anchors.new_zeros(0, num_anchors, width)
        motion = AnchorMotion(stacked(self.poses, 7), stacked(self.log_var, 6))
        seconds = self.start.step_seconds or STEP_SECONDS
        times = later_times(self.time, num_steps=len(self.poses), step_seconds=seconds)
        return scene_of_motion(anchored, motion, times=times).replace(info={"model": "scene4d world env"})

    @property
    def time(self) -> Tensor:
        """Second at which it began, float64."""
        scene = self.start.scene
        return torch.zeros((), dtype=torch.float64) if scene is None else scene.times[-1].double().cpu()

    def write(self, folder: str | Path, *, number: int = 0) -> int:
        """Write folder/episode_NNNN.s4d whole or not at all; `scene4d forecast` and the simulator can start from it.

        Returns:
            NNNN: the first number from `number` on that is free. No file is replaced, also none that another process
            writes at the same time.
        Raises:
            ResourceError: the disk is full or read-only.
        """
        place = Path(folder) / "episode.s4d"
        with writing(folder), draft_folder(place) as work:
            draft = work / place.name
            self._write(draft)
            sync(draft)
            while not _put_in_place(draft, place.with_name(f"episode_{number:04d}.s4d")):
                number += 1
            sync(place.parent, alone=True)
        self.num_written = len(self.poses)
        return number

    def _write(self, path: Path) -> None:
        start, robot, described = self.start, self.start.robot, self.start.robot.as_info()
        info = {
            "task": start.task.text,
            "proprio": torch.stack([start.proprio[-1].cpu(), *self.proprio]).tolist(),
            **{key: described[key] for key in ("proprio_spec", "action_meaning", "robot") if key in described},
            "rewards": self.rewards,
            "success": self.success,
            "seed": self.seed,
            "ended": self.ended,
        }
        actions, spec = torch.stack(self.actions) if self.actions else start.actions.cpu()[:0], robot.action.rows()
        write_s4d(path, self.scene(), cameras=start.cameras, actions=actions, action_spec=spec, info=info)


def _put_in_place(draft: Path, target: Path) -> bool:
    """Give a file its name unless there is something of that name: a rename would replace it, a link does not."""
    try:
        os.link(draft, target)
    except FileExistsError:
        return False
    except OSError:  # some file systems have no links
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        try:
            os.replace(draft, target)  # what it replaces is the empty file that holds our place
        except OSError:
            target.unlink(missing_ok=True)
            raise
    return True

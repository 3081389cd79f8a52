"""What happened in one episode of the learned simulator, as a Scene4D and as a .s4d file."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from scene4d.env.state_batch import step_seconds_of
from scene4d.errors import ResourceError
from scene4d.gaussians.s4d.s4d import write_s4d
from scene4d.scene import Scene4D
from scene4d.world.contract import State


@dataclass
class EpisodeLog:
    """The start of an episode and what each step added; rows of lists are steps.

    poses [l 7] since the start, log_var [l 6] summed over chunks, actions [a], proprio [q] after the step.
    """

    start: State
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
        """The memory of the start carried through all steps: its first instant was observed, the others predicted."""
        start = self.start.to("cpu")
        skin = start.skin
        still = skin.anchors.new_tensor([1.0, 0, 0, 0, 0, 0, 0]).expand(len(skin.anchors), 7)
        known = skin.anchors.new_full((len(skin.anchors), 6), -18.4)  # (0.1 mm or 0.1 mrad)^2
        seconds = step_seconds_of(start)
        num = len(self.poses) + 1
        times = start.time.double() + seconds * torch.arange(num, dtype=torch.float64)
        alive = torch.stack([times[0], times[-1]]).expand(start.memory.num_gaussians, 2)
        return Scene4D(
            base=start.memory,
            motion=skin.replace(
                world_from_rest=torch.stack([still, *self.poses]), log_var=torch.stack([known, *self.log_var])
            ),
            alive=alive.contiguous(),
            times=times,
            observed=torch.arange(num) == 0,
            info={"model": "scene4d world env"},
        )

    def write(self, folder: str | Path, *, number: int = 0) -> int:
        """Write folder/episode_NNNN.s4d whole or not at all; `scene4d forecast` and the simulator can start from it.

        Returns:
            NNNN: the first number from `number` on that is free. No file is replaced, also none that another process
            writes at the same time.
        Raises:
            ResourceError: the disk is full or read-only.
        """
        draft = Path(folder) / f".episode_{uuid.uuid4().hex}.s4d"
        self._write(draft)
        try:
            while not _put_in_place(draft, draft.with_name(f"episode_{number:04d}.s4d")):
                number += 1
        except OSError as error:
            fix = "free space or name another folder"
            raise ResourceError("the episode cannot be put there", file=folder, found=error, fix=fix) from error
        finally:
            draft.unlink(missing_ok=True)
        self.num_written = len(self.poses)
        return number

    def _write(self, path: Path) -> None:
        context = self.start.context
        proprio = torch.stack([self.start.proprio.cpu(), *self.proprio])
        info = {
            "task": context.get("task", ""),
            "proprio": proprio.tolist(),
            "proprio_spec": context.get("proprio_spec"),
            "action_meaning": context.get("action_meaning"),
            "rewards": self.rewards,
            "success": self.success,
            "seed": self.seed,
            "ended": self.ended,
        }
        actions = torch.stack(self.actions) if self.actions else self.start.past_actions[:0].cpu()
        write_s4d(
            path,
            self.scene(),
            cameras=context.get("cameras"),
            actions=actions,
            action_spec=context.get("action_spec") or (),
            info=info,
        )


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

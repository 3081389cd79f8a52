"""Windows as tokens on anchors, with the true motion to come: what families on the Gaussian VAE's tokens train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scene4d.data.load.scene_window import Window
from scene4d.geometry.sh import rgb_from_sh
from scene4d.models.instants import Steps
from scene4d.models.tokens.anchors import AnchorConfig, anchor_past, choose_anchors, focus_of
from scene4d.models.tokens.latent import Codec
from scene4d.models.tokens.motion_targets import fitted_anchor_motion
from scene4d.robot.actions import action_slots
from scene4d.robot.slots import USUAL_SLOTS, Slots
from scene4d.robot.spec import RobotSpec
from scene4d.robot.track import Track, proprio_change, track_in_slots
from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.text.task_vectors import TextEncoding, task_vector
from scene4d.types import Gaussians, Task
from scene4d.world.current import PAST_FLOW
from scene4d.world.family import Windows

MOVING_M = 0.0015
"""Motion since now in m from which an anchor counts as moving; a turn counts at an arm of 5 cm."""


@dataclass(frozen=True)
class TokenWindows(TensorStruct):
    """A window made ready: anchors, tokens and targets, and r memory rows for the point loss. Batch axes `*b`.

    The truth about motion is kept at f instants: those of the windows, by default every one of the h frames.

    tokens [*b l c] raw; anchors, anchor_rgb [*b l 3]; anchor_past [*b l 6]; motion [*b f l 6] rad, m; known [*b l];
    rows, row_rgb [*b r 3]; row_past [*b r 6]; skin_index [*b r j]; displacement [*b f r 3];
    actions [*b h 16], past_actions [*b p 16], past_proprio [*b p+1 20] (now last), past_valid [*b p] in slots;
    proprio_change [*b h 20]; task [*b 32]; reward, success [*b h], NaN where unknown. 16, 20 and 32 are the usual
    numbers of slots and of channels of a task; a model may have others.
    """

    tokens: Tensor
    anchors: Tensor
    anchor_rgb: Tensor
    anchor_past: Tensor
    motion: Tensor
    known: Tensor
    rows: Tensor
    row_rgb: Tensor
    row_past: Tensor
    skin_index: Tensor
    displacement: Tensor
    actions: Tensor
    past_actions: Tensor
    past_proprio: Tensor
    past_valid: Tensor
    proprio_change: Tensor
    task: Tensor
    reward: Tensor
    success: Tensor

    SHAPES = shapes(anchors="*b l 3")

    @property
    def track(self) -> Track:
        """How the robots got to now, in slots."""
        return Track(actions=self.past_actions, proprio=self.past_proprio, valid=self.past_valid)


def at_steps(batch: TokenWindows, steps: Steps, *, instants: Sequence[int]) -> TokenWindows:
    """Windows [b] whose truth about motion is that of a chunk's steps (f = h), and whose frames end with the chunk.

    Args:
        instants: frames ahead at which the windows keep the truth.
    """
    columns = [instants.index(ahead) for ahead in steps.ahead]
    pick = (lambda x: x) if columns == list(range(len(instants))) else (lambda x: x[:, columns])
    names = ("actions", "proprio_change", "reward", "success")
    frames = {name: getattr(batch, name)[:, : steps.num_frames] for name in names}
    return batch.replace(motion=pick(batch.motion), displacement=pick(batch.displacement), **frames)


@torch.no_grad()
def prepare(
    codec: Codec,
    window: Window,
    *,
    anchors: AnchorConfig,
    robot: RobotSpec,
    tasks: Sequence[Tensor],
    slots: Slots = USUAL_SLOTS,
    num_rows: int = 768,
    seed: int = 0,
) -> TokenWindows:
    """Make one window (no batch axes) ready: the slow part of a training step, done once and kept (about 150 kB).

    Args:
        codec, anchors: make the tokens, and choose where.
        robot: whose actions and states these are, and slots for them. tasks: vectors of the texts that `window.task`
            counts in.
        num_rows: memory rows kept for the point loss. seed: of their choice.
    """
    memory, displacement, valid = living_memory(window)
    now = window.past_proprio[-1]
    track = track_in_slots(Track(window.past_actions, window.past_proprio, window.past_valid), robot, slots=slots)
    index, candidates = choose_anchors(memory, focus=focus_of(memory, now, robot=robot), config=anchors)
    latent, _ = codec.encode(memory, anchors=index)
    segments = memory.extras["segments"][:, 0].long() if "segments" in memory.extras else None
    motion, known = fitted_anchor_motion(memory.means, displacement, anchor_index=index, valid=valid, segments=segments)
    rows = _choose_rows(displacement, valid, candidates=candidates, moving=is_moving(motion), num=num_rows, seed=seed)
    rgb = rgb_from_sh(memory.sh)
    return TokenWindows(
        tokens=latent.tokens,
        anchors=memory.means[index],
        anchor_rgb=rgb[index],
        anchor_past=anchor_past(memory, index, config=anchors),
        motion=motion,
        known=known,
        rows=memory.means[rows],
        row_rgb=rgb[rows],
        row_past=memory.extras[PAST_FLOW][rows],
        skin_index=candidates[rows],
        displacement=displacement[:, rows],
        actions=action_slots(window.actions, robot, proprio=now, slots=slots),
        past_actions=track.actions,
        past_proprio=track.proprio,
        past_valid=track.valid,
        proprio_change=proprio_change(window.proprio, now=now, robot=robot, slots=slots),
        task=tasks[int(window.task)],
        reward=window.reward.to(motion),
        success=window.success.to(motion),
    )


def living_memory(window: Window) -> tuple[Gaussians, Tensor, Tensor]:
    """The rows [n] of a window that exist, with past flow; their displacement [h n 3] m, and where it is valid [n]."""
    past = (window.past_flow * window.past_flow_valid[..., None]).movedim(0, 1).flatten(1)[:, :6]  # [n 6]
    past = F.pad(past, (0, 6 - past.shape[-1]))
    memory = window.memory.replace(extras={**window.memory.extras, PAST_FLOW: past})
    alive = (memory.ids >= 0) & (memory.opacities > 0)
    return memory.pick(alive), window.displacement[:, alive], window.displacement_valid[alive]


def prepare_all(
    codec: Codec,
    windows: Windows,
    *,
    first: int,
    anchors: AnchorConfig,
    slots: Slots,
    text: TextEncoding,
    num_rows: int,
) -> list[TokenWindows]:
    """The windows of one episode made ready; the choice of rows hangs on the number `first` of its first window."""
    tasks = [task_vector(Task(each), text=text) for each in windows.tasks]
    same = {"anchors": anchors, "tasks": tasks, "slots": slots, "num_rows": num_rows}
    ready = lambda window, number: prepare(codec, window, robot=windows.robot_of(number), seed=first + number, **same)
    return [ready(windows.window(n, futures=False), n) for n in range(len(windows))]


def is_moving(motion: Tensor) -> Tensor:
    """Whether motion [*b 6] is enough to speak of."""
    return (motion[..., 3:].norm(dim=-1) > MOVING_M) | (0.05 * motion[..., :3].norm(dim=-1) > MOVING_M)


def _choose_rows(
    displacement: Tensor, valid: Tensor, *, candidates: Tensor, moving: Tensor, num: int, seed: int
) -> Tensor:
    """Rows [num] for the point loss: half of them moving, a quarter still beside a moving anchor, the rest any."""
    generator = torch.Generator().manual_seed(seed)
    moves = (displacement.norm(dim=-1).amax(0) > 2 * MOVING_M) & valid
    rest = valid & ~moves
    tempted, chosen = moving.any(0)[candidates].any(-1) & rest, []
    for mask, share in ((moves, num // 2), (tempted, num // 4), (rest, num)):
        rows = mask.nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)]
        chosen.append(rows[: min(share, num - sum(len(c) for c in chosen))])
    rows = torch.cat(chosen)
    if len(rows) == 0:  # nothing is known of this window: the loss passes over it as standing still
        rows = torch.zeros(1, dtype=torch.int64)
    return rows[torch.arange(num) % len(rows)]

"""Many rollouts of a world model side by side: one action each, one forecast and one render for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scene4d.env.episode_log import EpisodeLog
from scene4d.env.termination import MOVED_M, TerminationLimits, outside, uncertainty_of
from scene4d.errors import ConfigError, EnvError
from scene4d.gaussians.edit import concatenate
from scene4d.geometry.rotation import apply_pose, compose_pose, identity_pose
from scene4d.render.render import render
from scene4d.robot.spec import RobotSpec
from scene4d.scene import Scene4D
from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.types import Cameras, Frames
from scene4d.world.capabilities import ImaginesUnseen, MovesAnchors, sampled
from scene4d.world.carry import AnchoredGaussians, AnchorMotion
from scene4d.world.contract import Prediction, State, put
from scene4d.world.observation import Observation
from scene4d.world.rollout import chunk_seeds


@dataclass(frozen=True)
class WorldConfig:
    """How the learned simulator runs."""

    chunk: int = 8
    """Steps that are forecast from one state before the state moves on; at most the model's horizon."""
    sampler_steps: int = 1
    """Steps of the sampler; 1 = the model's mean."""
    size: int = 64
    """Width and height of the images, px."""
    max_steps: int = 200
    """Steps after which an episode is truncated."""
    success_threshold: float = 0.5
    """Probability of success (or of "done", where the model predicts it) from which an episode terminates."""
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Colour behind everything, 0 to 1."""
    limits: TerminationLimits = field(default_factory=TerminationLimits)
    """Beyond them the model is not to be believed."""


@dataclass(frozen=True)
class Outcome:
    """What a step led to, for episodes [b].

    frames [b v]; proprio [b q]; reward, success, uncertainty [b]; terminated, truncated [b] bool;
    ended: one word an episode: "success", "done", "uncertainty", "workspace", "not finite", "time" or "".
    """

    frames: Frames
    proprio: Tensor
    reward: Tensor
    success: Tensor
    uncertainty: Tensor
    terminated: Tensor
    truncated: Tensor
    ended: tuple[str, ...]


@dataclass(frozen=True)
class _Since(TensorStruct):
    """Tensors of the running episodes: pose [b l 7] since the start and in this chunk, variance [b l 6], the box."""

    start: Tensor
    now: Tensor
    variance: Tensor
    chunk_variance: Tensor
    low: Tensor
    high: Tensor

    SHAPES = shapes(low="*b d")

    def pick(self, rows: Tensor) -> _Since:
        """The episodes that `rows` names."""
        return self.map(lambda x: x[rows])


class BatchedSim:
    """`num` rollouts of one world model.

    A step asks for the whole chunk that began at the last state, under the actions taken so far: predictions up to a
    step do not depend on later actions, so stepping gives what a forecast of the whole chunk would have given. After
    `chunk` steps the state advances. An episode depends on its start, its seed and its actions only.

    Args:
        model: forecasts. cameras: {name: Cameras []} the images are rendered from; resized to config.size.
        robot: that all starts must be of; without it the first start decides.
    Raises:
        ConfigError: a chunk is none, or longer than the model's horizon.
    """

    def __init__(
        self,
        model: MovesAnchors,
        cameras: Mapping[str, Cameras],
        *,
        num: int = 1,
        config: WorldConfig | None = None,
        robot: RobotSpec | None = None,
    ) -> None:
        self.config, self.num = config or WorldConfig(), num
        self.model: MovesAnchors = sampled(model, self.config.sampler_steps)
        size, chunk, horizon = self.config.size, self.config.chunk, model.spec.horizon
        if not 1 <= chunk <= horizon:
            raise ConfigError("is no chunk of the model", field="chunk", found=chunk, expected=f"1..{horizon}")
        views = Cameras.stack([camera.resized(size, size) for camera in cameras.values()])
        self.cameras = views.map(lambda x: x.float().expand(num, *x.shape))  # [b v]
        self.background = torch.tensor(self.config.background)
        self.logs: list[EpisodeLog] = []
        self._new: AnchoredGaussians | None = None
        self._state: Any = None
        # All episodes share every prediction, so every later start must be of the same robot.
        self.robot = robot

    @torch.no_grad()
    def start(self, starts: Mapping[int, tuple[Observation, int]]) -> Frames:
        """Begin some of the episodes: {index: (what is known at its start, seed)}; the first call begins all of them.

        Returns:
            Frames [b v] of all episodes now.
        Raises:
            ConfigError: a start is of another robot than those before it, or than the model learned from.
        """
        robot = self.robot
        for index, (start, _) in starts.items():
            robot = robot or start.robot
            robot.check_same(start.robot, frame=index if self.num > 1 else None)
            robot = robot.filled_from(start.robot)
        missing = [i for i in range(self.num) if i >= len(self.logs) and i not in starts]
        if missing:
            raise ConfigError("have not begun", field="episodes", found=missing, fix="begin all of them first")
        states = {index: self.model.observe(start) for index, (start, _) in starts.items()}
        fresh = type(next(iter(states.values()))).stack(list(states.values()))
        self.robot = robot
        new = {i: EpisodeLog(start, self.model.anchored(states[i]), int(seed)) for i, (start, seed) in starts.items()}
        self.logs = [new[i] if i in new else self.logs[i] for i in range(self.num)]
        self._begin(fresh, torch.tensor(list(starts)))
        return self.frames()

    def _begin(self, fresh: State, rows: Tensor) -> None:
        """Let the episodes `rows` [r] begin in states [r]."""
        anchored, device = self.model.anchored(fresh), fresh.proprio.device
        beginning = _beginning(anchored.anchors, margin=self.config.limits.margin)
        gaussians = anchored.gaussians.replace(extras={})
        if len(rows) == self.num:
            order = rows.argsort().to(device)
            self._state, self._since = fresh.pick(order), beginning.pick(order)
            self.now = gaussians.map(lambda x: x[order])
            self._new = self._unseen(self._state)
            self.cameras, self.background = self.cameras.to(device), self.background.to(fresh.proprio)
            self.taken = fresh.proprio.new_zeros(self.num, self.config.chunk, fresh.robot.action.width)
            self.step_of_chunk = torch.zeros(self.num, dtype=torch.int64, device=device)
            self.proprio = self.state.proprio.clone()
            return
        rows = rows.to(device)
        num_rows = max(self.now.num_gaussians, gaussians.num_gaussians)
        self._state = self.state.put(rows, fresh)
        self._since = put(self._since, rows, new=beginning)
        self.now = put(self.now.padded(num_rows), rows, new=gaussians.padded(num_rows))
        new = self._unseen(fresh)
        if self._new is not None and new is not None:
            num_rows = max(self._new.gaussians.num_gaussians, new.gaussians.num_gaussians)
            self._new = put(self._new.padded(num_rows), rows, new=new.padded(num_rows))
        self.taken[rows], self.step_of_chunk[rows] = 0.0, 0
        self.proprio = self.proprio.index_copy(0, rows, fresh.proprio)

    @property
    def state(self) -> Any:
        """Of all episodes [b], at the beginning of their chunks.

        Raises:
            EnvError: no episode was ever begun.
        """
        if self._state is None:
            raise EnvError("no episode is running", field="state", fix="call start")
        return self._state

    @torch.no_grad()
    def frames(self) -> Frames:
        """What the cameras see now, [b v]: what is known, and what was imagined at the start where nobody looked."""
        now = self.now
        if self._new is not None:
            since = compose_pose(self._since.now, self._since.start)
            now = concatenate([now, self._new.moved(since)])
        frames = render(now, self.cameras, background=self.background)
        return frames.replace(rgb=frames.rgb.clamp(0, 1))

    def _unseen(self, state: Any) -> AnchoredGaussians | None:
        """What the model imagines where nobody has looked in states [b]; None for one that imagines nothing."""
        return self.model.unseen(state) if isinstance(self.model, ImaginesUnseen) else None

    @torch.no_grad()
    def step(self, actions: Tensor, *, running: Tensor | None = None) -> Outcome:
        """One step of the `running` episodes [b bool], by default of all, under actions [b a]; the others stay put."""
        actions, at = actions.to(self.taken), self.step_of_chunk
        running = torch.ones_like(at, dtype=torch.bool) if running is None else running.to(at.device)
        taken = self.taken.clone()
        taken[torch.arange(self.num, device=at.device), at] = actions
        # Actions that are not decided yet change no prediction up to now, so any will do there.
        later = torch.arange(self.config.chunk, device=at.device) > at[:, None]
        planned = torch.where(later[..., None], actions[:, None], taken)[:, : int(at.max()) + 1]
        seeds = [chunk_seeds([log.seed], len(log.poses) // self.config.chunk)[0] for log in self.logs]
        prediction = self.model.predict(self.state, actions=planned, seeds=seeds)
        predicted = _StepPrediction.of(prediction, self.model.anchor_motion(prediction), at=at)
        finite = predicted.finite()
        live = running & finite
        self.taken[live] = taken[live]
        self._move(predicted, live)
        outcome = self._outcome(predicted, actions=actions, running=running, finite=finite)
        self.step_of_chunk = self.step_of_chunk + live
        self._advance(prediction, (live & (self.step_of_chunk == self.config.chunk)).nonzero()[:, 0])
        return outcome

    def scene(self, index: int) -> Scene4D:
        """One episode so far."""
        return self.logs[index].scene()

    def _move(self, predicted: _StepPrediction, live: Tensor) -> None:
        since, anchored = self._since, self.model.anchored(self.state)
        pick = lambda new, old: torch.where(live.reshape(-1, *[1] * (old.dim() - 1)), new, old)
        now = pick(predicted.poses, since.now)
        anchors = anchored.anchors
        moved = (apply_pose(now, anchors) - anchors).norm(dim=-1) > MOVED_M  # [b l]
        chunk_variance = pick(predicted.variance * moved[..., None], since.chunk_variance)
        self._since = since.replace(now=now, chunk_variance=chunk_variance)
        self.now = anchored.replace(gaussians=anchored.gaussians.replace(extras={})).moved(now)
        self.proprio = pick(predicted.proprio, self.proprio) if predicted.proprio is not None else self.proprio

    def _outcome(self, predicted: _StepPrediction, *, actions: Tensor, running: Tensor, finite: Tensor) -> Outcome:
        config, since = self.config, self._since
        poses = compose_pose(since.now, since.start)
        variance = since.variance + since.chunk_variance  # [b l 6]
        place = variance[..., 3:].sum(-1)
        uncertainty = uncertainty_of(place, place > 0)
        anchors = self.model.anchored(self.state).anchors
        strayed = outside(apply_pose(since.now, anchors), low=since.low, high=since.high)
        success = torch.where(finite, predicted.success, torch.zeros_like(predicted.success))
        # Without a head for it, reward is the gain in success; the first step has nothing to gain on.
        before = success.new_tensor(
            [log.success[-1] if log.success else float(success[i]) for i, log in enumerate(self.logs)]
        )
        reward = predicted.reward if predicted.reward is not None else success - before
        reward = torch.where(running & finite, reward, torch.zeros_like(reward))
        over = success if predicted.done is None else predicted.done
        ended = []
        for i, log in enumerate(self.logs):
            why = ""
            if running[i]:
                log.poses.append(poses[i].cpu().clone())
                log.log_var.append(variance[i].clamp_min(1e-8).log().cpu())
                log.actions.append(actions[i].cpu().clone())
                log.proprio.append(self.proprio[i].cpu().clone())
                log.rewards.append(float(reward[i]))
                log.success.append(float(success[i]))
                reasons = {
                    "not finite": not finite[i],
                    "workspace": strayed[i],
                    "uncertainty": not uncertainty[i] <= config.limits.max_uncertainty,
                    "success" if predicted.done is None else "done": over[i] >= config.success_threshold,
                    "time": len(log.poses) >= config.max_steps,
                }
                why = log.ended = next((name for name, holds in reasons.items() if holds), "")
            ended.append(why)
        terminated = torch.tensor([why in ("success", "done") for why in ended])
        return Outcome(
            frames=self.frames(),
            proprio=self.proprio.clone(),
            reward=reward,
            success=success,
            uncertainty=uncertainty,
            terminated=terminated,
            truncated=torch.tensor([bool(why) for why in ended]) & ~terminated,
            ended=tuple(ended),
        )

    def _advance(self, prediction: Prediction, rows: Tensor) -> None:
        """Let the state of `rows` move on to the end of their chunk."""
        if len(rows) == 0:
            return
        part = prediction.map(lambda x: x[rows])
        self._state = self.state.put(rows, self.model.advance(self.state.pick(rows), part, num_steps=self.config.chunk))
        since = self._since.pick(rows)
        gone_on = since.replace(
            start=compose_pose(since.now, since.start),
            now=identity_pose(*since.now.shape[:2], like=since.now).contiguous(),
            variance=since.variance + since.chunk_variance,
            chunk_variance=torch.zeros_like(since.variance),
        )
        self._since = put(self._since, rows, new=gone_on)
        self.taken[rows], self.step_of_chunk[rows] = 0.0, 0


@dataclass(frozen=True)
class _StepPrediction:
    """A forecast at one step of each episode: poses [b l 7] since now, variance [b l 6], outputs of the heads [b]."""

    poses: Tensor
    variance: Tensor
    proprio: Tensor | None
    success: Tensor
    reward: Tensor | None
    done: Tensor | None

    @classmethod
    def of(cls, prediction: Prediction, motion: AnchorMotion, *, at: Tensor) -> _StepPrediction:
        each = torch.arange(len(at), device=at.device)
        step = lambda x: None if x is None else x[each, at]
        poses, log_var = motion.world_from_now[each, at], step(motion.log_var)
        success = step(prediction.success)
        return cls(
            poses=poses,
            variance=torch.zeros_like(poses[..., :6]) if log_var is None else log_var.exp(),
            proprio=step(prediction.proprio),
            success=poses.new_zeros(len(each)) if success is None else success,
            reward=step(prediction.reward),
            done=step(prediction.done),
        )

    def finite(self) -> Tensor:
        """[b] whether all of it is."""
        parts = [x for x in vars(self).values() if x is not None]
        return torch.stack([x.reshape(len(x), -1).isfinite().all(-1) for x in parts]).all(0)


def _beginning(anchors: Tensor, *, margin: float) -> _Since:
    """Episodes [b] that begin with anchors [b l 3]."""
    still, zero = identity_pose(*anchors.shape[:2], like=anchors), anchors.new_zeros(*anchors.shape[:2], 6)
    low, high = anchors.amin(1) - margin, anchors.amax(1) + margin
    return _Since(still.clone(), still.clone(), zero, zero.clone(), low, high)

"""Many rollouts of a world model side by side: one action each, one forecast and one render for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scene4d.env.episode_log import EpisodeLog
from scene4d.env.state_batch import check_kind, element, kind_of, put, stack_states, with_rows
from scene4d.env.termination import MOVED_M, TerminationLimits, outside, uncertainty_of
from scene4d.errors import ConfigError, EnvError
from scene4d.geometry.rotation import apply_pose, compose_pose, identity_pose
from scene4d.render.render import render
from scene4d.scene import Scene4D
from scene4d.types import Cameras, Frames, Gaussians
from scene4d.world.contract import Forecast, State, WorldModel
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
class _Since:
    """Tensors of the running episodes: pose [b l 7] since the start and in this chunk, variance [b l 6], the box."""

    start: Tensor
    now: Tensor
    variance: Tensor
    chunk_variance: Tensor
    low: Tensor
    high: Tensor


class BatchedSim:
    """`num` rollouts of one world model.

    A step asks for the whole chunk that began at the last state, under the actions taken so far: predictions up to a
    step do not depend on later actions, so stepping gives what a forecast of the whole chunk would have given. After
    `chunk` steps the state advances. An episode depends on its start, its seed and its actions only.

    Args:
        model: forecasts. cameras: {name: Cameras []} the images are rendered from; resized to config.size.
        example: a state [] of the kind that all starts must be of; without it the first start decides.
    Raises:
        ConfigError: a chunk is none, or longer than the model's horizon.
    """

    def __init__(
        self,
        model: WorldModel,
        cameras: Mapping[str, Cameras],
        *,
        num: int = 1,
        config: WorldConfig | None = None,
        example: State | None = None,
    ) -> None:
        self.model, self.config, self.num = model, config or WorldConfig(), num
        if not 1 <= self.config.chunk <= model.horizon:
            raise ConfigError(
                "is no chunk of the model", field="chunk", found=self.config.chunk, expected=f"1..{model.horizon}"
            )
        size = self.config.size
        views = Cameras.stack([camera.resized(size, size) for camera in cameras.values()])
        self.cameras = views.map(lambda x: x.float().expand(num, *x.shape))  # [b v]
        self.background = torch.tensor(self.config.background)
        self.logs: list[EpisodeLog] = []
        self._state: State | None = None
        # One context says for the whole batch what an action is, so every later start must be of the same kind.
        self.kind = None if example is None else kind_of(example)

    @torch.no_grad()
    def start(self, starts: Mapping[int, tuple[State, int]]) -> Frames:
        """Begin some of the episodes: {index: (state [], seed)}; the first call begins all of them.

        Returns:
            Frames [b v] of all episodes now.
        Raises:
            ConfigError: a state's actions are not those of its spec, or it is of another robot or has longer steps than
                those before it.
        """
        logs = dict(enumerate(self.logs))
        logs |= {index: EpisodeLog(state, int(seed)) for index, (state, seed) in starts.items()}
        kind = self.kind
        for index, (state, _) in starts.items():
            kind = check_kind(kind_of(state), kind, index=index if self.num > 1 else None)
        missing = [i for i in range(self.num) if i not in logs]
        if missing:
            raise ConfigError("have not begun", field="episodes", found=missing, fix="begin all of them first")
        self.logs, self.kind = [logs[i] for i in range(self.num)], kind
        if len(starts) == self.num:
            self._state = state = stack_states([log.start for log in self.logs])
            place = state.past_actions
            self.cameras, self.background = self.cameras.to(place.device), self.background.to(place)
            self._since = _beginning(state, margin=self.config.limits.margin)
            self.taken = place.new_zeros(self.num, self.config.chunk, place.shape[-1])
            self.step_of_chunk = torch.zeros(self.num, dtype=torch.int64, device=place.device)
            self.now = state.memory.replace(extras={})
            self.proprio = state.proprio.clone()
        else:
            rows = torch.tensor(list(starts), device=self.taken.device)
            fresh = stack_states([self.logs[i].start for i in starts])
            self._fill_up(fresh.memory.num_gaussians)
            fresh = with_rows(fresh, self.state.memory.num_gaussians)
            self._state = put(self.state, rows, new=fresh)
            beginning = _beginning(fresh, margin=self.config.limits.margin)
            self._since = _Since(
                **{k: v.index_copy(0, rows, getattr(beginning, k)) for k, v in vars(self._since).items()}
            )
            self.taken[rows], self.step_of_chunk[rows] = 0.0, 0
            self.now = put(self.now, rows, new=fresh.memory.replace(extras={}))
            self.proprio = self.proprio.index_copy(0, rows, fresh.proprio)
        return self.frames()

    @property
    def state(self) -> State:
        """Of all episodes [b], at the beginning of their chunks.

        Raises:
            EnvError: no episode was ever begun.
        """
        if self._state is None:
            raise EnvError("no episode is running", field="state", fix="call start")
        return self._state

    @torch.no_grad()
    def frames(self) -> Frames:
        """What the cameras see now, [b v]."""
        frames = render(self.now, self.cameras, background=self.background)
        return frames.replace(rgb=frames.rgb.clamp(0, 1))

    @torch.no_grad()
    def step(self, actions: Tensor, *, running: Tensor | None = None) -> Outcome:
        """One step of the `running` episodes [b bool], by default of all, under actions [b a]; the others stay put."""
        actions, at = actions.to(self.taken), self.step_of_chunk
        running = torch.ones_like(at, dtype=torch.bool) if running is None else running.to(at.device)
        each = torch.arange(self.num, device=at.device)
        taken = self.taken.clone()
        taken[each, at] = actions
        # Actions that are not decided yet change no prediction up to now, so any will do there.
        later = torch.arange(self.config.chunk, device=at.device) > at[:, None]
        planned = torch.where(later[..., None], actions[:, None], taken)[:, : int(at.max()) + 1]
        seeds = [self._seed(i) for i in range(self.num)]
        forecast = self.model.predict(self.state, actions=planned, steps=self.config.sampler_steps, seeds=seeds)
        predicted = _StepPrediction.of(forecast, each=each, at=at)
        finite = predicted.finite()
        live = running & finite
        self.taken[live] = taken[live]
        self._move(predicted, live)
        outcome = self._outcome(predicted, actions=actions, running=running, finite=finite)
        self.step_of_chunk = self.step_of_chunk + live
        self._advance(forecast, (live & (self.step_of_chunk == self.config.chunk)).nonzero()[:, 0])
        return outcome

    def scene(self, index: int) -> Scene4D:
        """One episode so far."""
        return self.logs[index].scene()

    def _seed(self, index: int) -> int:
        log = self.logs[index]
        return chunk_seeds([log.seed], len(log.poses) // self.config.chunk)[0]

    def _move(self, predicted: _StepPrediction, live: Tensor) -> None:
        since, anchors = self._since, self.state.skin.anchors
        pick = lambda new, old: torch.where(live.reshape(-1, *[1] * (old.dim() - 1)), new, old)
        now = pick(predicted.poses, since.now)
        moved = (apply_pose(now, anchors) - anchors).norm(dim=-1) > MOVED_M  # [b l]
        chunk_variance = pick(predicted.variance * moved[..., None], since.chunk_variance)
        self._since = _Since(since.start, now, since.variance, chunk_variance, since.low, since.high)
        self.now = _carried(self.state, now)
        self.proprio = pick(predicted.proprio, self.proprio) if predicted.proprio is not None else self.proprio

    def _outcome(self, predicted: _StepPrediction, *, actions: Tensor, running: Tensor, finite: Tensor) -> Outcome:
        config, since = self.config, self._since
        poses = compose_pose(since.now, since.start)
        variance = since.variance + since.chunk_variance  # [b l 6]
        place = variance[..., 3:].sum(-1)
        uncertainty = uncertainty_of(place, place > 0)
        strayed = outside(apply_pose(since.now, self.state.skin.anchors), low=since.low, high=since.high)
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

    def _advance(self, forecast: Forecast, rows: Tensor) -> None:
        """Let the state of `rows` move on to the end of their chunk."""
        if len(rows) == 0:
            return
        since = self._since
        part = self.model.advance(element(self.state, rows), element(forecast, rows), num_steps=self.config.chunk)
        self._state = put(self.state, rows, new=part)
        still = identity_pose(len(rows), since.now.shape[1], like=since.now)
        copy = lambda old, new: old.index_copy(0, rows, new)
        self._since = _Since(
            start=copy(since.start, compose_pose(since.now[rows], since.start[rows])),
            now=copy(since.now, still),
            variance=copy(since.variance, since.variance[rows] + since.chunk_variance[rows]),
            chunk_variance=copy(since.chunk_variance, torch.zeros_like(since.variance[rows])),
            low=since.low,
            high=since.high,
        )
        self.taken[rows], self.step_of_chunk[rows] = 0.0, 0

    def _fill_up(self, num_rows: int) -> None:
        if num_rows > self.state.memory.num_gaussians:
            self._state = with_rows(self.state, num_rows)
            self.now = self.now.padded(num_rows)


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
    def of(cls, forecast: Forecast, *, each: Tensor, at: Tensor) -> _StepPrediction:
        head = lambda name: forecast.heads[name][each, at] if name in forecast.heads else None
        success, poses = head("success"), forecast.world_from_now[each, at]
        return cls(
            poses=poses,
            variance=torch.zeros_like(poses[..., :6]) if forecast.log_var is None else forecast.log_var[each, at].exp(),
            proprio=head("proprio"),
            success=poses.new_zeros(len(each)) if success is None else success,
            reward=head("reward"),
            done=head("done"),
        )

    def finite(self) -> Tensor:
        """[b] whether all of it is."""
        parts = [x for x in vars(self).values() if x is not None]
        return torch.stack([x.reshape(len(x), -1).isfinite().all(-1) for x in parts]).all(0)


def _beginning(state: State, *, margin: float) -> _Since:
    anchors = state.skin.anchors
    still, zero = identity_pose(*anchors.shape[:2], like=anchors), anchors.new_zeros(*anchors.shape[:2], 6)
    low, high = anchors.amin(1) - margin, anchors.amax(1) + margin
    return _Since(still.clone(), still.clone(), zero, zero.clone(), low, high)


def _carried(state: State, poses: Tensor) -> Gaussians:
    """The memory [b n] of a state [b], without extras, moved by anchor poses [b l 7] since now."""
    num, rows = state.memory.means.shape[:2]
    zero = poses.new_zeros(num, 1, dtype=torch.float64)
    scene = Scene4D(
        base=state.memory.replace(extras={}),
        motion=state.skin.replace(world_from_rest=poses[:, None], log_var=None),
        alive=zero[..., None].expand(num, rows, 2),
        times=zero,
        observed=zero > 0,
    )
    return scene.at(0.0)

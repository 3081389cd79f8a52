"""GaussianWorldModel: from what is seen to a state, with actions to a forecast, and back to Gaussians."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from scene4d.dynamics.anchors import PAST_FLOW, AnchorConfig, anchor_past, choose_anchors
from scene4d.dynamics.condition import (
    NUM_PROPRIO_SLOTS,
    PROPRIO_SLOTS,
    ProprioForecast,
    action_slots,
    proprio_slots,
    slots_from_spec,
    task_embedding,
)
from scene4d.dynamics.dit import MOTION_CHANNELS, Denoised, DiT, DiTConfig, Drive, SceneTokens
from scene4d.dynamics.flow import FlowConfig, sample, seeded_noise
from scene4d.dynamics.scene import advanced_memory, forecast_scene
from scene4d.dynamics.skin import SkinConfig, SkinHead
from scene4d.dynamics.targets import MotionScale
from scene4d.errors import GaussianError, ShapeError
from scene4d.geometry.rotation import apply_pose, compose_pose, identity_pose, invert_pose, pose_about
from scene4d.geometry.sh import rgb_from_sh
from scene4d.types import Gaussians, Latent, Motion, Scene4D
from scene4d.worldmodel import Forecast, State


@dataclass(frozen=True)
class DynamicsConfig:
    """What the world model is built from."""

    horizon: int = 8
    """Steps of one chunk, h; longer forecasts chain chunks."""
    num_past_actions: int = 2
    """Past actions that the model looks at."""
    moving_threshold: float = 0.5
    """Probability of moving from which an anchor moves at all."""
    step_seconds: float = 0.025
    """Seconds a step when a scene has a single instant and does not tell."""
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    """How anchors are chosen."""
    skin: SkinConfig = field(default_factory=SkinConfig)
    """The skinning head."""
    dit: DiTConfig = field(default_factory=DiTConfig)
    """The denoiser."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Noise levels in training."""


class Codec(Protocol):
    """What the world model asks of the Gaussian VAE."""

    def encode(self, gaussians: Gaussians, *, anchors: Tensor | None = None) -> tuple[Latent, Tensor]:
        """Latent [*b l c] about the rows that `anchors` [*b l] names, and its log-variance."""
        ...

    def decode(self, latent: Latent) -> Gaussians:
        """Gaussians [*b l*J], the J of a token in a row."""
        ...


class GaussianWorldModel(nn.Module):
    """Forecasts a scene of Gaussians under actions; implements `WorldModel`.

    Memory Gaussians keep their identity and are carried by the rigid motion of anchors; the motion is sampled by a
    diffusion transformer on the tokens of a Gaussian VAE (the codec, not owned: its weights are stored elsewhere).

    Args:
        codec: encodes and decodes; frozen here. channels: its latent channels, c.
    """

    def __init__(self, codec: Codec, config: DynamicsConfig = DynamicsConfig(), *, channels: int):
        super().__init__()
        self.config = config
        self._codec = (codec,)  # in a tuple, so that its weights are not this module's
        self.proprio = ProprioForecast(num_past=config.num_past_actions)
        self.denoiser = DiT(config.dit, channels=channels, proprio_width=self.proprio.width)
        self.skin = SkinHead(config.skin)
        self.scale = MotionScale(config.horizon)
        self.register_buffer("token_mean", torch.zeros(channels))
        self.register_buffer("token_std", torch.ones(channels))

    @property
    def codec(self) -> Codec:
        """The Gaussian VAE."""
        return self._codec[0]

    @torch.no_grad()
    def observe(
        self,
        scene: Scene4D,
        *,
        actions: Tensor,
        proprio: Tensor,
        context: Mapping[str, Any],
        state: State | None = None,
        memory: Gaussians | None = None,
    ) -> State:
        """The state after the last time of `scene` (no batch axes).

        A given `state` is corrected by being replaced: the scene's rows carry the same ids, so nothing is lost.

        Args:
            scene: what is known of the past up to now. actions: [p a], the last one led to now.
            proprio: [q] now, or [p q] with now last. context: task, action_spec, proprio_spec, cameras.
            memory: the rows now, if there is something sharper than `scene.at(now)`; their ids find their past in it.
        Raises:
            GaussianError: nothing in the scene exists now.
        """
        if scene.batch_shape:
            raise ShapeError(
                "observe takes one scene", field="scene", found=scene.batch_shape, expected="no batch axes"
            )
        memory = memory_of(scene, memory=memory)
        recent = proprio if proprio.dim() > 1 else proprio[None]
        step = _step_seconds(scene, self.config.step_seconds)
        context = {**context, "step_seconds": step, "proprio_speed": last_speeds(recent)}
        return self.state_of(
            memory, past_actions=actions, proprio=recent[-1], time=scene.times[-1].double(), context=context
        )

    @torch.no_grad()
    def state_of(
        self, memory: Gaussians, *, past_actions: Tensor, proprio: Tensor, time: Tensor, context: Mapping[str, Any]
    ) -> State:
        """The state of a memory of living rows with extras["past_flow"] [n 6]: anchors, tokens, skin."""
        index, candidates = choose_anchors(memory, focus=focus_of(memory, proprio, context), config=self.config.anchors)
        past = anchor_past(memory, index, config=self.config.anchors)  # [l 6]
        latent, _ = self.codec.encode(memory, anchors=index)
        anchors = memory.means[index]
        skin = Motion(
            anchors=anchors,
            world_from_rest=_past_poses(past),
            skin_index=candidates,
            skin_weights=self.skin_weights(memory, anchors=anchors, index=index, past=past, candidates=candidates),
        )
        context = {
            "proprio_speed": torch.zeros_like(proprio).expand(2, -1),
            **context,
            "anchor_rgb": rgb_from_sh(memory.sh)[index],
            "task_vector": task_embedding(str(context.get("task", ""))).to(anchors),
        }
        past = latent.replace(ids=memory.ids[index]).map(lambda x: x[None])  # one observed step
        return State(
            memory=memory, skin=skin, past=past, past_actions=past_actions, proprio=proprio, time=time, context=context
        )

    def skin_weights(
        self, memory: Gaussians, *, anchors: Tensor, index: Tensor, past: Tensor, candidates: Tensor
    ) -> Tensor:
        """Weights [n j] for use."""
        rgb = rgb_from_sh(memory.sh)
        logits = self.skin(
            memory.means,
            anchors,
            row_past=memory.extras[PAST_FLOW],
            anchor_past=past,
            row_rgb=rgb,
            anchor_rgb=rgb[index],
            skin_index=candidates,
        )
        return self.skin.weights(logits, hard=True)

    @torch.no_grad()
    def predict(self, state: State, *, actions: Tensor, steps: int = 4, seeds: Sequence[int] = (0,)) -> Forecast:
        """The next h <= horizon steps under `actions` [*b h a].

        `seeds`: one for each batch element, or one for all; a sample depends on its own seed only. For several futures
        of one state, `state.expand(k)` and `actions.expand(k, ...)` with k seeds.
        """
        lead, num_steps = state.batch_shape, actions.shape[-2]
        if actions.shape[:-2] != lead or not 1 <= num_steps <= self.config.horizon:
            expected = [*lead, f"1..{self.config.horizon}", "a"]
            raise ShapeError("has the wrong shape", field="actions", found=list(actions.shape), expected=expected)
        flat = state if len(lead) == 1 else state.map(lambda x: x.reshape(-1, *x.shape[len(lead) :]))
        num = flat.time.shape[0]
        seeds = list(seeds) * (num if len(seeds) == 1 else 1)
        if len(seeds) != num:
            raise ShapeError("one seed for each sample", field="seeds", found=len(seeds), expected=num)
        scene = self.scene_tokens(flat)
        drive = self.drive_of(flat, actions.reshape(num, num_steps, -1))
        noise = seeded_noise(seeds, (num_steps, scene.anchors.shape[1], MOTION_CHANNELS), like=scene.anchors)
        last: list[Denoised] = []

        def clean(x: Tensor, levels: Tensor) -> Tensor:
            last[:] = [self.denoiser(x, levels, scene=scene, drive=drive, scale=self.scale.scale)]
            return last[0].clean

        x = sample(clean, noise, steps=steps)
        forecast = self._forecast(x, last[0], flat, drive, actions.reshape(num, num_steps, -1))
        return forecast if len(lead) == 1 else forecast.map(lambda y: y.reshape(*lead, *y.shape[1:]))

    def _forecast(self, x: Tensor, said: Denoised, state: State, drive: Drive, actions: Tensor) -> Forecast:
        num_steps, anchors = x.shape[1], state.skin.anchors
        motion = self.scale.denormalize(x)  # [b h l 6]
        poses = pose_about(anchors[:, None], motion[..., :3], motion[..., 3:])
        moves = said.gate.sigmoid() > self.config.moving_threshold  # [b h l]
        poses = torch.where(moves[..., None], poses, identity_pose(1, like=poses))
        past = state.past[:, -1]
        latent = Latent(
            tokens=past.tokens[:, None].expand(-1, num_steps, -1, -1),
            anchors=apply_pose(poses, anchors[:, None].expand(-1, num_steps, -1, -1)),
            rotations=past.rotations[:, None].expand(-1, num_steps, -1, -1),
            present=past.present[:, None].expand(-1, num_steps, -1),
            ids=past.ids[:, None].expand(-1, num_steps, -1),
        )
        change = drive.proprio_change  # [b h 12] in slots
        slots = slots_from_spec(
            state.context.get("proprio_spec"), width=state.proprio.shape[-1], names=PROPRIO_SLOTS, num=NUM_PROPRIO_SLOTS
        )
        return Forecast(
            latent=latent,
            world_from_now=poses,
            log_var=said.log_var + 2 * self.scale.scale[:num_steps, None].log(),
            present=said.present.sigmoid(),
            actions=actions,
            heads={"success": said.success.sigmoid(), "proprio": state.proprio[:, None] + change[..., slots]},
        )

    def scene_tokens(self, state: State) -> SceneTokens:
        """What the denoiser is told about the anchors of a state [b]."""
        latent = state.past[:, -1]
        past = state.skin.anchors - apply_pose(state.skin.world_from_rest[:, -2], state.skin.anchors)
        older = apply_pose(state.skin.world_from_rest[:, -2], state.skin.anchors) - apply_pose(
            state.skin.world_from_rest[:, -3], state.skin.anchors
        )
        return SceneTokens(
            tokens=(latent.tokens - self.token_mean) / self.token_std,
            anchors=state.skin.anchors,
            rgb=state.context["anchor_rgb"],
            past=torch.cat([past, older], -1),
        )

    def drive_of(self, state: State, actions: Tensor) -> Drive:
        """What the denoiser is told about the robot: actions [b h a] in slots and the foreseen proprio."""
        context = state.context
        return self.drive(
            actions=action_slots(actions, context),
            past_actions=action_slots(state.past_actions, context),
            proprio=proprio_slots(state.proprio, context),
            proprio_speed=proprio_slots(context["proprio_speed"], context),
            task=context["task_vector"],
        )

    def drive(
        self, *, actions: Tensor, past_actions: Tensor, proprio: Tensor, proprio_speed: Tensor, task: Tensor
    ) -> Drive:
        """The same from slots: actions [b h 16], past_actions [b p 16], proprio [b 12], its speed [b 2 12], task."""
        change, hidden = self.proprio(
            actions, past_actions=past_actions, proprio=proprio, proprio_speed=proprio_speed, task=task
        )
        last = past_actions[:, -1] if past_actions.shape[1] else torch.zeros_like(actions[:, 0])
        return Drive(
            actions=actions, last_action=last, proprio=proprio, proprio_change=change, hidden=hidden, task=task
        )

    @torch.no_grad()
    def advance(self, state: State, forecast: Forecast, *, num_steps: int) -> State:
        """The state after `num_steps` of the forecast came true: memory and anchors carried, the same ids and skin."""
        num_horizon = forecast.actions.shape[-2]
        if not 1 <= num_steps <= num_horizon:
            raise ShapeError("no such step", field="num_steps", found=num_steps, expected=f"1..{num_horizon}")
        poses = forecast.world_from_now.movedim(-3, 0)  # [h *b l 7]
        identity = torch.cat([identity_pose(*poses.shape[1:-1], like=poses)[None]] * 2 + [poses])  # two before now
        past = state.skin.world_from_rest
        identity[0], identity[1] = past[..., -2, :, :], past[..., -1, :, :]
        recent = identity[num_steps - 1 : num_steps + 2]  # [3 *b l 7], now last
        now = recent[-1]
        anchors = apply_pose(now, state.skin.anchors)
        recent = torch.stack([compose_pose(pose, invert_pose(now)) for pose in recent], -3)
        skin = state.skin.replace(anchors=anchors, world_from_rest=recent)
        heads = forecast.heads
        told = state.context["proprio_speed"]  # [*b 2 q]
        track = torch.cat([state.proprio[..., None, :] - told[..., :1, :], state.proprio[..., None, :]], -2)
        track = torch.cat([track, heads["proprio"][..., :num_steps, :]], -2)  # two before, then each step
        done = forecast.actions[..., :num_steps, :]
        return State(
            memory=advanced_memory(state, recent=recent, now=now),
            skin=skin,
            past=state.past.replace(anchors=anchors.unsqueeze(-3).expand(state.past.anchors.shape)),
            past_actions=torch.cat([state.past_actions, done], -2)[..., num_steps:, :],
            proprio=track[..., -1, :],
            time=state.time + num_steps * state.context.get("step_seconds", self.config.step_seconds),
            context={**state.context, "proprio_speed": last_speeds(track)},
        )

    @torch.no_grad()
    def scene(self, state: State, forecast: Forecast) -> Scene4D:
        """Decode to Gaussians over now and the predicted steps: carried memory, and new matter where none has seen."""
        return forecast_scene(state, forecast, codec=self.codec, step_seconds=self.config.step_seconds)


def memory_of(scene: Scene4D, *, memory: Gaussians | None = None) -> Gaussians:
    """The rows [n] that exist at the last time of a scene, with extras["past_flow"] [n 6] m over the two last steps.

    `memory` gives the rows instead of `scene.at(now)`; their past is looked up by ids.
    Raises:
        GaussianError: there are none.
    """
    times = [float(t) for t in scene.times]
    flows = []
    for late in (len(times) - 1, len(times) - 2):
        flow = torch.zeros_like(scene.base.means)
        if late > 0:
            flow, valid = scene.flow(times[late - 1], times[late])
            flow = flow * valid[:, None]
        flows.append(flow)
    past = torch.cat(flows, -1)
    if memory is None:
        memory = scene.at(times[-1])
    else:
        past = _rows_by_id(past, scene.base.ids, wanted=memory.ids)
    memory = memory.replace(extras={**memory.extras, PAST_FLOW: past.to(memory.means)})
    alive = (memory.opacities > 0) & (memory.ids >= 0)
    if not bool(alive.any()):
        raise GaussianError("the scene is empty now", field="scene", found=f"{memory.num_gaussians} rows, none alive")
    return memory.pick(alive)


def _rows_by_id(values: Tensor, ids: Tensor, *, wanted: Tensor) -> Tensor:
    """Rows of values [m c] with the wanted ids [n]; zeros where there is no such id."""
    if len(ids) == 0:
        return values.new_zeros(len(wanted), values.shape[-1])
    order = ids.argsort()
    place = torch.searchsorted(ids[order].contiguous(), wanted.contiguous()).clamp_max(len(ids) - 1)
    rows = order[place]
    return values[rows] * (ids[rows] == wanted)[:, None]


def focus_of(memory: Gaussians, proprio: Tensor, context: Mapping[str, Any]) -> Tensor:
    """Where detail is wanted [3]: the hand if proprio tells its place, else the middle of the memory."""
    named = {str(s.get("name", "")).lower()[-1:] for s in context.get("proprio_spec") or []}
    if {"x", "y", "z"} <= named:
        return proprio_slots(proprio, context)[:3]
    return memory.means.median(0).values


def last_speeds(proprio: Tensor) -> Tensor:
    """Change [*b 2 q] of proprio [*b p q], now last, over the last step and over the one before; 0 where unknown."""
    steps = proprio.diff(dim=-2).flip(-2)[..., :2, :]
    return torch.nn.functional.pad(steps, (0, 0, 0, 2 - steps.shape[-2]))


def _past_poses(past: Tensor) -> Tensor:
    """World-from-rest [3 l 7] at the two steps before now and now (rest = now), from past motion [l 6]."""
    identity = identity_pose(past.shape[0], like=past)
    before = torch.cat([identity[..., :4], -past[..., :3]], -1)
    older = torch.cat([identity[..., :4], -past[..., :3] - past[..., 3:]], -1)
    return torch.stack([older, before, identity])


def _step_seconds(scene: Scene4D, default: float) -> float:
    return float(scene.times[-1] - scene.times[-2]) if scene.times.shape[-1] > 1 else default

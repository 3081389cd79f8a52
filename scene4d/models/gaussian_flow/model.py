"""GaussianWorldModel: from what is seen to a state, with actions to a forecast, and back to Gaussians."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from scene4d.errors import ConfigError, ShapeError
from scene4d.geometry.rotation import apply_pose, compose_pose, identity_pose, invert_pose, motion_about, pose_about
from scene4d.geometry.sh import rgb_from_sh
from scene4d.models.gaussian_flow.motion.flow import FlowConfig, seeded_noise
from scene4d.models.gaussian_flow.motion.motion_sampler import sample_motion
from scene4d.models.gaussian_flow.motion.motion_targets import MotionScale
from scene4d.models.gaussian_flow.networks.action_denoiser import ACTION_STEPS, RECENT, Intent, IntentConfig
from scene4d.models.gaussian_flow.networks.completion import Completion, CompletionConfig
from scene4d.models.gaussian_flow.networks.dit import MOTION_CHANNELS, Denoised, DiT, DiTConfig, Drive, SceneTokens
from scene4d.models.gaussian_flow.networks.proprio import (
    ProprioConfig,
    ProprioForecast,
    Track,
    track_in_slots,
    track_of,
)
from scene4d.models.gaussian_flow.networks.skin_head import Matter, SkinConfig, SkinHead
from scene4d.models.gaussian_flow.scene.anchors import PAST_FLOW, AnchorConfig, anchor_past, choose_anchors
from scene4d.models.gaussian_flow.scene.decode import advanced_memory, forecast_scene
from scene4d.models.gaussian_flow.scene.free_space import out_of_sight
from scene4d.models.gaussian_flow.scene.observe import focus_of, memory_of, past_poses, step_seconds
from scene4d.robot.actions import action_slots, from_action_slots
from scene4d.robot.slots import (
    NUM_ACTION_SLOTS,
    NUM_PROPRIO_SLOTS,
    PROPRIO_SLOTS,
    proprio_slots,
    slots_from_spec,
    task_embedding,
)
from scene4d.scene import Motion, Scene4D
from scene4d.types import Gaussians
from scene4d.world.contract import Forecast, State
from scene4d.world.latent import Latent

ACTION_DRAW = 7_000_003
"""Added to a sample's seed for the draw of its actions."""


@dataclass(frozen=True)
class DynamicsConfig:
    """What the world model is built from."""

    horizon: int = 8
    """Steps of one chunk, h; longer forecasts chain chunks."""
    starting_threshold: float = 0.97
    """Probability of moving from which an anchor at rest sets out."""
    moving_threshold: float = 0.5
    """The same for one that has moved."""
    step_seconds: float = 0.025
    """Seconds a step when a scene has a single instant and does not tell."""
    proprio: ProprioConfig = field(default_factory=ProprioConfig)
    """The forecast of the robot's own state."""
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    """How anchors are chosen."""
    skin: SkinConfig = field(default_factory=SkinConfig)
    """The skinning head."""
    intent: IntentConfig = field(default_factory=IntentConfig)
    """The denoiser of actions."""
    completion: CompletionConfig = field(default_factory=CompletionConfig)
    """The decoder of new matter."""
    dit: DiTConfig = field(default_factory=DiTConfig)
    """The denoiser."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Noise levels in training."""

    def __post_init__(self) -> None:
        if self.proprio.num_past < RECENT:
            found = self.proprio.num_past
            raise ConfigError("is too short", field="proprio.num_past", found=found, expected=f"at least {RECENT}")


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
        self.proprio = ProprioForecast(config.proprio)
        self.denoiser = DiT(config.dit, channels=channels, proprio_width=self.proprio.width)
        self.skin = SkinHead(config.skin, channels=channels)
        self.intent = Intent(config.intent, channels=channels, horizon=config.horizon)
        self.completion = Completion(config.completion, channels=channels)
        self.scale = MotionScale(config.horizon)
        self.register_buffer("token_mean", torch.zeros(channels))
        self.register_buffer("token_std", torch.ones(channels))
        self.register_buffer("reward_scale", torch.ones(()))
        self.register_buffer("log_var_shift", torch.zeros(config.horizon))  # see `calibrate`

    @property
    def codec(self) -> Codec:
        """The Gaussian VAE."""
        return self._codec[0]

    @property
    def horizon(self) -> int:
        """Most steps of one forecast."""
        return self.config.horizon

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
            proprio: [q] now, or [p q] with now last; the last few steps tell how the robot answers.
            context: task, action_spec, proprio_spec; cameras {name: Cameras []} that saw the scene: where they looked
                through no new matter is put.
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
        track = track_of(actions, recent, num_past=self.config.proprio.num_past)
        context = {**context, "step_seconds": step_seconds(scene, self.config.step_seconds)}
        return self.state_of(memory, track=track, time=scene.times[-1].double(), context=context)

    @torch.no_grad()
    def state_of(self, memory: Gaussians, *, track: Track, time: Tensor, context: Mapping[str, Any]) -> State:
        """The state of a memory of living rows with extras["past_flow"] [n 6]: anchors, tokens, skin."""
        focus = focus_of(memory, track.proprio[-1], context)
        index, candidates = choose_anchors(memory, focus=focus, config=self.config.anchors)
        past = anchor_past(memory, index, config=self.config.anchors)  # [l 6]
        latent, _ = self.codec.encode(memory, anchors=index)
        anchors = memory.means[index]
        skin = Motion(
            anchors=anchors,
            world_from_rest=past_poses(past),
            skin_index=candidates,
            skin_weights=self.skin_weights(
                memory,
                index=index,
                tokens=latent.tokens,
                hand=proprio_slots(track.proprio[-1], context)[:3],
                past=past,
                candidates=candidates,
            ),
        )
        context = {
            **context,
            "past_proprio": track.proprio[:-1],
            "past_valid": track.valid,
            "anchor_rgb": rgb_from_sh(memory.sh)[index],
            "task_vector": task_embedding(str(context.get("task", ""))).to(anchors),
        }
        past = latent.replace(ids=memory.ids[index]).map(lambda x: x[None])  # one observed step
        state = State(
            memory=memory,
            skin=skin,
            past=past,
            past_actions=track.actions,
            proprio=track.proprio[-1],
            time=time,
            context=context,
        )
        new = self.completion(self.scene_tokens(state.map(lambda x: x[None])))[0]
        unseen = out_of_sight(new, memory=memory, cameras=(context.get("cameras") or {}).values())
        return state.replace(context={**context, "unseen_rows": unseen})

    def skin_weights(
        self, memory: Gaussians, *, index: Tensor, tokens: Tensor, hand: Tensor, past: Tensor, candidates: Tensor
    ) -> Tensor:
        """Weights [n j] for use, of rows on the anchors that `index` [l] names, their tokens [l c] as encoded."""
        rgb = rgb_from_sh(memory.sh)
        logits = self.skin(
            Matter(memory.means, past=memory.extras[PAST_FLOW], rgb=rgb),
            Matter(memory.means[index], past=past, rgb=rgb[index]),
            tokens=self.scaled(tokens),
            hand=hand,
            skin_index=candidates,
        )
        return self.skin.weights(logits, hard=True)

    @torch.no_grad()
    def predict(
        self,
        state: State,
        *,
        actions: Tensor | None = None,
        future: Tensor | None = None,
        steps: int = 4,
        seeds: Sequence[int] = (0,),
    ) -> Forecast:
        """The next h <= horizon steps; what is given decides what is asked.

        Given `actions` [*b h a]: what they do (forward model). Given `future` [*b h l 7], the motion of the state's
        anchors since now: the actions that bring it about (inverse model). Given neither: actions that the
        demonstrations' robot would take, and what they do (policy and video).

        `seeds`: one for each batch element, or one for all; a sample depends on its own seed only. For several futures
        of one state, `state.expand(k)` and `actions.expand(k, ...)` with k seeds.
        """
        if actions is not None and future is not None:
            raise ConfigError("give one of the two", field="actions, future", found="both")
        lead, num = state.batch_shape, math.prod(state.batch_shape)
        flat = state if len(lead) == 1 else state.map(lambda x: x.reshape(-1, *x.shape[len(lead) :]))
        seeds = list(seeds) * (num if len(seeds) == 1 else 1)
        if len(seeds) != num:
            raise ShapeError("one seed for each sample", field="seeds", found=len(seeds), expected=num)
        scene = self.scene_tokens(flat)
        if actions is None:
            if future is not None:
                future = self._batched(future, lead, name="future", tail=(scene.anchors.shape[1], 7))
            actions = self._sampled_actions(flat, scene, future=future, steps=steps, seeds=seeds)
        else:
            actions = self._batched(actions, lead, name="actions", tail=(-1,))
        drive = self.drive_of(flat, actions)
        # A shorter chunk draws what the whole one would, so that stepping through it gives the same.
        shape = (self.config.horizon, scene.anchors.shape[1], MOTION_CHANNELS)
        noise = seeded_noise(seeds, shape, like=scene.anchors)[:, : actions.shape[1]]
        motion, said = self.draw_motion(noise, scene=scene, drive=drive, steps=steps)
        forecast = self._forecast(motion, said, flat, drive, actions, future)
        return forecast if len(lead) == 1 else forecast.map(lambda y: y.reshape(*lead, *y.shape[1:]))

    def draw_motion(self, noise: Tensor, *, scene: SceneTokens, drive: Drive, steps: int) -> tuple[Tensor, Denoised]:
        """Motion [b h l 6] of the anchors in rad and m from noise of that shape, and what the denoiser says of it."""
        thresholds = (self.config.starting_threshold, self.config.moving_threshold)
        told = {"scene": scene, "drive": drive, "scale": self.scale.scale, "thresholds": thresholds, "steps": steps}
        x, said = sample_motion(self.denoiser, noise, **told)
        return self.scale.denormalize(x), said

    def _batched(self, given: Tensor, lead: tuple[int, ...], *, name: str, tail: tuple[int, ...]) -> Tensor:
        """What is given for each step [*b h *tail] with one batch axis, checked; a tail of -1 is of any length."""
        axis, shape = len(lead), tuple(given.shape)
        fits = len(shape) == axis + 1 + len(tail) and shape[:axis] == lead and 1 <= shape[axis] <= self.config.horizon
        if not fits or any(want not in (-1, n) for want, n in zip(tail, shape[axis + 1 :], strict=True)):
            expected = [*lead, f"1..{self.config.horizon}", *("any" if n < 0 else n for n in tail)]
            raise ShapeError("has the wrong shape", field=name, found=list(shape), expected=expected)
        return given.reshape(-1, *shape[axis:])

    def _sampled_actions(
        self, state: State, scene: SceneTokens, *, future: Tensor | None, steps: int, seeds: Sequence[int]
    ) -> Tensor:
        """Actions [b h a] of states [b], for a future [b h l 7] or of the robot's own choice."""
        num_steps = self.config.horizon if future is None else future.shape[1]
        motion = None
        if future is not None:
            motion = self.scale.normalize(motion_about(state.skin.anchors[:, None], future))
        track, task = self.track_of(state), state.context["task_vector"]
        other = [seed + ACTION_DRAW for seed in seeds]  # or actions and motion would draw the same numbers
        noise = seeded_noise(other, (num_steps, NUM_ACTION_SLOTS), like=scene.anchors)
        told = {"scene": scene, "track": track, "task": task, "motion": motion, "steps": ACTION_STEPS * steps}
        actions = self.intent.draw(noise, **told)
        return from_action_slots(actions, state.context, width=state.past_actions.shape[-1], proprio=state.proprio)

    def _forecast(
        self, motion: Tensor, said: Denoised, state: State, drive: Drive, actions: Tensor, future: Tensor | None
    ) -> Forecast:
        """The drawn motion [b h l 6] as a Forecast; a given future [b h l 7] takes its place."""
        num_steps, anchors = motion.shape[1], state.skin.anchors
        poses = pose_about(anchors[:, None], motion[..., :3], shift=motion[..., 3:]) if future is None else future
        past = state.past[:, -1]
        latent = Latent(
            tokens=past.tokens[:, None].expand(-1, num_steps, -1, -1),
            anchors=apply_pose(poses, anchors[:, None].expand(-1, num_steps, -1, -1)),
            rotations=past.rotations[:, None].expand(-1, num_steps, -1, -1),
            present=past.present[:, None].expand(-1, num_steps, -1),
            ids=past.ids[:, None].expand(-1, num_steps, -1),
        )
        change = drive.proprio_change  # [b h 20] in slots
        slots = slots_from_spec(
            state.context.get("proprio_spec"), width=state.proprio.shape[-1], names=PROPRIO_SLOTS, num=NUM_PROPRIO_SLOTS
        )
        return Forecast(
            latent=latent,
            world_from_now=poses,
            log_var=said.log_var
            + (2 * self.scale.scale[:num_steps].log() + self.log_var_shift[:num_steps, None])[:, None],
            actions=actions,
            heads={
                "reward": said.outcome[..., 0] * self.reward_scale,
                "success": said.outcome[..., 1].sigmoid(),
                "done": said.outcome[..., 2].sigmoid(),
                "proprio": state.proprio[:, None] + change[..., slots],
            },
        )

    def scene_tokens(self, state: State) -> SceneTokens:
        """What the denoiser is told about the anchors of a state [b]."""
        anchors, tokens = state.skin.anchors, state.past[:, -1].tokens
        was, before = (apply_pose(state.skin.world_from_rest[:, step], anchors) for step in (-2, -3))
        past = torch.cat([anchors - was, was - before], -1)
        return SceneTokens(self.scaled(tokens), anchors=anchors, rgb=state.context["anchor_rgb"], past=past)

    def scaled(self, tokens: Tensor) -> Tensor:
        """Tokens [.. c] in units of their spread over the training windows."""
        return (tokens - self.token_mean) / self.token_std

    def drive_of(self, state: State, actions: Tensor) -> Drive:
        """What the denoiser is told about the robot: actions [b h a] in slots and the foreseen proprio."""
        context = state.context
        return self.drive(
            actions=action_slots(actions, context, proprio=state.proprio),
            track=self.track_of(state),
            task=context["task_vector"],
        )

    def track_of(self, state: State) -> Track:
        """How the robot of a state got to now, in slots."""
        context = state.context
        proprio = torch.cat([context["past_proprio"], state.proprio[..., None, :]], -2)
        track = Track(actions=state.past_actions, proprio=proprio, valid=context["past_valid"])
        return track_in_slots(track, context)

    def drive(self, *, actions: Tensor, track: Track, task: Tensor) -> Drive:
        """The same from slots: actions [b h 16], track [b p], task [b 32]."""
        change, hidden = self.proprio(actions, track=track, task=task)
        return Drive(
            actions=actions,
            last_action=track.actions[:, -1],
            proprio=track.proprio[:, -1],
            proprio_change=change,
            hidden=hidden,
            task=task,
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
        done, context = forecast.actions[..., :num_steps, :], state.context
        way = torch.cat([context["past_proprio"], state.proprio[..., None, :]], -2)
        way = torch.cat([way, forecast.heads["proprio"][..., :num_steps, :]], -2)[..., num_steps:, :]
        valid = torch.cat([context["past_valid"], torch.ones_like(done[..., 0], dtype=torch.bool)], -1)
        return State(
            memory=advanced_memory(state, recent=recent, now=now),
            skin=skin,
            past=state.past.replace(anchors=anchors.unsqueeze(-3).expand(state.past.anchors.shape)),
            past_actions=torch.cat([state.past_actions, done], -2)[..., num_steps:, :],
            proprio=way[..., -1, :],
            time=state.time + num_steps * state.context.get("step_seconds", self.config.step_seconds),
            context={**context, "past_proprio": way[..., :-1, :], "past_valid": valid[..., num_steps:]},
        )

    @torch.no_grad()
    def scene(self, state: State, forecast: Forecast) -> Scene4D:
        """Decode to Gaussians over now and the predicted steps: carried memory, and new matter where none has seen."""
        lead = state.batch_shape
        flat = state if len(lead) == 1 else state.map(lambda x: x.reshape(-1, *x.shape[len(lead) :]))
        new = self.completion(self.scene_tokens(flat)).map(lambda x: x.reshape(*lead, *x.shape[1:]))
        new = new.replace(opacities=new.opacities * state.context["unseen_rows"])
        skin = self.completion.skin(
            state.skin.anchors.shape[-2],
            num_candidates=state.skin.skin_index.shape[-1],
            like=state.skin.skin_weights,
        )
        return forecast_scene(state, forecast, new=new, new_skin=skin, step_seconds=self.config.step_seconds)

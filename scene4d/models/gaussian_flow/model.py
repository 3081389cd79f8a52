"""GaussianFlow: from an observation to a state, with actions to a prediction, and back to Gaussians."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from scene4d.errors import DataFormatError, ShapeError
from scene4d.geometry.rotation import apply_pose, compose_pose, invert_pose, motion_about, pose_about
from scene4d.geometry.sh import rgb_from_sh
from scene4d.models.flow import seeded_noise
from scene4d.models.gaussian_flow.motion.motion_sampler import sample_motion
from scene4d.models.gaussian_flow.networks.action_denoiser import ACTION_STEPS, ActionDenoiser, ActionEvidence
from scene4d.models.gaussian_flow.networks.completion import Completion
from scene4d.models.gaussian_flow.networks.dit import MOTION_CHANNELS, Denoised, DiT, Drive, SceneTokens
from scene4d.models.gaussian_flow.networks.proprio import ProprioForecast
from scene4d.models.gaussian_flow.networks.skin_head import Matter, SkinHead
from scene4d.models.gaussian_flow.networks.vae import GaussianVAE
from scene4d.models.gaussian_flow.scene.decode import advanced_gaussians, decoded_scene
from scene4d.models.gaussian_flow.scene.free_space import out_of_sight
from scene4d.models.gaussian_flow.settings import DynamicsConfig
from scene4d.models.gaussian_flow.state import GaussianPrediction, GaussianState, past_poses
from scene4d.models.tokens.anchors import anchor_past, choose_anchors, focus_of
from scene4d.models.tokens.motion_targets import MotionScale
from scene4d.robot.actions import action_slots, from_action_slots
from scene4d.robot.angles import wrapped
from scene4d.robot.slots import (
    NUM_ACTION_SLOTS,
    proprio_slot_index,
    proprio_slots,
    task_embedding,
)
from scene4d.robot.spec import RobotSpec, VectorSpec
from scene4d.robot.track import Track, track_in_slots, track_of
from scene4d.scene import Scene4D
from scene4d.types import Cameras, Gaussians
from scene4d.world.carry import AnchoredGaussians, AnchorMotion
from scene4d.world.contract import WorldModelSpec
from scene4d.world.current import PAST_FLOW, memory_of
from scene4d.world.observation import Observation

NO_ROBOT = RobotSpec(VectorSpec.from_rows(None), VectorSpec.from_rows(None))
"""The robot of a model that does not say which one it learned from: nothing is compared with it."""
ACTION_DRAW = 7_000_003
"""Added to a sample's seed for the draw of its actions."""
SAMPLER_STEPS = 4
"""Steps of the sampler, where nobody chose (`with_sampler`)."""


class GaussianWorldModel(nn.Module):
    """Forecasts a scene of Gaussians under actions; implements `WorldModel` and most of its powers.

    The Gaussians keep their identity and are carried by the rigid motion of anchors; the motion is sampled by a
    diffusion transformer on the tokens of a Gaussian VAE (the codec, not owned: its weights are stored elsewhere).

    Args:
        codec: encodes and decodes; frozen here. channels: its latent channels, c. robot: that it learned from.
    """

    token_mean: Tensor
    token_std: Tensor
    reward_scale: Tensor
    log_var_shift: Tensor

    def __init__(
        self, codec: GaussianVAE, config: DynamicsConfig | None = None, *, channels: int, robot: RobotSpec = NO_ROBOT
    ):
        super().__init__()
        self.config, self.robot = config or DynamicsConfig(), robot
        config = self.config
        self.sampler_steps = SAMPLER_STEPS
        self._codec = (codec,)  # in a tuple, so that its weights are not this module's
        self.proprio = ProprioForecast(config.proprio)
        self.denoiser = DiT(config.dit, channels=channels, proprio_width=self.proprio.width)
        self.skin = SkinHead(config.skin, channels=channels)
        self.intent = ActionDenoiser(config.intent, channels=channels, horizon=config.horizon)
        self.completion = Completion(config.completion, channels=channels)
        self.scale = MotionScale(config.horizon)
        self.register_buffer("token_mean", torch.zeros(channels))
        self.register_buffer("token_std", torch.ones(channels))
        self.register_buffer("reward_scale", torch.ones(()))
        self.register_buffer("log_var_shift", torch.zeros(config.horizon))  # see `calibrate`

    @property
    def codec(self) -> GaussianVAE:
        """The Gaussian VAE."""
        return self._codec[0]

    @property
    def spec(self) -> WorldModelSpec:
        """Horizon, step and robot."""
        return WorldModelSpec(self.config.horizon, self.robot.step_seconds or self.config.step_seconds, self.robot)

    def with_sampler(self, num_steps: int) -> Self:
        """The same model, its weights shared, with another number of sampler steps; 1 = the network's mean."""
        other = copy.copy(self)
        other.sampler_steps = num_steps
        return other

    # ---- observe

    @torch.no_grad()
    def observe(self, observation: Observation, *, state: GaussianState | None = None) -> GaussianState:
        """The state [] now.

        A given `state` is corrected by being replaced: the scene's rows carry the same ids, so nothing is lost.

        Raises:
            DataFormatError: there is no scene. GaussianError: nothing in it exists now.
            ConfigError: the observation is of another robot than the model's.
        """
        if observation.scene is None:
            raise DataFormatError("has no scene", field="observation.scene", fix="reconstruct one, or stream it")
        observation.check_robot(self.robot)
        scene = observation.scene
        if scene.batch_shape:
            raise ShapeError(
                "observe takes one scene", field="scene", found=scene.batch_shape, expected="no batch axes"
            )
        memory = memory_of(scene, memory=observation.memory)
        track = track_of(observation.actions, observation.proprio, num_past=self.config.proprio.num_past)
        seconds = observation.step_seconds or self.config.step_seconds
        robot = replace(observation.robot.filled_from(self.robot), step_seconds=seconds)
        return self.state_of(
            memory,
            track=track,
            time=scene.times[-1].double(),
            robot=robot,
            task=observation.task.text,
            cameras=list(observation.cameras.values()),
        )

    @torch.no_grad()
    def state_of(
        self,
        memory: Gaussians,
        *,
        track: Track,
        time: Tensor,
        robot: RobotSpec,
        task: str = "",
        cameras: Sequence[Cameras] = (),
    ) -> GaussianState:
        """The state of a memory of living rows with extras["past_flow"] [n 6]: anchors, tokens, skin.

        Args:
            cameras: that saw the memory: where they looked through, nothing new is put.
        """
        proprio = track.proprio[-1]
        focus = focus_of(memory, proprio, robot)
        index, candidates = choose_anchors(memory, focus=focus, config=self.config.anchors)
        past = anchor_past(memory, index, config=self.config.anchors)  # [l 6]
        latent, _ = self.codec.encode(memory, anchors=index)
        weights = self.skin_weights(
            memory,
            index=index,
            tokens=latent.tokens,
            hand=proprio_slots(proprio, robot)[:3],
            past=past,
            candidates=candidates,
        )
        state = GaussianState(
            time=time,
            proprio=proprio,
            robot=robot,
            anchored=AnchoredGaussians(memory, memory.means[index], candidates, weights),
            recent=past_poses(past),
            latent=latent.replace(ids=memory.ids[index]),
            anchor_rgb=rgb_from_sh(memory.sh)[index],
            unseen_rows=torch.zeros(0, dtype=torch.bool, device=memory.means.device),
            past_actions=track.actions,
            past_proprio=track.proprio[:-1],
            past_valid=track.valid,
            task_vector=task_embedding(task).to(memory.means),
        )
        new = self.completion(self.scene_tokens(state.map(lambda x: x[None])))[0]
        return state.replace(unseen_rows=out_of_sight(new, memory=memory, cameras=cameras))

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

    # ---- predict

    @torch.no_grad()
    def predict(self, state: GaussianState, *, actions: Tensor, seeds: Sequence[int] = (0,)) -> GaussianPrediction:
        """The next h <= horizon steps of states [*b] under actions [*b h a]; implements `WorldModel`.

        For several futures of one state, `state.expand(k)` and `actions.expand(k, ...)` with k seeds.
        """
        flat, seeds, lead = self._flat(state, seeds)
        actions = self._batched(actions, lead, name="actions", tail=(-1,))
        return _unflat(self._predicted(flat, actions, seeds=seeds), lead)

    @torch.no_grad()
    def actions_for(self, state: GaussianState, future: Tensor, *, seeds: Sequence[int] = (0,)) -> GaussianPrediction:
        """Actions that bring about `future` [*b h l 7], the motion of the anchors since now; implements `Inverts`."""
        flat, seeds, lead = self._flat(state, seeds)
        future = self._batched(future, lead, name="future", tail=(flat.anchors.shape[1], 7))
        motion = self.scale.normalize(motion_about(flat.anchors[:, None], future))
        actions = self._own_actions(flat, motion=motion, num_steps=future.shape[1], seeds=seeds)
        predicted = self._predicted(flat, actions, seeds=seeds)
        return _unflat(predicted.replace(motion=predicted.motion.replace(world_from_now=future)), lead)

    @torch.no_grad()
    def propose(self, state: GaussianState, *, seeds: Sequence[int] = (0,)) -> GaussianPrediction:
        """Actions that the demonstrations' robot would take, and what they do; implements `Proposes`."""
        flat, seeds, lead = self._flat(state, seeds)
        actions = self._own_actions(flat, motion=None, num_steps=self.config.horizon, seeds=seeds)
        return _unflat(self._predicted(flat, actions, seeds=seeds), lead)

    def draw_motion(self, noise: Tensor, *, scene: SceneTokens, drive: Drive, steps: int) -> tuple[Tensor, Denoised]:
        """Motion [b h l 6] of the anchors in rad and m from noise of that shape, and what the denoiser says of it."""
        x, denoised = sample_motion(
            self.denoiser,
            noise,
            scene=scene,
            drive=drive,
            scale=self.scale.scale,
            thresholds=(self.config.starting_threshold, self.config.moving_threshold),
            steps=steps,
        )
        return self.scale.denormalize(x), denoised

    def _flat(self, state: GaussianState, seeds: Sequence[int]) -> tuple[GaussianState, list[int], tuple[int, ...]]:
        """States [*b] with one batch axis, a seed for each, and the shape that they had."""
        lead, num = state.batch_shape, math.prod(state.batch_shape)
        flat = state if len(lead) == 1 else state.map(lambda x: x.reshape(-1, *x.shape[len(lead) :]))
        seeds = list(seeds) * (num if len(seeds) == 1 else 1)
        if len(seeds) != num:
            raise ShapeError("one seed for each sample", field="seeds", found=len(seeds), expected=num)
        return flat, seeds, lead

    def _batched(self, given: Tensor, lead: tuple[int, ...], *, name: str, tail: tuple[int, ...]) -> Tensor:
        """What is given for each step [*b h *tail] with one batch axis, checked; a tail of -1 is of any length."""
        axis, shape = len(lead), tuple(given.shape)
        fits = len(shape) == axis + 1 + len(tail) and shape[:axis] == lead and 1 <= shape[axis] <= self.config.horizon
        if not fits or any(want not in (-1, n) for want, n in zip(tail, shape[axis + 1 :], strict=True)):
            expected = [*lead, f"1..{self.config.horizon}", *("any" if n < 0 else n for n in tail)]
            raise ShapeError("has the wrong shape", field=name, found=list(shape), expected=expected)
        return given.reshape(-1, *shape[axis:])

    def _own_actions(
        self, state: GaussianState, *, motion: Tensor | None, num_steps: int, seeds: Sequence[int]
    ) -> Tensor:
        """Actions [b h a] of states [b], for a scaled motion [b h l 6] or of the robot's own choice."""
        scene = self.scene_tokens(state)
        other = [seed + ACTION_DRAW for seed in seeds]  # or actions and motion would draw the same numbers
        actions = self.intent.draw(
            seeded_noise(other, (num_steps, NUM_ACTION_SLOTS), like=scene.anchors),
            given=ActionEvidence(scene, self.track_of(state), state.task_vector, motion),
            steps=ACTION_STEPS * self.sampler_steps,
        )
        return from_action_slots(actions, state.robot, proprio=state.proprio)

    def _predicted(self, state: GaussianState, actions: Tensor, *, seeds: Sequence[int]) -> GaussianPrediction:
        """What actions [b h a] do in states [b]."""
        scene, drive, num_steps = self.scene_tokens(state), self.drive_of(state, actions), actions.shape[1]
        # A shorter chunk draws what the whole one would, so that stepping through it gives the same.
        shape = (self.config.horizon, scene.anchors.shape[1], MOTION_CHANNELS)
        noise = seeded_noise(seeds, shape, like=scene.anchors)[:, :num_steps]
        motion, denoised = self.draw_motion(noise, scene=scene, drive=drive, steps=self.sampler_steps)
        shift = self.scale.scale[:num_steps].log()
        log_var = denoised.log_var + (2 * shift + self.log_var_shift[:num_steps, None])[:, None]
        poses = pose_about(state.anchors[:, None], motion[..., :3], shift=motion[..., 3:])
        change = drive.proprio_change[..., proprio_slot_index(state.robot)]  # [b h q]
        return GaussianPrediction(
            actions=actions,
            motion=AnchorMotion(poses, log_var),
            proprio=wrapped(state.proprio[:, None] + change, state.robot.proprio),
            reward=denoised.outcome[..., 0] * self.reward_scale,
            success=denoised.outcome[..., 1].sigmoid(),
            done=denoised.outcome[..., 2].sigmoid(),
        )

    # ---- what the networks are given

    def scene_tokens(self, state: GaussianState) -> SceneTokens:
        """What the denoiser is given of the anchors of a state [b]."""
        anchors = state.anchors
        was, before = (apply_pose(state.recent[:, step], anchors) for step in (-2, -3))
        past = torch.cat([anchors - was, was - before], -1)
        return SceneTokens(self.scaled(state.latent.tokens), anchors=anchors, rgb=state.anchor_rgb, past=past)

    def scaled(self, tokens: Tensor) -> Tensor:
        """Tokens [.. c] in units of their spread over the training windows."""
        return (tokens - self.token_mean) / self.token_std

    def drive_of(self, state: GaussianState, actions: Tensor) -> Drive:
        """What the denoiser is given of the robot: actions [b h a] in slots and the predicted proprio."""
        return self.drive(
            actions=action_slots(actions, state.robot, proprio=state.proprio),
            track=self.track_of(state),
            task=state.task_vector,
        )

    def track_of(self, state: GaussianState) -> Track:
        """How the robot of a state got to now, in slots."""
        proprio = torch.cat([state.past_proprio, state.proprio[..., None, :]], -2)
        return track_in_slots(Track(state.past_actions, proprio, state.past_valid), state.robot)

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

    # ---- advance and decode

    @torch.no_grad()
    def advance(self, state: GaussianState, prediction: GaussianPrediction, *, num_steps: int) -> GaussianState:
        """The state after `num_steps` of the prediction came true: Gaussians and anchors carried, the same ids."""
        num_horizon = prediction.num_steps
        if not 1 <= num_steps <= num_horizon:
            raise ShapeError("no such step", field="num_steps", found=num_steps, expected=f"1..{num_horizon}")
        way = torch.cat([state.recent[..., -2:, :, :], prediction.world_from_now], -3)  # [*b 2+h l 7], two till now
        recent = way[..., num_steps - 1 : num_steps + 2, :, :]  # [*b 3 l 7], now last
        now = recent[..., -1, :, :]
        done = prediction.actions[..., :num_steps, :]
        proprio = torch.cat([state.past_proprio, state.proprio[..., None, :]], -2)
        proprio = torch.cat([proprio, prediction.robot_states[..., :num_steps, :]], -2)[..., num_steps:, :]
        valid = torch.cat([state.past_valid, torch.ones_like(done[..., 0], dtype=torch.bool)], -1)
        anchors = apply_pose(now, state.anchors)
        recent = torch.stack([compose_pose(pose, invert_pose(now)) for pose in recent.unbind(-3)], -3)
        return state.replace(
            time=state.time + num_steps * (state.robot.step_seconds or self.config.step_seconds),
            proprio=proprio[..., -1, :],
            anchored=state.anchored.replace(
                gaussians=advanced_gaussians(state.anchored, recent=recent, now=now), anchors=anchors
            ),
            recent=recent,
            latent=state.latent.replace(anchors=anchors),
            past_actions=torch.cat([state.past_actions, done], -2)[..., num_steps:, :],
            past_proprio=proprio[..., :-1, :],
            past_valid=valid[..., num_steps:],
        )

    @torch.no_grad()
    def scene(self, state: GaussianState, prediction: GaussianPrediction) -> Scene4D:
        """Now and the predicted steps: known Gaussians carried, new ones where nobody looked; implements `Decodes`."""
        lead = state.batch_shape
        flat = state if len(lead) == 1 else state.map(lambda x: x.reshape(-1, *x.shape[len(lead) :]))
        new = self.completion(self.scene_tokens(flat)).map(lambda x: x.reshape(*lead, *x.shape[1:]))
        new = new.replace(opacities=new.opacities * state.unseen_rows)
        skin = self.completion.skin(
            state.anchors.shape[-2],
            num_candidates=state.anchored.skin_index.shape[-1],
            like=state.anchored.skin_weights,
        )
        seconds = state.robot.step_seconds or self.config.step_seconds
        return decoded_scene(state, prediction.motion, new=new, new_skin=skin, step_seconds=seconds)

    # ---- powers

    def anchored(self, state: GaussianState) -> AnchoredGaussians:
        """The Gaussians of a state on their anchors; implements `MovesAnchors`."""
        return state.anchored

    def anchor_motion(self, prediction: GaussianPrediction) -> AnchorMotion:
        """The predicted motion of these anchors."""
        return prediction.motion

    def embed(self, state: GaussianState) -> tuple[Tensor, Tensor]:
        """Latent tokens [*b l c] and the places [*b l 3] of their anchors; implements `Embeds`."""
        return state.latent.tokens, state.anchors


def _unflat(prediction: GaussianPrediction, lead: tuple[int, ...]) -> GaussianPrediction:
    return prediction if len(lead) == 1 else prediction.map(lambda y: y.reshape(*lead, *y.shape[1:]))

"""GaussianFlow: from an observation to a state, with actions to a prediction, and back to Gaussians."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.geometry.rotation import motion_about, pose_about
from scene4d.geometry.sh import rgb_from_sh
from scene4d.models.flow import Sampler, sample, seeded_noise
from scene4d.models.gaussian_flow.free_space import unseen_rows_of
from scene4d.models.gaussian_flow.motion.known_future import KnownMotion, flat_future, kept_where_known
from scene4d.models.gaussian_flow.networks.action_denoiser import ACTION_STEPS, ActionDenoiser, ActionEvidence
from scene4d.models.gaussian_flow.networks.completion import Completion
from scene4d.models.gaussian_flow.networks.dit import MOTION_CHANNELS, DiT
from scene4d.models.gaussian_flow.networks.skin_head import AnchorFeatures, SkinHead
from scene4d.models.gaussian_flow.settings import DynamicsConfig
from scene4d.models.gaussian_flow.state import GaussianState
from scene4d.models.instants import Steps, steps_ahead
from scene4d.models.proprio import ProprioForecast, RobotCondition
from scene4d.models.tokens.anchor_model import AnchorModel
from scene4d.models.tokens.anchored_state import AnchorPrediction
from scene4d.models.tokens.latent import Codec
from scene4d.models.tokens.motion_estimate import MotionEstimate, moving_anchors
from scene4d.models.tokens.scene_tokens import SceneTokens
from scene4d.robot.actions import action_slots, from_action_slots
from scene4d.robot.angles import wrapped
from scene4d.robot.slots import proprio_slot_index, proprio_slots
from scene4d.robot.spec import RobotSpec, VectorSpec
from scene4d.scene import Scene4D
from scene4d.world.carry import AnchoredGaussians, AnchorMotion
from scene4d.world.contract import WorldModelSpec
from scene4d.world.current import PAST_FLOW
from scene4d.world.flat_batches import flat_state, flat_steps, unflat
from scene4d.world.observation import Observation

NO_ROBOT = RobotSpec(VectorSpec.from_rows(None), VectorSpec.from_rows(None))
"""The robot of a model that does not say which one it learned from: nothing is compared with it."""
ACTION_DRAW = 7_000_003
"""Added to a sample's seed for the draw of its actions."""
PART = 8
"""Samples that the denoiser takes at once on a CPU: what its cache holds, which is half again as fast."""


class GaussianWorldModel(Sampler, AnchorModel):
    """Forecasts a scene of Gaussians under actions; implements `WorldModel` and most of its powers.

    The Gaussians keep their identity and are carried by the rigid motion of anchors; the motion is sampled by a
    diffusion transformer on the tokens of a Gaussian VAE (the codec, not owned: its weights are stored elsewhere).

    Args:
        codec: encodes and decodes; frozen here. channels: its latent channels, c. robots: that it learned from.
    Raises:
        ConfigError: a robot has more numbers than `config.slots`.
    """

    token_mean: Tensor
    token_std: Tensor
    reward_scale: Tensor
    log_var_shift: Tensor

    def __init__(
        self,
        codec: Codec,
        config: DynamicsConfig | None = None,
        *,
        channels: int,
        robots: tuple[RobotSpec, ...] = (NO_ROBOT,),
    ):
        config = config or DynamicsConfig()
        super().__init__(
            codec, channels=channels, horizon=config.num_frames, robots=robots, step_seconds=config.step_seconds
        )
        self.config = config
        slots, text = config.slots, config.text
        for robot in robots:
            slots.check(robot)
        self.proprio = ProprioForecast(config.proprio, slots=slots, text=text)
        width = config.proprio.width
        self.denoiser = DiT(config.dit, channels=channels, proprio_width=width, slots=slots, text=text)
        self.skin = SkinHead(config.skin, channels=channels)
        self.stride = min(config.strides)
        """Frames a step of the denoiser; see `with_stride`."""
        self.intent = ActionDenoiser(config.intent, channels=channels, horizon=config.horizon, slots=slots, text=text)
        self.completion = Completion(config.completion, channels=channels)
        self.register_buffer("log_var_shift", torch.zeros(len(config.strides) * config.horizon))  # see `calibrate`

    @property
    def spec(self) -> WorldModelSpec:
        """Horizon of a chunk at the present stride, in frames; their length; robot."""
        return replace(super().spec, horizon=self.config.horizon * self.stride)

    @property
    def strides(self) -> tuple[int, ...]:
        """Frames that a step may be."""
        return self.config.strides

    def with_stride(self, stride: int) -> Self:
        """The same model, its weights shared, whose denoiser takes steps of so many frames: a chunk reaches farther.

        Actions and predictions stay frame by frame. Between the ends of two steps motion is interpolated, so there an
        action has a part in what is predicted from the beginning of its step on.

        Raises:
            ConfigError: it has not learned steps of that length.
        """
        if stride not in self.config.strides:
            expected = f"{' or '.join(map(str, self.config.strides))} frames a step"
            raise ConfigError("has not been learned", field="stride", found=stride, expected=expected)
        other = copy.copy(self)
        other.stride = stride
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
        c = self.config
        state, past = GaussianState.observed(
            observation,
            codec=self.codec,
            anchors=c.anchors,
            num_past=c.proprio.num_past,
            slots=c.slots,
            text=c.text,
            spec=self.spec,
        )
        memory = state.gaussians
        state = state.skinned(self.skin_weights(state, past=past))
        new = self.completion(self.scene_tokens(state.map(lambda x: x[None])))[0]
        return state.replace(unseen_rows=unseen_rows_of(new, memory=memory, cameras=observation.cameras.values()))

    def skin_weights(self, state: GaussianState, *, past: Tensor) -> Tensor:
        """Weights [n j] for use, of the rows of a state [] on its anchors, whose past motion is `past` [l 6]."""
        memory = state.gaussians
        logits = self.skin(
            AnchorFeatures(memory.means, past=memory.extras[PAST_FLOW], rgb=rgb_from_sh(memory.sh)),
            AnchorFeatures(state.anchors, past=past, rgb=state.anchor_rgb),
            tokens=self.scaled(state.latent.tokens),
            hand=proprio_slots(state.proprio, state.robot, slots=state.slots)[:3],
            skin_index=state.anchored.skin_index,
        )
        return self.skin.weights(logits, hard=True)

    # ---- predict

    @torch.no_grad()
    def predict(self, state: GaussianState, *, actions: Tensor, seeds: Sequence[int] = (0,)) -> AnchorPrediction:
        """The next h <= horizon steps of states [*b] under actions [*b h a]; implements `WorldModel`.

        For several futures of one state, `state.expand(k)` and `actions.expand(k, ...)` with k seeds.
        """
        flat, seeds, lead = flat_state(state, seeds)
        actions = flat_steps(actions, lead, name="actions", tail=(-1,), horizon=self.spec.horizon)
        return unflat(self._predicted(flat, actions, seeds=seeds), lead)

    @torch.no_grad()
    def actions_for(
        self,
        state: GaussianState,
        future: Tensor,
        *,
        known: Tensor | None = None,
        ahead: Sequence[int] | None = None,
        seeds: Sequence[int] = (0,),
    ) -> AnchorPrediction:
        """Actions that bring about `future` [*b h l 7], the motion of the anchors since now; implements `Inverts`.

        Args:
            known: [*b h l] where the future is known, by default everywhere: an object's anchors for the way of that
                object, the last step for a goal. ahead: frames since now of the h steps, by default 1, 2, ...
        Returns:
            One action a frame until the last step, and the motion that they are foreseen to bring, which is that of the
            future where it is known.
        Raises:
            ConfigError: the model has not learned from futures of which only a part is known, or so long ones.
        """
        flat, seeds, lead = flat_state(state, seeds)
        most = (self.config.horizon, flat.anchors.shape[1])
        future, where = flat_future(future, known, lead=lead, most=most)
        given, steps = self._given(flat, future, known=where, ahead=ahead)
        if steps.num_frames > self.config.num_actions:
            expected = f"at most {self.config.num_actions} frames"
            raise ConfigError("is too far ahead", field="ahead", found=steps.num_frames, expected=expected)
        actions = self._own_actions(flat, future=given, steps=steps, num_steps=steps.num_frames, seeds=seeds)
        predicted = self._predicted(flat, actions, seeds=seeds, steps=steps, known=given)
        motion = kept_where_known(predicted.motion, future, known=given, steps=steps)
        return unflat(predicted.replace(motion=motion), lead)

    @torch.no_grad()
    def motion_given(
        self,
        state: GaussianState,
        future: Tensor,
        *,
        known: Tensor,
        ahead: Sequence[int] | None = None,
        actions: Tensor | None = None,
        seeds: Sequence[int] = (0,),
    ) -> AnchorMotion:
        """The whole motion [*b n l 7] of a future of which a part is known; implements `FillsIn`.

        Args:
            future, known, ahead: as `actions_for`. actions: [*b n a] until the last step, where they are known.
        """
        flat, seeds, lead = flat_state(state, seeds)
        most = (self.config.horizon, flat.anchors.shape[1])
        future, where = flat_future(future, known, lead=lead, most=most)
        given, steps = self._given(flat, future, known=where, ahead=ahead)
        if actions is None:
            absent = torch.ones(len(seeds), dtype=torch.bool, device=flat.anchors.device)
            actions = flat.anchors.new_zeros(len(seeds), steps.num_frames, flat.past_actions.shape[-1])
        else:
            absent = None
            actions = flat_steps(actions, lead, name="actions", tail=(-1,), horizon=steps.num_frames)
        predicted = self._predicted(flat, actions, seeds=seeds, steps=steps, known=given, absent=absent)
        motion = kept_where_known(predicted.motion, future, known=given, steps=steps)
        return unflat(predicted.replace(motion=motion), lead).motion

    @torch.no_grad()
    def propose(self, state: GaussianState, *, seeds: Sequence[int] = (0,)) -> AnchorPrediction:
        """Actions that the demonstrations' robot would take, and what they do; implements `Proposes`."""
        flat, seeds, lead = flat_state(state, seeds)
        num_steps = min(self.spec.horizon, self.config.num_actions)
        actions = self._own_actions(flat, num_steps=num_steps, seeds=seeds)
        return unflat(self._predicted(flat, actions, seeds=seeds), lead)

    @torch.no_grad()
    def draw_motion(
        self,
        noise: Tensor,
        *,
        scene: SceneTokens,
        given: RobotCondition,
        steps: Steps,
        sampler_steps: int,
        known: KnownMotion | None = None,
    ) -> tuple[Tensor, MotionEstimate]:
        """Motion [b h l 6] of the anchors in rad and m from noise of that shape, and what the denoiser says of it.

        What rests has motion 0: see `moving_anchors`; what is known beforehand is kept.

        Args:
            given: of the steps.
        """
        estimates: list[MotionEstimate] = []
        scale = self.scale.at(steps)

        def estimated(x: Tensor, levels: Tensor, *, part: slice) -> MotionEstimate:
            shown = None if known is None else known[part]
            return self.denoiser(
                x[part], levels[part], scene=scene[part], given=given[part], scale=scale, steps=steps, known=shown
            )

        def clean(x: Tensor, levels: Tensor) -> Tensor:
            num = PART if x.device.type == "cpu" else len(x)
            each = [estimated(x, levels, part=slice(i, i + num)) for i in range(0, len(x), num)]
            estimates.append(each[0] if len(each) == 1 else MotionEstimate.cat(each))
            return estimates[-1].motion if known is None else known.put_into(estimates[-1].motion)

        x = sample(clean, noise, steps=sampler_steps)
        # How sure it is, it says before it has seen its own guess: later steps take that for evidence.
        estimate = estimates[-1].replace(log_var=estimates[0].log_var, gate=estimates[0].gate)
        thresholds = self.config.starting_threshold, self.config.moving_threshold
        moves = moving_anchors(estimate.gate, past=scene.past, thresholds=thresholds)
        if known is not None:
            moves = moves | known.known
        return self.scale.denormalize(x * moves[..., None], steps), estimate

    def _given(
        self, state: GaussianState, future: Tensor, *, known: Tensor | None, ahead: Sequence[int] | None
    ) -> tuple[KnownMotion, Steps]:
        """What is known of the future [b h l 7] of states [b], scaled, and the steps that it is of."""
        seconds = state.robot.step_seconds or self.step_seconds
        steps = steps_ahead(future.shape[1], ahead=ahead, most=self.config.num_frames, frame_seconds=seconds)
        given = KnownMotion.whole(self.scale.normalize(motion_about(state.anchors[:, None], future), steps))
        if known is None and steps.single:
            return given, steps
        if not self.config.dit.known_futures:
            fix = "train with dynamics.model.dit.known_futures = true"
            raise ConfigError("has not been learned from partly known futures", field="known", fix=fix)
        return (given if known is None else given.replace(known=known)), steps

    def _own_actions(
        self,
        state: GaussianState,
        *,
        num_steps: int,
        seeds: Sequence[int],
        future: KnownMotion | None = None,
        steps: Steps | None = None,
    ) -> Tensor:
        """Actions [b n a] of states [b], for what is known of the future at the ends of `steps`, or of own choice."""
        scene = self.scene_tokens(state)
        other = [seed + ACTION_DRAW for seed in seeds]  # or actions and motion would draw the same numbers
        actions = self.intent.draw(
            seeded_noise(other, (num_steps, state.slots.num_actions), like=scene.anchors),
            given=ActionEvidence(scene, state.track, state.task_vector, future, steps),
            steps=ACTION_STEPS * self.sampler_steps,
        )
        return from_action_slots(actions, state.robot, proprio=state.proprio, slots=state.slots)

    def _predicted(
        self,
        state: GaussianState,
        actions: Tensor,
        *,
        seeds: Sequence[int],
        steps: Steps | None = None,
        known: KnownMotion | None = None,
        absent: Tensor | None = None,
    ) -> AnchorPrediction:
        """What actions [b n a] do in states [b], where they are not absent [b], if a part of the future is known."""
        scene, steps = self.scene_tokens(state), steps or self.steps_of(actions.shape[1], state.robot)
        slots = action_slots(actions, state.robot, proprio=state.proprio, slots=state.slots)
        given = self.proprio.condition(slots, track=state.track, task=state.task_vector)
        # A shorter chunk draws what the whole one would, so that stepping through it gives the same.
        shape = (self.config.horizon, scene.anchors.shape[1], MOTION_CHANNELS)
        noise = seeded_noise(seeds, shape, like=scene.anchors)[:, : steps.num]
        at_ends = given.at(steps) if absent is None else given.at(steps).without_actions(absent)
        shown = known if self.config.dit.known_futures else None
        motion, denoised = self.draw_motion(
            noise, scene=scene, given=at_ends, steps=steps, sampler_steps=self.sampler_steps, known=shown
        )
        shift = self.scale.at(steps).log()
        log_var = denoised.log_var + (2 * shift + self.calibration[: steps.num, None])[:, None]
        motion, log_var, outcome = steps.between(motion), _log_var_between(log_var, steps), steps.held(denoised.outcome)
        poses = pose_about(state.anchors[:, None], motion[..., :3], shift=motion[..., 3:])
        change = given.proprio_change[..., proprio_slot_index(state.robot, slots=state.slots)]  # [b h q]
        return AnchorPrediction(
            actions=actions,
            motion=AnchorMotion(poses, log_var),
            proprio=wrapped(state.proprio[:, None] + change, state.robot.proprio),
            reward=outcome[..., 0] * self.reward_scale,
            success=outcome[..., 1].sigmoid(),
            done=outcome[..., 2].sigmoid(),
        )

    @property
    def calibration(self) -> Tensor:
        """Shifts [horizon] of the log-variances of a chunk's steps at the present stride (a view)."""
        return self.log_var_shift.unflatten(0, (-1, self.config.horizon))[self.config.strides.index(self.stride)]

    def steps_of(self, num_frames: int, robot: RobotSpec) -> Steps:
        """The steps in which the denoiser takes so many frames."""
        seconds = robot.step_seconds or self.step_seconds
        return Steps.regular(num_frames, stride=self.stride, frame_seconds=seconds)

    # ---- advance and decode

    @torch.no_grad()
    def advance(self, state: GaussianState, prediction: AnchorPrediction, *, num_steps: int) -> GaussianState:
        """The state after `num_steps` of the prediction came true: Gaussians and anchors carried, the same ids."""
        return state.advanced(prediction, num_steps=num_steps, step_seconds=self.config.step_seconds)

    @torch.no_grad()
    def scene(self, state: GaussianState, prediction: AnchorPrediction) -> Scene4D:
        """Now and the predicted steps: known Gaussians carried, new ones where nobody looked; implements `Decodes`."""
        return state.scene(prediction.motion, new=self.unseen(state), step_seconds=self.config.step_seconds)

    @torch.no_grad()
    def unseen(self, state: GaussianState) -> AnchoredGaussians:
        """Gaussians [*b r] where nobody looked, on the anchors of the state; implements `ImaginesUnseen`."""
        flat, _, lead = flat_state(state, seeds=(0,))
        new = self.completion(self.scene_tokens(flat)).map(lambda x: x.reshape(*lead, *x.shape[1:]))
        weights = state.anchored.skin_weights
        skin = self.completion.skin(state.anchors.shape[-2], num_candidates=weights.shape[-1], like=weights)
        return state.anchored_new(new, skin=skin)

    # ---- powers

    def embed(self, state: GaussianState) -> tuple[Tensor, Tensor]:
        """Latent tokens [*b l c] and the places [*b l 3] of their anchors; implements `Embeds`."""
        return state.latent.tokens, state.anchors


def _log_var_between(log_var: Tensor, steps: Steps) -> Tensor:
    """Log-variances [b n l 6] of every frame, from those [b h l 6] of the steps' ends; deviations lie on lines."""
    return log_var if steps.single else 2 * steps.between((0.5 * log_var).exp()).log()

"""GaussianFlow: from an observation to a state, with actions to a prediction, and back to Gaussians."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scene4d.geometry.rotation import motion_about, pose_about
from scene4d.geometry.sh import rgb_from_sh
from scene4d.models.flow import Sampler, sample, seeded_noise
from scene4d.models.gaussian_flow.free_space import unseen_rows_of
from scene4d.models.gaussian_flow.networks.action_denoiser import ACTION_STEPS, ActionDenoiser, ActionEvidence
from scene4d.models.gaussian_flow.networks.completion import Completion
from scene4d.models.gaussian_flow.networks.dit import MOTION_CHANNELS, DiT
from scene4d.models.gaussian_flow.networks.skin_head import AnchorFeatures, SkinHead
from scene4d.models.gaussian_flow.settings import DynamicsConfig
from scene4d.models.gaussian_flow.state import GaussianState
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
from scene4d.world.carry import AnchorMotion
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
        codec: encodes and decodes; frozen here. channels: its latent channels, c. robot: that it learned from.
    Raises:
        ConfigError: the robot has more numbers than `config.slots`.
    """

    token_mean: Tensor
    token_std: Tensor
    reward_scale: Tensor
    log_var_shift: Tensor

    def __init__(
        self, codec: Codec, config: DynamicsConfig | None = None, *, channels: int, robot: RobotSpec = NO_ROBOT
    ):
        config = config or DynamicsConfig()
        horizon, seconds = config.horizon, config.step_seconds
        super().__init__(codec, channels=channels, horizon=horizon, robot=robot, step_seconds=seconds)
        self.config = config
        slots, text = config.slots, config.text
        slots.check(robot)
        self.proprio = ProprioForecast(config.proprio, slots=slots, text=text)
        width = config.proprio.width
        self.denoiser = DiT(config.dit, channels=channels, proprio_width=width, slots=slots, text=text)
        self.skin = SkinHead(config.skin, channels=channels)
        self.intent = ActionDenoiser(config.intent, channels=channels, horizon=config.horizon, slots=slots, text=text)
        self.completion = Completion(config.completion, channels=channels)
        self.register_buffer("log_var_shift", torch.zeros(config.horizon))  # see `calibrate`

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
        actions = flat_steps(actions, lead, name="actions", tail=(-1,), horizon=self.config.horizon)
        return unflat(self._predicted(flat, actions, seeds=seeds), lead)

    @torch.no_grad()
    def actions_for(self, state: GaussianState, future: Tensor, *, seeds: Sequence[int] = (0,)) -> AnchorPrediction:
        """Actions that bring about `future` [*b h l 7], the motion of the anchors since now; implements `Inverts`."""
        flat, seeds, lead = flat_state(state, seeds)
        tail = (flat.anchors.shape[1], 7)
        future = flat_steps(future, lead, name="future", tail=tail, horizon=self.config.horizon)
        motion = self.scale.normalize(motion_about(flat.anchors[:, None], future))
        actions = self._own_actions(flat, motion=motion, num_steps=future.shape[1], seeds=seeds)
        predicted = self._predicted(flat, actions, seeds=seeds)
        return unflat(predicted.replace(motion=predicted.motion.replace(world_from_now=future)), lead)

    @torch.no_grad()
    def propose(self, state: GaussianState, *, seeds: Sequence[int] = (0,)) -> AnchorPrediction:
        """Actions that the demonstrations' robot would take, and what they do; implements `Proposes`."""
        flat, seeds, lead = flat_state(state, seeds)
        actions = self._own_actions(flat, motion=None, num_steps=self.config.horizon, seeds=seeds)
        return unflat(self._predicted(flat, actions, seeds=seeds), lead)

    @torch.no_grad()
    def draw_motion(
        self, noise: Tensor, *, scene: SceneTokens, given: RobotCondition, steps: int
    ) -> tuple[Tensor, MotionEstimate]:
        """Motion [b h l 6] of the anchors in rad and m from noise of that shape, and what the denoiser says of it.

        What rests has motion 0: see `moving_anchors`.
        """
        estimates: list[MotionEstimate] = []

        def clean(x: Tensor, levels: Tensor) -> Tensor:
            num, scale = PART if x.device.type == "cpu" else len(x), self.scale.scale
            parts = [slice(i, i + num) for i in range(0, len(x), num)]
            each = [self.denoiser(x[p], levels[p], scene=scene[p], given=given[p], scale=scale) for p in parts]
            estimates.append(each[0] if len(each) == 1 else MotionEstimate.cat(each))
            return estimates[-1].motion

        x = sample(clean, noise, steps=steps)
        # How sure it is, it says before it has seen its own guess: later steps take that for evidence.
        estimate = estimates[-1].replace(log_var=estimates[0].log_var, gate=estimates[0].gate)
        thresholds = self.config.starting_threshold, self.config.moving_threshold
        moves = moving_anchors(estimate.gate, past=scene.past, thresholds=thresholds)
        return self.scale.denormalize(x * moves[..., None]), estimate

    def _own_actions(
        self, state: GaussianState, *, motion: Tensor | None, num_steps: int, seeds: Sequence[int]
    ) -> Tensor:
        """Actions [b h a] of states [b], for a scaled motion [b h l 6] or of the robot's own choice."""
        scene = self.scene_tokens(state)
        other = [seed + ACTION_DRAW for seed in seeds]  # or actions and motion would draw the same numbers
        actions = self.intent.draw(
            seeded_noise(other, (num_steps, state.slots.num_actions), like=scene.anchors),
            given=ActionEvidence(scene, state.track, state.task_vector, motion),
            steps=ACTION_STEPS * self.sampler_steps,
        )
        return from_action_slots(actions, state.robot, proprio=state.proprio, slots=state.slots)

    def _predicted(self, state: GaussianState, actions: Tensor, *, seeds: Sequence[int]) -> AnchorPrediction:
        """What actions [b h a] do in states [b]."""
        scene, num_steps = self.scene_tokens(state), actions.shape[1]
        slots = action_slots(actions, state.robot, proprio=state.proprio, slots=state.slots)
        given = self.proprio.condition(slots, track=state.track, task=state.task_vector)
        # A shorter chunk draws what the whole one would, so that stepping through it gives the same.
        shape = (self.config.horizon, scene.anchors.shape[1], MOTION_CHANNELS)
        noise = seeded_noise(seeds, shape, like=scene.anchors)[:, :num_steps]
        motion, denoised = self.draw_motion(noise, scene=scene, given=given, steps=self.sampler_steps)
        shift = self.scale.scale[:num_steps].log()
        log_var = denoised.log_var + (2 * shift + self.log_var_shift[:num_steps, None])[:, None]
        poses = pose_about(state.anchors[:, None], motion[..., :3], shift=motion[..., 3:])
        change = given.proprio_change[..., proprio_slot_index(state.robot, slots=state.slots)]  # [b h q]
        return AnchorPrediction(
            actions=actions,
            motion=AnchorMotion(poses, log_var),
            proprio=wrapped(state.proprio[:, None] + change, state.robot.proprio),
            reward=denoised.outcome[..., 0] * self.reward_scale,
            success=denoised.outcome[..., 1].sigmoid(),
            done=denoised.outcome[..., 2].sigmoid(),
        )

    # ---- advance and decode

    @torch.no_grad()
    def advance(self, state: GaussianState, prediction: AnchorPrediction, *, num_steps: int) -> GaussianState:
        """The state after `num_steps` of the prediction came true: Gaussians and anchors carried, the same ids."""
        return state.advanced(prediction, num_steps=num_steps, step_seconds=self.config.step_seconds)

    @torch.no_grad()
    def scene(self, state: GaussianState, prediction: AnchorPrediction) -> Scene4D:
        """Now and the predicted steps: known Gaussians carried, new ones where nobody looked; implements `Decodes`."""
        flat, _, lead = flat_state(state, seeds=(0,))
        new = self.completion(self.scene_tokens(flat)).map(lambda x: x.reshape(*lead, *x.shape[1:]))
        weights = state.anchored.skin_weights
        skin = self.completion.skin(state.anchors.shape[-2], num_candidates=weights.shape[-1], like=weights)
        return state.scene(prediction.motion, new=new, new_skin=skin, step_seconds=self.config.step_seconds)

    # ---- powers

    def embed(self, state: GaussianState) -> tuple[Tensor, Tensor]:
        """Latent tokens [*b l c] and the places [*b l 3] of their anchors; implements `Embeds`."""
        return state.latent.tokens, state.anchors

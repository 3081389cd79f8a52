"""RSSM: the scene as a recurrent belief, whose imagined future moves the anchors of what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scene4d.geometry.rotation import pose_about
from scene4d.models.flow import seeded_noise
from scene4d.models.proprio import ProprioForecast
from scene4d.models.rssm.belief import Belief, BeliefNetwork, RSSMConfig
from scene4d.models.tokens.anchor_model import STEP_SECONDS, AnchorModel
from scene4d.models.tokens.anchored_state import AnchoredState, AnchorPrediction
from scene4d.models.tokens.latent import Codec
from scene4d.models.tokens.motion_estimate import moving_anchors
from scene4d.robot.actions import action_slots
from scene4d.robot.slots import proprio_slot_index
from scene4d.robot.spec import RobotSpec
from scene4d.world.carry import AnchorMotion
from scene4d.world.flat_batches import flat_state, flat_steps, unflat
from scene4d.world.observation import Observation


@dataclass(frozen=True)
class RSSMState(AnchoredState):
    """The Gaussians of now on their anchors, features [*b l w] of these, and the belief [*b]."""

    features: Tensor = field(default_factory=lambda: torch.zeros(0))
    belief: Belief = field(default_factory=lambda: Belief(torch.zeros(0), torch.zeros(0)))


class RSSMWorldModel(AnchorModel):
    """Predicts by imagining beliefs; implements `WorldModel`, `Decodes`, `MovesAnchors` and `Embeds`."""

    def __init__(self, codec: Codec, config: RSSMConfig, *, channels: int, robots: tuple[RobotSpec, ...]):
        super().__init__(codec, channels=channels, horizon=config.horizon, robots=robots, step_seconds=STEP_SECONDS)
        for robot in robots:
            config.slots.check(robot)
        self.config, self.network = config, BeliefNetwork(config, channels=channels)
        self.proprio = ProprioForecast(config.proprio, slots=config.slots, text=config.text)

    @torch.no_grad()
    def observe(self, observation: Observation, *, state: RSSMState | None = None) -> RSSMState:
        """The state [] now; a given `state` is replaced. Raises as `AnchoredState.observed`."""
        c = self.config
        new, _ = RSSMState.observed(
            observation,
            codec=self.codec,
            anchors=c.anchors,
            num_past=c.proprio.num_past,
            slots=c.slots,
            text=c.text,
            spec=self.spec,
        )
        return self._believed(new.map(lambda x: x[None]))[0]

    @torch.no_grad()
    def predict(self, state: RSSMState, *, actions: Tensor, seeds: Sequence[int] = (0,)) -> AnchorPrediction:
        """The next h <= horizon steps of states [*b] under actions [*b h a]; implements `WorldModel`."""
        (flat, seeds, lead), c, scale = flat_state(state, seeds), self.config, self.scale.scale
        actions = flat_steps(actions, lead, name="actions", tail=(-1,), horizon=c.horizon)
        scene, num_steps = self.scene_tokens(flat), actions.shape[1]
        slots = action_slots(actions, flat.robot, proprio=flat.proprio, slots=c.slots)
        given = self.proprio.condition(slots, track=flat.track, task=flat.task_vector)
        # A shorter chunk draws what the whole one would, so that stepping through it gives the same.
        noise = seeded_noise(seeds, (c.horizon, *c.latent), like=actions)[:, :num_steps]
        beliefs, _, _ = self.network.imagine(flat.belief, given, noise=noise)
        estimate = self.network.decode(scene, flat.features, beliefs=beliefs, given=given, scale=scale)
        moves = moving_anchors(estimate.gate, past=scene.past, thresholds=c.moving_thresholds)
        motion = self.scale.denormalize(estimate.motion) * moves[..., None]
        poses = pose_about(flat.anchors[:, None], motion[..., :3], shift=motion[..., 3:])
        change = given.proprio_change[..., proprio_slot_index(flat.robot, slots=c.slots)]
        prediction = AnchorPrediction(
            actions=actions,
            motion=AnchorMotion(poses, estimate.log_var + 2 * scale[:num_steps, None].log()),
            proprio=flat.proprio[:, None] + change,
            reward=estimate.outcome[..., 0] * self.reward_scale,
            success=estimate.outcome[..., 1].sigmoid(),
            done=estimate.outcome[..., 2].sigmoid(),
        )
        return unflat(prediction, lead)

    @torch.no_grad()
    def advance(self, state: RSSMState, prediction: AnchorPrediction, *, num_steps: int) -> RSSMState:
        """The state after `num_steps` of the prediction came true: what was imagined is looked at as if seen."""
        later = state.advanced(prediction, num_steps=num_steps, step_seconds=self.step_seconds)
        flat, _, lead = flat_state(later, seeds=(0,))
        return unflat(self._believed(flat), lead)

    def embed(self, state: RSSMState) -> tuple[Tensor, Tensor]:
        """Features [*b l w] and the places [*b l 3] of their anchors; implements `Embeds`."""
        return state.features, state.anchors

    def _believed(self, state: RSSMState) -> RSSMState:
        """States [b] with the likeliest belief of what they hold."""
        scene, track, c = self.scene_tokens(state), state.track, self.config
        features = self.network.encode(scene, track.proprio[:, -1, :3])
        noise = features.new_full((len(features), *c.latent), -torch.inf)
        belief = self.network.believe(scene, features, track=track, task=state.task_vector, noise=noise)
        return state.replace(features=features, belief=belief)

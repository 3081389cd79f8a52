"""The state that families on the Gaussian VAE's tokens share: known Gaussians on anchors, and the robot's track."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from scene4d.errors import ConfigError, DataFormatError, ShapeError
from scene4d.geometry.rotation import apply_pose, compose_pose, identity_pose, invert_pose
from scene4d.geometry.sh import rgb_from_sh
from scene4d.models.tokens.anchors import AnchorConfig, focus_of, on_anchors
from scene4d.models.tokens.latent import Codec, Latent
from scene4d.robot.slots import Slots
from scene4d.robot.track import Track, track_in_slots, track_of
from scene4d.text.task_vectors import TextEncoding, task_vector
from scene4d.types import Gaussians
from scene4d.world.carry import AnchoredGaussians, AnchorMotion
from scene4d.world.contract import Prediction, State, WorldModelSpec, put
from scene4d.world.current import PAST_FLOW, memory_of
from scene4d.world.observation import Observation


@dataclass(frozen=True, kw_only=True)
class AnchorPrediction(Prediction):
    """The motion of the state's anchors since now, beside what every prediction has."""

    motion: AnchorMotion

    @property
    def world_from_now(self) -> Tensor:
        """Rigid motion of the anchors since now, [*b h l 7]."""
        return self.motion.world_from_now


@dataclass(frozen=True)
class AnchoredState(State):
    """The Gaussians of now on their anchors, the anchors' tokens, and how the robot got here. Batch axes `*b`.

    anchored: Gaussians [*b n] and anchors [*b l]; recent [*b 3 l 7]: poses of the anchors at the last three steps
    against now, oldest first; latent [*b l c]; anchor_rgb [*b l 3].
    past_actions [*b p a], past_proprio [*b p q] before now, past_valid [*b p]; task_vector [*b 32], by the model's
    encoding of texts; slots: of the model.
    """

    anchored: AnchoredGaussians
    recent: Tensor
    latent: Latent
    anchor_rgb: Tensor
    past_actions: Tensor
    past_proprio: Tensor
    past_valid: Tensor
    task_vector: Tensor
    slots: Slots

    @classmethod
    def observed(
        cls,
        observation: Observation,
        *,
        codec: Codec,
        anchors: AnchorConfig,
        num_past: int,
        slots: Slots,
        text: TextEncoding,
        spec: WorldModelSpec,
    ) -> tuple[Self, Tensor]:
        """The state [] of a model with this spec, and the past motion [l 6] of its anchors.

        Raises:
            DataFormatError: there is no scene. GaussianError: nothing in it exists now.
            ConfigError: the observation is of another robot than the model's, or of one that does not fit its slots.
        """
        if observation.scene is None:
            raise DataFormatError("has no scene", field="observation.scene", fix="reconstruct one, or stream it")
        scene = observation.scene
        if found := scene.batch_shape:
            raise ShapeError("observe takes one scene", field="scene", found=found, expected="no batch axes")
        robot = spec.robot_of(observation)
        slots.check(robot)
        memory = memory_of(scene, memory=observation.memory)
        track = track_of(observation.actions, observation.proprio, num_past=num_past)
        proprio = track.proprio[-1]
        anchored, index, past = on_anchors(memory, focus=focus_of(memory, proprio, robot=robot), config=anchors)
        latent, _ = codec.encode(memory, anchors=index)
        state = cls(
            time=scene.times[-1].double(),
            proprio=proprio,
            robot=robot,
            anchored=anchored,
            recent=past_poses(past),
            latent=latent.replace(ids=memory.ids[index]),
            anchor_rgb=rgb_from_sh(memory.sh)[index],
            past_actions=track.actions,
            past_proprio=track.proprio[:-1],
            past_valid=track.valid,
            task_vector=task_vector(observation.task, text=text).to(memory.means),
            slots=slots,
        )
        return state, past

    @property
    def gaussians(self) -> Gaussians:
        """The memory [*b n] now."""
        return self.anchored.gaussians

    @property
    def anchors(self) -> Tensor:
        """Places of the anchors now, [*b l 3] m."""
        return self.anchored.anchors

    @property
    def anchor_past(self) -> Tensor:
        """Motion of the anchors [*b l 6] m over the last step, and over the one before."""
        was, before = (apply_pose(self.recent[..., step, :, :], self.anchors) for step in (-2, -3))
        return torch.cat([self.anchors - was, was - before], -1)

    @property
    def track(self) -> Track:
        """How the robot got to now, in slots."""
        proprio = torch.cat([self.past_proprio, self.proprio[..., None, :]], -2)
        return track_in_slots(Track(self.past_actions, proprio, self.past_valid), self.robot, slots=self.slots)

    def skinned(self, weights: Tensor) -> Self:
        """The state whose rows follow their candidates by these weights [*b n j]."""
        return self.replace(anchored=self.anchored.replace(skin_weights=weights))

    def advanced(self, prediction: AnchorPrediction, *, num_steps: int, step_seconds: float) -> Self:
        """The state after `num_steps` of the prediction came true: Gaussians and anchors carried, the same ids.

        Args:
            step_seconds: of a robot that does not say.
        """
        if not 1 <= num_steps <= prediction.num_steps:
            raise ShapeError("no such step", field="num_steps", found=num_steps, expected=f"1..{prediction.num_steps}")
        poses = torch.cat([self.recent[..., -2:, :, :], prediction.world_from_now], -3)  # [*b 2+h l 7], two till now
        recent = poses[..., num_steps - 1 : num_steps + 2, :, :]  # [*b 3 l 7], now last
        now = recent[..., -1, :, :]
        done = prediction.actions[..., :num_steps, :]
        ahead = prediction.robot_states[..., :num_steps, :]
        proprio = torch.cat([self.past_proprio, self.proprio[..., None, :], ahead], -2)[..., num_steps:, :]
        valid = torch.cat([self.past_valid, torch.ones_like(done[..., 0], dtype=torch.bool)], -1)
        anchors = apply_pose(now, self.anchors)
        recent = torch.stack([compose_pose(pose, invert_pose(now)) for pose in recent.unbind(-3)], -3)
        return self.replace(
            time=self.time + num_steps * (self.robot.step_seconds or step_seconds),
            proprio=proprio[..., -1, :],
            anchored=self.anchored.replace(gaussians=_carried(self.anchored, recent=recent, now=now), anchors=anchors),
            recent=recent,
            latent=self.latent.replace(anchors=anchors),
            past_actions=torch.cat([self.past_actions, done], -2)[..., num_steps:, :],
            past_proprio=proprio[..., :-1, :],
            past_valid=valid[..., num_steps:],
        )

    def put(self, rows: Tensor, new: Any) -> Self:
        """A state [b] with the elements that `rows` [r] names replaced by `new` [r], filled up to as many Gaussians."""
        num_rows = max(self.gaussians.num_gaussians, new.gaussians.num_gaussians)
        old = self.replace(anchored=self.anchored.padded(num_rows))
        return put(old, rows, new=new.replace(anchored=new.anchored.padded(num_rows)))

    @classmethod
    def stack(cls, items: Sequence[Any], dim: int = 0) -> Self:
        """Stack states; those with fewer Gaussians are filled up with empty slots.

        Raises:
            ConfigError: their colours have different numbers of SH bases.
        """
        bases = [state.gaussians.sh.shape[-2] for state in items]
        if len(set(bases)) > 1:
            other = next(i for i, num in enumerate(bases) if num != bases[0])
            found, expected = (f"{num} bases" for num in (bases[other], bases[0]))
            problem, fix = "differs between start states", "make one simulator for each kind of recording"
            raise ConfigError(problem, field="sh", frame=other, found=found, expected=expected, fix=fix)
        return super().stack(items, dim)


def past_poses(past: Tensor) -> Tensor:
    """World-from-rest [3 l 7] at the two steps before now and now (rest = now), from past motion [l 6]."""
    now = identity_pose(past.shape[0], like=past)
    shifts = (-past[..., :3] - past[..., 3:], -past[..., :3], now[..., 4:])
    return torch.stack([torch.cat([now[..., :4], shift], -1) for shift in shifts])


def _carried(anchored: AnchoredGaussians, *, recent: Tensor, now: Tensor) -> Gaussians:
    """The Gaussians [*b n] carried by the motion `now` [*b l 7] of their anchors, with their past flow by `recent`."""
    before, was, last = (compose_pose(pose, now) for pose in recent.unbind(-3))
    moved, plain = anchored.moved(last), anchored.replace(gaussians=anchored.gaussians.replace(extras={}))
    places = [plain.moved(pose).means for pose in (before, was)]
    flow = torch.cat([moved.means - places[1], places[1] - places[0]], -1)
    exists = (anchored.gaussians.ids >= 0)[..., None].to(flow)  # 0 for empty slots
    return moved.replace(extras={**moved.extras, PAST_FLOW: flow * exists})

"""Each ablation takes out one part and nothing else."""

from __future__ import annotations

import pytest
import torch
from box_scene import Box, cast_boxes
from world_model_laws import WorldModelLaws

from scene4d.eval.forecast.checks.ablations import (
    LAST_FRAMES,
    LastFrames,
    Regenerated,
    WithoutDecoding,
    WithoutMemory,
    WithoutTransport,
)
from scene4d.eval.forecast.forecasters.model_forecaster import ModelForecaster
from scene4d.eval.forecast.forecasters.past_stream import PastStream
from scene4d.eval.forecast.window_scores import past_of
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.lift.stream.stream import StreamConfig
from scene4d.models.gaussian_flow.state import GaussianState
from scene4d.models.tokens.anchored_state import AnchorPrediction, past_poses
from scene4d.models.tokens.latent import Latent
from scene4d.robot.slots import USUAL_SLOTS
from scene4d.robot.spec import RobotSpec
from scene4d.robot.track import track_of
from scene4d.scene import Scene4D
from scene4d.types import Cameras, Episode, Frames, Gaussians
from scene4d.world.carry import AnchoredGaussians, AnchorMotion, later_times, scene_of_motion
from scene4d.world.contract import WorldModelSpec
from scene4d.world.current import memory_of
from scene4d.world.evaluated import ForecastQuestion
from scene4d.world.flat_batches import flat_state, flat_steps, unflat
from scene4d.world.observation import Observation

PLAIN = StreamConfig(polish=0, polish_first=0)
SHIFT = 0.05
"""Metres along x that everything moves every step in the stub's forecast."""
TOKEN = torch.tensor([-0.05, 0.0, 0.05])
"""Where its only token is."""


class StubModel:
    """Moves every row along x, by the first action too; decodes a red Gaussian at the token, adds one to the memory."""

    spec = WorldModelSpec(4, 0.025, (RobotSpec.from_info({}),))

    @property
    def codec(self):
        return self

    def observe(self, observation, *, state=None):
        memory = memory_of(observation.scene, memory=observation.memory)
        track = track_of(observation.actions, observation.proprio, num_past=2)
        skin = torch.zeros(memory.num_gaussians, 1, dtype=torch.int64), torch.ones(memory.num_gaussians, 1)
        return GaussianState(
            time=observation.scene.times[-1].double(),
            proprio=observation.proprio[-1],
            robot=self.spec.robot_of(observation),
            anchored=AnchoredGaussians(memory, TOKEN[None], *skin),
            recent=past_poses(torch.zeros(1, 6)),
            latent=self._latent(TOKEN[None]),
            anchor_rgb=torch.zeros(1, 3),
            unseen_rows=torch.ones(1, dtype=torch.bool),
            past_actions=track.actions,
            past_proprio=track.proprio[:-1],
            past_valid=track.valid,
            task_vector=torch.zeros(32),
            slots=USUAL_SLOTS,
        )

    def predict(self, state, *, actions, seeds=(0,)):
        flat, _, lead = flat_state(state, seeds)
        actions = flat_steps(actions, lead, name="actions", tail=(-1,), horizon=self.spec.horizon)
        shift = (SHIFT + 0.01 * actions[..., :1]).cumsum(1)  # [b h 1]
        poses = torch.nn.functional.pad(torch.cat([torch.ones_like(shift), shift], -1), (0, 2))  # [b h 4]
        poses = torch.cat([poses[..., :1], torch.zeros_like(poses[..., 1:]), poses[..., 1:]], -1)[..., None, :]
        proprio = flat.proprio[:, None].expand(-1, actions.shape[1], -1)
        return unflat(AnchorPrediction(actions=actions, proprio=proprio, motion=AnchorMotion(poses)), lead)

    def advance(self, state, prediction, *, num_steps):
        return state.advanced(prediction, num_steps=num_steps, step_seconds=0.025)

    def scene(self, state, prediction):
        axis, memory = len(state.batch_shape), state.gaussians
        extra = memory.map(lambda x: x.narrow(axis, memory.num_gaussians - 1, 1))
        rows = Gaussians.cat([memory, extra.replace(ids=memory.ids.amax(-1, keepdim=True) + 1)], axis)
        index = torch.zeros(*rows.ids.shape, 1, dtype=torch.int64)
        now = AnchoredGaussians(rows, state.anchors, index, torch.ones(index.shape))
        times = later_times(state.time, num_steps=prediction.num_steps, step_seconds=state.robot.step_seconds)
        return scene_of_motion(now, prediction.motion, times=times)

    def decode(self, latent):
        num = latent.anchors.shape[-2]
        red = torch.tensor([1.7, -1.7, -1.7]).expand(num, 1, 3)
        turns = torch.tensor([1.0, 0, 0, 0]).expand(num, 4)
        return Gaussians(latent.anchors, turns, torch.full((num, 3), 0.03), torch.full((num,), 0.95), red)

    def _latent(self, anchors):
        lead = anchors.shape[:-1]
        turns = torch.tensor([1.0, 0, 0, 0]).expand(*lead, 4)
        ids = torch.zeros(lead, dtype=torch.int64)
        return Latent(torch.zeros(*lead, 2), anchors, turns, ids == 0, ids)


def episode(num_frames: int = 6, *, box_from: int = 0) -> Episode:
    """A ground with a box that is there from frame `box_from` on."""
    cameras = Cameras(
        viewmats=look_at(torch.tensor([0.0, -0.9, 0.6]), torch.tensor([-0.05, 0.0, 0.05])),
        Ks=intrinsics_from_fov(0.7, width=32, height=32),
        width=32,
        height=32,
    )
    boxes = (Box((-0.15, -0.05, 0.0), (-0.03, 0.07, 0.12)),)
    frames = [cast_boxes(cameras, boxes=boxes if t >= box_from else (), wavelength=50.0) for t in range(num_frames)]
    return Episode(
        views={"left": Frames.stack(frames)},
        times=0.025 * torch.arange(num_frames, dtype=torch.float64),
        valid=torch.ones(num_frames, dtype=torch.bool),
        actions=torch.zeros(num_frames, 4),
        proprio=torch.zeros(num_frames, 4),
        segment_poses=torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).repeat(num_frames, 2, 1),
        info={"task": "rest", "seed": 0},
    )


class TestStubModel(WorldModelLaws):
    """The laws hold for the stub, so that what an ablation is shown to take out is taken out of a world model."""

    markov = True

    def make_model(self):
        return StubModel()

    def make_observation(self, kind: int = 0):
        past = past_of(episode(), 4 + kind, inputs=("left",))
        known = PastStream(("left",), config=PLAIN).remember(past)
        return Observation.from_episode(past, scene=known.scene, memory=known.memory, inputs=("left",))


@pytest.fixture
def asked():
    """A stream and a question about a past."""
    past = past_of(episode(), 5, inputs=("left",))
    cameras = {"left": episode().views["left"].cameras[:2]}
    question = ForecastQuestion(past, torch.zeros(4, 4), cameras=cameras, steps=(1, 4))
    return PastStream(("left",), config=PLAIN), question


def moved(scene: Scene4D) -> torch.Tensor:
    return scene.flow(float(scene.times[0]), float(scene.times[-1]))[0]


def test_transport_alone_is_taken_out(asked):
    stream, question = asked
    whole = ModelForecaster(StubModel(), stream).forecast(question)[1]
    without = WithoutTransport(StubModel(), stream).forecast(question)[1]
    torch.testing.assert_close(moved(whole)[:, 0], torch.full((whole.base.num_gaussians,), 4 * SHIFT))
    assert not moved(without).any() and without.base.num_gaussians == whole.base.num_gaussians


def test_decoding_alone_is_taken_out(asked):
    stream, question = asked
    whole = ModelForecaster(StubModel(), stream).forecast(question)[1]
    without = WithoutDecoding(StubModel(), stream).forecast(question)[1]
    assert without.base.num_gaussians == whole.base.num_gaussians - 1 and bool((moved(without)[:, 0] > 0.19).all())


def test_regenerated_shows_the_tokens_alone(asked):
    stream, question = asked
    frames, scene = Regenerated(StubModel(), stream).forecast(question)
    column = (frames["left"].alpha.sum(-2) * torch.arange(32)).sum(-1) / frames["left"].alpha.sum((-2, -1))
    assert scene is None and float(frames["left"].alpha.mean()) < 0.2  # one Gaussian, no ground
    assert column[1] > column[0] + 3  # and it goes where its token goes


def test_without_memory_only_the_last_frames_are_known():
    """Ground that a box has covered for as long as the last frames reach is known to who remembers it bare."""
    recording = episode(num_frames=8, box_from=8 - LAST_FRAMES)
    past = past_of(recording, 7, inputs=("left",))
    long, short = PastStream(("left",), config=PLAIN), LastFrames(("left",), config=PLAIN)
    at = lambda g: (g.means - torch.tensor([-0.09, 0.03, 0.0])).abs()
    under = lambda g: int((at(g) < torch.tensor([0.03, 0.03, 0.005])).all(-1).sum())
    assert under(long.remember(past).memory) > 3 and under(short.remember(past).memory) == 0
    cameras = {"left": recording.views["left"].cameras[:1]}
    question = ForecastQuestion(past, torch.zeros(2, 4), cameras=cameras, steps=(1,))
    frames, scene = WithoutMemory(StubModel(), long).forecast(question)
    assert scene is None and frames["left"].batch_shape == (1,)

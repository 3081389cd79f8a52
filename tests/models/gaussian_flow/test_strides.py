"""Steps of several lengths, and futures of which a part is known."""

from __future__ import annotations

import dataclasses

import pytest
import small_world
import torch
from test_dynamics_training import batch_of
from world_model_laws import WorldModelLaws

from scene4d.errors import ConfigError
from scene4d.geometry.rotation import apply_pose
from scene4d.models.gaussian_flow.loss import LossConfig, loss
from scene4d.models.gaussian_flow.motion.known_future import drawn_known, of_one_object
from scene4d.models.gaussian_flow.motion.rollout_training import rolled_out
from scene4d.models.instants import Steps
from scene4d.models.tokens.token_windows import at_steps


def flexible(**settings):
    """A model that takes steps of 1, 2 and 4 frames, and knows parts of futures."""
    model = small_world.world_model(strides=(1, 2, 4), timed=True, known_futures=True, **settings)
    model.robots = (small_world.ROBOT,)
    with torch.no_grad():  # over many frames a hand with random habits would fly away
        for parameter in model.proprio.parameters():
            parameter.mul_(0.1)
    return model


class TestLongSteps(WorldModelLaws):
    """The laws hold for steps of four frames, step by step."""

    step_frames = 4

    def make_model(self):
        return flexible().with_stride(4)

    def make_observation(self, kind: int = 0):
        known = small_world.observation(small_world.block_scene(num_floor=160 if kind == 0 else 120))
        return known if kind == 0 else known.replace(proprio=known.proprio + 0.01)

    def test_a_known_future_is_kept_and_actions_are_found_for_it(self, model, state):
        """At the ends of the steps that it is known of, as far as a chunk of actions reaches."""
        ahead = (4, 8, 12, 16)
        future = model.predict(state, actions=self.actions(model)).world_from_now[[a - 1 for a in ahead]]
        found = model.actions_for(state, future, ahead=ahead, seeds=(1,))
        assert torch.equal(found.world_from_now[[a - 1 for a in ahead]], future)
        assert found.actions.shape == (16, 4)
        with pytest.raises(ConfigError, match="too far ahead"):
            model.actions_for(state, future, ahead=(8, 16, 24, 32))


@pytest.fixture
def model():
    return flexible()


@pytest.fixture
def state(model):
    return model.observe(small_world.observation(small_world.block_scene()))


def actions(num: int) -> torch.Tensor:
    return 2 * torch.rand(num, 4, generator=torch.Generator().manual_seed(0)) - 1


def test_a_long_step_shares_its_weights_and_reaches_farther(model, state):
    far = model.with_stride(4)
    assert model.spec.horizon == 8 and far.spec.horizon == 32
    assert all(a is b for a, b in zip(model.parameters(), far.parameters(), strict=True))
    scene = far.scene(state, far.predict(state, actions=actions(32)))
    assert float(scene.times[-1] - scene.times[0]) == pytest.approx(32 * 0.025)
    with pytest.raises(ConfigError, match="1 or 2 or 4 frames"):
        model.with_stride(3)


def test_the_hand_is_foreseen_frame_by_frame_whatever_the_step(model, state):
    one, four = (m.predict(state, actions=actions(8)) for m in (model, model.with_stride(4)))
    torch.testing.assert_close(one.proprio, four.proprio)


def test_several_lengths_need_to_be_told(model):
    with pytest.raises(ConfigError, match="timed"):
        dataclasses.replace(small_world.CONFIG, strides=(1, 2))
    with pytest.raises(ConfigError, match="strides"):
        dataclasses.replace(small_world.CONFIG, strides=(1, 1))


def test_what_is_known_of_a_future_is_kept_and_the_rest_follows_it(model, state):
    """One object's motion is given: it is kept to the bit; what is not known hangs on it and on the seed."""
    ahead = (2, 4, 6, 8)
    base = model.with_stride(2).predict(state, actions=actions(8)).world_from_now[[1, 3, 5, 7]]
    known = torch.zeros(4, base.shape[1], dtype=torch.bool)
    known[:, ::2] = True
    other = base.clone()
    other[..., 4] += 0.2
    found = [
        model.motion_given(state, f, known=known, ahead=ahead, seeds=(s,)).world_from_now
        for f, s in ((base, 1), (other, 1), (base, 2))
    ]
    ends = [f[[1, 3, 5, 7]] for f in found]
    assert torch.equal(ends[0][known], base[known]) and torch.equal(ends[1][known], other[known])
    assert not torch.allclose(ends[0][~known], ends[1][~known]), "the rest does not hang on what is known"
    assert not torch.allclose(ends[0][~known], ends[2][~known]), "the rest does not hang on the seed"


def test_no_actions_are_not_the_same_as_actions_of_zero(model, state):
    future = torch.zeros(8, state.anchors.shape[0], 7)
    none = torch.zeros(future.shape[:-1], dtype=torch.bool)
    ways = [model.motion_given(state, future, known=none, actions=a).world_from_now for a in (None, torch.zeros(8, 4))]
    assert not torch.allclose(*ways)


def test_a_goal_gives_actions_for_every_frame_until_it(model, state):
    future = torch.zeros(1, state.anchors.shape[0], 7)
    future[..., 0] = 1.0
    future[..., 4] = 0.05
    known = torch.ones(future.shape[:-1], dtype=torch.bool)
    found = model.actions_for(state, future, known=known, ahead=(12,), seeds=(3,))
    assert found.actions.shape == (12, 4) and torch.equal(found.world_from_now[11], future[0])
    moved = future.clone()
    moved[..., 4] = -0.05
    assert not torch.allclose(
        model.actions_for(state, moved, known=known, ahead=(12,), seeds=(3,)).actions, found.actions
    )


def test_parts_need_a_model_that_learned_from_them():
    model = small_world.world_model()
    state = model.observe(small_world.observation(small_world.block_scene()))
    future = torch.zeros(8, state.anchors.shape[0], 7)
    with pytest.raises(ConfigError, match="known_futures"):
        model.actions_for(state, future, known=torch.ones(future.shape[:-1], dtype=torch.bool))


def test_parts_that_are_shown_in_training():
    """An object is what moves rigidly together; a goal is the last step alone."""
    torch.manual_seed(0)
    anchors = torch.rand(64, 10, 3)
    motion = torch.zeros(64, 8, 10, 6)
    motion[:, :, :4, 3] = 0.1 * torch.arange(1.0, 9.0)[:, None]
    motion[:, :, 4:6, 4] = -0.1 * torch.arange(1.0, 9.0)[:, None]
    moving = motion[..., 3:].norm(dim=-1) > 0
    group = of_one_object(motion[:, -1], anchors, moving=moving.any(1))
    kinds = {tuple(row.nonzero()[:, 0].tolist()) for row in group}
    assert kinds == {(0, 1, 2, 3), (4, 5)}
    shown = drawn_known(motion, anchors, moving=moving)
    all_of, last = shown.all((1, 2)), shown[:, -1].all(1) & ~shown[:, :-1].any((1, 2))
    objects = (shown == shown[:, :1]).all((1, 2)) & ~all_of
    assert all_of.any() and last.any() and objects.any()
    assert {tuple(row.nonzero()[:, 0].tolist()) for row in shown[objects][:, 0]} == kinds


def test_training_on_long_steps_and_parts_teaches_every_weight(model):
    """Windows whose truth is that of every instant; any steps of them are learned from."""
    torch.manual_seed(0)
    batch = batch_of(small_world, model, [0.01, -0.01], num_frames=32)
    config = LossConfig(shown_futures=1.0, absent_actions=0.5)
    for steps in (Steps.regular(8, stride=1), Steps.regular(32, stride=4), Steps((1, 2, 4, 8, 12, 16, 24, 32))):
        window = at_steps(batch, steps, instants=model.config.instants)
        assert window.motion.shape[1] == 8 and window.actions.shape[1] == steps.num_frames
        loss(model, window, config=config, steps=steps)[0].backward()
    silent = [name for name, p in model.denoiser.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_own_rollouts_of_long_steps_lead_to_the_same_truth(model):
    torch.manual_seed(0)
    batch = batch_of(small_world, model, [0.01, -0.015], num_frames=32)
    steps = Steps.regular(32, stride=4)
    window = at_steps(batch, steps, instants=model.config.instants)
    rolled, rest = rolled_out(model, window, steps=steps, num_steps=4)
    assert rest.ahead == (4, 8, 12, 16) and rolled.actions.shape[1] == 16
    ends = window.anchors[:, None] + window.motion[:, 4:, :, 3:]
    torch.testing.assert_close(rolled.anchors[:, None] + rolled.motion[..., 3:], ends, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        rolled.rows[:, None] + rolled.displacement, window.rows[:, None] + window.displacement[:, 4:], atol=1e-5, rtol=0
    )
    assert torch.equal(rolled.past_actions, window.actions[:, 8:16])
    last, before = rolled.anchor_past.split(3, -1)
    assert torch.equal(last, before) and last.any(), "within a step of several frames it goes on evenly"


def test_interpolated_frames_lie_between_the_ends(model, state):
    """A frame within a step is carried a share of the way, so nothing jumps where steps meet."""
    poses = model.with_stride(4).predict(state, actions=actions(32)).world_from_now
    places = apply_pose(poses, state.anchors.expand(32, -1, 3))
    jumps = torch.cat([state.anchors[None], places]).diff(dim=0).norm(dim=-1)
    for step in range(8):
        within = jumps[4 * step : 4 * step + 4]
        torch.testing.assert_close(within, within.mean(0).expand_as(within), atol=2e-3, rtol=0.3)

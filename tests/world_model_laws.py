"""Laws of every world model: a test class of a family inherits `WorldModelLaws` and says how to make one.

    class TestMyFamily(WorldModelLaws):
        def make_model(self): ...            # small, random weights, so that anchors move
        def make_observation(self, kind=0): ...   # two different ones, kind 0 and 1, of one robot

Powers that a model has (`world/capabilities.py`) are tested where it has them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.robot.spec import RobotSpec
from scene4d.tensor_struct import TensorStruct
from scene4d.world.capabilities import Decodes, Embeds, Inverts, MovesAnchors, Proposes, Renders, Samples
from scene4d.world.contract import Prediction, State
from scene4d.world.rollout import predict_long


def same(a: TensorStruct, b: TensorStruct, *, exact: bool = True) -> bool:
    """Whether all tensors of two structs are equal, or nearly."""
    pairs = list(zip(a.tensors(), b.tensors(), strict=True))
    near = lambda x, y: torch.equal(x, y) if exact else torch.allclose(x, y, atol=2e-5, rtol=1e-4)
    return bool(pairs) and all(x.shape == y.shape and near(x, y) for x, y in pairs)


class WorldModelLaws:
    """What holds for every implementation of `WorldModel`."""

    markov = False
    """Whether predicting on from the middle of a prediction gives its rest: true of models that keep no history."""

    step_frames = 1
    """Frames of a step of the model: what is predicted within a step hangs on all of its actions."""

    def make_model(self):
        """A small model in evaluation mode."""
        raise NotImplementedError

    def make_observation(self, kind: int = 0):
        """What is known at one moment; kind 0 and 1 differ, but are of one robot and give states that stack."""
        raise NotImplementedError

    def reloaded(self, model, folder):
        """The model written to a file and read again; None for one that is never stored."""
        return None

    @pytest.fixture
    def model(self):
        """The model."""
        return self.make_model()

    @pytest.fixture
    def state(self, model):
        """Its state of the first observation."""
        return model.observe(self.make_observation())

    def actions(self, model, *, num_steps: int | None = None, seed: int = 0) -> Tensor:
        """Actions [h a] of the robot, in [-1, 1]."""
        width = self.make_observation().actions.shape[-1]
        generator = torch.Generator().manual_seed(seed)
        return 2 * torch.rand(num_steps or model.spec.horizon, width, generator=generator) - 1

    # ---- observe

    def test_a_state_is_of_the_moment_that_was_observed(self, model, state):
        known = self.make_observation()
        assert isinstance(state, State) and state.batch_shape == ()
        assert torch.equal(state.proprio, known.proprio[-1])
        assert state.robot.difference(known.robot) is None
        assert model.spec.horizon >= 2 and model.spec.step_seconds > 0

    def test_observing_twice_gives_the_same_state(self, model, state):
        assert same(state, model.observe(self.make_observation()))

    def test_another_robot_is_refused_in_one_line(self, model):
        known = self.make_observation()
        width = known.actions.shape[-1] + 3
        joints = [{"name": f"joint{i}", "unit": "rad"} for i in range(width)]
        info = {**known.robot.as_info(), "action_spec": joints, "action_meaning": "absolute joint targets"}
        other = known.replace(actions=torch.zeros(len(known.actions), width), robot=RobotSpec.from_info(info))
        if not all(robot.action.known for robot in model.spec.robots):
            pytest.skip("the model does not say which robot it learned from")
        with pytest.raises(ConfigError, match="action_spec") as raised:
            model.observe(other)
        assert "\n" not in raised.value.line() and raised.value.found and raised.value.expected

    # ---- predict

    def test_a_prediction_has_a_row_a_step(self, model, state):
        actions = self.actions(model, num_steps=2)
        prediction = model.predict(state, actions=actions)
        assert isinstance(prediction, Prediction) and prediction.num_steps == 2
        assert torch.equal(prediction.actions, actions)
        for name in ("reward", "success", "done", "value"):
            values = getattr(prediction, name)
            assert values is None or values.shape == (2,)
        assert prediction.proprio is None or prediction.proprio.shape == (2, state.proprio.shape[-1])
        assert all(bool(x.isfinite().all()) for x in prediction.tensors())

    def test_actions_act_forwards_in_time_only(self, model, state):
        """Changing actions[s] leaves every prediction up to and including time s bit-equal, and changes a later one."""
        actions, step, horizon = self.actions(model), self.step_frames, model.spec.horizon
        before = model.predict(state, actions=actions, seeds=(5,))
        for s in sorted({step, horizon // (2 * step) * step, horizon - step}):
            changed = actions.clone()
            changed[s:] = -changed[s:]
            after = model.predict(state, actions=changed, seeds=(5,))
            # Index i is time now + 1 + i: actions[s] leads to index s.
            first, second = (p.replace(actions=actions).up_to(s) for p in (before, after))
            assert same(first, second)
        rest = [p.replace(actions=actions) for p in (before, after)]
        assert not same(*rest)

    def test_a_shorter_chunk_is_the_beginning_of_the_longer(self, model, state):
        actions = self.actions(model)
        num = 2 * self.step_frames
        whole, part = (model.predict(state, actions=a, seeds=(5,)) for a in (actions, actions[:num]))
        assert same(whole.up_to(num), part, exact=False)

    def test_the_same_seed_gives_the_same_bits(self, model, state):
        actions = self.actions(model)
        assert same(*(model.predict(state, actions=actions, seeds=(7,)) for _ in range(2)))

    def test_a_sample_depends_on_its_own_seed_and_state_alone(self, model, state):
        """Whatever stands beside it in the batch, and also alone."""
        other = model.observe(self.make_observation(1))
        actions = self.actions(model).expand(2, -1, -1)
        beside = [type(state).stack([state, x]) for x in (state, other)]
        one, two = (
            model.predict(s, actions=actions, seeds=(7, seed))[0] for s, seed in zip(beside, (8, 9), strict=True)
        )
        alone = model.predict(state, actions=actions[0], seeds=(7,))
        assert same(one, two, exact=False) and same(one, alone, exact=False)

    def test_one_seed_serves_a_whole_batch(self, model, state):
        actions = self.actions(model).expand(2, -1, -1)
        both = model.predict(state.expand(2), actions=actions, seeds=(3,))
        assert both.batch_shape == (2,) and same(both[0], both[1], exact=False)

    # ---- advance

    def test_advancing_goes_where_the_prediction_says(self, model, state):
        prediction = model.predict(state, actions=self.actions(model))
        later = model.advance(state, prediction, num_steps=2)
        assert float(later.time) == pytest.approx(float(state.time) + 2 * model.spec.step_seconds, rel=1e-3)
        if prediction.proprio is not None:
            torch.testing.assert_close(later.proprio, prediction.proprio[1])
        again = model.predict(later, actions=self.actions(model, num_steps=2, seed=1))
        assert all(bool(x.isfinite().all()) for x in again.tensors())

    def test_time_goes_on_by_the_step_of_the_observation(self, model):
        """Which clocks may let differ a little from the one that the model learned with."""
        known, scene = self.make_observation(), self.make_observation().scene
        if scene is not None:
            scene = scene.replace(times=1.04 * scene.times, alive=1.04 * scene.alive)
        robot = replace(known.robot, step_seconds=1.04 * model.spec.step_seconds)
        state = model.observe(known.replace(scene=scene, robot=robot))
        prediction = model.predict(state, actions=self.actions(model))
        later, seconds = model.advance(state, prediction, num_steps=2), 1.04 * model.spec.step_seconds
        assert float(later.time - state.time) == pytest.approx(2 * seconds, rel=1e-3)
        if isinstance(model, Decodes):
            times = model.scene(state, prediction).times
            assert float(times[1] - times[0]) == pytest.approx(seconds, rel=1e-3)

    def test_predicting_on_gives_the_rest(self, model, state):
        if not self.markov:
            pytest.skip("the model keeps a history, or draws anew")
        actions = self.actions(model)
        whole = model.predict(state, actions=actions)
        later = model.advance(state, whole.up_to(2), num_steps=2)
        rest = model.predict(later, actions=actions[2:])
        assert same(whole.up_to(2).followed_by(rest), whole, exact=False)

    def test_batched_states_advance_like_single_ones(self, model, state):
        other = model.observe(self.make_observation(1))
        both = type(state).stack([state, other])
        actions = self.actions(model).expand(2, -1, -1)
        prediction = model.predict(both, actions=actions, seeds=(1, 2))
        together = model.advance(both, prediction, num_steps=2)
        alone = model.advance(state, model.predict(state, actions=actions[0], seeds=(1,)), num_steps=2)
        torch.testing.assert_close(together[0].proprio, alone.proprio, atol=2e-5, rtol=1e-4)
        assert torch.equal(together[0].time, alone.time)

    def test_elements_are_picked_and_put_back(self, model, state):
        other = model.observe(self.make_observation(1))
        both = type(state).stack([state, other])
        rows = torch.tensor([1])
        back = both.put(rows, both.pick(torch.tensor([0])))
        assert torch.equal(back[1].proprio, both[0].proprio)
        assert same(both.put(rows, both.pick(rows)), both)

    def test_chunks_chain(self, model, state):
        """A prediction beyond the horizon begins with the plain one."""
        horizon = model.spec.horizon
        actions = self.actions(model, num_steps=horizon + 2)
        long = predict_long(model, state, actions=actions, seeds=(2,))
        assert long.num_steps == horizon + 2
        assert same(long.up_to(horizon), model.predict(state, actions=actions[:horizon], seeds=(2,)), exact=False)

    # ---- storage

    def test_what_is_stored_predicts_the_same(self, model, state, tmp_path):
        back = self.reloaded(model, tmp_path)
        if back is None:
            pytest.skip("such a model is never stored")
        actions = self.actions(model)
        first, second = (m.predict(m.observe(self.make_observation()), actions=actions) for m in (model, back))
        assert same(first, second)
        assert back.spec == model.spec

    # ---- powers

    def test_decoded_scenes_begin_with_what_was_observed(self, model, state):
        if not isinstance(model, Decodes):
            pytest.skip("has no scenes")
        scene = model.scene(state, model.predict(state, actions=self.actions(model)))
        assert scene.observed.tolist() == [True] + [False] * model.spec.horizon
        assert float(scene.times[0]) == pytest.approx(float(state.time))
        assert float(scene.times[1] - scene.times[0]) == pytest.approx(model.spec.step_seconds, rel=1e-3)
        real = scene.base.ids[scene.base.ids >= 0]
        assert len(real) == len(real.unique())

    def test_known_gaussians_are_carried_by_their_anchors(self, model, state):
        if not isinstance(model, MovesAnchors):
            pytest.skip("moves no anchors")
        prediction = model.predict(state, actions=self.actions(model))
        anchored, motion = model.anchored(state), model.anchor_motion(prediction)
        num = anchored.gaussians.num_gaussians
        last = anchored.moved(motion.world_from_now[-1])
        moved = anchored.displacement(motion.world_from_now)[-1]
        torch.testing.assert_close(last.means - anchored.gaussians.means, moved, atol=1e-5, rtol=1e-4)
        if isinstance(model, Decodes):
            scene = model.scene(state, prediction)
            assert torch.equal(scene.base.ids[:num], anchored.gaussians.ids)
            torch.testing.assert_close(scene.at(float(scene.times[-1])).means[:num], last.means, atol=1e-5, rtol=1e-4)
        later = model.advance(state, prediction, num_steps=model.spec.horizon)
        torch.testing.assert_close(model.anchored(later).gaussians.means, last.means, atol=1e-4, rtol=1e-3)
        assert torch.equal(model.anchored(later).gaussians.ids, anchored.gaussians.ids)

    def test_images_are_those_of_its_cameras(self, model, state):
        if not isinstance(model, Renders):
            pytest.skip("renders nothing itself")
        images = model.images(state, model.predict(state, actions=self.actions(model)))
        assert set(images) == set(model.cameras)
        for image in images.values():
            assert image.shape[0] == model.spec.horizon and image.shape[-1] == 3
            assert float(image.min()) >= 0 and float(image.max()) <= 1

    def test_a_known_future_is_kept_and_actions_are_found_for_it(self, model, state):
        if not isinstance(model, Inverts):
            pytest.skip("inverts nothing")
        future = model.anchor_motion(model.predict(state, actions=self.actions(model))).world_from_now
        found = model.actions_for(state, future, seeds=(1,))
        assert torch.equal(model.anchor_motion(found).world_from_now, future)
        assert found.actions.shape == self.actions(model).shape

    def test_own_actions_depend_on_the_seed_and_lead_where_it_says(self, model, state):
        if not isinstance(model, Proposes):
            pytest.skip("has no actions of its own")
        first, again, other = (model.propose(state, seeds=(seed,)) for seed in (1, 1, 2))
        assert same(first, again) and not torch.equal(first.actions, other.actions)
        assert same(model.predict(state, actions=first.actions, seeds=(1,)), first, exact=False)

    def test_features_have_places(self, model, state):
        if not isinstance(model, Embeds):
            pytest.skip("has no features")
        features, places = model.embed(state)
        assert features.shape[:-1] == places.shape[:-1] and places.shape[-1] == 3

    def test_sampler_steps_share_the_weights(self, model, state):
        if not isinstance(model, Samples):
            pytest.skip("has no sampler")
        before = model.predict(state, actions=self.actions(model), seeds=(1,))
        few = model.with_sampler(1)
        few.predict(state, actions=self.actions(model), seeds=(1,))
        assert same(before, model.predict(state, actions=self.actions(model), seeds=(1,)))
        assert all(a is b for a, b in zip(model.parameters(), few.parameters(), strict=True))

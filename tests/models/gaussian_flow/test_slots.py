"""Bodies with many joints: as many slots as they need, and one line where a model has too few."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_dynamics_training import batch_of, block_window, learn

from scene4d.errors import ConfigError
from scene4d.models.gaussian_flow.loss import loss
from scene4d.models.gaussian_flow.model import NO_ROBOT, GaussianWorldModel
from scene4d.models.gaussian_flow.motion.known_future import KnownMotion
from scene4d.models.gaussian_flow.networks.action_denoiser import ActionEvidence, action_loss
from scene4d.models.proprio import ProprioFutures, proprio_loss
from scene4d.robot.actions import action_slots, from_action_slots, hand_action_index, resting_action
from scene4d.robot.slots import Slots, hand_index, proprio_slots
from scene4d.robot.spec import ActionMeaning, RobotSpec, VectorSpec

NUM_JOINTS = 25
JOINTS = VectorSpec.from_rows([{"name": f"joint{i}", "unit": "rad"} for i in range(NUM_JOINTS)])
BODY = RobotSpec(JOINTS, JOINTS, ActionMeaning("relative joint steps"), 0.025, "humanoid")
MANY = Slots(num_actions=28, num_proprio=28)


def body_model(small, *, slots: Slots = MANY, robot: RobotSpec = BODY) -> GaussianWorldModel:
    torch.manual_seed(0)
    config = dataclasses.replace(small.CONFIG, slots=slots)
    return GaussianWorldModel(small.PlainCodec(), config, channels=small.CHANNELS, robots=(robot,)).eval()


def body_window(small, *, push: float, instants=range(1, 9)):
    """The block window with the numbers of 25 joints; the first one turns as the hand goes."""
    window = block_window(small, push=push, instants=instants)
    wide = lambda x: torch.cat([x[..., :1], 0.1 * torch.ones(*x.shape[:-1], NUM_JOINTS - 1)], -1)
    fields = ("actions", "past_actions", "proprio", "past_proprio")
    return window.replace(**{name: wide(getattr(window, name)) for name in fields})


def test_a_body_of_25_joints_is_learned_from_and_predicted(small):
    model = body_model(small)
    batch = batch_of(small, model, [0.01, -0.01, 0.02, 0.0], window=body_window, robot=BODY)
    assert batch.actions.shape[-1] == batch.proprio_change.shape[-1] == 28
    futures = ProprioFutures(batch.actions, batch.track, batch.proprio_change, batch.task)
    model.proprio.set_statistics(futures)
    learn(model.proprio, lambda: proprio_loss(model.proprio, futures), steps=5)
    learn(model.denoiser, lambda: loss(model, batch), steps=5)
    model.intent.set_statistics(batch.actions)
    given = ActionEvidence(
        model.window_tokens(batch), batch.track, batch.task, KnownMotion.whole(model.scale.normalize(batch.motion))
    )
    learn(
        model.intent, lambda: action_loss(model.intent, batch.actions, given=given, config=model.config.flow), steps=5
    )
    joints = torch.linspace(-1, 1, NUM_JOINTS)
    known = small.observation(actions=0.1 * joints.expand(2, -1), proprio=joints.expand(2, -1), robot=BODY)
    state = model.observe(known)
    prediction = model.predict(state, actions=torch.zeros(8, NUM_JOINTS))
    assert prediction.proprio.shape == (8, NUM_JOINTS) and bool(prediction.proprio.isfinite().all())
    later = model.advance(state, prediction, num_steps=3)
    assert model.predict(later, actions=torch.zeros(2, NUM_JOINTS)).num_steps == 2
    own = model.propose(state)
    assert own.actions.shape == (8, NUM_JOINTS) and own.actions[..., 1:].std() < own.actions[..., 0].std()


FEW = [(Slots(num_proprio=28), "num_actions"), (Slots(num_actions=28), "num_proprio"), (Slots(), "num_actions")]


@pytest.mark.parametrize(("slots", "setting"), FEW)
def test_a_body_that_does_not_fit_is_refused_with_the_setting_to_raise(small, slots, setting):
    known = small.observation(actions=torch.zeros(2, NUM_JOINTS), proprio=torch.zeros(2, NUM_JOINTS), robot=BODY)
    open_model = body_model(small, slots=slots, robot=NO_ROBOT)
    for refuse in (lambda: body_model(small, slots=slots), lambda: open_model.observe(known)):
        with pytest.raises(ConfigError) as raised:
            refuse()
        line = raised.value.line()
        assert f"dynamics.model.slots.{setting}" in line and "= 25" in line and "25 numbers" in line
        assert "\n" not in line


def test_numbers_without_names_leave_the_known_slots_free():
    bare = VectorSpec.from_rows(None, width=NUM_JOINTS)
    with pytest.raises(ConfigError, match="without names") as raised:
        Slots(num_actions=25, num_proprio=25).check(RobotSpec(bare, bare))
    assert raised.value.fix is not None and "slots.num_actions = 32" in raised.value.fix
    fits = Slots(num_actions=32, num_proprio=29)
    fits.check(RobotSpec(bare, bare))
    values = torch.rand(3, NUM_JOINTS)
    spread = action_slots(values, RobotSpec(bare, bare), proprio=values[0], slots=fits)
    assert not spread[..., :7].any() and torch.equal(spread[..., 7:], values)
    assert torch.equal(from_action_slots(spread, RobotSpec(bare, bare), proprio=values[0], slots=fits), values)


def test_named_numbers_keep_their_slots_however_many_there_are(small):
    proprio = torch.arange(4.0)
    few, many = (proprio_slots(proprio, small.ROBOT, slots=slots) for slots in (Slots(), MANY))
    assert torch.equal(few, many[:20]) and not many[20:].any()


def test_rest_and_hand_are_found_for_any_body():
    assert torch.equal(resting_action(torch.zeros(NUM_JOINTS), BODY), torch.zeros(NUM_JOINTS))
    assert hand_index(BODY) == hand_action_index(BODY) == [0, 1, 2]


def test_fewer_slots_than_named_ones_are_no_setting():
    with pytest.raises(ConfigError, match="num_actions"):
        Slots(num_actions=3)

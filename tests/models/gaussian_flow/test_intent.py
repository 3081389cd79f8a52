"""Asked without actions: what a robot would do (policy) and what it must have done (inverse)."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_dynamics_training import batch_of

from scene4d.errors import ConfigError, ShapeError
from scene4d.models.flow import FlowConfig
from scene4d.models.gaussian_flow.motion.confidence import calibrate_actions
from scene4d.models.gaussian_flow.motion.known_future import KnownMotion
from scene4d.models.gaussian_flow.networks.action_denoiser import ActionEvidence, action_loss, augmented
from scene4d.models.gaussian_flow.settings import DynamicsConfig
from scene4d.models.proprio import ProprioConfig
from scene4d.models.tokens.scene_tokens import SceneTokens


def test_without_actions_a_seed_decides_what_is_done_and_what_follows(small):
    model, state = small.world_model(), small.observed(small.world_model())
    first, again, other = (model.propose(state, seeds=(seed,)) for seed in (1, 1, 2))
    assert first.actions.shape == (8, 4)
    assert torch.equal(first.actions, again.actions) and torch.equal(first.world_from_now, again.world_from_now)
    assert not torch.allclose(first.actions, other.actions)
    given = model.predict(state, actions=first.actions, seeds=(1,))
    torch.testing.assert_close(given.world_from_now, first.world_from_now)
    many = model.propose(state.expand(2), seeds=(1, 2))
    torch.testing.assert_close(many.actions[1], other.actions, atol=1e-5, rtol=1e-4)


def test_a_given_future_is_kept_and_its_actions_are_found(small):
    model, state = small.world_model(), small.observed(small.world_model())
    future = model.predict(state, actions=small.some_actions(5)).world_from_now
    found = model.actions_for(state, future)
    assert torch.equal(found.world_from_now, future) and found.actions.shape == (5, 4)
    with pytest.raises(ShapeError, match="future"):
        model.actions_for(state, future.expand(3, -1, -1, -1))


def test_it_learns_which_push_it_was_and_that_there_are_several(small):
    """Given the motion, the push is found; given nothing, samples differ as the demonstrations do."""
    torch.manual_seed(0)
    model, pushes = small.world_model(), [-0.015, -0.005, 0.005, 0.015]
    intent = model.intent
    batch = batch_of(small, model, pushes)
    intent.set_statistics(batch.actions)
    scene = SceneTokens(tokens=batch.tokens, anchors=batch.anchors, rgb=batch.anchor_rgb, past=batch.anchor_past)
    given = ActionEvidence(scene, batch.track, batch.task, KnownMotion.whole(model.scale.normalize(batch.motion)))
    optimizer = torch.optim.AdamW(intent.parameters(), lr=5e-3)
    errors = {"inverse": 0.0, "policy": 0.0}
    for step in range(250):
        value, metrics = action_loss(intent, batch.actions, given=given, config=FlowConfig())
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(intent.parameters(), 1.0)
        optimizer.step()
        for name in errors if step >= 200 else ():  # a single batch says little
            errors[name] += float(metrics[name])
    with torch.no_grad():
        start = torch.zeros(4, 8, 16)
        found = intent.denormalize(intent(start, torch.zeros(4), given=given))[..., 0].mean(1)
        alone = dataclasses.replace(given, future=None)
        blind = intent.denormalize(intent(start, torch.zeros(4), given=alone))[..., 0].mean(1)
    truth = batch.actions[:, 0, 0]
    # One step from noise gives the mean of what it may be: given nothing, the middle of all pushes, which is 0.
    assert float((found - truth).abs().mean()) < 0.4 * float((blind - truth).abs().mean())
    assert float(blind.abs().max()) < 0.35
    assert errors["inverse"] < 0.7 * errors["policy"]


def test_training_shows_the_same_anchors_of_scene_and_motion(small):
    model = small.world_model()
    batch = batch_of(small, model, [-0.01, 0.01])
    model.intent.set_statistics(batch.actions)
    scene, track = model.window_tokens(batch), batch.track
    motion = batch.anchors[:, None].expand(-1, 8, -1, -1).repeat(1, 1, 1, 2)  # says where its anchor is
    shown = augmented(model.intent, ActionEvidence(scene, track, batch.task, KnownMotion.whole(motion)))
    assert shown.scene.anchors.shape[1] == scene.anchors.shape[1] // 2
    assert torch.equal(shown.future.motion[:, 0, :, :3], shown.scene.anchors)
    assert not (shown.track.actions - track.actions)[..., 4:].any(), "slots that no robot used stay 0"
    assert float((shown.track.actions - track.actions)[..., 0].std()) > 0.1


def test_temperature_undoes_samples_that_are_too_much_alike(small, monkeypatch):
    """Samples spread a 1/1.4th of what was done: drawn from noise 1.4 times as wide they are as different as that."""
    model = small.world_model()
    batch = batch_of(small, model, [0.0])[torch.zeros(256, dtype=torch.int64)]
    done = torch.randn(batch.actions.shape, generator=torch.Generator().manual_seed(5))
    batch, intent = batch.replace(actions=done), model.intent
    intent.set_statistics(done)

    def alike(noise, **_):
        return intent.denormalize(intent.temperature * noise / 1.4)

    monkeypatch.setattr(intent, "draw", alike)
    assert calibrate_actions(model, batch, steps=1) in (1.3, 1.4, 1.5)
    assert calibrate_actions(model, batch[:0]) == float(intent.temperature)


def test_a_past_that_is_too_short_is_refused():
    with pytest.raises(ConfigError, match="num_past"):
        DynamicsConfig(proprio=ProprioConfig(num_past=2))

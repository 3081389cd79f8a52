"""Laws of the world model: causality, seeds, order of rows, exact rest, identity, chunks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from scene4d.errors import GaussianError, ShapeError
from scene4d.robot.spec import VectorSpec


def test_actions_act_forwards_in_time_only(small):
    """Changing actions[s] leaves predictions up to and including time s bit-equal, and changes the next one."""
    model, actions = small.world_model(), small.some_actions()
    state = small.observed(model)
    before = model.predict(state, actions=actions, seeds=(5,))
    for s in (1, 4, 7):
        changed = actions.clone()
        changed[s:] += 0.5
        after = model.predict(state, actions=changed, seeds=(5,))
        # Index i is time now + 1 + i: actions[s] leads to index s.
        assert torch.equal(before.world_from_now[:s], after.world_from_now[:s])
        assert torch.equal(before.motion.log_var[:s], after.motion.log_var[:s])
        assert torch.equal(before.proprio[:s], after.proprio[:s])
        assert not torch.equal(before.world_from_now[s], after.world_from_now[s])


def test_the_ablation_by_cross_attention_is_causal_too_and_listens(small):
    model, actions = small.world_model(cross_attention=True), small.some_actions()
    state = small.observed(model)
    changed = actions.clone()
    changed[4:] += 0.5
    before, after = (model.predict(state, actions=a, seeds=(5,)).world_from_now for a in (actions, changed))
    assert torch.equal(before[:4], after[:4]) and not torch.equal(before[4], after[4])
    assert not any(block.modulation for block in model.denoiser.blocks)


def test_a_shorter_chunk_is_the_beginning_of_the_longer(small):
    model, actions = small.world_model(), small.some_actions()
    state = small.observed(model)
    whole, part = (model.predict(state, actions=a, seeds=(5,)) for a in (actions, actions[:3]))
    torch.testing.assert_close(part.world_from_now, whole.world_from_now[:3], atol=1e-5, rtol=1e-4)


def test_how_sure_it_is_does_not_depend_on_the_steps_of_the_sampler(small):
    model, actions = small.world_model(), small.some_actions()
    state = small.observed(model)
    few, many = (model.with_sampler(n).predict(state, actions=actions, seeds=(5,)) for n in (1, 6))
    assert torch.equal(few.motion.log_var, many.motion.log_var) and not torch.equal(
        few.world_from_now, many.world_from_now
    )


def test_first_action_matters_at_the_first_step(small):
    model, actions = small.world_model(), small.some_actions()
    state = small.observed(model)
    changed = actions.clone()
    changed[0] += 0.5
    first, second = (model.predict(state, actions=a).world_from_now[0] for a in (actions, changed))
    assert not torch.equal(first, second)


def test_seed_decides_the_sample_whatever_its_neighbours(small):
    model, actions = small.world_model(), small.some_actions()
    state = small.observed(model)
    batch = lambda seeds: model.predict(state.expand(3), actions=actions.expand(3, -1, -1), seeds=seeds).world_from_now
    one, two = batch((7, 1, 2)), batch((7, 8, 9))
    assert torch.equal(one[0], two[0])
    assert not torch.allclose(one[1], two[1])
    alone = model.predict(state, actions=actions, seeds=(7,)).world_from_now
    torch.testing.assert_close(one[0], alone, atol=1e-5, rtol=1e-4)
    assert torch.equal(alone, model.predict(state, actions=actions, seeds=(7,)).world_from_now)


def test_order_of_rows_changes_nothing(small):
    model, scene, actions = small.world_model(), small.block_scene(), small.some_actions()
    order = torch.randperm(scene.base.num_gaussians)
    futures = []
    for each in (scene, small.shuffled(scene, order)):
        state = small.observed(model, each)
        future = model.scene(state, model.predict(state, actions=actions))
        by_id = future.base.ids.argsort()
        futures.append(future.at(float(future.times[-1])).means[by_id])
    torch.testing.assert_close(futures[0], futures[1], atol=1e-5, rtol=1e-4)


def test_fresh_model_predicts_exact_rest(small):
    """Zero is "nothing moves": before any training the forecast is the memory, bit for bit."""
    from scene4d.models.gaussian_flow.model import GaussianWorldModel

    model = GaussianWorldModel(small.PlainCodec(), small.CONFIG, channels=small.CHANNELS).eval()
    state = small.observed(model)
    future = model.scene(state, model.predict(state, actions=small.some_actions()))
    assert torch.equal(future.at(float(future.times[-1])).means, state.gaussians.means)


def test_scene_keeps_ids_and_times(small):
    model, scene = small.world_model(), small.block_scene()
    state = small.observed(model, scene)
    future = model.scene(state, model.predict(state, actions=small.some_actions(5)))
    assert torch.equal(future.base.ids, scene.base.ids)
    torch.testing.assert_close(future.times, scene.times[-1] + 0.025 * torch.arange(6.0).double())
    assert future.observed.tolist() == [True] + [False] * 5
    torch.testing.assert_close(future.at(float(future.times[0])).means, scene.at(float(scene.times[-1])).means)
    moved, valid = future.flow(float(future.times[0]), float(future.times[-1]))
    assert bool(valid.all()) and float(moved.norm(dim=-1).max()) > 1e-3


def test_state_reads_past_motion_by_anchor(small):
    state = small.observed(small.world_model())
    red = state.anchor_rgb[:, 0] > 0.7
    past = state.anchors - state.recent[-2, :, 4:] - state.anchors
    torch.testing.assert_close(past[red].mean(0), torch.tensor([0.01, 0.0, 0.0]), atol=1e-4, rtol=0)
    assert float(past[~red].abs().max()) < 1e-5 and bool(red.any())


def test_memory_given_apart_finds_its_past_by_id(small):
    model, scene = small.world_model(), small.block_scene()
    plain = small.observed(model, scene)
    order = torch.randperm(scene.base.num_gaussians)
    memory = scene.at(float(scene.times[-1])).pick(order)
    given = small.observed(model, scene, memory=memory)
    torch.testing.assert_close(given.gaussians.extras["past_flow"], plain.gaussians.extras["past_flow"][order])


def test_advance_carries_memory_and_its_motion(small):
    model = small.world_model()
    state = small.observed(model)
    forecast = model.predict(state, actions=small.some_actions())
    later = model.advance(state, forecast, num_steps=3)
    future = model.scene(state, forecast)
    torch.testing.assert_close(later.gaussians.means, future.at(float(future.times[3])).means, atol=1e-6, rtol=0)
    assert torch.equal(later.gaussians.ids, state.gaussians.ids)
    step, _ = future.flow(float(future.times[2]), float(future.times[3]))
    torch.testing.assert_close(later.gaussians.extras["past_flow"][:, :3], step, atol=1e-6, rtol=0)
    torch.testing.assert_close(later.past_actions[-1], forecast.actions[2])
    assert float(later.time) == pytest.approx(float(state.time) + 0.075)
    assert model.predict(later, actions=small.some_actions()).world_from_now.isfinite().all()


def test_batched_states_and_scenes(small):
    model = small.world_model()
    state = small.observed(model).expand(2)
    forecast = model.predict(state, actions=small.some_actions().expand(2, -1, -1), seeds=(0, 1))
    future = model.scene(state, forecast)
    assert future.batch_shape == (2,)
    assert not torch.equal(
        future.at(float(future.times[0, -1])).means[0], future.at(float(future.times[0, -1])).means[1]
    )
    assert model.advance(state, forecast, num_steps=8).gaussians.batch_shape == (2,)


def test_errors_name_what_is_wrong(small):
    model = small.world_model()
    state = small.observed(model)
    with pytest.raises(ShapeError, match="actions"):
        model.predict(state, actions=small.some_actions(9))
    with pytest.raises(ShapeError, match="seeds"):
        model.predict(state, actions=small.some_actions(), seeds=(1, 2))
    scene = small.block_scene()
    gone = scene.replace(alive=torch.zeros_like(scene.alive) - 1)
    with pytest.raises(GaussianError, match="empty"):
        small.observed(model, gone)


def test_half_precision_says_nearly_the_same(small):
    """Products in bfloat16 move matter by less than two hundredths of its way otherwise; training never uses them."""
    model = small.world_model()
    state, actions = small.observed(model), small.some_actions(8)
    model.eval()
    whole = model.predict(state, actions=actions)
    model.denoiser.precision = torch.bfloat16
    half = model.predict(state, actions=actions)
    assert half.world_from_now.dtype == torch.float32
    apart = (half.world_from_now - whole.world_from_now)[..., 4:].norm()
    assert 0 < apart < 0.02 * whole.world_from_now[..., 4:].norm()
    model.train()
    torch.testing.assert_close(model.predict(state, actions=actions).world_from_now, whole.world_from_now)


def test_orientations_are_predicted_as_the_robot_reports_them(small):
    """Within half a turn, to whichever side the hand turns."""
    model, actions, crossed = small.world_model(), small.some_actions(), []
    spec = lambda unit: VectorSpec.from_rows([*({"name": n} for n in "xyz"), {"name": "yaw", "unit": unit}])
    for yaw in (math.pi - 1e-4, -math.pi + 1e-4):
        proprio = torch.tensor([[0.33, 0.35, 0.15, yaw]]).expand(2, 4)
        robots = [replace(small.ROBOT, proprio=spec(unit)) for unit in (None, "rad")]
        states = [small.observed(model, proprio=proprio, robot=robot) for robot in robots]
        plain, wrapping = (model.predict(state, actions=actions).proprio[:, 3] for state in states)
        assert float(wrapping.abs().max()) <= math.pi
        torch.testing.assert_close(wrapping, plain - 2 * math.pi * (plain / (2 * math.pi)).round())
        crossed.append(bool((plain.abs() > math.pi).any()))
    assert any(crossed)

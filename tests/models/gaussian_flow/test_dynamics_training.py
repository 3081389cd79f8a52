"""From a window to a loss that goes down."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch

from scene4d.data.load.scene_window import Window
from scene4d.geometry.rotation import apply_pose
from scene4d.models.gaussian_flow.loss import LossConfig, _shaken, loss
from scene4d.models.gaussian_flow.motion import confidence as calibration
from scene4d.models.gaussian_flow.motion.rollout_training import rolled_out
from scene4d.models.instants import Steps
from scene4d.models.proprio import ProprioFutures, proprio_loss
from scene4d.models.tokens.anchors import on_anchors
from scene4d.models.tokens.token_windows import TokenWindows, living_memory, prepare
from scene4d.robot.track import Track
from scene4d.text.task_vectors import task_vector
from scene4d.types import Frames, Task
from scene4d.world.rollout import predict_long


def block_window(small, *, push: float, instants: Sequence[int] = range(1, 9)) -> Window:
    """The block goes on along x by `push` m a frame; dx of the action says so. The truth is that of the instants."""
    scene = small.block_scene()
    memory = scene.at(float(scene.times[-1]))
    flow = torch.stack([scene.flow(0.05, 0.075)[0], scene.flow(0.025, 0.05)[0]])
    moves = (scene.motion.skin_weights[:, 0] > 0).float()[:, None] * torch.tensor([push, 0.0, 0.0])
    num = instants[-1]
    steps, passed = torch.tensor(list(instants))[:, None, None].float(), torch.arange(1.0, num + 1)[:, None]
    actions = torch.zeros(num, 4)
    actions[:, 0] = push / 0.02
    hand = torch.tensor([0.34, 0.35, 0.15, 0.05])
    cameras = small.camera()
    frames = Frames(rgb=torch.zeros(1, 32, 32, 3), depth=torch.zeros(1, 32, 32), alpha=None, cameras=cameras)
    return Window(
        memory=memory.replace(extras={"segments": moves[:, :1]}),
        past_flow=flow,
        past_flow_valid=torch.ones(flow.shape[:2], dtype=torch.bool),
        past_actions=torch.tensor([[0.5, 0, 0, 0]] * 8),
        past_proprio=hand.expand(9, 4),
        past_valid=torch.ones(8, dtype=torch.bool),
        actions=actions,
        proprio=hand + passed * torch.tensor([push, 0, 0, 0]),
        displacement=steps * moves,
        displacement_valid=torch.ones(memory.num_gaussians, dtype=torch.bool),
        frames=frames,
        targets=Frames.stack([frames] * 8),
        task=torch.tensor(0),
        time=torch.tensor(0.075),
        reward=torch.ones(num),
        success=torch.zeros(num),
    )


@pytest.mark.parametrize("num_past", [0, 1, 2])
def test_the_living_memory_of_a_window_knows_its_past_steps(small, num_past):
    window = block_window(small, push=0.01)
    gone = window.memory.ids.clone()
    gone[:3] = -1
    window = window.replace(
        memory=window.memory.replace(ids=gone),
        past_flow=window.past_flow[:num_past],
        past_flow_valid=window.past_flow_valid[:num_past],
    )
    memory, displacement, valid = living_memory(window)
    assert memory.num_gaussians == displacement.shape[1] == len(valid) == len(gone) - 3
    past = memory.extras["past_flow"]
    assert past.shape == (len(valid), 6) and not past[:, 3 * num_past :].any()
    for step in range(num_past):
        assert torch.equal(past[:, 3 * step : 3 * step + 3], window.past_flow[step, 3:])


def test_a_memory_follows_its_anchors_without_a_codec(small):
    memory, _, _ = living_memory(block_window(small, push=0.01))
    anchored, rows, past = on_anchors(memory, focus=memory.means[-1], config=small.CONFIG.anchors)
    assert torch.equal(anchored.anchors, memory.means[rows]) and past.shape == (len(rows), 6)
    moves, moving = memory.extras["past_flow"][:, 0] > 0.005, past[:, 0] > 0.005
    poses = torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).repeat(len(rows), 1)
    poses[:, 4] = 0.1 * moving
    along = anchored.moved(poses).means[:, 0] - memory.means[:, 0]
    assert float(along[moves].min()) > 0.09 and float(along[~moves].mean()) < 0.005


def batch_of(small, model, pushes, *, window=block_window, robot=None, num_frames: int = 8) -> TokenWindows:
    instants = [i for i in model.config.instants if i <= num_frames]
    ready = [
        prepare(
            model.codec,
            window(small, push=p, instants=instants),
            anchors=model.config.anchors,
            robot=robot or small.ROBOT,
            slots=model.config.slots,
            tasks=[task_vector(Task("door-open-v3"), text=model.config.text)],
            num_rows=64,
            seed=i,
        )
        for i, p in enumerate(pushes)
    ]
    model.set_statistics(ready, instants=instants)
    return TokenWindows.stack(ready)


def futures_of(batch: TokenWindows) -> ProprioFutures:
    track = Track(actions=batch.past_actions, proprio=batch.past_proprio, valid=batch.past_valid)
    return ProprioFutures(actions=batch.actions, track=track, proprio_change=batch.proprio_change, task=batch.task)


def learn(module, loss_fn, *, steps: int) -> dict:
    """A few steps of the optimiser; the metrics of the last."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    for _ in range(steps):
        value, metrics = loss_fn()
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    return metrics


def test_prepared_targets_are_the_truth(small):
    model = small.world_model()
    ready = batch_of(small, model, [0.01])[0]
    red = ready.anchor_rgb[:, 0] > 0.7
    torch.testing.assert_close(ready.motion[-1, red, 3:].mean(0), torch.tensor([0.08, 0, 0]), atol=1e-4, rtol=0)
    assert not ready.motion[:, ~red, 3:].any() and bool(red.any())
    assert ready.rows.shape == (64, 3)


def test_training_learns_to_push(small):
    """Sixty steps on pushes of several strengths: the error of moving points falls far below standing still, and
    what is trained is what is used: the forecast follows the action."""
    model = small.world_model()
    with torch.no_grad():
        model.denoiser.out.bias[12] -= 4.0
    model.train()
    batch = batch_of(small, model, [-0.015, -0.01, -0.005, 0.005, 0.01, 0.015])
    learn(model.proprio, lambda: proprio_loss(model.proprio, futures_of(batch)), steps=60)
    metrics = learn(model, lambda: loss(model, batch), steps=60)
    assert float(metrics["epe_moving_mm"]) < 0.4 * float(metrics["epe_zero_mm"])
    assert float(metrics["epe_still_mm"]) < 6.0
    window = block_window(small, push=0.0)
    state = small.observed(model.eval(), actions=window.past_actions, proprio=window.past_proprio)
    red = state.anchor_rgb[:, 0] > 0.7
    shift = []
    for push in (-0.01, 0.012):
        actions = torch.zeros(8, 4)
        actions[:, 0] = push / 0.02
        moved = apply_pose(model.predict(state, actions=actions).world_from_now[-1], state.anchors) - state.anchors
        shift.append(float(moved[red, 0].mean()))
    assert shift[0] < -0.02 and shift[1] > 0.02


def test_gradients_reach_every_weight_that_is_used(small):
    model = small.world_model().train()
    value, metrics = loss(model, batch_of(small, model, [0.01, -0.01]))
    value.backward()
    apart = ("proprio.", "intent.", "completion.")  # these have trainings of their own
    without = [
        n for n, p in model.named_parameters() if not n.startswith(apart) and (p.grad is None or not p.grad.any())
    ]
    assert not without
    assert all(m.isfinite() for m in metrics.values())


@pytest.mark.parametrize("moves", [False, True])
def test_own_rollouts_lead_to_the_same_truth(small, moves):
    """Wherever the model's own forecast leads, what is left of the targets ends where matter truly ends."""
    torch.manual_seed(0)
    model, num = small.world_model(), 3
    with torch.no_grad():
        model.denoiser.out.bias[12] = 20.0 if moves else -20.0
        model.denoiser.out.weight.add_(0.05 * torch.randn_like(model.denoiser.out.weight))
    batch = batch_of(small, model, [0.01, -0.015])
    rolled, left = rolled_out(model, batch, steps=Steps.regular(8, stride=1), num_steps=num)
    assert left.ahead == tuple(range(1, 9 - num))
    gone = (rolled.anchors - batch.anchors).norm(dim=-1)
    assert bool((gone > 1e-4).any()) is moves and bool((rolled.anchor_past != 0).any()) is moves
    ends = (batch.anchors[:, None] + batch.motion[:, num:, :, 3:], batch.rows[:, None] + batch.displacement[:, num:])
    torch.testing.assert_close(rolled.anchors[:, None] + rolled.motion[..., 3:], ends[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(rolled.rows[:, None] + rolled.displacement, ends[1], atol=1e-5, rtol=0)
    assert torch.equal(rolled.past_actions[:, -num:], batch.actions[:, :num])
    hand = rolled.past_proprio[:, -1:] + rolled.proprio_change
    torch.testing.assert_close(hand, batch.past_proprio[:, -1:] + batch.proprio_change[:, num:], atol=1e-5, rtol=0)
    value, _ = loss(model, rolled, config=LossConfig(context_noise=0.1))
    assert value.isfinite()


def test_context_noise_leaves_what_rests_alone(small):
    model = small.world_model()
    scene = model.window_tokens(batch_of(small, model, [0.01]))
    shaken = _shaken(scene, spread=0.2)
    rests = scene.past.abs().amax(-1) == 0
    assert bool(rests.any()) and not shaken.past[rests].any()
    moving = (shaken.past - scene.past)[~rests].abs()
    assert 0 < float(moving.max()) < 0.02 and 0.1 < float((shaken.tokens - scene.tokens).std()) < 0.3


@pytest.mark.parametrize("sigmas", [0.2, 5.0])
def test_calibration_sets_intervals_right(small, monkeypatch, sigmas):
    """A model that errs by `sigmas` times what it says is told so, at every step; what it says then holds 90 %."""
    model = small.world_model()
    batch = batch_of(small, model, [0.01, -0.015, 0.02] * 12)

    def erring(noise, *, scene, given, steps, sampler_steps):
        target = model.scale.normalize(batch.motion)[: len(noise)]
        log_var = torch.full_like(target, -4.0)
        log_var[..., :3] = -40.0
        # Anchors of a body err together: what a row takes from several is not the surer for it.
        spread = torch.randn(*target.shape[:2], 1, 6, generator=torch.Generator().manual_seed(3))
        drawn = target + sigmas * spread * (0.5 * log_var).exp()
        return model.scale.denormalize(drawn), SimpleNamespace(log_var=log_var)

    monkeypatch.setattr(calibration, "FLOOR_M", 0.0)
    monkeypatch.setattr(model, "draw_motion", erring)
    monkeypatch.setattr(calibration, "LEAST", 20)
    held = calibration.calibrate(model, batch, part=len(batch.task))
    moved = held.isfinite()
    assert bool(moved.all())
    torch.testing.assert_close((0.5 * model.log_var_shift).exp(), torch.full((8,), sigmas), atol=0, rtol=0.25)
    assert ((held > 0.8) & (held < 0.97)).all()
    shift = model.log_var_shift.clone()  # where nothing is kept apart, it stays what it was
    assert calibration.calibrate(model, batch[:0]).isnan().all() and torch.equal(model.log_var_shift, shift)


def test_chunks_chain(small):
    """Ten steps in chunks: the first chunk is the plain forecast, and motion goes on from where it ended."""
    model, actions = small.world_model(), small.some_actions(10)
    state = small.observed(model)
    long = predict_long(model, state, actions=actions)
    short = model.predict(state, actions=actions[:8])
    assert long.world_from_now.shape[0] == 10
    assert torch.equal(long.world_from_now[:8], short.world_from_now)
    later = model.advance(state, short, num_steps=8)
    more = model.predict(later, actions=actions[8:], seeds=(1_000_003,))
    there = apply_pose(long.world_from_now[8:], state.anchors.expand(2, -1, -1))
    torch.testing.assert_close(
        there, apply_pose(more.world_from_now, later.anchors.expand(2, -1, -1)), atol=1e-5, rtol=1e-4
    )
    assert (long.motion.log_var[9] >= long.motion.log_var[7] - 1e-4).all()

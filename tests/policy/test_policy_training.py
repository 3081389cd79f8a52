"""Demonstrations to samples: labels free of noise, chunks aligned with their views, batches a function of the step."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch

from scene4d.errors import CheckpointError, ConfigError
from scene4d.lift.rgbd.unproject import lift_frames
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.policy.head import ActionHead
from scene4d.policy.keypose_heatmap import SPREAD
from scene4d.policy.learning.demonstrations import (
    PolicyDataConfig,
    demonstration_jobs,
    record_demonstration,
    successful_demonstration,
    with_open_gripper,
)
from scene4d.policy.learning.samples import (
    PolicySamples,
    join_samples,
    load_samples,
    samples_from_demonstration,
    save_samples,
    train_policy_samples,
)
from scene4d.policy.loss import batch_from_samples, other_goals, policy_batches, policy_loss, set_head_statistics
from scene4d.policy.observation_builder import ObservationBuilder
from scene4d.policy.virtual_cameras import MAX_TURN
from scene4d.robot.spec import RobotSpec

DATA = PolicyDataConfig(num_demonstrations=1, tries=1, num_camera_offsets=0, num_frames=6, image_size=32)
HEAD = ActionHeadConfig(
    width=32, hidden=32, heads=2, encoder_depth=1, decoder_depth=1, stem=(8, 12), view_size=16, chunk=4
)
ROBOT = RobotSpec.from_info({}, num_actions=4, num_proprio=4)


class LastFrames:
    """A memory of the newest frames only: enough for what is tested here, and quick."""

    def update(self, frames, *, time):
        self.lifted = lift_frames(frames)

    def gaussians(self):
        return self.lifted


def builder(_task: str = "") -> ObservationBuilder:
    return ObservationBuilder(LastFrames, robot=ROBOT, view_size=HEAD.view_size)


@pytest.fixture(scope="module")
def demonstration():
    pytest.importorskip("metaworld", reason="the simulator is not installed")
    return record_demonstration("button-press-v3", seed=3, noise=0.5, config=DATA)


@pytest.fixture(scope="module")
def samples(demonstration):
    return samples_from_demonstration(demonstration, builder(), head=HEAD)


def test_labels_are_what_the_expert_wanted_in_the_states_that_noise_led_to(demonstration):
    from scene4d.sim.metaworld import MetaWorldSim

    assert (demonstration.actions - demonstration.labels).abs().mean() > 0.1
    with MetaWorldSim("button-press-v3", seed=3, size=(32, 32), cameras=("left",)) as sim:
        for t in range(DATA.num_frames):
            assert torch.equal(sim.proprio(), demonstration.proprio[t])
            assert torch.equal(with_open_gripper(sim.expert_action()), demonstration.labels[t])
            sim.step(demonstration.actions[t])


def test_a_demonstration_is_repeatable(demonstration):
    again = record_demonstration("button-press-v3", seed=3, noise=0.5, config=DATA)
    assert torch.equal(again.actions, demonstration.actions)
    assert torch.equal(again.frames.rgb, demonstration.frames.rgb)


def test_chunks_start_at_their_moment(demonstration, samples):
    length = len(demonstration.times)
    for t in range(length):
        left = min(HEAD.chunk, length - t)
        assert torch.equal(samples.labels[t, :left], demonstration.labels[t : t + left])
        assert samples.valid[t].tolist() == [i < left for i in range(HEAD.chunk)]
    assert torch.equal(samples.proprio, demonstration.proprio)


def test_views_of_a_sample_are_those_of_run_time(demonstration, samples):
    seen = builder()
    for t in range(2):
        seen.observe(demonstration.frames[t], proprio=demonstration.proprio[t], time=float(demonstration.times[t]))
        views, features = seen.views()
    batch = batch_from_samples(samples[slice(1, 2)])
    assert features is None and batch["features"] is None
    assert (batch["views"].rgb[0] - views.rgb).abs().max() <= 0.5 / 255 + 1e-6
    assert (batch["views"].depth[0] - views.depth).abs().max() < 2e-3


def test_batches_depend_on_the_step_alone_and_hold_every_sample_once(samples):
    many = PolicySamples.cat([samples, samples])
    many = many.replace(task_rows=torch.arange(12))
    first, second = (policy_batches(many, num_views=HEAD.num_views, batch_size=4, seed=1) for _ in range(2))
    seen = []
    for step in (2, 0, 1):
        a, b = first(step), second(step)
        assert torch.equal(a["views"].rgb, b["views"].rgb) and torch.equal(a["proprio"], b["proprio"])
        seen += a["task_rows"].tolist()
    assert sorted(seen) == list(range(12))


def test_forecast_views_are_left_out_now_and_then(samples):
    twice = {k: torch.cat([getattr(samples, k)] * 2, 1) for k in ("rgb", "depth", "alpha", "viewmats", "Ks")}
    both = samples.replace(**twice, features=torch.ones(len(samples.task_rows), 5, 7))
    batches = policy_batches(both, num_views=HEAD.num_views, batch_size=6, keep_future=0.5)
    shown = [batches(step) for step in range(12)]
    # What comes of the world model comes and goes together: an agent without a forecast has neither.
    counts = {(batch["views"].batch_shape[1], batch["features"] is not None) for batch in shown}
    assert counts == {(HEAD.num_views, False), (2 * HEAD.num_views, True)}


def test_tokens_of_another_width_are_refused(demonstration):
    class Counting(ObservationBuilder):
        def views(self, **_):
            return super().views()[0], torch.zeros(5, 7)

    head = dataclasses.replace(HEAD, feature_dim=9)
    with pytest.raises(ConfigError, match="feature_dim"):
        samples_from_demonstration(
            demonstration, Counting(LastFrames, robot=ROBOT, view_size=HEAD.view_size), head=head
        )


def test_holes_hold_nothing_and_leave_most_of_every_view(samples):
    make = lambda cut: policy_batches(samples, num_views=HEAD.num_views, batch_size=6, from_memory=cut)
    whole, cut = make(False)(0)["views"], make(True)(0)["views"]
    gone = cut.alpha < whole.alpha
    assert (cut.depth[gone] == 0).all() and torch.equal(cut.depth[~gone], whole.depth[~gone])
    share = ((cut.depth == 0) & (whole.depth > 0)).float().mean((-1, -2)) / (whole.depth > 0).float().mean((-1, -2))
    assert 0.02 < float(share.mean()) < 0.4 and float(share.max()) < 0.9
    assert torch.equal(make(True)(3)["views"].depth, make(True)(3)["views"].depth)


def test_heads_that_see_a_scene_memory_get_a_noisy_hand_position(samples):
    """Over the table, that is; its height, its grip and what views are seen from stay as they are."""
    for blurred in (False, True):
        make = policy_batches(samples, num_views=HEAD.num_views, batch_size=6, seed=2, from_memory=blurred)
        batches = [make(step) for step in range(40)]
        off = torch.cat([batch["proprio"][:, :3] - batch["hand"] for batch in batches]).std(0)
        assert (off[:2] > 0.08).all() if blurred else (off[:2] < 0.03).all()
        assert off[2] < 0.03
        hands = torch.cat([batch["hand"] for batch in batches[:1]]).sort(0).values
        assert torch.equal(hands, samples.proprio[:, :3].sort(0).values)


def test_goals_that_no_image_shows_are_given_most_of_the_time(samples):
    """The scene of a button shows what to press; where a puck belongs is given, but for a tenth of the samples."""
    assert bool(samples.goal.isnan().all())
    pushed = record_demonstration("push-v3", seed=3, noise=0.1, config=dataclasses.replace(DATA, num_frames=2))
    other = record_demonstration("push-v3", seed=4, noise=0.1, config=dataclasses.replace(DATA, num_frames=1))
    assert pushed.goal.shape == (3,) and bool(pushed.goal.isfinite().all()) and not torch.equal(pushed.goal, other.goal)
    moments = samples_from_demonstration(pushed, builder(), head=HEAD)
    assert torch.equal(moments.goal, pushed.goal.expand(2, 3)) and not moments.goal_free.any()
    grasped = pushed.labels.clone()
    grasped[1, -1] = -grasped[1, -1]
    held = samples_from_demonstration(pushed.replace(labels=grasped, goal=samples.goal[0]), builder(), head=HEAD)
    assert moments.keypose.isnan().all() and held.keypose[0].isfinite().all()
    make = policy_batches(moments, num_views=HEAD.num_views, batch_size=2, seed=0)
    share = torch.cat([make(step)["goal"] for step in range(100)]).isfinite().all(-1).float().mean()
    assert 0.8 < share < 0.97


def test_goals_that_are_not_needed_yet_are_those_of_others(samples):
    """Until something is grasped, any goal may be given; afterwards, its own, but for a centimetre."""
    goals = torch.arange(6.0)[:, None].expand(6, 3) * 10
    free = torch.tensor([True, True, True, False, False, False])
    moments = samples.replace(goal=goals, goal_free=free)
    draws = [other_goals(moments, generator=torch.Generator().manual_seed(i)) for i in range(40)]
    spread = torch.stack(draws).std(0).mean(-1)
    assert (spread[free] > 5).all() and (spread[~free] < 0.03).all()
    assert torch.stack(draws).isfinite().all()
    some = moments.replace(goal=goals.index_fill(0, torch.tensor([0]), torch.nan))
    mixed = other_goals(some, generator=torch.Generator().manual_seed(0))
    assert mixed[0].isnan().all() and mixed[1:].isfinite().all()
    assert other_goals(samples, generator=torch.Generator()).isnan().all()


def test_demonstrations_that_fail_are_made_anew_elsewhere(monkeypatch):
    """The expert of the third environment tried is the first that succeeds."""
    tried = []

    def record(task, *, seed, noise, config):
        tried.append(seed)
        return SimpleNamespace(success=seed == 23, seed=seed)

    monkeypatch.setattr("scene4d.policy.learning.demonstrations.record_demonstration", record)
    config = PolicyDataConfig(num_demonstrations=10, tries=4)
    found = successful_demonstration("push-v3", seed=3, noise=0.1, config=config)
    assert found.seed == 23 and tried == [3, 13, 23]
    with pytest.warns(UserWarning, match="the expert fails"):
        last = successful_demonstration("push-v3", seed=4, noise=0.1, config=config)
    assert last.seed == 34 and not last.success


def test_a_gripper_that_the_expert_leaves_alone_opens():
    assert with_open_gripper(torch.tensor([0.3, 0.0, 0.1, 0.0])).tolist() == pytest.approx([0.3, 0.0, 0.1, -1.0])
    assert with_open_gripper(torch.tensor([0.3, 0.0, 0.1, 0.6])).tolist() == pytest.approx([0.3, 0.0, 0.1, 0.6])


def test_other_looks_turn_what_is_wanted(demonstration, samples):
    """Every frame is there as it was, followed by the same one turned about the hand by one angle for everything."""
    goal = demonstration.replace(goal=torch.tensor([0.1, 0.9, 0.2]))
    many = samples_from_demonstration(goal, builder(), head=HEAD, num_camera_offsets=1, seed=5)
    straight, turned = many[::2], many[1::2]
    assert torch.equal(straight.rgb, samples.rgb) and torch.equal(straight.labels, samples.labels)
    assert not torch.equal(turned.rgb, samples.rgb) and torch.equal(turned.proprio, samples.proprio)
    angle = lambda a, b: torch.atan2(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0], (a * b)[..., :2].sum(-1))
    hand = samples.proprio[:, :3]
    turns = angle(straight.goal - hand, turned.goal - hand)
    assert turns.std() > 0.1 and (turns.abs() < MAX_TURN + 1e-4).all()
    by_labels = angle(straight.labels, turned.labels)
    long = straight.labels[..., :2].norm(dim=-1) > 0.05
    assert torch.allclose(by_labels[long], turns[:, None].expand_as(by_labels)[long], atol=1e-3)
    assert torch.equal(straight.labels[..., 2:], turned.labels[..., 2:])
    again = samples_from_demonstration(goal, builder(), head=HEAD, num_camera_offsets=1, seed=5)
    assert torch.equal(again.rgb, many.rgb)


def test_loss_falls(samples):
    torch.manual_seed(0)
    head = ActionHead(HEAD)
    set_head_statistics(head, samples)
    loss, batches = policy_loss(head), policy_batches(samples, num_views=HEAD.num_views, batch_size=6)
    optimizer, seen = torch.optim.AdamW(head.parameters(), lr=5e-3), []
    for step in range(40):
        optimizer.zero_grad()
        value, metrics = loss(batches(step))
        value.backward()
        optimizer.step()
        seen.append(metrics)
    least = math.log(2 * math.pi * math.e * SPREAD**2)  # the target of the heat map is itself so uncertain, in nats
    for name, floor in (("error", 0.0), ("aim", least)):
        values = [float(metrics[name]) - floor for metrics in seen]
        assert sum(values[-5:]) < 0.7 * sum(values[:5]), name


def test_samples_survive_the_disk(samples, tmp_path):
    path = save_samples(tmp_path / "samples.safetensors", samples, success=True)
    back, success = load_samples(path)
    assert success
    for name in PolicySamples.__dataclass_fields__:
        torch.testing.assert_close(getattr(back, name), getattr(samples, name), rtol=0, atol=0, equal_nan=True)
    from scene4d.train.checkpoint import save_tensors

    other = save_tensors(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, state={})
    with pytest.raises(CheckpointError, match="policy samples"):
        load_samples(other)
    former = {
        "aim" if name == "keypose" else name: getattr(samples, name) for name in PolicySamples.__dataclass_fields__
    }
    path_of_former = save_tensors(
        tmp_path / "former.safetensors", former, state={"kind": "policy samples", "success": True}
    )
    torch.testing.assert_close(load_samples(path_of_former)[0].keypose, samples.keypose, equal_nan=True)
    joined, wins = join_samples([path, save_samples(tmp_path / "stuck.safetensors", samples, success=False)])
    assert wins == 1 and len(joined.task_rows) == 2 * len(samples.task_rows)
    assert torch.equal(joined.rgb, torch.cat([samples.rgb, samples.rgb]))


def test_jobs_cover_tasks_seeds_and_noise_in_turn(demonstration, samples):
    config = PolicyDataConfig(tasks=("a", "b"), num_demonstrations=4, first_seed=10, noise=(0.1, 0.2))
    jobs = demonstration_jobs(config)
    assert len(jobs) == 8 and jobs[5] == ("b", 11, 0.2)
    joined, wins = train_policy_samples(DATA, make_builder=builder, head=HEAD, jobs=[("button-press-v3", 3, 0.5)])
    assert wins == [demonstration.success]
    assert torch.equal(joined.rgb, samples.rgb) and torch.equal(joined.labels, samples.labels)
    with pytest.raises(ConfigError):
        PolicyDataConfig(tasks=())

"""The action head: shapes, seeds, several futures kept apart, and places learned from pictures."""

import dataclasses

import pytest
import torch

from scene4d.errors import ShapeError
from scene4d.layers import num_parameters
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.policy.head import ActionHead, goal_features, head_loss, sample_chunk, task_row
from scene4d.policy.virtual_cameras import HAND_OFFSET, render_views, virtual_cameras
from scene4d.types import Frames, Gaussians

SMALL = ActionHeadConfig(
    width=32, hidden=48, heads=2, encoder_depth=1, decoder_depth=1, stem=(8, 12), view_size=16, chunk=4, crop_radius=0.0
)


def random_views(*batch: int, count: int = SMALL.num_views, size: int = SMALL.view_size) -> Frames:
    hand = torch.randn(*batch, 3) * 0.1
    cameras = virtual_cameras(hand, size=size)
    if count > cameras.viewmats.shape[-3]:
        cameras = cameras.map(lambda x: torch.cat([x, x], len(batch)))
    shape = (*batch, count, size, size)
    return Frames(rgb=torch.rand(*shape, 3), depth=torch.rand(shape) + 1, alpha=torch.ones(shape), cameras=cameras)


def awake(config: ActionHeadConfig = SMALL) -> ActionHead:
    """A head whose last layer is not zero, so that its inputs count."""
    head = ActionHead(config).eval()
    for parameter in head.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return head


def test_default_head_is_small():
    assert 0.4e6 < num_parameters(ActionHead()) < 0.8e6


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
@pytest.mark.parametrize("future", [False, True])
def test_actions_have_the_batch_of_the_views(batch, future):
    views = random_views(*batch, count=SMALL.num_views * (2 if future else 1))
    actions = awake().act(views, features=None, proprio=torch.randn(*batch, 4), task="open", seed=0)
    assert actions.shape == (*batch, SMALL.chunk, SMALL.action_dim)


def test_wrong_number_of_views_is_refused():
    views = random_views(2)[:, :2]
    with pytest.raises(ShapeError, match="views"):
        ActionHead(SMALL).act(views, features=None, proprio=torch.randn(2, 4), task="open", seed=0)


def test_a_sample_depends_on_its_own_seed_only():
    head, views, proprio = awake(), random_views(3), torch.randn(3, 4)
    together = head.act(views, features=None, proprio=proprio, task=["a", "b", "a"], seed=[5, 6, 7])
    for i, task in enumerate("aba"):
        alone = head.act(views[i], features=None, proprio=proprio[i], task=task, seed=5 + i)
        assert torch.allclose(alone, together[i], atol=1e-5)
    again = head.act(views, features=None, proprio=proprio, task=["a", "b", "a"], seed=[5, 6, 8])
    assert torch.equal(again[:2], together[:2]) and not torch.allclose(again[2], together[2], atol=1e-3)


def test_forecast_task_proprio_and_features_count():
    head = awake(ActionHeadConfig(**{**vars(SMALL), "feature_dim": 6}))
    views, proprio, features = random_views(2, count=2 * SMALL.num_views), torch.randn(2, 4), torch.randn(2, 5, 6)
    row = lambda v, **changed: head.act(
        v, **{"features": features, "proprio": proprio, "task": "a", "seed": 0, **changed}
    )
    whole = row(views)
    future = views.replace(rgb=torch.cat([views.rgb[:, :3], torch.rand_like(views.rgb[:, 3:])], 1))
    for other in (
        row(future), row(views[:, :3]), row(views, task="b"),
        row(views, proprio=proprio + 1), row(views, features=None),
    ):  # fmt: skip
        assert (other - whole).abs().max() > 1e-4


def test_a_goal_counts_from_the_hand_and_only_where_there_is_one():
    """The same offset from another place is the same to the head; NaN is no goal."""
    head = awake(dataclasses.replace(SMALL, goal_conditioned=True))
    views, proprio, goal = random_views(2), torch.randn(2, 4), torch.randn(2, 3)
    ask = lambda **kw: head.act(views, features=None, proprio=proprio, task="push", seed=0, **kw)
    assert not torch.allclose(ask(goal=goal), ask(goal=goal + 0.5), atol=1e-3)
    assert torch.equal(ask(), ask(goal=torch.full((2, 3), torch.nan)))
    mixed = ask(goal=torch.stack([goal[0], torch.full((3,), torch.nan)]))
    assert torch.allclose(mixed, torch.stack([ask(goal=goal)[0], ask()[1]]), atol=1e-6)
    away = torch.tensor([0.3, -0.2, 0.5])
    features = goal_features(goal, hand=proprio[:, :3])
    assert torch.allclose(features, goal_features(goal + away, hand=proprio[:, :3] + away), atol=1e-4)
    unaware = awake(dataclasses.replace(SMALL, goal_conditioned=False))
    plain = unaware.act(views, features=None, proprio=proprio, task="push", seed=0)
    assert torch.equal(plain, unaware.act(views, features=None, proprio=proprio, task="push", seed=0, goal=goal))


def test_learns_to_go_to_its_goal():
    """Actions that lead to the goal are learned from the goal alone: the pictures say nothing of it."""
    torch.manual_seed(0)
    head = ActionHead(dataclasses.replace(SMALL, goal_conditioned=True, action_dim=3))
    optimiser = torch.optim.Adam(head.parameters(), 3e-3)

    def batch(count):
        views, hand, offset = random_views(count), torch.randn(count, 3) * 0.1, torch.randn(count, 3) * 0.1
        return {
            "views": views.replace(rgb=torch.zeros_like(views.rgb), depth=torch.zeros_like(views.depth)),
            "features": None,
            "proprio": torch.cat([hand, torch.zeros(count, 1)], -1),
            "goal": hand + offset,
            "task_rows": torch.zeros(count, dtype=torch.long),
            "actions": (offset / 0.1)[:, None].expand(-1, SMALL.chunk, -1),
            "valid": torch.ones(count, SMALL.chunk, dtype=torch.bool),
            "keypose": torch.full((count, 3), torch.nan),
        }

    for _ in range(150):
        optimiser.zero_grad()
        head_loss(head, batch(16))[0].backward()
        optimiser.step()
    given = batch(32)
    inputs = {k: given[k] for k in ("views", "features", "proprio", "goal")}
    error = (head.eval().act(**inputs, task="", seed=0) - given["actions"]).abs().mean()
    inputs["goal"] = None
    assert error < 0.35 < (head.act(**inputs, task="", seed=0) - given["actions"]).abs().mean()


def test_statistics_are_the_units_of_the_actions():
    head = awake()
    views, proprio = random_views(1), torch.zeros(1, 4)
    actions = torch.randn(500, 4) * torch.tensor([3.0, 1.0, 0.1, 0.0]) + torch.tensor([10.0, 0.0, -1.0, 2.0])
    plain = head.act(views, features=None, proprio=proprio, task="a", seed=0)
    head.set_statistics(actions=actions, proprio=torch.zeros(500, 4))
    scaled = head.act(views, features=None, proprio=proprio, task="a", seed=0)
    assert torch.allclose(scaled, plain * head.action_std + head.action_mean, atol=1e-4)
    assert torch.allclose(head.action_mean, torch.tensor([10.0, 0.0, -1.0, 2.0]), atol=0.5)
    assert head.action_std[3] > 0


def test_task_rows_are_fixed():
    assert task_row("door-open-v3", num_tasks=64) == task_row("door-open-v3", num_tasks=64)
    rows = {task_row(t, num_tasks=64) for t in ("button-press-v3", "door-open-v3", "drawer-open-v3")}
    assert len(rows) == 3


def test_noise_levels_do_not_see_each_other():
    head = awake()
    context = torch.randn(2, 5, SMALL.width)
    noisy, level = torch.randn(2, 3, SMALL.chunk, 4), torch.rand(2, 3)
    together = head.decoder(noisy, level=level, context=context)
    alone = head.decoder(noisy[:, 1:2], level=level[:, 1:2], context=context)
    assert torch.allclose(together[:, 1:2], alone, atol=1e-5)


def test_two_modes_stay_two_modes():
    """A mean of "left" and "right" is neither: samples must be one or the other."""
    torch.manual_seed(1)
    head = ActionHead(ActionHeadConfig(**{**vars(SMALL), "sampler_steps": 10}))
    views, proprio, rows = random_views(32), torch.zeros(32, 4), torch.zeros(32, dtype=torch.long)
    views = views.map(lambda x: x[:1].expand_as(x))
    optimizer = torch.optim.AdamW(head.decoder.parameters(), lr=4e-3, weight_decay=0)
    with torch.no_grad():
        context, _ = head.encode(views, features=None, proprio=proprio, task_rows=rows)
    head.encode = lambda *_, **__: (context, None)
    sign = torch.where(torch.arange(32) % 2 == 0, 1.0, -1.0)[:, None, None].expand(32, SMALL.chunk, 4)
    batch = {
        "views": views,
        "proprio": proprio,
        "task_rows": rows,
        "actions": sign,
        "valid": torch.ones(32, SMALL.chunk, dtype=torch.bool),
    }
    for _ in range(100):
        optimizer.zero_grad()
        head_loss(head, batch)[0].backward()
        optimizer.step()
    with torch.no_grad():
        samples = sample_chunk(head, torch.randn(32, SMALL.chunk, 4), context=context)
    means = samples.mean((1, 2))
    assert (means.abs() > 0.7).float().mean() > 0.85
    assert 4 <= (means > 0).sum() <= 28


def test_learns_where_a_ball_is():
    """The action is the ball's offset from the hand: it can only come out of the pictures."""
    torch.manual_seed(0)
    config = ActionHeadConfig(**{**vars(SMALL), "view_size": 32, "stem": (12, 16, 24)})
    head = ActionHead(config)
    hand = torch.tensor([0.0, 0.6, 0.2]) + 0.1 * torch.randn(192, 3)
    offset = torch.tensor(HAND_OFFSET) + torch.empty(192, 3).uniform_(-0.12, 0.12)
    ball = Gaussians(
        means=(hand + offset)[:, None],
        quats=torch.tensor([1.0, 0, 0, 0]).expand(192, 1, 4),
        scales=torch.full((192, 1, 3), 0.03),
        opacities=torch.full((192, 1), 0.99),
        sh=torch.ones(192, 1, 1, 3),
    )
    views = render_views(ball, hand=hand, size=32)
    actions = torch.cat([(offset - torch.tensor(HAND_OFFSET)) / 0.07, torch.zeros(192, 1)], -1)
    actions = actions[:, None].expand(-1, config.chunk, -1)
    proprio, rows = torch.cat([hand, torch.zeros(192, 1)], -1), torch.zeros(192, dtype=torch.long)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3)
    for step in range(60):
        pick = torch.arange(32) + 32 * (step % 5)
        batch = {
            "views": views[pick], "proprio": proprio[pick], "task_rows": rows[pick], "actions": actions[pick],
            "valid": torch.ones(32, config.chunk, dtype=torch.bool), "keypose": torch.full((32, 3), torch.nan),
        }  # fmt: skip
        optimizer.zero_grad()
        head_loss(head, batch, num_draws=4)[0].backward()
        optimizer.step()
    guess = head.eval().act(views[160:], features=None, proprio=proprio[160:], task="x", seed=0)
    truth = actions[160:]
    assert (guess - truth)[..., :3].abs().mean() < 0.4 * truth[..., :3].abs().mean()

"""The 2D baseline: patches come back, the future is causal and goes on in chunks, what actions do is learned."""

from __future__ import annotations

import pytest
import torch

from scene4d.models.flow import FlowConfig, draw_levels, seeded_noise
from scene4d.models.pixel_transformer.loss import loss, mean_error, set_scale
from scene4d.models.pixel_transformer.model import PixelState, PixelTransformer
from scene4d.models.pixel_transformer.network import (
    Clip,
    PixelModel,
    PixelsConfig,
    patches_from_pictures,
    pictures_from_patches,
)
from scene4d.robot.spec import RobotSpec

CONFIG = PixelsConfig(
    size=12,
    patch=4,
    horizon=3,
    num_past_actions=2,
    num_actions=1,
    num_proprio=1,
    width=32,
    depth=2,
    hidden=32,
    condition=32,
)


ROBOT = RobotSpec.from_info({}, num_actions=1, num_proprio=1)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model(*, stir: float = 0.1) -> PixelModel:
    torch.manual_seed(0)
    net = PixelModel(CONFIG)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(stir * torch.randn_like(parameter))
    return net.eval()


def bars(num: int, *, seed: int) -> Clip:
    """A bright bar on dark ground that the action moves left or right by a pixel a step, seen by two cameras alike."""
    generator = torch.Generator().manual_seed(seed)
    c = CONFIG
    actions = torch.randint(0, 2, (num, c.num_past - 1 + c.horizon, 1), generator=generator) * 2.0 - 1
    start = torch.randint(4, 8, (num, 1), generator=generator)
    at = torch.cat([start, start + actions[..., 0].cumsum(1)], 1)  # [b p+h]
    column = torch.arange(c.size)
    row = (column >= at[..., None] - 1) & (column <= at[..., None] + 1)  # [b p+h x]
    pictures = 0.1 + 0.8 * row.float()[:, :, None, None, :, None].expand(-1, -1, c.num_views, c.size, -1, 3)
    return Clip(
        pictures=pictures[:, : c.num_past],
        past_actions=torch.nn.functional.pad(actions[:, : c.num_past - 1], (0, 0, 1, 0)),
        actions=actions[:, c.num_past - 1 :],
        past_proprio=torch.zeros(num, 3, 1),
        known=torch.ones(num),
        task=torch.zeros(num, dtype=torch.int64),
        future=pictures[:, c.num_past :],
    )


def predicted(net: PixelModel, clip: Clip, *, seeds=(0,)) -> torch.Tensor:
    noise = seeded_noise(seeds, (clip.actions.shape[1], len(net.places), CONFIG.channels), like=clip.pictures)
    return net.draw(clip, noise=noise, steps=2)


def state_of(clip: Clip) -> PixelState:
    """The state [b] that a world model is in at the moment of a clip."""
    return PixelState(
        time=torch.zeros(len(clip.known), dtype=torch.float64),
        proprio=clip.past_proprio[:, -1],
        robot=ROBOT,
        pictures=clip.pictures,
        shown=clip.pictures[:, -1],
        past_actions=clip.past_actions,
        past_proprio=clip.past_proprio,
        known=clip.known,
        task=clip.task,
    )


def test_patches_come_back():
    pictures = torch.rand(3, 2, 2, 12, 12, 3)
    patches = patches_from_pictures(pictures, 4)
    assert patches.shape == (3, 2, 18, 48)
    assert torch.equal(pictures_from_patches(patches, 4, num_views=2), pictures)
    # Token 9 + 3 r + s is row r, column s of the second view.
    assert torch.equal(patches[1, 0, 9 + 3 * 2 + 1], pictures[1, 0, 1, 8:12, 4:8].flatten())


def test_untrained_it_copies():
    clip = bars(2, seed=0)
    torch.testing.assert_close(
        predicted(PixelModel(CONFIG), clip, seeds=(0, 1)), clip.pictures[:, -1:].expand_as(clip.future)
    )


def test_later_actions_change_nothing_before_them():
    net, clip = model(), bars(1, seed=1)
    before = predicted(net, clip)
    for step in range(CONFIG.horizon):
        actions = clip.actions.clone()
        actions[:, step] += 1.0
        after = predicted(net, clip.replace(actions=actions))
        assert torch.equal(after[:, :step], before[:, :step]) and not torch.equal(after[:, step], before[:, step])


def test_a_chunk_goes_on_from_its_own_pictures():
    net, clip = model(), bars(1, seed=2)
    world = PixelTransformer(net, cameras=("left", "right"), robot=ROBOT).with_sampler(2)
    state = state_of(clip)
    prediction = world.predict(state, actions=clip.actions)
    future = prediction.pictures
    assert torch.equal(future, predicted(net, clip))
    later = world.advance(state, prediction, num_steps=CONFIG.horizon)
    assert torch.equal(later.pictures, future[:, -2:].clamp(0, 1)) and not later.known.any()
    assert torch.equal(later.past_actions, clip.actions[:, -2:])
    assert later.time.tolist() == pytest.approx([0.075])
    shaken = later.replace(past_proprio=later.past_proprio + torch.rand(3, 1))
    unknown, known = (world.predict(s, actions=clip.actions).pictures for s in (shaken, later))
    assert torch.equal(unknown, known)  # what is not known is not looked at


def test_it_learns_what_actions_do():
    """A few steps bring the squared error on clips it never saw to less than half of what copying makes."""
    torch.manual_seed(0)
    net = PixelModel(CONFIG)
    train, held = bars(256, seed=3), bars(32, seed=4)
    set_scale(net, [train])
    optimizer = torch.optim.AdamW(net.parameters(), lr=6e-3)
    for _ in range(100):
        clip = train[torch.randint(0, 256, (16,))]
        target = net.residual(clip)
        levels = draw_levels(16, config=FlowConfig(), like=target)
        error, metrics = loss(net, clip, levels=levels, noise=torch.randn_like(target))
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert float(metrics["copy"]) == pytest.approx(1.0, rel=0.3)  # the scale is that of the data
    ours, copy = mean_error(net.eval(), [held])
    assert ours < 0.5 * copy
    wrong = held.replace(actions=-held.actions)
    assert mean_error(net, [wrong])[0] > 2 * ours

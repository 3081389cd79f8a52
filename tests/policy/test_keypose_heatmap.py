"""Where the grip is to change next: rays meet there, heat maps learn it from few views, the head gets it as a token."""

import dataclasses

import pytest
import torch

from scene4d.errors import ConfigError
from scene4d.geometry.camera import project
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.policy.head import ActionHead, head_loss
from scene4d.policy.keypose_heatmap import STRIDE, heatmap_loss, keypose_from_heatmap
from scene4d.policy.virtual_cameras import HAND_OFFSET, render_views, virtual_cameras
from scene4d.types import Gaussians

SMALL = ActionHeadConfig(
    width=32, hidden=48, heads=2, encoder_depth=1, decoder_depth=1, stem=(12, 16, 24), view_size=32, chunk=4
)
HAND = torch.tensor([0.0, 0.6, 0.2])


def cameras_of(hands: torch.Tensor, *, size: int = 64):
    return virtual_cameras(hands, size=size)


def peaks(places: torch.Tensor, cameras, *, spread: float = 1.0) -> torch.Tensor:
    """Log heat maps [b v y x] about where places [b 3] are in the views."""
    pixels, _ = project(places[:, None, None].expand(-1, 3, 1, 3), cameras.viewmats, Ks=cameras.Ks)
    at, cells = pixels[:, :, 0] / STRIDE - 0.5, torch.arange(cameras.width // STRIDE)
    far = (cells[:, None] - at[..., 1, None, None]).square() + (cells - at[..., 0, None, None]).square()
    return -far / (2 * spread**2)


def balls(offsets: torch.Tensor, *, rest: int = 4) -> tuple[Gaussians, torch.Tensor]:
    """Scenes with a red ball at [b 3] m from the hand among blue ones, and their hands."""
    count = len(offsets)
    hands = HAND + 0.1 * torch.randn(count, 3)
    others = torch.empty(count, rest, 3).uniform_(-0.12, 0.12) + torch.tensor(HAND_OFFSET)
    colours = torch.tensor([[1.5, -1.5, -1.5], *[[-1.5, -1.5, 1.5]] * rest])
    scenes = Gaussians(
        means=hands[:, None] + torch.cat([offsets[:, None], others], 1),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(count, rest + 1, 4),
        scales=torch.full((count, rest + 1, 3), 0.015),
        opacities=torch.full((count, rest + 1), 0.99),
        sh=colours[None, :, None].expand(count, -1, -1, -1),
    )
    return scenes, hands


def test_rays_through_the_maps_meet_at_the_place():
    """A map is 12 mm a cell; the place comes out to a tenth of that, wherever it lies within the cells."""
    hands = HAND + 0.1 * torch.randn(20, 3)
    places = hands + torch.empty(20, 3).uniform_(-0.08, 0.08)
    cameras = cameras_of(hands)
    assert (keypose_from_heatmap(peaks(places, cameras), cameras) - places).norm(dim=-1).max() < 1e-3


def test_a_view_that_is_not_sure_is_outvoted():
    hands = HAND.expand(1, 3)
    place, cameras = hands + torch.tensor([0.04, 0.03, -0.06]), cameras_of(hands)
    maps = peaks(place, cameras)
    maps[:, 1] = 0  # this view shows nothing: its mean is the middle of the image
    assert (keypose_from_heatmap(maps, cameras) - place).norm() < 0.01


def test_loss_is_least_at_the_place_and_leaves_out_views_that_do_not_show_it():
    hands = HAND.expand(2, 3)
    places, cameras = hands + torch.tensor([[0.05, 0.0, -0.05], [0.0, 0.04, 0.0]]), cameras_of(hands)
    right = heatmap_loss(peaks(places, cameras), cameras, place=places)
    entropy = torch.log(torch.tensor(2 * torch.pi)) + 1  # of a Gaussian of one cell
    assert abs(float(right) - float(entropy)) < 0.05
    wrong = heatmap_loss(peaks(places.flip(0), cameras), cameras, place=places)
    assert wrong > right + 1
    for nowhere in (3.0, torch.nan):
        logits = torch.randn(2, 3, 32, 32, requires_grad=True)
        heatmap_loss(logits, cameras, place=hands + torch.tensor([nowhere, 0.0, 0.0])).backward()
        assert (logits.grad == 0).all()


def test_gradient_is_that_of_numeric_differentiation():
    hands = HAND.expand(1, 3).double()
    cameras = cameras_of(hands, size=8)
    place = hands + torch.tensor([0.02, 0.0, -0.04], dtype=torch.float64)
    logits = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: heatmap_loss(x, cameras, place=place), logits)
    assert torch.autograd.gradcheck(lambda x: keypose_from_heatmap(x, cameras), logits)


def test_learns_which_ball_from_where_hands_closed():
    """The red ball among blue ones, which only the demonstrations single out, at places never shown in training."""
    torch.manual_seed(0)
    head = ActionHead(SMALL)
    offsets = torch.tensor(HAND_OFFSET) + torch.empty(224, 3).uniform_(-0.1, 0.1)
    scenes, hands = balls(offsets)
    views = render_views(scenes, hand=hands, size=32)
    given = {
        "views": views, "proprio": torch.cat([torch.zeros(224, 3), torch.ones(224, 1)], -1), "hand": hands,
        "task_rows": torch.zeros(224, dtype=torch.long), "keypose": hands + offsets,
        "actions": torch.zeros(224, SMALL.chunk, 4), "valid": torch.ones(224, SMALL.chunk, dtype=torch.bool),
    }  # fmt: skip
    optimizer = torch.optim.AdamW(head.parameters(), lr=4e-3)
    for step in range(60):
        pick = torch.arange(32) + 32 * (step % 6)
        loss, metrics = head_loss(head, {name: value[pick] for name, value in given.items()})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics.keys() == {"error", "aim"}
    new = slice(192, 224)
    with torch.no_grad():
        inputs = {name: given[name][new] for name in ("views", "proprio", "hand", "task_rows")}
        _, heat = head.eval().encode(**inputs, features=None)
    missed = (keypose_from_heatmap(heat, views.cameras[new]) - given["keypose"][new]).norm(dim=-1)
    assert missed.median() < 0.025 < offsets[new].sub(offsets.mean(0)).norm(dim=-1).median()


def test_the_forecast_does_not_change_where_the_head_aims():
    torch.manual_seed(0)
    head, hand = ActionHead(SMALL).eval(), HAND.expand(2, 3)
    scenes, hands = balls(torch.zeros(2, 3))
    views = render_views(scenes, hand=hands, size=32)
    both = views.map(lambda x: torch.cat([x, torch.rand_like(x)], 1)).replace(
        cameras=views.cameras.map(lambda x: torch.cat([x, x], 1))
    )
    rest = {"features": None, "proprio": torch.zeros(2, 4), "hand": hand, "task_rows": torch.zeros(2).long()}
    with torch.no_grad():
        now, later = head.encode(views, **rest), head.encode(both, **rest)
    assert torch.allclose(now[1], later[1], atol=1e-5)
    assert later[0].shape[1] > now[0].shape[1]


def test_number_of_views_is_that_of_the_cameras():
    with pytest.raises(ConfigError, match="num_views"):
        dataclasses.replace(SMALL, num_views=4)
    assert ActionHead(dataclasses.replace(SMALL, modality="images", num_views=2)).aim is None

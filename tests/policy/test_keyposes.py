"""What a demonstration heads for: grips first, then corners, which are where a path really bends."""

import itertools

import pytest
import torch

from scene4d.policy.learning.keyposes import CORNER_M, corners, keyposes_ahead

GRIP = torch.tensor([-1.0, -1, -1, 0.6, 0.6, -1, -1, -1])
ZIGZAG = torch.tensor([[0.0, 0, 0], [0.2, 0, 0.1], [0.2, 0.3, 0.1], [-0.1, 0.3, 0.0]])


def along(points: torch.Tensor, *, steps: int = 10) -> torch.Tensor:
    """A path [n 3] through points [k 3], `steps` steps from each to the next."""
    share = torch.linspace(0, 1, steps + 1)[:-1, None]
    parts = [a + share * (b - a) for a, b in itertools.pairwise(points)]
    return torch.cat([*parts, points[-1:]])


def test_demonstrations_head_for_their_next_change_of_grip():
    labels = torch.cat([torch.zeros(8, 3), GRIP[:, None]], 1)
    hand = torch.arange(8.0)[:, None].expand(8, 3)
    keypose, free = keyposes_ahead(labels, hand=hand)
    assert keypose[:, 0].tolist() == [3, 3, 3, 5, 5, 7, 7, 7]
    assert free.tolist() == [True] * 3 + [False] * 5


def test_without_a_change_of_grip_they_head_for_the_next_corner():
    path = along(ZIGZAG)
    keypose, free = keyposes_ahead(torch.zeros(len(path), 4), hand=path)
    wanted = ZIGZAG[1:].repeat_interleave(10, 0)
    assert torch.allclose(keypose, torch.cat([wanted, ZIGZAG[-1:]]), atol=1e-6) and not free.any()


@pytest.mark.parametrize("shake", [0.0, 0.01])
def test_corners_are_where_a_path_bends(shake):
    torch.manual_seed(0)
    path = along(ZIGZAG)
    found = corners(path + shake * (2 * torch.rand(path.shape) - 1), tolerance=CORNER_M)
    assert len(found) == 4
    assert all(abs(number - bend) <= (1 if shake else 0) for number, bend in zip(found, (0, 10, 20, 30), strict=True))


def test_straight_lines_through_corners_stay_near_the_path():
    torch.manual_seed(1)
    path = torch.randn(60, 3).cumsum(0) * 0.03
    found = corners(path, tolerance=CORNER_M)
    assert 2 < len(found) < 60
    for first, last in itertools.pairwise(found):
        ends, share = path[[first, last]], torch.linspace(0, 1, 2001)[:, None]
        line = torch.lerp(ends[:1], ends[1:], share)
        assert torch.cdist(path[first : last + 1], line).amin(1).max() < CORNER_M + 1e-3


@pytest.mark.parametrize("length", [1, 2])
def test_the_shortest_paths_have_no_bend(length):
    assert corners(torch.randn(length, 3), tolerance=0.0) == list(range(length))
    keypose, _ = keyposes_ahead(torch.zeros(length, 4), hand=torch.ones(length, 3))
    assert torch.equal(keypose, torch.ones(length, 3))

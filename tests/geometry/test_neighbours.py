"""Neighbours against brute force, and the laws of farthest-point sampling."""

import pytest
import torch

from scene4d.errors import ShapeError
from scene4d.geometry.neighbours import farthest_points, nearest


def test_nearest_is_brute_force():
    points, queries = torch.randn(200, 3), torch.randn(50, 3)
    distance, index = nearest(points, queries, num=4)
    wanted = torch.cdist(queries, points).sort(dim=1)
    assert distance.dtype == points.dtype and index.dtype == torch.int64
    torch.testing.assert_close(distance, wanted.values[:, :4])
    assert torch.equal(index, wanted.indices[:, :4])


def test_nearest_of_itself_is_itself():
    points = torch.randn(30, 5)
    distance, index = nearest(points, points, num=1)
    assert torch.equal(index[:, 0], torch.arange(30)) and (distance == 0).all()


def test_farthest_points_take_the_farthest():
    points = torch.randn(300, 3)
    chosen = farthest_points(points, 20, start=7)
    assert chosen[0] == 7 and len(set(chosen.tolist())) == 20
    for i in range(1, 20):
        gap = torch.cdist(points, points[chosen[:i]]).amin(1)
        assert gap[chosen[i]] == gap.max()


def test_farthest_points_do_not_depend_on_position():
    points = torch.randint(-50, 50, (100, 3)).double()
    moved = points + torch.tensor([1024.0, -512.0, 64.0], dtype=torch.float64)
    assert torch.equal(farthest_points(points, 12), farthest_points(moved, 12))


def test_all_points_and_none():
    points = torch.rand(6, 2)
    assert sorted(farthest_points(points, 6).tolist()) == list(range(6))
    assert farthest_points(points, 0).shape == (0,)


def test_too_many_are_refused():
    with pytest.raises(ShapeError):
        farthest_points(torch.rand(3, 3), 4)
    with pytest.raises(ShapeError):
        nearest(torch.rand(3, 3), torch.rand(1, 3), num=4)

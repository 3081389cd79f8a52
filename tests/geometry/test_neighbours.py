"""Neighbours against brute force, the laws of farthest-point sampling, and Chamfer distance with its gradients."""

import pytest
import torch

from scene4d.errors import ShapeError
from scene4d.geometry.neighbours import chamfer, farthest_points, nearest


def _seeded(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_batches_are_sets_one_by_one(batch):
    points, queries = _seeded(*batch, 40, 3), _seeded(*batch, 9, 3, seed=1)
    mask, query_mask = _seeded(*batch, 40, seed=2) > -0.5, _seeded(*batch, 9, seed=3) > -0.5
    distance, index = nearest(points, queries, num=2, mask=mask, query_mask=query_mask)
    chosen = farthest_points(points, 5, start=None, mask=mask)
    away = chamfer(points, queries, mask=mask, target_mask=query_mask)
    assert distance.shape == index.shape == (*batch, 9, 2) and chosen.shape == (*batch, 5) and away.shape == batch
    flat = [x.reshape(-1, *x.shape[len(batch) :]) for x in (points, queries, mask, query_mask)]
    for i, (p, q, m, k) in enumerate(zip(*flat, strict=True)):
        alone = nearest(p, q, num=2, mask=m, query_mask=k)
        assert torch.equal(alone[0], distance.reshape(-1, 9, 2)[i])
        assert torch.equal(alone[1], index.reshape(-1, 9, 2)[i])
        assert torch.equal(farthest_points(p, 5, start=None, mask=m), chosen.reshape(-1, 5)[i])
        assert torch.equal(chamfer(p, q, mask=m, target_mask=k), away.reshape(-1)[i])


def test_farthest_points_from_the_centre_and_in_distinct_places():
    points = torch.tensor([[0.0, 0], [4, 0], [4, 0], [-9, 0], [0, 1], [50, 50]])
    mask = torch.tensor([True, True, True, True, True, False])
    assert farthest_points(points, 3, start=None, mask=mask).tolist() == [3, 1, 4]
    assert farthest_points(points, 6, start=None, mask=mask).tolist() == [3, 1, 4, 0, 2, -1]
    assert farthest_points(points, 6, start=None, mask=mask, distinct=True).tolist() == [3, 1, 4, 0, -1, -1]
    both = torch.stack([points, points.flip(0)])
    assert farthest_points(both, 2, start=torch.tensor([0, 5])).tolist() == [[0, 5], [5, 0]]
    assert farthest_points(points, 3, start=None, mask=torch.zeros(6, dtype=torch.bool)).tolist() == [-1] * 3


def test_nearest_is_differentiable_and_standing_still_where_it_is_zero():
    points, queries = _seeded(20, 3).requires_grad_(), _seeded(7, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, q: nearest(p, q, num=3)[0], (points, queries))
    nearest(points, points.detach(), num=1)[0].sum().backward()
    assert (points.grad == 0).all()


def _chamfer_by_definition(points, target, weights, target_weights, *, squared):
    """One set, in float64, from the full table of distances."""
    table = (points[:, None] - target).square().sum(-1)
    table = table if squared else table.sqrt()
    return (table.amin(1) * weights).sum() / weights.sum() + (
        table.amin(0) * target_weights
    ).sum() / target_weights.sum()


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_chamfer_is_its_definition(weighted, squared):
    points, target = _seeded(3, 50, 3), _seeded(3, 31, 3, seed=1)
    mask, target_mask = _seeded(3, 50, seed=2) > 0, _seeded(3, 31, seed=3) > 0
    weights = _seeded(3, 50, seed=4).exp() if weighted else torch.ones(3, 50).double()
    others = _seeded(3, 31, seed=5).exp() if weighted else torch.ones(3, 31).double()
    given = dict(weights=weights, target_weights=others) if weighted else {}
    found = chamfer(points, target, mask=mask, target_mask=target_mask, squared=squared, **given)
    for i in range(3):
        m, k = mask[i], target_mask[i]
        wanted = _chamfer_by_definition(points[i, m], target[i, k], weights[i, m], others[i, k], squared=squared)
        torch.testing.assert_close(found[i], wanted)


@pytest.mark.parametrize("squared", [True, False])
def test_chamfer_gradients(squared):
    points, target = _seeded(2, 12, 2).requires_grad_(), _seeded(2, 8, 2, seed=1).requires_grad_()
    weights = _seeded(2, 12, seed=2).exp().requires_grad_()
    mask = torch.arange(8).expand(2, 8) < torch.tensor([[5], [8]])

    def call(p, t, w):
        return chamfer(p, t, weights=w, target_mask=mask, squared=squared)

    assert torch.autograd.gradcheck(call, (points, target, weights))
    call(points, target, weights).sum().backward()
    assert (target.grad[0, 5:] == 0).all() and (target.grad[0, :5] != 0).any()


def test_chamfer_pulls_a_cloud_onto_its_target():
    target, points = _seeded(60, 3).float(), _seeded(60, 3, seed=1).float().requires_grad_()
    optimizer = torch.optim.Adam([points], lr=0.05)
    first = float(chamfer(points, target).detach())
    for _ in range(100):
        optimizer.zero_grad()
        chamfer(points, target).backward()
        optimizer.step()
    assert float(chamfer(points, target).detach()) < 0.1 * first


def test_chamfer_of_nothing_is_nothing():
    points = torch.rand(2, 4, 3, requires_grad=True)
    none = torch.zeros(2, 4, dtype=torch.bool)
    away = chamfer(points, points.detach() + 1, target_mask=none) + chamfer(points[:, :0], points.detach())
    away.sum().backward()
    assert (away == 0).all() and (points.grad == 0).all()


def test_chamfer_is_that_of_pytorch3d():
    loss = pytest.importorskip("pytorch3d.loss", exc_type=ImportError)
    points, target = _seeded(3, 40, 3).float().requires_grad_(), _seeded(3, 25, 3, seed=1).float()
    lengths = torch.tensor([40, 7, 21])
    mask = torch.arange(40) < lengths[:, None]
    ours = chamfer(points, target, mask=mask).mean()
    theirs, _ = loss.chamfer_distance(points, target, x_lengths=lengths)
    torch.testing.assert_close(ours, theirs)
    v_ours, v_theirs = (torch.autograd.grad(x, points)[0] for x in (ours, theirs))
    torch.testing.assert_close(v_ours, v_theirs)

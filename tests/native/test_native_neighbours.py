"""Farthest points and nearest rows against their definitions, in every search, instruction set and number type."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
import torch
from scipy.spatial import cKDTree

from scene4d.errors import ShapeError
from scene4d.native import cuda, ops
from scene4d.native import nearest as neighbours
from scene4d.native.nearest import SEARCHES, farthest_rows, force_search, nearest_rows

DIMS = (1, 2, 3, 6, 9)
FLOATS = (torch.float32, torch.float64)


@pytest.fixture(autouse=True)
def _no_leftovers():
    before = torch.get_num_threads()
    yield
    force_search(None)
    ops.force_instruction_set(None)
    torch.set_num_threads(before)


def every_variant():
    """Each search on each instruction set of this machine."""
    for kind in ops.INSTRUCTION_SETS[: ops.native_module().best_instruction_set() + 1]:
        for search in SEARCHES:
            ops.force_instruction_set(kind)
            force_search(search)
            yield f"{search}, {kind}"


def cloud(*size: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    """A third each: a dense shell, a thin line, loose points ten times as wide; much as a scene is."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(*size, generator=random, dtype=dtype)
    part = torch.randint(0, 3, (*size[:-1], 1), generator=random)
    shell = torch.nn.functional.normalize(x, dim=-1) + 1e-2 * x
    line = x[..., :1].expand(size) + 1e-3 * x
    return torch.where(part == 0, shell, torch.where(part == 1, line, 10 * x))


def lattice(*size: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    """Few places, many times each: distances are exact and most of them tie."""
    return torch.randint(0, 4, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def squares_between(queries: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    return (queries[:, :, None].double() - points[:, None].double()).square().sum(-1)  # [b q n]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("dims", DIMS)
def test_nearest_breaks_ties_by_row(dims, dtype):
    points, queries = lattice(2, 300, dims, dtype=dtype), lattice(2, 70, dims, dtype=dtype, seed=1)
    order = squares_between(queries, points).sort(dim=-1, stable=True)
    for variant in every_variant():
        squares, index = nearest_rows(points, queries, num=9)
        assert torch.equal(index, order.indices[..., :9]), variant
        assert torch.equal(squares.double(), order.values[..., :9]), variant


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("dims", DIMS)
def test_nearest_is_that_of_scipy(dims, dtype):
    points, queries = cloud(1, 4000, dims, dtype=dtype), cloud(1, 600, dims, dtype=dtype, seed=1)
    distance, wanted = (torch.as_tensor(x) for x in cKDTree(points[0].numpy()).query(queries[0].numpy(), k=6))
    rounding = 64 * torch.finfo(dtype).eps
    clear = (distance.diff(dim=-1) > rounding * distance[:, 1:]).all(-1)
    assert clear.double().mean() > 0.9
    for variant in every_variant():
        squares, index = nearest_rows(points, queries, num=5)
        torch.testing.assert_close(squares[0].sqrt().double(), distance[:, :5], rtol=rounding, atol=0)
        assert torch.equal(index[0][clear], wanted[clear, :5]), variant


def test_all_variants_give_the_same_bits():
    points, queries = cloud(2, 3000, 3), cloud(2, 900, 3, seed=1)
    mask = torch.rand(2, 3000, generator=torch.Generator().manual_seed(2)) < 0.7
    start = torch.tensor([5, 11])
    found = [
        (*nearest_rows(points, queries, num=4, mask=mask), *farthest_rows(points, 200, start=start, mask=mask))
        for _ in every_variant()
    ]
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_any_number_of_threads_gives_the_same_bits():
    points, queries = cloud(3, 5000, 3), cloud(3, 2000, 3, seed=1)
    found = []
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        at, to = points.clone().requires_grad_(), queries.clone().requires_grad_()
        squares, index = nearest_rows(at, to, num=3)
        squares.sum().backward()
        start = torch.zeros(3, dtype=torch.int64)
        found.append((squares.detach(), index, at.grad, to.grad, *farthest_rows(points, 100, start=start)))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_a_set_among_itself_is_as_two_sets():
    points = cloud(2, 2500, 3)
    for variant in every_variant():
        ours, other = nearest_rows(points, points, num=3), nearest_rows(points, points.clone(), num=3)
        assert torch.equal(ours[0], other[0]) and torch.equal(ours[1], other[1]), variant


def test_rows_that_do_not_exist_are_never_found():
    points, queries = cloud(1, 800, 3), cloud(1, 600, 3, seed=1)
    mask = torch.rand(1, 800, generator=torch.Generator().manual_seed(2)) < 0.6
    query_mask = torch.rand(1, 600, generator=torch.Generator().manual_seed(3)) < 0.6
    points[0, ~mask[0]] = queries[0, :1]  # they would be found
    points[0, 7], points[0, 9, 1], queries[0, 4, 2] = torch.nan, torch.inf, -torch.inf
    exists = mask[0] & points[0].isfinite().all(-1)
    asks = query_mask[0] & queries[0].isfinite().all(-1)
    rows = exists.nonzero()[:, 0]
    start = torch.tensor([int((~mask[0]).nonzero()[0, 0])])
    for variant in every_variant():
        squares, index = nearest_rows(points, queries, num=4, mask=mask, query_mask=query_mask)
        alone = nearest_rows(points[:, exists], queries[:, asks], num=4)
        assert torch.equal(squares[:, asks], alone[0]) and torch.equal(index[:, asks], rows[alone[1]]), variant
        assert (index[:, ~asks] == -1).all() and squares[:, ~asks].isinf().all(), variant
        index, gaps = farthest_rows(points, 50, start=start, mask=mask)
        alone = farthest_rows(points[:, exists], 50, start=torch.zeros(1, dtype=torch.int64))
        assert torch.equal(index, rows[alone[0]]) and torch.equal(gaps, alone[1]), variant


def test_too_few_points():
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [3, 0, 0]]])
    mask = torch.tensor([[True, False, True]])
    for variant in every_variant():
        squares, index = nearest_rows(points, points[:, 1:2], num=4, mask=mask)
        assert index.tolist() == [[[0, 2, -1, -1]]] and squares.tolist() == [[[1.0, 4.0, torch.inf, torch.inf]]], (
            variant
        )
        index, squares = farthest_rows(points, 4, start=torch.tensor([2]), mask=mask)
        assert index.tolist() == [[2, 0, -1, -1]] and squares.tolist() == [[torch.inf, 9.0, 0.0, 0.0]], variant
        squares, index = nearest_rows(points[:, :0], points, num=1)
        assert (index == -1).all() and squares.isinf().all(), variant
        assert farthest_rows(points[:, :0], 2, start=torch.tensor([0]))[0].tolist() == [[-1, -1]], variant
        assert nearest_rows(points, points[:, :0], num=2)[1].shape == (1, 0, 2), variant
        assert nearest_rows(points[:0], points[:0], num=2)[1].shape == (0, 3, 2), variant


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("make", [lattice, cloud])
def test_farthest_rows_are_those_of_the_definition(make, dims, dtype):
    points = make(1, 1100, dims, dtype=dtype)
    x, free = points[0], torch.ones(1100, dtype=torch.bool)
    gaps, row, wanted, squares = torch.full((1100,), torch.inf, dtype=dtype), 13, [], []
    for _ in range(150):
        wanted.append(row)
        squares.append(gaps[row].clone())
        free[row] = False
        gap = (x[:, 0] - x[row, 0]).square()
        for c in range(1, dims):  # the order of the native sum, so that ties are the same ties
            gap = gap + (x[:, c] - x[row, c]).square()
        gaps = torch.minimum(gaps, gap)
        row = int(torch.where(free, gaps, -1).argmax())
    for variant in every_variant():
        index, found = farthest_rows(points, 150, start=torch.tensor([13]))
        assert index[0].tolist() == wanted and torch.equal(found[0], torch.stack(squares)), variant


DEGENERATE = {
    "one place": torch.ones(1, 700, 3),
    "two places": torch.arange(700).remainder(2)[None, :, None].expand(1, 700, 3).float(),
    "a line": torch.arange(700.0)[None, :, None] * torch.tensor([1.0, 0, 0]),
    "an outlier": torch.cat([lattice(1, 699, 3), torch.full((1, 1, 3), 1e7)], 1),
    "beyond float": torch.cat([lattice(1, 699, 3), torch.full((1, 1, 3), 3e38), torch.full((1, 1, 3), -3e38)], 1),
    "tiny": lattice(1, 700, 3) * 2.0**-60,
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_sets(name):
    points = DEGENERATE[name].contiguous()
    squares = ((points[0, :, None] - points[0]) ** 2).sum(-1)  # infinite where float overflows: never found
    wanted = squares.sort(dim=-1, stable=True)
    for variant in every_variant():
        found, index = nearest_rows(points, points, num=3)
        assert torch.equal(found[0], wanted.values[:, :3]), variant
        far = wanted.values[:, :3].isinf()
        assert torch.equal(index[0], wanted.indices[:, :3].masked_fill(far, -1)), variant
        rows, _ = farthest_rows(points, points.shape[1], start=torch.tensor([0]))
        assert sorted(rows[0].tolist()) == list(range(points.shape[1])), variant


def test_gradients():
    points, queries = cloud(2, 12, 3, dtype=torch.float64), cloud(2, 7, 3, dtype=torch.float64, seed=1)
    mask = torch.rand(2, 12, generator=torch.Generator().manual_seed(2)) < 0.3
    mask[1] = False
    points[0, ~mask[0]] = torch.nan  # what does not exist must not reach a gradient

    def finite(*tensors):
        squares, index = nearest_rows(tensors[0], tensors[1], num=5, mask=mask)
        return torch.where(index >= 0, squares, 0)

    inputs = (points.nan_to_num(0.5).requires_grad_(), queries.requires_grad_())
    assert torch.autograd.gradcheck(finite, inputs) and torch.autograd.gradgradcheck(finite, inputs)
    bad = points.clone().requires_grad_()
    finite(bad, queries).sum().backward()
    assert bad.grad.isfinite().all() and queries.grad.isfinite().all() and (bad.grad[~mask] == 0).all()


def test_opcheck():
    points, queries = cloud(2, 40, 3).requires_grad_(), cloud(2, 9, 3, seed=1).requires_grad_()
    mask = torch.arange(40).expand(2, 40) % 3 > 0
    torch.library.opcheck(torch.ops.scene4d.nearest.default, (points, mask, queries, None, 4))
    start = torch.zeros(2, dtype=torch.int64)
    torch.library.opcheck(torch.ops.scene4d.farthest_points.default, (points.detach(), mask, start, 6))


def test_compiles_as_one_graph():
    def loss_of(points, queries):
        squares, index = nearest_rows(points, queries, num=3)
        rows, _ = farthest_rows(points, 8, start=index[:, 0, 0])
        return squares.sum() + points.gather(1, rows[..., None].expand(-1, -1, 3)).square().sum()

    results = []
    for function in (loss_of, torch.compile(loss_of, fullgraph=True, backend="aot_eager")):
        points, queries = cloud(2, 60, 3).requires_grad_(), cloud(2, 20, 3, seed=1).requires_grad_()
        loss = function(points, queries)
        loss.backward()
        results.append((loss.detach(), points.grad, queries.grad))
    for eager, compiled in zip(*results, strict=True):
        assert torch.allclose(eager, compiled, rtol=1e-5, atol=1e-5)


def test_not_contiguous_inputs_are_read_right():
    points = cloud(2, 500, 3)
    strided = points.transpose(1, 2).contiguous().transpose(1, 2)
    ours, plain = nearest_rows(strided, strided[:, ::2], num=2), nearest_rows(points, points[:, ::2], num=2)
    assert torch.equal(ours[0], plain[0]) and torch.equal(ours[1], plain[1])


def test_wrong_inputs_are_named():
    points, start = torch.rand(2, 5, 3), torch.zeros(2, dtype=torch.int64)
    wrong = {
        "queries": lambda: nearest_rows(points, points.double(), num=1),
        "mask": lambda: nearest_rows(points, points, num=1, mask=torch.ones(2, 4, dtype=torch.bool)),
        "query_mask": lambda: nearest_rows(points, points, num=1, query_mask=torch.ones(2, 5)),
        "points": lambda: nearest_rows(points.int(), points.int(), num=1),
        "start": lambda: farthest_rows(points, 2, start=start.int()),
    }
    for field, call in wrong.items():
        with pytest.raises(ShapeError) as caught:
            call()
        assert caught.value.field == field


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_gives_the_same_bits():
    if reason := cuda.why_not(torch.device("cuda")):
        pytest.skip(reason)
    mask = torch.rand(2, 9000, generator=torch.Generator().manual_seed(2)) < 0.7
    for dims in (3, 6):
        points, queries = cloud(2, 9000, dims), cloud(2, 700, dims, seed=1)
        for num in (1, 4, 8, 16, 40):
            found = nearest_rows(points.cuda(), queries.cuda(), num=num, mask=mask.cuda())
            for a, b in zip(found, nearest_rows(points, queries, num=num, mask=mask), strict=True):
                assert torch.equal(a.cpu(), b)
        for rows in (8000, 9000):  # in registers, in memory
            start = torch.tensor([3, 0])
            found = farthest_rows(points[:, :rows].cuda(), 300, start=start.cuda(), mask=mask[:, :rows].cuda())
            wanted = farthest_rows(points[:, :rows], 300, start=start, mask=mask[:, :rows])
            assert all(torch.equal(a.cpu(), b) for a, b in zip(found, wanted, strict=True))


def test_without_kernels_for_the_gpu_the_cpu_searches_and_says_so_once(monkeypatch):
    monkeypatch.setattr(cuda, "why_not", lambda device: "no code for this GPU")
    monkeypatch.setattr(cuda, "_warned", set())
    points, start = cloud(1, 50, 3), torch.tensor([0])
    with pytest.warns(UserWarning, match="no code for this GPU"):
        found = neighbours._nearest_cuda(points, None, points, None, 2)
    assert torch.equal(found[1], nearest_rows(points, points, num=2)[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index, _ = neighbours._farthest_points_cuda(points, None, start, 5)
    assert torch.equal(index, farthest_rows(points, 5, start=start)[0])


FORKED_SEARCH = """
import os, signal, torch
from test_native_neighbours import cloud, nearest_rows
points = cloud(2, 4000, 3)
torch.set_num_threads(2)
expected = nearest_rows(points, points, num=2)  # the parent's threads exist before the fork
child = os.fork()
if child == 0:
    signal.alarm(30)
    found = nearest_rows(points, points, num=2)
    os._exit(0 if all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(expected, found)) else 3)
_, status = os.waitpid(child, 0)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_searches():
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    command = [sys.executable, "-c", FORKED_SEARCH]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, timeout=90, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

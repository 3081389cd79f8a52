"""Times of nearest rows, farthest points and Chamfer distance against scipy and torch, one JSON line a case.

`python scripts/bench_neighbours.py [--case NAME] [--threads 1 2] [--by scene4d scipy torch]`; rows as of bench.py.
Points are a scene's: dense shells, a line, loose points. Peers answer the same question: scipy's k-d tree is built and
asked, as ours is; torch makes the whole table of distances, or chooses one farthest point at a time.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from bench import Call, commit, measure
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]  # compiled, without a stub
from torch import Tensor

from scene4d.geometry.neighbours import chamfer, farthest_points, nearest
from scene4d.native.ops import INSTRUCTION_SETS, force_instruction_set, native_module

MAX_TABLE = 10**8  # pairs of which torch makes a table


def scene_points(num: int, *, dims: int, seed: int, batch: tuple[int, ...] = ()) -> Tensor:
    """Shells of three radii with a millimetre of noise, an eighth of the points on a line, an eighth loose."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch, num, dims, generator=random)
    part = torch.randint(0, 8, (*batch, num, 1), generator=random)
    radius = torch.tensor([0.1, 0.5, 2.0])[torch.randint(0, 3, (*batch, num, 1), generator=random)]
    shell = radius * torch.nn.functional.normalize(x, dim=-1) + 1e-3 * torch.randn(x.shape, generator=random)
    return torch.where(part == 0, x[..., :1] + 1e-3 * x, torch.where(part == 1, 3 * x, shell))


@dataclass(frozen=True)
class NearestCase:
    """`num` nearest of `num_points` to each of `num_queries`."""

    num_points: int
    num_queries: int
    num: int
    dims: int = 3

    def calls(self) -> dict[str, Call]:
        """By whom, and how."""
        points = scene_points(self.num_points, dims=self.dims, seed=0)
        queries = scene_points(self.num_queries, dims=self.dims, seed=1)

        def scipy_call() -> None:
            tree = cKDTree(points.numpy(), balanced_tree=False, compact_nodes=False)
            tree.query(queries.numpy(), k=self.num, workers=torch.get_num_threads())

        calls: dict[str, Call] = {"scene4d": lambda: nearest(points, queries, num=self.num), "scipy": scipy_call}
        if self.num_points * self.num_queries <= MAX_TABLE:
            calls["torch"] = lambda: torch.cdist(queries, points).topk(self.num, largest=False)
        return calls


@dataclass(frozen=True)
class FarthestCase:
    """`num` farthest of each set."""

    num_points: int
    num: int
    dims: int = 3
    batch: tuple[int, ...] = ()

    def calls(self) -> dict[str, Call]:
        """By whom, and how."""
        points = scene_points(self.num_points, dims=self.dims, seed=0, batch=self.batch)
        sets = points.reshape(-1, self.num_points, self.dims)

        def torch_call() -> None:
            columns = sets.transpose(1, 2).contiguous()
            gaps, row = torch.full(sets.shape[:2], torch.inf), torch.zeros(len(sets), 1, dtype=torch.int64)
            for _ in range(self.num):
                at = columns.gather(2, row[:, None].expand(-1, self.dims, -1))
                gaps = torch.minimum(gaps, (columns - at).square().sum(1))
                row = gaps.argmax(1, keepdim=True)

        return {"scene4d": lambda: farthest_points(points, self.num), "torch": torch_call}


@dataclass(frozen=True)
class ChamferCase:
    """Forward and backward between two sets."""

    num_points: int

    def calls(self) -> dict[str, Call]:
        """By whom, and how."""
        points, target = (scene_points(self.num_points, dims=3, seed=seed).requires_grad_() for seed in (0, 1))

        def both(value: Tensor) -> None:
            torch.autograd.grad(value, (points, target))

        def torch_call() -> None:
            table = torch.cdist(points, target)
            both(table.amin(1).square().mean() + table.amin(0).square().mean())

        calls: dict[str, Call] = {"scene4d": lambda: both(chamfer(points, target))}
        if self.num_points**2 <= MAX_TABLE:
            calls["torch"] = torch_call
        return calls


CASES = {
    "nearest_64_of_8k_9d": NearestCase(64, 8_000, 4, dims=9),  # every row's anchors, in the forecaster's space
    "nearest_8k_of_64": NearestCase(8_000, 64, 24),  # every anchor's rows
    "nearest_1k_1k": NearestCase(1_000, 1_000, 1),
    "nearest_8k_8k": NearestCase(8_000, 8_000, 1),
    "nearest_8k_8k_k8": NearestCase(8_000, 8_000, 8),
    "nearest_8k_8k_k8_6d": NearestCase(8_000, 8_000, 8, dims=6),
    "nearest_100k_100k": NearestCase(100_000, 100_000, 1),
    "nearest_100k_100k_k8": NearestCase(100_000, 100_000, 8),
    "nearest_1M_1M": NearestCase(1_000_000, 1_000_000, 1),
    "farthest_128_of_8k_6d": FarthestCase(8_000, 128, dims=6),
    "farthest_16x128_of_8k_6d": FarthestCase(8_000, 128, dims=6, batch=(16,)),
    "farthest_1k_of_100k": FarthestCase(100_000, 1_000),
    "chamfer_8k": ChamferCase(8_000),
    "chamfer_100k": ChamferCase(100_000),
}


def neighbour_rows(*, cases: list[str], threads: list[int], by: list[str], seconds: float) -> Iterator[dict]:
    """Rows for every case, thread count and peer."""
    for name in cases:
        for num_threads in threads:
            torch.set_num_threads(num_threads)
            for who, call in CASES[name].calls().items():
                if who in by:
                    row = dict(bench="neighbours", case=name, by=who, threads=num_threads)
                    yield {**row, **measure(call, seconds=seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--by", nargs="*", default=["scene4d", "scipy", "torch"])
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each row")
    parser.add_argument("--instruction-set", choices=INSTRUCTION_SETS, default=None)
    options = parser.parse_args()
    force_instruction_set(options.instruction_set)
    chosen = options.instruction_set or INSTRUCTION_SETS[native_module().best_instruction_set()]
    machine = dict(commit=commit(), machine=platform.machine(), instruction_set=chosen, torch=torch.__version__)
    for row in neighbour_rows(cases=options.case, threads=options.threads, by=options.by, seconds=options.seconds):
        print(json.dumps({**row, **machine}), flush=True)


if __name__ == "__main__":
    main()

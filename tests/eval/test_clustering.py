"""The adjusted Rand index against cases in closed form, and the interval of a mean."""

from __future__ import annotations

import pytest
import torch

from scene4d.eval.metrics.clustering import adjusted_rand_index


@pytest.mark.parametrize(
    ("labels", "truth", "expected"),
    [
        ([0, 0, 1, 1], [5, 5, 2, 2], 1.0),  # names do not count
        ([0, 0, 1, 1], [0, 0, 1, 2], 4 / 7),
        ([0, 0, 1, 2], [0, 0, 1, 1], 4 / 7),  # symmetric
        ([0, 1, 0, 1], [0, 0, 1, 1], -0.5),  # worse than chance
        ([0, 0, 0, 0], [0, 1, 2, 3], 0.0),
        ([3, 3, 3], [-1, -1, -1], 1.0),
        ([0, 1, 2], [4, 5, 6], 1.0),
        ([0], [1], 1.0),
        ([], [], 1.0),
    ],
)
def test_closed_form_cases(labels, truth, expected):
    tensor = lambda x: torch.tensor(x, dtype=torch.int64)
    assert adjusted_rand_index(tensor(labels), tensor(truth)) == pytest.approx(expected, abs=1e-12)


def test_chance_is_worth_nothing_and_order_does_not_count():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 5, (20_000,), generator=generator) for _ in range(2))
    assert abs(adjusted_rand_index(a, b)) < 0.005
    half = torch.where(torch.arange(20_000) < 10_000, a, b)
    mixed = torch.randperm(20_000, generator=generator)
    assert adjusted_rand_index(a[mixed], half[mixed]) == pytest.approx(adjusted_rand_index(a, half))

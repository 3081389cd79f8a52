"""Intervals of success rates: published values, and how often they hold the truth."""

import pytest
import torch

from scene4d.eval.metrics.rates import mcnemar_p, paired_interval, wilson_interval


@pytest.mark.parametrize(
    ("wins", "trials", "low", "high"),
    [(0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (8, 10, 0.49016, 0.94331), (263, 500, 0.48220, 0.56940)],
)
def test_wilson_interval_has_the_published_values(wins, trials, low, high):
    found = wilson_interval(wins, trials)
    assert found == pytest.approx((low, high), abs=2e-5)


def test_wilson_interval_covers_as_it_says():
    """Of many experiments with a true rate of 0.8, about 95 % of the intervals hold it."""
    wins = torch.distributions.Binomial(50, torch.tensor(0.8)).sample((4000,)).int()
    table = [wilson_interval(k, 50) for k in range(51)]
    share = sum(table[k][0] <= 0.8 <= table[k][1] for k in wins.tolist()) / 4000
    assert 0.92 < share < 0.98


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [((36, 12, 2, 0), 0.0569, 0.3404), ((20, 12, 2, 16), 0.0562, 0.3292), ((0, 0, 0, 54), -0.0664, 0.0664)],
)
def test_paired_interval_has_the_published_values(counts, low, high):
    both, first, second, neither = counts
    assert paired_interval(first, second, both=both, neither=neither) == pytest.approx((low, high), abs=2e-3)


def test_paired_interval_covers_as_it_says():
    """Of many experiments with pairs that mostly agree, about 95 % of the intervals hold the true difference."""
    truth = torch.tensor([0.6, 0.12, 0.06, 0.22])
    draws = torch.distributions.Multinomial(200, truth).sample((3000,)).int().tolist()
    bounds = [paired_interval(first, second, both=both, neither=neither) for both, first, second, neither in draws]
    assert 0.925 < sum(low <= 0.06 <= high for low, high in bounds) / len(bounds) < 0.985


def test_paired_interval_turns_with_its_sides():
    low, high = paired_interval(9, 4, both=30, neither=7)
    assert paired_interval(4, 9, both=30, neither=7) == pytest.approx((-high, -low))
    assert paired_interval(0, 0, both=0, neither=0) == (-1.0, 1.0)


@pytest.mark.parametrize(("split", "p"), [((0, 0), 1.0), ((5, 5), 1.0), ((0, 6), 0.03125), ((11, 6), 0.33231)])
def test_uneven_splits_are_unlikely(split, p):
    assert mcnemar_p(*split) == mcnemar_p(*reversed(split)) == pytest.approx(p, abs=1e-5)

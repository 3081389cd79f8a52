"""Intervals that come of drawing episodes again."""

import numpy as np
import pytest
import torch

from scene4d.eval.metrics.bootstrap import interval, interval_of_mean, resampled_means


def test_the_interval_of_a_mean_holds_it_and_narrows():
    values = torch.randn(400, generator=torch.Generator().manual_seed(2)).tolist()
    low, high = interval_of_mean(values)
    mean = sum(values) / 400
    assert low < mean < high and (high - low) == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert interval_of_mean([0.7] * 5) == (pytest.approx(0.7), pytest.approx(0.7))
    few = interval_of_mean(values[:20])
    assert few[1] - few[0] > high - low


def test_windows_of_one_episode_are_no_more_than_one_episode():
    """Ten times the same window tell no more; another length of an episode counts by its windows."""
    values = torch.randn(30, generator=torch.Generator().manual_seed(0)).tolist()
    once, often = (interval(resampled_means([[v] * num for v in values])) for num in (1, 10))
    assert once == pytest.approx(often)
    draws = resampled_means([[0.0] * 9, [1.0]])
    assert set(np.round(draws, 6)) == {0.0, 0.1, 1.0}


def test_what_was_not_measured_has_no_interval():
    nan = float("nan")
    assert interval(resampled_means([[nan], [nan, nan]])) is None
    assert interval(resampled_means([[nan, 2.0], [2.0]])) == (2.0, 2.0)

"""Paired differences on values worked out by hand."""

import math

import pytest

from scene4d.eval.metrics.paired import mean_of, mean_scores, paired_difference, paired_tables


def test_difference_and_its_standard_error():
    found = paired_difference([3.0, 5.0, 7.0, None], [2.0, 2.0, 2.0, 9.0])
    assert found == {"mean": 3.0, "se": pytest.approx(2 / math.sqrt(3)), "num": 3}
    assert paired_difference([1.0], [0.5]) == {"mean": 0.5, "se": None, "num": 1}
    assert paired_difference([None], [1.0]) is None


def test_only_views_that_both_have_are_paired():
    tables = {"ours": {"a": {"psnr": 20.0}, "b": {"psnr": 30.0}}, "tsdf": {"b": {"psnr": 24.0}}}
    assert paired_tables(tables, first="ours", keys=("psnr",)) == {
        "tsdf": {"psnr": {"mean": 6.0, "se": None, "num": 1}}
    }
    assert mean_scores(tables["ours"], keys=("psnr", "ssim")) == {"psnr": 25.0, "ssim": None}
    assert mean_of([None, 2.0, 4.0]) == 3.0 and mean_of([]) is None

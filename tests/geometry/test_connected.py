"""Regions and parts against scipy's, and shapes whose answer is known."""

import numpy as np
import pytest
from scipy.ndimage import label

from scene4d.geometry.connected import connected_parts, connected_regions


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_regions_are_those_of_scipy(share):
    mask = np.random.default_rng(1).random((61, 47)) < share
    found, wanted = connected_regions(mask), label(mask)[0]
    assert np.array_equal(found > 0, mask)
    pairs = np.unique(np.stack([found.ravel(), wanted.ravel()]), axis=1)
    assert len(pairs.T) == len(np.unique(found)) == len(np.unique(wanted))  # one name for one region, both ways


def test_a_line_that_turns_to_and_fro_is_one_region():
    mask = np.zeros((41, 30), bool)
    mask[::2], mask[1::4, -1], mask[3::4, 0] = True, True, True
    assert set(np.unique(connected_regions(mask))) == {0, 1}


def test_parts_are_named_by_their_lowest_row():
    assert connected_parts(np.array([4, 3]), np.array([2, 4]), num_rows=6).tolist() == [0, 1, 2, 2, 2, 5]

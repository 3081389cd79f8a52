"""Fault 77: memory is measured so that a test of it can fail, whatever ran before in the same process."""

import re
from pathlib import Path

import numpy as np
from peak_memory import peak_growth

TESTS = Path(__file__).parents[1]


def test_77_what_was_used_before_hides_nothing():
    np.ones(80 << 20, np.uint8).sum()  # a larger test that ran before
    with peak_growth() as grown:
        np.ones(40 << 20, np.uint8).sum()  # freed again at once; so large that malloc keeps none of it for the next
        assert 35 < grown() < 50


def test_77_no_other_measure_is_used():
    """The highest memory of the whole process never falls: its difference shows nothing after a larger test."""
    found = [p.name for p in TESTS.rglob("*.py") if re.search(r"\bgetrusage\(", p.read_text())]
    assert set(found) <= {Path(__file__).name}

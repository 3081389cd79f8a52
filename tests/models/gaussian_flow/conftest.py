"""Fixtures of the dynamics tests."""

from __future__ import annotations

import pytest
import small_world
import torch


@pytest.fixture
def small():
    """The little world's functions."""
    return small_world


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny networks: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

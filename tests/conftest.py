"""Shared fixtures: where real recordings lie, and quiet, repeatable torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(autouse=True)
def _repeatable():
    torch.manual_seed(0)
    torch.set_num_threads(2)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real recordings; tests that need it skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real recordings are not at {SHARED / 'data'}")
    return SHARED / "data"


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU"))

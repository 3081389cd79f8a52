"""Weights by name: shipped ones, files, and a file that is called like shipped ones."""

from pathlib import Path

import pytest

from scene4d.apps.compose import assets
from scene4d.apps.compose.assets import WEIGHTS, weights_file
from scene4d.errors import CheckpointError


def test_shipped_weights_go_by_name_and_files_by_path(tmp_path, monkeypatch):
    assert weights_file(None) == weights_file("shipped") == weights_file(WEIGHTS) == WEIGHTS
    assert weights_file("tiny") == WEIGHTS.with_name("tiny.safetensors")
    assert weights_file(Path("runs/tiny")) == Path("runs/tiny") and weights_file("no_such") == Path("no_such")
    monkeypatch.chdir(tmp_path)
    Path("tiny").touch()
    assert weights_file("tiny") == Path("tiny")  # what lies there is what is meant


def test_an_installation_without_weights_says_how_to_make_them(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "WEIGHTS", tmp_path / "tiny.safetensors")
    with pytest.raises(CheckpointError, match="scene4d train configs"):
        weights_file(None)
    with pytest.raises(CheckpointError, match="a wheel carries small alone"):
        weights_file("rssm")

"""The files that travel inside the package."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parents[2] / "assets"
DEMO_EPISODE = ASSETS / "demo_episode"
WEIGHTS = ASSETS / "weights" / "tiny.safetensors"

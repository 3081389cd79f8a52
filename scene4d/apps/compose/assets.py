"""The files that travel inside the package."""

from __future__ import annotations

from pathlib import Path

from scene4d.errors import CheckpointError

ASSETS = Path(__file__).parents[2] / "assets"
DEMO_EPISODE = ASSETS / "demo_episode"
WEIGHTS = ASSETS / "weights" / "small.safetensors"
"""What is used where no weights are named. Others beside it go by their name too: `--weights tiny`."""
NAMES = ("small", "tiny", "rssm")


def weights_file(name: str | Path | None) -> Path:
    """The weights that are meant: a file, the name of shipped ones ("tiny"), or the shipped default (None, "shipped").

    Raises:
        CheckpointError: the shipped ones are not part of this installation.
    """
    if name is not None and str(name) != "shipped":
        path = Path(name)
        bare = str(path) == path.name and not path.exists()
        shipped = WEIGHTS.with_name(f"{path.name}.safetensors")
        if bare and path.name in NAMES and not shipped.exists():
            fix = "name its file: a source checkout has it in scene4d/assets/weights, a wheel carries small alone"
            raise CheckpointError("is not part of this installation", file=shipped, fix=fix)
        return shipped if bare and shipped.exists() else path
    if not WEIGHTS.exists():
        fix = f"run: scene4d train configs/{WEIGHTS.stem}.toml, and name its weights"
        raise CheckpointError("is not part of this installation", file=WEIGHTS, fix=fix)
    return WEIGHTS

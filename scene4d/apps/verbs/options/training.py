"""Options of `scene4d train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from scene4d.apps.terminal.arguments import POSITIONAL
from scene4d.errors import ConfigError


@dataclass(frozen=True)
class TrainOptions:
    """Train everything from one TOML file."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d train configs/smoke.toml",
        "scene4d train configs/tiny.toml --out runs/mine --set vae.train.steps=2000 record.episodes=3",
    )
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "what is trained": (
            "steps",
            "until",
            "pixels",
            "set",
        ),
        "what is written": (
            "out",
            "weights",
            "rebuild",
        ),
    }

    config: Annotated[Path, POSITIONAL]
    """TOML with what differs from the defaults, such as configs/tiny.toml."""
    out: Path | None = None
    """Run folder; by default runs/NAME. A run found there goes on where it stopped."""
    weights: Path | None = None
    """Where to write the weights; by default weights.safetensors in the run folder."""
    steps: int | None = None
    """Steps of each training stage instead of those of the file."""
    until: str = "policy"
    """Last stage to do: record, cache, vae, dynamics or policy (other families have their own); not with --pixels. The
    action head learns from demonstrations in simulation only: it is
    left out where the configuration names recordings (record.sources)."""
    pixels: bool = False
    """Train the 2D baseline of `eval forecast` on the run's cache instead of the world model; --weights says where to,
    by default pixels.safetensors in the run folder."""
    rebuild: bool = False
    """Remove and make anew the stages in the run folder that another configuration made."""
    set: tuple[str, ...] = ()
    """Any setting, such as vae.train.steps=100 record.episodes=3. --steps beats --set, --set beats the file, the file
    beats the defaults; of two equal ones the last counts. Environment variables set nothing."""

    def __post_init__(self) -> None:
        if self.pixels and self.until != "policy":
            raise ConfigError("is of the world model's stages", field="--until", fix="leave out --pixels or --until")

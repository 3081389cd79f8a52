"""Training on the tokens of an autoencoder that is trained already: it is taken over, and encodes every window once."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from scene4d.errors import ConfigError
from scene4d.models.tokens.anchors import AnchorConfig
from scene4d.models.tokens.token_windows import TokenWindows, prepare_all
from scene4d.train.checkpoint import save_tensors
from scene4d.train.stage import Stage
from scene4d.world.family import TrainingRun, Windows


def codec_stage(run: TrainingRun, anchors: AnchorConfig) -> Stage:
    """The stage "vae": the autoencoder of the weights that a run goes on from, and the windows as its tokens.

    Raises:
        ConfigError: it goes on from nothing.
    """
    if not run.start:
        raise ConfigError("has no autoencoder", field="start", fix='name weights that have one: start = "tiny"')

    def build(folder: Path) -> dict[str, Any]:
        model = run.fresh(seed=0)
        run.start_from(model, "vae")
        save_tensors(folder / "vae.safetensors", model.codec.state_dict(), state={})
        return {"windows": len(encoded_windows(run, anchors, codec=model.codec).task)}

    return Stage("vae", [anchors, run.start_digest], build)


def encoded_windows(run: TrainingRun, anchors: AnchorConfig, *, codec: Any) -> TokenWindows:
    """All windows [w] of a run as tokens, those of the codec's stage where it is done."""
    make = functools.partial(_tokens_of_episode, codec.eval(), anchors)
    return run.prepared(TokenWindows, make, folder=run.folder("vae") / "ready")


@torch.no_grad()
def _tokens_of_episode(
    codec: Any, anchors: AnchorConfig, run: TrainingRun, windows: Windows, first: int
) -> list[TokenWindows]:
    return prepare_all(codec, windows, first=first, anchors=anchors, num_rows=NUM_ROWS)


NUM_ROWS = 256
"""Memory Gaussians of a window that are kept beside its anchors."""

"""Training on the tokens of an autoencoder that is trained already: it is taken over, and encodes every window once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scene4d.data.load.shuffled_batches import ShuffledBatches
from scene4d.errors import ConfigError
from scene4d.layers import num_parameters
from scene4d.models.proprio import fit_proprio
from scene4d.models.tokens.anchor_model import AnchorModel
from scene4d.models.tokens.token_windows import TokenWindows, prepare_all
from scene4d.train.checkpoint import save_tensors
from scene4d.train.stage import Fit, Stage, fit, rounded
from scene4d.world.family import TrainingRun, Windows


def codec_stage(run: TrainingRun, config: Any) -> Stage:
    """The stage "vae": the autoencoder of the weights that a run goes on from, and the windows as its tokens.

    Args:
        config: of the model that learns from them; its anchors, slots and text decide what the windows hold.
    Raises:
        ConfigError: it goes on from nothing.
    """
    if not run.start:
        raise ConfigError("has no autoencoder", field="start", fix='name weights that have one: start = "tiny"')

    def build(folder: Path) -> dict[str, Any]:
        model = run.fresh(seed=0)
        run.start_from(model, "vae")
        save_tensors(folder / "vae.safetensors", model.codec.state_dict(), state={})
        return {"windows": len(encoded_windows(run, config, codec=model.codec).task)}

    return Stage("vae", [config.anchors, config.slots, config.text, run.start_digest], build)


def encoded_windows(run: TrainingRun, config: Any, *, codec: Any) -> TokenWindows:
    """All windows [w] of a run as tokens; those that the codec's stage left, where it is done."""
    make = functools.partial(_tokens_of_episode, codec=codec.eval(), config=config)
    return run.prepared(TokenWindows, make, folder=run.folder("vae") / "ready")


@torch.no_grad()
def _tokens_of_episode(
    run: TrainingRun, windows: Windows, *, first: int, codec: Any, config: Any
) -> list[TokenWindows]:
    anchors, slots, text = config.anchors, config.slots, config.text
    return prepare_all(codec, windows, first=first, anchors=anchors, slots=slots, text=text, num_rows=NUM_ROWS)


def fit_on_tokens(
    run: TrainingRun,
    model: AnchorModel,
    *,
    loss: Callable[[TokenWindows], tuple[Tensor, dict[str, Tensor]]],
    folder: Path,
) -> dict[str, Any]:
    """Train a model on encoded windows, all but some episodes that judge it, and leave its weights in the folder.

    Its forecast of the robot's own state comes first; the codec stays as it is. The run's settings say `batch_size`,
    `train`, `proprio` and, of the model, `anchors`.

    Returns:
        as `train.stage.fit`; proprio_hand_mm; metrics in mm as held_NAME, of the episodes kept apart; parameters.
    """
    settings = run.settings
    ready = encoded_windows(run, settings.model, codec=model.codec)
    rest, held = (torch.tensor(x, dtype=torch.int64) for x in run.windows().split(every=JUDGED_EVERY))
    trained, proprio = ready[rest], model.proprio
    model.set_statistics([trained[i] for i in range(len(rest))])
    hand = fit_proprio(
        run, proprio, numbers=rest.tolist(), train=settings.proprio, batch_size=128, owner=model, folder=folder
    )
    proprio.requires_grad_(False)
    batches = ShuffledBatches(
        trained.__getitem__, range(len(rest)), batch_size=settings.batch_size, seed=settings.train.seed
    )
    result = fit(Fit(model, loss, batches, settings.train), folder=folder, device=run.device, name=folder.name)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judged = loss(ready[held])[1] if len(held) else {}
    save_tensors(folder / f"{folder.name}.safetensors", model.state_dict(), state={})
    kept_apart = {f"held_{k}": rounded(v) for k, v in judged.items() if k.endswith("_mm")}
    num = num_parameters(model.requires_grad_(True))
    return {**result, "proprio_hand_mm": hand, **kept_apart, "parameters": num}


NUM_ROWS = 256
"""Memory Gaussians of a window that are kept beside its anchors."""
JUDGED_EVERY = 10
"""One episode of each task in so many is kept from training, to judge by."""

"""The family rssm: a recurrent state-space model on the tokens of a Gaussian autoencoder that is trained already."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from scene4d.data.load.shuffled_batches import ShuffledBatches
from scene4d.layers import num_parameters
from scene4d.models.rssm.belief import RSSMConfig
from scene4d.models.rssm.loss import RSSMLossConfig, loss
from scene4d.models.rssm.model import RSSMWorldModel
from scene4d.models.tokens.frozen_codec import codec_stage, encoded_windows
from scene4d.train.checkpoint import save_tensors
from scene4d.train.loop import LoopConfig
from scene4d.train.stage import Fit, Stage, fit, rounded
from scene4d.world.family import Family, TrainingRun

JUDGED_EVERY = 10
"""One episode of each task in so many is kept from training, to judge it by."""


@dataclass(frozen=True)
class RSSMSettings:
    """How the model is trained."""

    model: RSSMConfig = field(default_factory=RSSMConfig)
    """Sizes."""
    loss: RSSMLossConfig = field(default_factory=RSSMLossConfig)
    """What the loss weighs."""
    batch_size: int = 16
    """Windows a step."""
    train: LoopConfig = field(default_factory=LoopConfig)
    """Steps and optimiser."""


def family(make_codec: Callable[[Any], Any], codec_config: type) -> Family:
    """The family on a kind of Gaussian autoencoder, the part "vae", made from its configuration."""
    return Family(
        name="rssm",
        configs={"vae": codec_config, "rssm": RSSMConfig},
        build=lambda configs, robot, info: RSSMWorldModel(
            make_codec(configs["vae"]), configs["rssm"], channels=configs["vae"].channels, robot=robot
        ),
        parts=lambda model: {"vae": model.codec, "rssm": model},
        settings=RSSMSettings,
        part_configs=lambda settings, windows: {
            "vae": codec_config(),
            "rssm": replace(settings.model, horizon=windows.horizon, num_past=windows.num_past_actions),
        },
        stages=lambda run: [
            codec_stage(run, run.settings.model.anchors),
            Stage("rssm", [run.settings, run.threads], functools.partial(train, run)),
        ],
    )


def train(run: TrainingRun, folder: Path) -> dict[str, Any]:
    """Train the model and leave its weights in the folder.

    Result: steps, loss, its parts, held_epe_mm and held_hand_mm of episodes kept apart, parameters.
    """
    settings, model = run.settings, run.fresh(seed=run.settings.train.seed)
    ready = encoded_windows(run, settings.model.anchors, codec=model.codec)
    model.codec.requires_grad_(False)
    rest, held = (torch.tensor(x, dtype=torch.int64) for x in run.windows().split(every=JUDGED_EVERY))
    trained, judged = ready[rest], ready[held]
    model.set_statistics([trained[i] for i in range(len(rest))])
    batches = ShuffledBatches(
        trained.__getitem__, range(len(rest)), batch_size=settings.batch_size, seed=settings.train.seed
    )
    step_loss = functools.partial(loss, model, config=settings.loss)
    result = fit(Fit(model, step_loss, batches, settings.train), folder=folder, device=run.device, name="rssm")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = loss(model, judged, config=replace(settings.loss, imagined=1.0))[1] if len(held) else {}
    save_tensors(folder / "rssm.safetensors", model.state_dict(), state={})
    judgement = {f"held_{name}": rounded(found[name]) for name in ("epe_mm", "hand_mm") if name in found}
    return {**result, **judgement, "parameters": num_parameters(model)}

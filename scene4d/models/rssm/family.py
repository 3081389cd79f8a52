"""The family rssm: a recurrent state-space model on the tokens of a Gaussian autoencoder that is trained already."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scene4d.models.rssm.belief import RSSMConfig
from scene4d.models.rssm.loss import RSSMLossConfig, loss
from scene4d.models.rssm.model import RSSMWorldModel
from scene4d.models.tokens.frozen_codec import codec_stage, fit_on_tokens
from scene4d.train.loop import LoopConfig
from scene4d.train.optim import OptimConfig
from scene4d.train.stage import Stage
from scene4d.world.family import Family, TrainingRun


@dataclass(frozen=True)
class RSSMSettings:
    """How the model is trained."""

    model: RSSMConfig = field(default_factory=RSSMConfig)
    """Sizes."""
    loss: RSSMLossConfig = field(default_factory=RSSMLossConfig)
    """What the loss weighs."""
    batch_size: int = 16
    """Windows a step."""
    proprio: LoopConfig = field(default_factory=lambda: LoopConfig(optim=OptimConfig(lr=5e-3, ema_decay=0.99)))
    """Training of the forecast of the robot's own state, before the rest and cheap beside it."""
    train: LoopConfig = field(default_factory=LoopConfig)
    """Steps and optimiser."""


def family(make_codec: Callable[[Any], Any], codec_config: type) -> Family:
    """The family on a kind of Gaussian autoencoder, the part "vae", made from its configuration."""
    return Family(
        name="rssm",
        configs={"vae": codec_config, "rssm": RSSMConfig},
        build=lambda configs, *, robots, info: RSSMWorldModel(
            make_codec(configs["vae"]), configs["rssm"], channels=configs["vae"].channels, robots=robots
        ),
        parts=lambda model: {"vae": model.codec, "rssm": model},
        settings=RSSMSettings,
        part_configs=lambda settings, windows: {
            "vae": codec_config(),
            "rssm": replace(
                settings.model,
                horizon=windows.horizon,
                proprio=replace(settings.model.proprio, num_past=windows.num_past_actions),
            ),
        },
        stages=lambda run: [
            codec_stage(run, run.settings.model),
            Stage("rssm", [run.settings, run.threads], functools.partial(train, run)),
        ],
    )


def train(run: TrainingRun, folder: Path) -> dict[str, Any]:
    """Train the model and leave its weights in the folder; result: as `fit_on_tokens`."""
    model = run.fresh(seed=run.settings.train.seed)
    weighed = functools.partial(loss, model, config=run.settings.loss)
    return fit_on_tokens(run, model, loss=weighed, folder=folder)

"""The family gaussian_flow: tokens of a Gaussian VAE, carried by a diffusion transformer over the motion of anchors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.models.gaussian_flow.networks.vae import GaussianVAE, VAEConfig
from scene4d.models.gaussian_flow.settings import DynamicsConfig
from scene4d.models.gaussian_flow.training.dynamics_stage import train_dynamics
from scene4d.models.gaussian_flow.training.stage_configs import GaussianFlowSettings
from scene4d.models.gaussian_flow.training.vae_stage import train_vae
from scene4d.robot.spec import RobotSpec
from scene4d.train.stage import Stage
from scene4d.world.family import Family, TrainingRun


def build(configs: Mapping[str, Any], *, robots: tuple[RobotSpec, ...], info: Mapping[str, Any]) -> GaussianWorldModel:
    """A fresh model and its autoencoder; the first weights of each depend on torch's seed, and on nothing else."""
    seed = torch.initial_seed()
    codec = GaussianVAE(configs["vae"])
    torch.manual_seed(seed + 1)
    return GaussianWorldModel(codec, configs["dynamics"], channels=configs["vae"].channels, robots=robots)


def parts(model: GaussianWorldModel) -> dict[str, nn.Module]:
    """Autoencoder and world model."""
    return {"vae": model.codec, "dynamics": model}


def stages(run: TrainingRun) -> list[Stage]:
    """The autoencoder, then the world model on its tokens."""
    settings: GaussianFlowSettings = run.settings
    vae, dynamics = settings.vae, settings.dynamics
    train_codec = lambda folder: train_vae(run, run.fresh(seed=vae.train.seed), folder=folder)
    train = lambda folder: train_dynamics(run, run.fresh(seed=dynamics.train.seed), folder=folder)
    key = [vae, dynamics.model.anchors, run.threads, run.start_digest]
    return [Stage("vae", key, train_codec), Stage("dynamics", [dynamics, run.threads], train)]


FAMILY = Family(
    name="gaussian_flow",
    configs={"vae": VAEConfig, "dynamics": DynamicsConfig},
    build=build,
    parts=parts,
    settings=GaussianFlowSettings,
    part_configs=lambda settings, windows: {"vae": settings.vae.model, "dynamics": settings.dynamics.model},
    stages=stages,
)

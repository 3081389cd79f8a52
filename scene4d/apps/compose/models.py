"""The shipped weights: autoencoder, world model and action head in one safetensors file, and back."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scene4d.apps.compose.assets import weights_file
from scene4d.apps.training.run_config import RunConfig
from scene4d.config import config_from_dict, dict_from_config
from scene4d.errors import CheckpointError
from scene4d.models.gaussian_flow.model import DynamicsConfig, GaussianWorldModel
from scene4d.models.gaussian_flow.networks.vae import GaussianVAE, VAEConfig
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.policy.head import ActionHead
from scene4d.train.checkpoint import assign_weights, load_tensors, save_tensors

PARTS = ("vae", "dynamics", "policy")


@dataclass(frozen=True)
class Models:
    """Everything that was trained together; `policy` is None where none was.

    info: tasks, cameras, num_inputs, context (action_spec, proprio_spec, robot), step_seconds, provenance; of the
    action head policy_tasks, policy_cameras, policy_size; JSON-ready.
    """

    vae: GaussianVAE
    dynamics: GaussianWorldModel
    policy: ActionHead | None
    info: Mapping[str, Any]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that the action head was trained on; without a head, the world model."""
        return list(self.info.get("policy_tasks") or self.info.get("tasks") or [])

    @property
    def policy_cameras(self) -> tuple[str, ...]:
        """Cameras that the action head learned with."""
        return tuple(self.info.get("policy_cameras") or ("left", "right"))

    @property
    def policy_size(self) -> int:
        """Pixels a side of their pictures."""
        return int(self.info.get("policy_size") or 64)


def make_models(vae: VAEConfig, dynamics: DynamicsConfig, policy: ActionHeadConfig | None, *, seed: int = 0) -> Models:
    """Fresh models; their first weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = GaussianVAE(vae)
        torch.manual_seed(seed + 1)
        world_model = GaussianWorldModel(codec, dynamics, channels=vae.channels)
        torch.manual_seed(seed + 2)
        head = None if policy is None else ActionHead(policy)
    return Models(vae=codec, dynamics=world_model, policy=head, info={})


def save_models(path: str | Path, models: Models, *, info: Mapping[str, Any], half: bool = True) -> int:
    """Write one weights file atomically; returns its size in bytes.

    Args:
        info: goes into the header beside the configurations.
        half: matrices in half precision (statistics and vectors stay as they are).
    """
    tensors: dict[str, Tensor] = {}
    for name, module in _parts(models).items():
        learned = {key for key, parameter in module.named_parameters() if parameter.ndim >= 2}
        for key, value in module.state_dict().items():
            tensors[f"{name}.{key}"] = value.half() if half and key in learned else value
    configs = {name: dict_from_config(module.config) for name, module in _parts(models).items()}
    save_tensors(path, tensors, state={"configs": configs, "info": dict(info)})
    return Path(path).stat().st_size


def load_models(path: str | Path | None = None) -> Models:
    """Read a weights file, or shipped ones by their name, by default the best; the models are in evaluation mode.

    Raises:
        CheckpointError: missing, truncated, or of other models (lists the tensors); ConfigError: unknown settings;
            SecurityError: a pickle.
    """
    path = weights_file(path)
    tensors, state = load_tensors(path)
    configs = state.get("configs", {})
    if not {"vae", "dynamics"} <= configs.keys():
        raise CheckpointError(
            "holds no world model", file=path, field="configs", found=sorted(configs), expected=list(PARTS)
        )
    kinds = {"vae": VAEConfig, "dynamics": DynamicsConfig, "policy": ActionHeadConfig}
    built = {
        name: config_from_dict(configs[name], kinds[name], file=path, where=name) for name in PARTS if name in configs
    }
    models = make_models(built["vae"], built["dynamics"], built.get("policy"))
    stray = sorted(key for key in tensors if key.split(".", 1)[0] not in built)
    if stray:
        raise CheckpointError("holds tensors of no known model", file=path, found=", ".join(stray[:8]))
    for name, module in _parts(models).items():
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        assign_weights(module, own, source=path)
        module.eval().requires_grad_(False)
    return dataclasses.replace(models, info=state.get("info", {}))


models_once = functools.lru_cache(maxsize=1)(load_models)
"""The same, read once in each process."""


def go_on_from(start: str, models: Models, *parts: str) -> None:
    """Give the named parts the weights of the file `start` ("shipped": the package's own); nothing if it is empty.

    Raises:
        CheckpointError: missing, truncated, or of other sizes (lists the tensors).
    """
    if not start:
        return
    path = weights_file(start)
    tensors, _ = load_tensors(path)
    for name in parts:
        own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        assign_weights(getattr(models, name), own, source=path)


def sized_as_start(config: RunConfig) -> RunConfig:
    """The configuration with the model sizes of the weights that it starts from, if it does.

    Raises:
        CheckpointError: the file is missing, truncated or holds no world model; ConfigError: its horizon is another.
    """
    if not config.start:
        return config
    models = load_models(weights_file(config.start))
    return dataclasses.replace(
        config,
        vae=dataclasses.replace(config.vae, model=models.vae.config),
        dynamics=dataclasses.replace(config.dynamics, model=models.dynamics.config),
    )


def _parts(models: Models) -> dict[str, nn.Module]:
    parts = {"vae": models.vae, "dynamics": models.dynamics, "policy": models.policy}
    return {name: module for name, module in parts.items() if module is not None}

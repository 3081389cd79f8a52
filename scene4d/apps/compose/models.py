"""The shipped weights: autoencoder, world model and action head in one safetensors file, and back."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from scene4d.apps.compose.assets import weights_file
from scene4d.apps.training.run_config import RunConfig
from scene4d.config import config_from_dict, dict_from_config
from scene4d.errors import CheckpointError
from scene4d.models.families import FAMILIES
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.policy.head import ActionHead
from scene4d.robot.several_robots import robots_of_info
from scene4d.robot.spec import RobotSpec
from scene4d.setting_ranges import settings_out_of_range
from scene4d.train.checkpoint import assign_weights, load_tensors, save_tensors
from scene4d.world.family import Family

SPARE_VALUES = 1 << 22
"""Numbers that models may hold beyond twice those of their file: tables that they compute themselves."""


@dataclass(frozen=True)
class Models:
    """A world model of some family and an action head that were trained together; `policy` is None where none was.

    info: tasks, cameras, num_inputs, context (action_spec, proprio_spec, robot) and step_seconds, or robots, a list of
    such; provenance; of the action head policy_tasks, policy_cameras, policy_size, policy_robot; JSON-ready.
    """

    family: Family
    world: Any
    policy: ActionHead | None
    info: Mapping[str, Any]

    @property
    def robot(self) -> RobotSpec:
        """The one robot that they learned from; ConfigError where there are several."""
        return self.world.spec.robot

    def parts(self) -> dict[str, nn.Module]:
        """The modules whose tensors are stored, by part."""
        head = {} if self.policy is None else {"policy": self.policy}
        return {**self.family.parts(self.world), **head}

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


def make_models(
    configs: Mapping[str, Any],
    policy: ActionHeadConfig | None = None,
    *,
    family: str = "gaussian_flow",
    seed: int = 0,
    info: Mapping[str, Any] | None = None,
) -> Models:
    """Fresh models; their first weights depend on `seed` alone.

    Args:
        configs: {part: configuration} of the family; defaults for those that are left out. info: see `Models`.
    """
    kind, info = FAMILIES[family], info or {}
    configs = {name: configs.get(name) or make() for name, make in kind.configs.items()}
    world = kind.fresh(configs, robots=robots_of_info(info), info=info, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 2)
        head = None if policy is None else ActionHead(policy)
    return Models(family=kind, world=world, policy=head, info=info)


def save_models(path: str | Path, models: Models, *, info: Mapping[str, Any], half: bool = True) -> int:
    """Write one weights file atomically; returns its size in bytes.

    Args:
        info: goes into the header beside the configurations.
        half: matrices in half precision (statistics and vectors stay as they are).
    """
    tensors: dict[str, Tensor] = {}
    for name, module in models.parts().items():
        learned = {key for key, parameter in module.named_parameters() if parameter.ndim >= 2}
        for key, value in module.state_dict().items():
            tensors[f"{name}.{key}"] = value.half() if half and key in learned else value
    configs = {name: dict_from_config(module.config) for name, module in models.parts().items()}
    save_tensors(path, tensors, state={"family": models.family.name, "configs": configs, "info": dict(info)})
    return Path(path).stat().st_size


def load_models(path: str | Path | None = None) -> Models:
    """Read a weights file, or shipped ones by their name, by default the best; the models are in evaluation mode.

    Raises:
        CheckpointError: missing, truncated, or of other models (lists the tensors); ConfigError: unknown settings;
            SecurityError: a pickle.
    """
    path = weights_file(path)
    tensors, state = load_tensors(path)
    if "pixels" in state:  # files of the 2D baseline before there were families
        tensors = {f"pixels.{key}": value for key, value in tensors.items()}
        state = {"family": "pixel_transformer", "configs": {"pixels": state["pixels"]}, "info": state.get("info", {})}
    configs, info = state.get("configs", {}), state.get("info", {})
    name = state.get("family", "gaussian_flow")  # what files were before they named it
    if not isinstance(name, str) or name not in FAMILIES:
        raise CheckpointError("is of no known family", file=path, field="family", found=name, expected=list(FAMILIES))
    kinds = {**FAMILIES[name].configs, "policy": ActionHeadConfig}
    if not configs.keys() >= FAMILIES[name].configs.keys():
        found = sorted(configs)
        raise CheckpointError("holds no world model", file=path, field="configs", found=found, expected=list(kinds))
    for field, found, expected in settings_out_of_range(configs):
        raise CheckpointError("is out of range", file=path, field=field, found=found, expected=expected)
    built = {k: config_from_dict(configs[k], kind, file=path, where=k) for k, kind in kinds.items() if k in configs}
    with _no_larger_than(sum(value.numel() for value in tensors.values()), file=path):
        models = make_models(built, built.pop("policy", None), family=name, info=info)
    parts = models.parts()
    stray = sorted(key for key in tensors if key.split(".", 1)[0] not in parts)
    if stray:
        raise CheckpointError("holds tensors of no known model", file=path, found=", ".join(stray[:8]))
    for part, module in parts.items():
        assign_weights(module, _own(tensors, part), source=path)
        module.requires_grad_(False).eval()
    models.world.eval()  # which may be more than its parts
    return models


@contextlib.contextmanager
def _no_larger_than(num_values: int, *, file: Path) -> Iterator[None]:
    """While models are built, refuse the first layer that makes them larger than the tensors that are to fill them.

    It is refused before its memory is written to, so that a file of a few bytes cannot ask for all there is.
    """
    most, mine, asked = SPARE_VALUES + 2 * num_values, threading.get_ident(), 0

    def counted(*registered: Any) -> None:
        nonlocal asked
        module, name, value = registered
        if threading.get_ident() != mine or value is None:
            return
        asked += value.numel()
        if asked > most:
            problem, fix = "its configuration asks for more than it holds", "use the configuration of these weights"
            found, expected = f"{type(module).__name__}.{name} {list(value.shape)}", f"{num_values} numbers in all"
            raise CheckpointError(problem, file=file, field="configs", found=found, expected=expected, fix=fix)

    hooks = [register_module_parameter_registration_hook(counted), register_module_buffer_registration_hook(counted)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


models_once = functools.lru_cache(maxsize=1)(load_models)
"""The same, read once in each process."""


def go_on_from(start: str, parts: Mapping[str, nn.Module], *names: str) -> None:
    """Give the named parts the weights of the file `start` ("shipped": the package's own); nothing if it is empty.

    Raises:
        CheckpointError: missing, truncated, or of other sizes (lists the tensors).
    """
    if not start:
        return
    path = weights_file(start)
    tensors, _ = load_tensors(path)
    for name in names:
        assign_weights(parts[name], _own(tensors, name), source=path)


def _own(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part, by their names in its module."""
    return {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(f"{part}.")}


def sizes_of(start: str) -> dict[str, Any]:
    """{part: configuration} of the models in the file `start`; nothing if it is empty."""
    return {name: part.config for name, part in load_models(weights_file(start)).parts().items()} if start else {}


def sized_as_start(config: RunConfig) -> RunConfig:
    """The configuration with the model sizes of the weights that it starts from, if it does.

    Raises:
        CheckpointError: the file is missing, truncated or holds no world model; ConfigError: its horizon is another.
    """
    sizes = sizes_of(config.start)
    sections = {"vae": config.vae, "dynamics": config.dynamics}
    changes = {k: dataclasses.replace(v, model=sizes[k]) for k, v in sections.items() if k in sizes}
    return dataclasses.replace(config, **changes)

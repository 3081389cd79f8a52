"""A run in its folder: what the trainer gives a family of world models, and the stages in their order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from scene4d.apps.compose.assets import weights_file
from scene4d.apps.compose.models import Models, go_on_from, save_models, sizes_of
from scene4d.apps.training.cache import WindowCache
from scene4d.apps.training.processes import in_processes
from scene4d.apps.training.run_config import RunConfig
from scene4d.errors import CheckpointError
from scene4d.files import open_regular
from scene4d.models.families import FAMILIES
from scene4d.robot.several_robots import info_of_robots
from scene4d.tensor_struct import TensorStruct
from scene4d.train.checkpoint import load_tensors, load_weights, save_tensors
from scene4d.train.device import Device
from scene4d.train.log import line_progress
from scene4d.train.stage import Stage
from scene4d.world.family import Family, Make

S = TypeVar("S", bound=TensorStruct)


@dataclass(frozen=True)
class Run:
    """Configuration and folder of a run; implements `TrainingRun`."""

    root: Path
    config: RunConfig

    @property
    def family(self) -> Family:
        """The family of its world model."""
        return FAMILIES[self.config.family]

    @property
    def settings(self) -> Any:
        """The family's settings."""
        return self.config.family_settings

    @property
    def start(self) -> str:
        """Weights that it goes on from, or ""."""
        return self.config.start

    @property
    def start_digest(self) -> str:
        """A hash of these weights, or "": those of the same name may be others tomorrow."""
        if not self.start:
            return ""
        with open_regular(weights_file(self.start), kind=CheckpointError) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def device(self) -> Device:
        """Where it trains."""
        return self.config.device

    @property
    def threads(self) -> int:
        """Threads of torch."""
        return self.config.threads

    @property
    def world_weights(self) -> Path:
        """The trained world model, readable by `load_models`: its own, or the one that it goes on from unchanged."""
        if self.config.policy_only:
            return weights_file(self.start)
        return self.folder(self.last_part) / "world.safetensors"

    @property
    def last_part(self) -> str:
        """The part of the world model that is trained last."""
        return list(self.family.configs)[-1]

    def folder(self, stage: str) -> Path:
        """The folder of a stage."""
        return self.root / stage

    def windows(self, *, only: Path | None = None) -> WindowCache:
        """The windows of all episodes, or of the one in the file `only`."""
        config, cache, episodes = self.config, self.folder("cache"), self.folder("record")
        return WindowCache(cache, config.cache, record=config.record, episodes=episodes, only=only)

    def fresh(self, *, seed: int) -> Any:
        """A new model of the family for the run's robots; its first weights depend on `seed` alone."""
        windows = self.windows()
        return self.family.fresh(self.part_configs(windows), robots=windows.robots, info=self.info(windows), seed=seed)

    def part_configs(self, windows: WindowCache) -> dict[str, Any]:
        """{part: configuration} of the family; parts that the start has too are of its sizes."""
        own = self.family.part_configs(self.settings, windows)
        return {**own, **{name: size for name, size in sizes_of(self.start).items() if name in own}}

    def start_from(self, model: Any, *parts: str) -> None:
        """Give parts of a model the weights that the run goes on from; nothing where it starts from nothing."""
        go_on_from(self.start, self.family.parts(model), *parts)

    def prepared(self, kind: type[S], make: Make[S], *, folder: Path) -> S:
        """What `make` gives for every episode, as one [w], made once in several processes and kept in `folder`."""
        windows = self.windows()
        groups = windows.groups()
        targets = [folder / f"{i:04d}.safetensors" for i in range(len(groups))]
        # A job reads its own episode only: with thousands of them, all would take too long to open in each.
        same, jobs = {"run": self, "kind": kind, "make": make}, []
        for (first, *_), target in zip(groups, targets, strict=True):
            episode = Path(windows.moment(first)[0].path)
            jobs.append({**same, "episode": episode, "first": first, "target": target})
        in_processes(_prepare_one, jobs, num=self.config.processes, progress=line_progress(folder.name))
        parts = [load_tensors(target)[0] for target in targets]
        joined = {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}
        return kind(**joined)

    def family_stages(self) -> list[Stage]:
        """The family's stages; after the last one the whole model stands beside its weights (`world_weights`)."""
        *before, last = self.family.stages(self)

        def build(folder: Path) -> dict[str, Any]:
            result = last.build(folder)
            models = self.trained()
            save_models(self.world_weights, models, info=models.info, half=False)
            return result

        return [*before, Stage(last.name, last.key, build)]

    def trained(self) -> Models:
        """The trained world model, put together from the weights of its parts."""
        windows = self.windows()
        info = self.info(windows)
        world = self.family.fresh(self.part_configs(windows), robots=windows.robots, info=info)
        for name, module in self.family.parts(world).items():
            load_weights(module, self.folder(name) / f"{name}.safetensors")
        return Models(family=self.family, world=world.eval(), policy=None, info=info)

    def info(self, windows: WindowCache) -> dict[str, Any]:
        """What the weights say of what they learned from."""
        return {
            "tasks": list(windows.tasks),
            "cameras": list(windows.cameras),
            "num_inputs": self.config.cache.num_inputs,
            **info_of_robots(windows.robots),
        }


def _prepare_one(*, run: Run, kind: type[S], make: Make[S], episode: Path, first: int, target: Path) -> None:
    """Write what `make` gives for one episode, unless it is there."""
    if target.exists():
        return
    values = kind.stack(make(run, run.windows(only=episode), first=first))
    save_tensors(target, {name: getattr(values, name) for name in kind.__dataclass_fields__}, state={})

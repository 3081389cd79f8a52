"""What a training stage needs of every window, computed once: cells, ready batches, policy samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from scene4d.apps.compose.assets import weights_file
from scene4d.apps.compose.models import Models, load_models, make_models
from scene4d.apps.compose.perception import perception
from scene4d.apps.training.cache import WindowCache
from scene4d.apps.training.processes import in_processes
from scene4d.apps.training.run_config import RunConfig
from scene4d.models.gaussian_flow.loss import DynamicsBatch, prepare
from scene4d.models.gaussian_flow.networks.vae import Cells
from scene4d.models.gaussian_flow.scene.anchors import choose_anchors
from scene4d.models.gaussian_flow.scene.observe import focus_of
from scene4d.policy.learning.demonstrations import demonstration_jobs
from scene4d.policy.learning.samples import PolicySamples, join_samples, save_samples, train_policy_samples
from scene4d.policy.observation import CameraObservationBuilder, ObservationBuilder
from scene4d.tensor_struct import TensorStruct
from scene4d.train.checkpoint import load_tensors, load_weights, save_tensors
from scene4d.train.log import Progress

S = TypeVar("S", bound=TensorStruct)


@dataclass(frozen=True)
class RunFolders:
    """Where a run keeps what its stages make."""

    root: Path

    @property
    def record(self) -> Path:
        """Episodes."""
        return self.root / "record"

    @property
    def cache(self) -> Path:
        """Snapshots of the memory."""
        return self.root / "cache"

    @property
    def vae(self) -> Path:
        """Autoencoder: cells, checkpoint, weights."""
        return self.root / "vae"

    @property
    def dynamics(self) -> Path:
        """World model: ready batches, checkpoint, weights."""
        return self.root / "dynamics"

    @property
    def policy(self) -> Path:
        """Action head: samples, checkpoint, weights."""
        return self.root / "policy"

    @property
    def pixels(self) -> Path:
        """2D baseline: trials, checkpoint, weights."""
        return self.root / "pixels"

    @property
    def pixels_weights(self) -> Path:
        """Trained 2D baseline."""
        return self.pixels / "pixels.safetensors"

    @property
    def vae_weights(self) -> Path:
        """Trained autoencoder."""
        return self.vae / "vae.safetensors"

    @property
    def world_weights(self) -> Path:
        """Trained autoencoder and world model, readable by `load_models`."""
        return self.dynamics / "world.safetensors"

    def windows(self, config: RunConfig, *, only: Path | None = None) -> WindowCache:
        """The cache of windows, of all episodes or of the one in the file `only`."""
        return WindowCache(self.cache, config.cache, record=config.record, episodes=self.record, only=only)


def world_path(folders: RunFolders, config: RunConfig) -> Path:
    """The world model of a run: its own, or the one that it goes on from unchanged."""
    return weights_file(config.start) if config.policy_only else folders.world_weights


def prepared_cells(folders: RunFolders, config: RunConfig, *, progress: Progress | None = None) -> Cells:
    """What the anchors see, for all windows [w l k], about the anchors that the world model would choose."""
    return _prepared(Cells, cells_of_episode, folders, config, at=folders.vae / "cells", progress=progress)


def prepared_batches(folders: RunFolders, config: RunConfig, *, progress: Progress | None = None) -> DynamicsBatch:
    """What the world model trains on, for all windows [w]."""
    at = folders.dynamics / "ready"
    return _prepared(DynamicsBatch, batches_of_episode, folders, config, at=at, progress=progress)


def prepared_samples(
    folders: RunFolders, config: RunConfig, *, progress: Progress | None = None
) -> tuple[PolicySamples, dict[str, int]]:
    """What the action head trains on, [n], and {demonstrations: how many it is from, succeeded: of them}."""
    jobs = demonstration_jobs(config.policy.data)
    at = folders.policy / "samples"
    names = [at / f"{task}_{seed:04d}.safetensors" for task, seed, _ in jobs]
    each = [(folders, config, job, name) for job, name in zip(jobs, names, strict=True)]
    in_processes(samples_of_demonstration, each, num=config.processes, progress=progress)
    samples, wins = join_samples(names)
    return samples, {"demonstrations": len(names), "succeeded": wins}


@torch.no_grad()
def cells_of_episode(folders: RunFolders, config: RunConfig, episode: Path, _first: int, target: Path) -> None:
    """Write the cells of the windows of one episode, unless they are there."""
    if target.exists():
        return
    cache, models, rows = folders.windows(config, only=episode), _fresh(config), []
    for number in range(len(cache)):
        window = cache.window(number, futures=False)
        focus = focus_of(window.memory, window.past_proprio[-1], cache.context)
        anchors, _ = choose_anchors(window.memory, focus=focus, config=config.dynamics.model.anchors)
        rows.append(models.vae.cells_of(window.memory, anchors))
    _save(target, Cells.stack(rows))


@torch.no_grad()
def batches_of_episode(folders: RunFolders, config: RunConfig, episode: Path, first: int, target: Path) -> None:
    """Write the windows of one episode as the world model trains on them, unless they are there.

    `first`: the number of its first window among all, which the choice of rows hangs on.
    """
    if target.exists():
        return
    cache, models = folders.windows(config, only=episode), _fresh(config)
    load_weights(models.vae, folders.vae_weights)
    models.vae.eval()
    given = {"context": cache.context, "tasks": cache.tasks, "num_rows": config.dynamics.num_rows}
    rows = [
        prepare(models.dynamics, cache.window(n, futures=False), seed=first + n, **given) for n in range(len(cache))
    ]
    _save(target, DynamicsBatch.stack(rows))


def samples_of_demonstration(folders: RunFolders, config: RunConfig, job: tuple[str, int, float], target: Path) -> None:
    """Record one demonstration and write what the head is shown of it, unless it is there."""
    if target.exists():
        return
    models = load_models(world_path(folders, config))

    def make_builder(task: str) -> ObservationBuilder | CameraObservationBuilder:
        return perception(
            config.policy.model,
            world_model=models.dynamics,
            context={**models.info["context"], "task": task},
            horizon=config.dynamics.model.horizon,
        )

    samples, (success,) = train_policy_samples(
        config.policy.data, make_builder=make_builder, head=config.policy.model, jobs=[job]
    )
    save_samples(target, samples, success=success)


def _prepared(
    kind: type[S], task: Any, folders: RunFolders, config: RunConfig, *, at: Path, progress: Progress | None
) -> S:
    cache = folders.windows(config)
    groups = cache.groups()
    targets = [at / f"{i:04d}.safetensors" for i in range(len(groups))]
    # A job reads its own episode only: with thousands of them, all would take too long to open in each.
    jobs = [
        (folders, config, Path(cache.moment(group[0])[0].path), group[0], target)
        for group, target in zip(groups, targets, strict=True)
    ]
    in_processes(task, jobs, num=config.processes, progress=progress)
    parts = [load_tensors(target)[0] for target in targets]
    joined = {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}
    return kind(**joined)


def _save(target: Path, values: TensorStruct) -> None:
    save_tensors(target, {name: getattr(values, name) for name in type(values).__dataclass_fields__}, state={})


def _fresh(config: RunConfig) -> Models:
    models = make_models(config.vae.model, config.dynamics.model, None)
    models.vae.eval()
    models.dynamics.eval()
    return models

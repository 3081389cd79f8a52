"""`scene4d train CONFIG`: record, cache, autoencoder, world model, action head, export; every stage resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scene4d.apps.training.prepare import RunFolders
from scene4d.apps.training.processes import locked, run_stage
from scene4d.apps.training.run_config import RunConfig
from scene4d.apps.verbs.options.training import STAGES, TrainOptions
from scene4d.config import load_config, toml_from_config
from scene4d.errors import ConfigError
from scene4d.files import atomic_file
from scene4d.train.distributed import rank, torchrun_group
from scene4d.train.log import line_progress
from scene4d.train.loop import LoopConfig


def run_train(options: TrainOptions) -> dict[str, Any]:
    """Do every stage that is not done yet, and export the weights.

    Returns:
        run (folder), weights {path, bytes, policy}, stages {name: {seconds, skipped, ...}}, seconds.
    Raises:
        ConfigError: a setting is unknown, wrong or impossible; ResourceError: another process trains in the folder;
            NumericsError: a loss is not finite.
    """
    config = _config(options)
    if config.policy_only and (options.pixels or options.until != "policy"):
        raise ConfigError("trains the action head alone", field="policy_only", fix="leave out --pixels and --until")
    root = options.out or Path("runs") / config.name
    start, stages = time.monotonic(), {}
    before = torch.get_num_threads()
    with torchrun_group(), locked(root) if rank() == 0 else contextlib.nullcontext():
        with atomic_file(root / "config.toml") as temporary:
            temporary.write_text(toml_from_config(config), encoding="utf-8")
        try:
            torch.set_num_threads(config.threads)
            stages = _do_stages(RunFolders(root), config, options=options)
            trained = {"dynamics", "policy"} & stages.keys()
            weights = _export(options, RunFolders(root), config=config, stages=stages) if trained else None
            if options.pixels:
                weights = _export_pixels(options, RunFolders(root))
        finally:
            torch.set_num_threads(before)
    return {
        "run": str(root),
        "weights": weights,
        "stages": stages,
        "seconds": round(time.monotonic() - start, 1),
    }


def _config(options: TrainOptions) -> RunConfig:
    config = load_config(options.config, RunConfig, overrides=options.set)
    if config.start:
        from scene4d.apps.compose.models import sized_as_start

        config = sized_as_start(config)
    if options.steps is None:
        return config
    if options.steps < 1:
        raise ConfigError("must be at least 1", field="steps", found=options.steps)
    shorter = {}
    for name in ("vae", "dynamics", "policy", "pixels"):
        stage = getattr(config, name)
        loops = [f.name for f in dataclasses.fields(stage) if isinstance(getattr(stage, f.name), LoopConfig)]
        fewer = {loop: dataclasses.replace(getattr(stage, loop), steps=options.steps) for loop in loops}
        shorter[name] = dataclasses.replace(stage, **fewer)
    return dataclasses.replace(config, **shorter)


def _do_stages(folders: RunFolders, config: RunConfig, *, options: TrainOptions) -> dict[str, dict[str, Any]]:
    # Imported late: `--help` and a slip in the file answer at once.
    from scene4d.apps.compose.assets import weights_file
    from scene4d.apps.training.cache import cache_stage
    from scene4d.apps.training.import_recordings import listing, take_in_stage
    from scene4d.apps.training.pixel_stage import train_pixels_stage
    from scene4d.apps.training.record_episodes import record_stage
    from scene4d.apps.training.stages import train_dynamics_stage, train_policy_stage, train_vae_stage

    num = config.processes
    record = lambda folder: record_stage(folder, config.record, processes=num, progress=line_progress("record"))
    sources: list[Any] = []
    if config.record.sources:
        sources = [listing(config.record), config.least_frames]
        record = lambda folder: take_in_stage(
            folder, config.record, least=config.least_frames, processes=num, progress=line_progress("recordings")
        )
    cache = lambda folder: cache_stage(
        folder,
        config.cache,
        record=config.record,
        episodes=folders.record,
        processes=num,
        progress=line_progress("cache"),
    )
    anchors = config.dynamics.model.anchors
    # Weights of the same name may be others tomorrow.
    start = config.start and hashlib.sha256(weights_file(config.start).read_bytes()).hexdigest()
    plan: list[tuple[str, Callable[[Path], dict[str, Any]], list[Any]]] = [
        ("record", record, [config.record, *sources]),
        ("cache", cache, [config.cache]),
        ("vae", lambda _: train_vae_stage(folders, config), [config.vae, anchors, config.threads, start]),
        ("dynamics", lambda _: train_dynamics_stage(folders, config), [config.dynamics, config.threads]),
        ("policy", lambda _: train_policy_stage(folders, config), [config.policy, config.threads, start]),
    ]
    if config.policy_only:
        plan = plan[-1:]
    elif config.record.sources:
        plan = plan[:4]  # the action head learns from demonstrations that it records itself
    plan = [stage for stage in plan if STAGES.index(stage[0]) <= STAGES.index(options.until)]
    if options.pixels:
        # It learns from the cache alone, so it does not wait for the world model.
        plan = [*plan[:2], ("pixels", lambda _: train_pixels_stage(folders, config), [config.pixels, config.threads])]
    done: dict[str, dict[str, Any]] = {}
    earlier: list[Any] = []
    for name, build, key in plan:
        # What a stage makes depends on the stages before it, so their keys are part of its own.
        together = name not in ("record", "cache")
        folder = getattr(folders, name)
        result = run_stage(folder, build, key=[*earlier, *key], rebuild=options.rebuild, together=together)
        earlier = [result.pop("key")]
        done[name] = result
        print(f"{name}: {'done before' if result['skipped'] else str(result['seconds']) + ' s'}", file=sys.stderr)
    return done


def _export_pixels(options: TrainOptions, folders: RunFolders) -> dict[str, Any]:
    from scene4d.apps.training.pixel_stage import load_pixels, save_pixels

    model, info = load_pixels(folders.pixels_weights)
    path = options.weights or folders.root / "pixels.safetensors"
    return {"path": str(path), "bytes": save_pixels(path, model, info=info)}


def _export(options: TrainOptions, folders: RunFolders, *, config: RunConfig, stages: dict[str, Any]) -> dict[str, Any]:
    from scene4d import __version__
    from scene4d.apps.training.stages import export_stage

    provenance = {
        "scene4d": __version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "name": config.name,
        "config": toml_from_config(config),
        "stages": stages,
    }
    path = options.weights or folders.root / "weights.safetensors"
    return export_stage(folders, config, path=path, provenance=provenance, head="policy" in stages)

"""`scene4d train CONFIG`: record, cache, autoencoder, world model, action head, export; every stage resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from scene4d import __version__
from scene4d.apps.compose.models import sized_as_start
from scene4d.apps.training.cache import cache_stage
from scene4d.apps.training.import_recordings import import_stage, listing
from scene4d.apps.training.policy_stage import export_stage, train_policy_stage
from scene4d.apps.training.processes import run_stage
from scene4d.apps.training.record_episodes import record_stage
from scene4d.apps.training.run import Run
from scene4d.apps.training.run_config import RunConfig
from scene4d.apps.verbs.options.training import TrainOptions
from scene4d.config import load_config, toml_from_config
from scene4d.drafts import claimed, remove_leftovers
from scene4d.errors import ConfigError
from scene4d.files import write_text
from scene4d.train.distributed import rank, torchrun_group
from scene4d.train.loop import LoopConfig
from scene4d.train.stage import Stage


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
    _plan(Run(root, config), until=options.until)  # an unknown stage is refused before anything is written
    start, stages, weights = time.monotonic(), {}, None
    before = torch.get_num_threads()
    with torchrun_group(), claimed(root) if rank() == 0 else contextlib.nullcontext():
        if rank() == 0:
            remove_leftovers(root)
        write_text(root / "config.toml", toml_from_config(config))
        if rank() == 0:
            print(_precedence(options, root), file=sys.stderr)
        try:
            torch.set_num_threads(config.threads)
            run = Run(root, config)
            stages = _do_stages(run, options=options)
            if run.last_part in stages or "policy" in stages:
                weights = _export(options, run, stages=stages)
        finally:
            torch.set_num_threads(before)
    return {"run": str(root), "weights": weights, "stages": stages, "seconds": round(time.monotonic() - start, 1)}


def _precedence(options: TrainOptions, root: Path) -> str:
    """Where the settings come from, each place before those that beat it."""
    places = ["defaults", str(options.config), *(f"--set {text.partition('=')[0].strip()}" for text in options.set)]
    places += ["--pixels"] if options.pixels else []
    places += [] if options.steps is None else [f"--steps {options.steps}"]
    return f"settings: {', then '.join(places)}; all of them: {root / 'config.toml'}"


def _config(options: TrainOptions) -> RunConfig:
    config = load_config(options.config, RunConfig, overrides=options.set)
    if options.pixels:
        config = dataclasses.replace(config, family="pixel_transformer")
    config = sized_as_start(config)
    if options.steps is None:
        return config
    if options.steps < 1:
        raise ConfigError("must be at least 1", field="steps", found=options.steps)
    shorter = {}
    for name in ("vae", "dynamics", "policy", "pixels", "settings"):
        section = getattr(config, name)
        if section is not None:
            loops = [f.name for f in dataclasses.fields(section) if isinstance(getattr(section, f.name), LoopConfig)]
            fewer = {loop: dataclasses.replace(getattr(section, loop), steps=options.steps) for loop in loops}
            shorter[name] = dataclasses.replace(section, **fewer)
    return dataclasses.replace(config, **shorter)


def _plan(run: Run, *, until: str) -> list[Stage]:
    """The stages of a run in their order; ConfigError: `until` is none of them."""
    config, num = run.config, run.config.processes
    policy = Stage("policy", [config.policy, config.threads, run.start_digest], lambda f: train_policy_stage(run, f))
    if config.policy_only:
        return [policy]
    record, least, episodes = config.record, config.least_frames, run.folder("record")
    key, build = [record], lambda folder: record_stage(folder, record, processes=num)
    if record.sources:
        key += [listing(record), least]
        build = lambda folder: import_stage(folder, record, least=least, processes=num)
    cache = lambda folder: cache_stage(folder, config.cache, record=record, episodes=episodes, processes=num)
    plan = [Stage("record", key, build), Stage("cache", [config.cache], cache), *run.family_stages()]
    # The action head learns from demonstrations that it records itself, and on the flagship's forecast.
    with_head = config.family == "gaussian_flow" and not record.sources
    names = [stage.name for stage in plan] + ["policy"]
    if until not in names:
        raise ConfigError("is no stage", field="until", found=until, expected=", ".join(names))
    plan = [*plan, policy] if with_head else plan
    return plan[: names.index(until) + 1]


def _do_stages(run: Run, *, options: TrainOptions) -> dict[str, dict[str, Any]]:
    done: dict[str, dict[str, Any]] = {}
    earlier: list[Any] = []
    for stage in _plan(run, until=options.until):
        # What a stage makes depends on the stages before it, so their keys are part of its own.
        key, together = [*earlier, *stage.key], stage.name not in ("record", "cache")
        result = run_stage(run.folder(stage.name), stage.build, key=key, rebuild=options.rebuild, together=together)
        earlier = [result.pop("key")]
        done[stage.name] = result
        took = "done before" if result["skipped"] else f"{result['seconds']} s"
        print(f"{stage.name}: {took}", file=sys.stderr)
    return done


def _export(options: TrainOptions, run: Run, *, stages: dict[str, Any]) -> dict[str, Any]:
    versions = {"scene4d": __version__, "torch": torch.__version__, "machine": platform.machine()}
    config = {"name": run.config.name, "config": toml_from_config(run.config)}
    name = "pixels" if options.pixels else "weights"
    path = options.weights or run.root / f"{name}.safetensors"
    return export_stage(run, path=path, provenance={**versions, **config, "stages": stages}, head="policy" in stages)

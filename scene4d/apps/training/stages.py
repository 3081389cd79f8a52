"""The three training stages: autoencoder, world model, action head; each leaves its weights in the run's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scene4d.apps.compose.models import go_on_from, load_models, make_models, save_models
from scene4d.apps.training.cache import WindowCache
from scene4d.apps.training.prepare import RunFolders, prepared_batches, prepared_cells, prepared_samples, world_path
from scene4d.apps.training.run_config import DynamicsStageConfig, RunConfig
from scene4d.apps.training.world_parts import train_completion, train_intent, train_proprio
from scene4d.data.load.shuffled_batches import ShuffledBatches
from scene4d.layers import num_parameters
from scene4d.models.gaussian_flow.loss import DynamicsBatch, set_statistics
from scene4d.models.gaussian_flow.loss import loss as dynamics_loss
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.models.gaussian_flow.motion.confidence import calibrate
from scene4d.models.gaussian_flow.motion.rollout_training import rolled_out
from scene4d.models.gaussian_flow.networks.vae import Cells
from scene4d.models.gaussian_flow.vae_loss import vae_loss
from scene4d.policy.head import ActionHead
from scene4d.policy.loss import policy_batches, policy_loss, set_head_statistics
from scene4d.render.losses import psnr
from scene4d.render.render import render
from scene4d.train.checkpoint import load_weights, save_tensors
from scene4d.train.device import at_device
from scene4d.train.distributed import rank_zero_first
from scene4d.train.log import line_progress
from scene4d.train.loop import train
from scene4d.types import Frames

JUDGED_EVERY = 10
"""One episode of each task in so many is kept from the denoiser, to tell how sure it may be."""


def train_vae_stage(folders: RunFolders, config: RunConfig) -> dict[str, Any]:
    """Train the autoencoder on recorded pictures of the input cameras and its own Gaussians drawn for the others.

    Result: steps, loss, psnr, psnr_decoded (both against those pictures), parameters.
    """
    stage = config.vae
    with rank_zero_first():
        cells = prepared_cells(folders, config, progress=line_progress("vae cells"))
    cache = folders.windows(config)
    models = make_models(stage.model, config.dynamics.model, None, seed=stage.train.seed)
    go_on_from(config.start, models, "vae")
    vae = models.vae

    def read(numbers: Tensor) -> tuple[Cells, Frames]:
        return cells[numbers], Frames.stack([pictures_to_code(cache, int(n)) for n in numbers])

    with at_device(vae, config.device):
        result = train(
            vae,
            lambda batch: vae_loss(vae, batch[0], targets=batch[1], config=stage.loss),
            batches=ShuffledBatches(read, range(len(cache)), batch_size=stage.batch_size, seed=stage.train.seed),
            config=stage.train,
            folder=folders.vae,
            progress=line_progress("vae"),
        )
    with torch.no_grad():
        some = range(0, len(cache), max(1, len(cache) // 64))
        tokens = torch.cat([vae.encode_cells(cells[n])[0].tokens for n in some])
        vae.set_statistics(tokens)
        quality = []
        for n in some:
            frames = pictures_to_code(cache, n)
            drawn = render(vae.decode(vae.encode_cells(cells[n])[0]), frames.cameras)
            quality.append(psnr(drawn.rgb, frames.rgb, mask=frames.depth > 0).nanmean())
    save_tensors(folders.vae_weights, vae.state_dict(), state={})
    return {**_short(result), "psnr_decoded": _round(torch.stack(quality).mean()), "parameters": num_parameters(vae)}


def pictures_to_code(cache: WindowCache, number: int) -> Frames:
    """What a decoded window is to look like, [v]: the recorded pictures of the input cameras, and from the others what
    they would show of its Gaussians (what no input has seen is not for the autoencoder to know)."""
    window, num = cache.window(number, futures=False), cache.num_inputs
    frames = window.frames
    if num >= len(frames.rgb):
        return frames
    # Confidence 0 marks the backdrop metres behind everything, which is not coded.
    matter = window.memory.pick(window.memory.extras["confidence"][:, 0] > 0)
    with torch.no_grad():
        seen = render(matter, frames.cameras[num:])
    depth = torch.where(seen.alpha > 0.5, seen.depth, 0.0)
    return frames.replace(rgb=torch.cat([frames.rgb[:num], seen.rgb]), depth=torch.cat([frames.depth[:num], depth]))


def train_dynamics_stage(folders: RunFolders, config: RunConfig) -> dict[str, Any]:
    """Train the world model on prepared windows; result: steps, loss, its parts, parameters."""
    stage = config.dynamics
    with rank_zero_first():
        ready = prepared_batches(folders, config, progress=line_progress("dynamics windows"))
    cache = folders.windows(config)
    models = make_models(config.vae.model, stage.model, None, seed=stage.train.seed)
    go_on_from(config.start, models, "dynamics")
    load_weights(models.vae, folders.vae_weights)
    models.vae.eval().requires_grad_(False)
    rest, held = cache.split(every=JUDGED_EVERY)
    if not config.start:
        # The statistics that latents and motions are scaled by come from the training windows alone.
        set_statistics(models.dynamics, [ready[i] for i in rest])
    hand = train_proprio(folders, config, cache=cache, numbers=rest, model=models.dynamics)
    for part in (models.dynamics.proprio, models.dynamics.intent, models.dynamics.completion):
        part.requires_grad_(False)  # trained apart
    trained, judged, reached = ready[torch.tensor(rest)], ready[torch.tensor(held, dtype=torch.int64)], [0]

    drawn = ShuffledBatches(ready.__getitem__, rest, batch_size=stage.batch_size, seed=stage.train.seed)

    def batches(step: int) -> DynamicsBatch:
        reached[0] = step
        return drawn(step)

    with at_device(models.dynamics, config.device):
        result = train(
            models.dynamics,
            dynamics_step(models.dynamics, stage, rolls=lambda: rolls_out(stage, step=reached[0])),
            batches=batches,
            config=stage.train,
            folder=folders.dynamics,
            progress=line_progress("dynamics"),
        )
    coverage = calibrate(models.dynamics, judged)
    temperature = train_intent(folders, config, trained=trained, held=judged, model=models.dynamics)
    completed = train_completion(folders, config, cache=cache, ready=ready, model=models.dynamics)
    info = {
        "tasks": cache.tasks,
        "cameras": list(cache.cameras),
        "num_inputs": config.cache.num_inputs,
        "context": cache.context,
        "step_seconds": cache.step_seconds,
    }
    save_models(folders.world_weights, models, info=info, half=False)
    return {
        **_short(result),
        "proprio_hand_mm": hand,
        "temperature": round(temperature, 3),
        "coverage": [_round(x) if x.isfinite() else None for x in coverage],
        **completed,
        "parameters": num_parameters(models.dynamics.requires_grad_(True)),
    }


def dynamics_step(
    model: GaussianWorldModel, stage: DynamicsStageConfig, *, rolls: Callable[[], bool]
) -> Callable[[DynamicsBatch], tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """The loss of the world model on a batch, from where its own forecast leads where `rolls` says so."""

    def step_loss(batch: DynamicsBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if rolls():
            batch = rolled_out(model, batch, num_steps=model.config.horizon // 2)
        return dynamics_loss(model, batch, config=stage.loss)

    return step_loss


def rolls_out(stage: DynamicsStageConfig, *, step: int) -> bool:
    """Whether a step of the world model's training begins at its own forecast: the same for every rank."""
    draw = torch.rand((), generator=torch.Generator().manual_seed(stage.train.seed * 1_000_003 + step))
    return step >= 2 * stage.train.steps // 3 and float(draw) < stage.own_rollout


def train_policy_stage(folders: RunFolders, config: RunConfig) -> dict[str, Any]:
    """Train the action head on views of memory and forecast; result: steps, loss, demonstrations, sizes."""
    stage = config.policy
    with rank_zero_first():
        samples, demonstrations = prepared_samples(folders, config, progress=line_progress("policy demonstrations"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.train.seed)
        head = ActionHead(stage.model)
    set_head_statistics(head, samples)
    with at_device(head, config.device):
        result = train(
            head,
            policy_loss(head),
            batches=policy_batches(
                samples,
                num_views=stage.model.num_views,
                batch_size=stage.batch_size,
                seed=stage.train.seed,
                from_memory=stage.model.sees_scene,
            ),
            config=stage.train,
            folder=folders.policy,
            progress=line_progress("policy"),
        )
    save_tensors(folders.policy / "head.safetensors", head.state_dict(), state={})
    sizes = {"samples": len(samples.task_rows), "parameters": num_parameters(head)}
    return {**_short(result), **demonstrations, **sizes}


def export_stage(
    folders: RunFolders, config: RunConfig, *, path: Path, provenance: dict[str, Any], head: bool
) -> dict[str, Any]:
    """Join what was trained, the action head too if `head`, into one weights file and read it back.

    Result: path, bytes, policy (is there one).
    """
    world = load_models(world_path(folders, config))
    policy, learnt = None, {}
    if head:
        data = config.policy.data
        policy = ActionHead(config.policy.model)
        learnt = {
            "policy_tasks": list(data.tasks),
            "policy_cameras": list(data.input_cameras),
            "policy_size": data.image_size,
        }
        load_weights(policy, folders.policy / "head.safetensors")
    models = type(world)(vae=world.vae, dynamics=world.dynamics, policy=policy, info={})
    if config.policy_only:
        provenance = {**provenance, "start": world.info.get("provenance")}
    size = save_models(path, models, info={**world.info, **learnt, "provenance": provenance})
    load_models(path)
    return {"path": str(path), "bytes": size, "policy": head}


def _short(result: dict[str, Any]) -> dict[str, Any]:
    """Result of the loop without its clock (the stage has its own), numbers rounded."""
    return {k: _round(v) if isinstance(v, float) else v for k, v in result.items() if k not in ("seconds", "grad_norm")}


def _round(value: Any) -> float:
    return float(f"{float(value):.5g}")

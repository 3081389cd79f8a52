"""The 2D baseline of a run: its learning rate tried out, the model trained on the run's own windows, its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scene4d.apps.training.cache import WindowCache
from scene4d.apps.training.prepare import RunFolders
from scene4d.apps.training.run_config import PixelsStageConfig, RunConfig
from scene4d.config import config_from_dict, dict_from_config
from scene4d.data.load.shuffled_batches import ShuffledBatches
from scene4d.data.load.stored_episode import StoredEpisode
from scene4d.data.load.window_set import WindowSet
from scene4d.errors import CheckpointError
from scene4d.layers import num_parameters
from scene4d.models.gaussian_flow.motion.flow import FlowConfig, draw_levels
from scene4d.models.gaussian_flow.networks.proprio import track_of
from scene4d.models.pixel_transformer.loss import loss, mean_error, set_scale
from scene4d.models.pixel_transformer.model import Clip, PixelModel, PixelsConfig
from scene4d.train.checkpoint import assign_weights, load_tensors, save_tensors
from scene4d.train.device import Device, at_device
from scene4d.train.log import line_progress
from scene4d.train.loop import LoopConfig
from scene4d.train.loop import train as run_loop

HELD_OUT_EVERY = 8
"""One episode of each task in so many is kept from the trials of the learning rate, to judge them by."""


def train_pixels_stage(folders: RunFolders, config: RunConfig) -> dict[str, Any]:
    """Train the 2D baseline and leave its weights in the run's folder.

    Each learning rate is tried for `tune_steps`, judged on episodes kept apart; the best trains on all windows.
    Result: lr, trials {lr: squared error over that of copying}, steps, loss, copy, parameters.
    """
    cache = folders.windows(config)
    stage = _fitted(config, cache)
    rest, held = cache.split(every=HELD_OUT_EVERY)
    rate, trials = stage.learning_rates[0], {}
    if len(stage.learning_rates) > 1 and held:
        judged = [clips_of(cache, held[i : i + 16], config=stage) for i in range(0, min(len(held), 128), 16)]
        for lr in stage.learning_rates:
            short = dataclasses.replace(stage.train, steps=stage.tune_steps)
            model, _ = _trained(
                cache,
                rest,
                stage,
                train=_at_rate(short, lr),
                folder=folders.pixels / f"lr_{lr:g}",
                device=config.device,
            )
            error, copy = mean_error(model, judged)
            trials[f"{lr:g}"] = round(error / copy, 4)
        rate = float(min(trials, key=trials.__getitem__))
    everything = list(range(len(cache)))
    model, result = _trained(
        cache, everything, stage, train=_at_rate(stage.train, rate), folder=folders.pixels / "run", device=config.device
    )
    save_pixels(folders.pixels_weights, model, info={"cameras": list(cache.cameras[: config.cache.num_inputs])})
    return {
        "lr": rate,
        "trials": trials,
        "steps": result["steps"],
        "loss": round(result["loss"], 5),
        "copy": round(result["copy"], 5),
        "parameters": num_parameters(model),
    }


def clips_of(windows: WindowSet[StoredEpisode], numbers: Sequence[int] | Tensor, *, config: PixelsStageConfig) -> Clip:
    """The windows `numbers` as the 2D baseline sees them, [b], with their futures."""
    c, rows = config.model, []
    for number in numbers:
        episode, t = windows.moment(int(number))
        track = track_of(episode.actions[:t], episode.proprio[: t + 1], num_past=c.num_past_actions)
        window = windows.read(int(number), context=c.num_past, cameras=windows.cameras[: c.num_views])
        now = c.num_past - 1
        rows.append(
            Clip(
                pictures=window.frames.rgb[: c.num_past],
                past_actions=track.actions,
                actions=window.actions[now : now + c.horizon],
                past_proprio=track.proprio,
                told=torch.tensor(1.0),
                task=window.task + 1,
                future=window.frames.rgb[c.num_past : c.num_past + c.horizon],
            )
        )
    return Clip.stack(rows)


def save_pixels(path: str | Path, model: PixelModel, *, info: dict[str, Any]) -> int:
    """Write the weights (matrices in half precision) atomically; returns the size in bytes."""
    learned = {key for key, parameter in model.named_parameters() if parameter.ndim >= 2}
    tensors = {k: v.half() if k in learned else v for k, v in model.state_dict().items()}
    save_tensors(path, tensors, state={"pixels": dict_from_config(model.config), "info": info})
    return Path(path).stat().st_size


def load_pixels(path: str | Path) -> tuple[PixelModel, dict[str, Any]]:
    """The 2D baseline of a weights file in evaluation mode, and its info (cameras).

    Raises:
        CheckpointError: missing, truncated, or of another model; SecurityError: a pickle.
    """
    tensors, state = load_tensors(path)
    if "pixels" not in state:
        fix = "train it: scene4d train CONFIG --pixels"
        raise CheckpointError("holds no 2D baseline", file=path, field="pixels", found=sorted(state), fix=fix)
    model = PixelModel(config_from_dict(state["pixels"], PixelsConfig, file=path, where="pixels"))
    assign_weights(model, tensors, source=path)
    return model.eval().requires_grad_(False), state["info"]


def _fitted(config: RunConfig, cache: WindowCache) -> PixelsStageConfig:
    """The stage, its model cut to the run's pictures, cameras, horizon, robot and tasks."""
    fitted = dataclasses.replace(
        config.pixels.model,
        size=config.record.size,
        num_views=config.cache.num_inputs,
        horizon=config.dynamics.model.horizon,
        num_past_actions=config.cache.num_past_actions,
        num_actions=len(cache.context["action_spec"]),
        num_proprio=len(cache.context["proprio_spec"]),
        tasks=tuple(cache.tasks),
    )
    return dataclasses.replace(config.pixels, model=fitted)


def _at_rate(train: LoopConfig, lr: float) -> LoopConfig:
    return dataclasses.replace(train, optim=dataclasses.replace(train.optim, lr=lr))


def _trained(
    cache: WindowCache,
    numbers: Sequence[int],
    stage: PixelsStageConfig,
    *,
    train: LoopConfig,
    folder: Path,
    device: Device,
) -> tuple[PixelModel, dict[str, Any]]:
    """A fresh model trained on the windows `numbers`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(train.seed)
        model = PixelModel(stage.model)
    read: Callable[[Tensor], Clip] = lambda drawn: clips_of(cache, drawn, config=stage)
    batches = ShuffledBatches(read, numbers, batch_size=stage.batch_size, seed=train.seed)
    every = max(1, len(numbers) // 64)
    set_scale(model, [clips_of(cache, numbers[::every], config=stage)])

    def step_loss(clip: Clip) -> Any:
        like = model.residual(clip)
        levels = draw_levels(like.shape[0], config=FlowConfig(), like=like)
        return loss(model, clip, levels=levels, noise=torch.randn_like(like))

    progress = line_progress(f"pixels {folder.name}")
    with at_device(model, device):
        return model, run_loop(model, step_loss, batches=batches, config=train, folder=folder, progress=progress)

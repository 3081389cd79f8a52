"""The family pixel_transformer: the 2D baseline, its learning rate tried out, trained on the run's own windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scene4d.data.load.shuffled_batches import ShuffledBatches
from scene4d.errors import ConfigError
from scene4d.layers import num_parameters
from scene4d.models.flow import FlowConfig, draw_levels
from scene4d.models.pixel_transformer.loss import loss, mean_error, set_scale
from scene4d.models.pixel_transformer.model import PixelTransformer
from scene4d.models.pixel_transformer.network import Clip, PixelModel, PixelsConfig
from scene4d.robot.several_robots import only_robot
from scene4d.robot.spec import RobotSpec
from scene4d.robot.track import track_of
from scene4d.train.checkpoint import save_tensors
from scene4d.train.loop import LoopConfig
from scene4d.train.stage import Fit, Stage, fit
from scene4d.world.family import Family, TrainingRun, Windows

HELD_OUT_EVERY = 8
"""One episode of each task in so many is kept from the trials of the learning rate, to judge them by."""


@dataclass(frozen=True)
class PixelsStageConfig:
    """How the 2D baseline is trained; its pictures, cameras and horizon are those of the run."""

    model: PixelsConfig = field(default_factory=PixelsConfig)
    """Sizes."""
    batch_size: int = 8
    """Windows a step."""
    learning_rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    """Rates that are tried; the best one trains it."""
    tune_steps: int = 200
    """Steps of a trial."""
    train: LoopConfig = field(default_factory=LoopConfig)
    """Steps and optimiser; the learning rate is the one found."""

    def __post_init__(self) -> None:
        if not self.learning_rates:
            raise ConfigError("none to try", field="pixels.learning_rates", expected="at least one")


def fitted(settings: PixelsStageConfig, windows: Windows) -> Mapping[str, PixelsConfig]:
    """The network's sizes, cut to the run's pictures, cameras, horizon, robot and tasks."""
    robot = only_robot(windows.robots)
    config = dataclasses.replace(
        settings.model,
        size=windows.frames(0).cameras.width,
        num_views=windows.num_inputs,
        horizon=windows.horizon,
        num_past_actions=windows.num_past_actions,
        num_actions=robot.action.width,
        num_proprio=robot.proprio.width,
        tasks=tuple(windows.tasks),
    )
    return {"pixels": config}


def build(configs: Mapping[str, Any], *, robots: tuple[RobotSpec, ...], info: Mapping[str, Any]) -> PixelTransformer:
    """A fresh model for the first cameras that the info of the weights names."""
    config: PixelsConfig = configs["pixels"]
    cameras = list(info.get("cameras") or map(str, range(config.num_views)))[: config.num_views]
    return PixelTransformer(PixelModel(config), cameras=cameras, robot=only_robot(robots))


def parts(model: PixelTransformer) -> dict[str, nn.Module]:
    """The network."""
    return {"pixels": model.network}


def stages(run: TrainingRun) -> list[Stage]:
    """The one stage."""
    return [Stage("pixels", [run.settings, run.threads], lambda folder: train_pixels(run, folder))]


def train_pixels(run: TrainingRun, folder: Path) -> dict[str, Any]:
    """Train the network and leave its weights in the folder.

    Each learning rate is tried for `tune_steps`, judged on episodes kept apart; the best trains on all windows.
    Result: lr, trials {lr: squared error over that of copying}, steps, loss, copy, parameters.
    """
    settings: PixelsStageConfig = run.settings
    windows = run.windows()
    rest, held = (_pictured(windows, numbers) for numbers in windows.split(every=HELD_OUT_EVERY))
    rate, trials = settings.learning_rates[0], {}
    if len(settings.learning_rates) > 1 and held:
        config = fitted(settings, windows)["pixels"]
        judged = [clips_of(windows, held[i : i + 16], config=config) for i in range(0, min(len(held), 128), 16)]
        for lr in settings.learning_rates:
            short = _at_rate(dataclasses.replace(settings.train, steps=settings.tune_steps), lr)
            network, _ = _trained(run, rest, train=short, folder=folder / f"lr_{lr:g}")
            error, copy = mean_error(network, judged)
            trials[f"{lr:g}"] = round(error / copy, 4)
        rate = float(min(trials, key=trials.__getitem__))
    numbers, train = _pictured(windows, range(len(windows))), _at_rate(settings.train, rate)
    network, result = _trained(run, numbers, train=train, folder=folder / "run")
    save_tensors(folder / "pixels.safetensors", network.state_dict(), state={})
    kept = {key: result[key] for key in ("steps", "loss", "copy")}
    return {"lr": rate, "trials": trials, **kept, "parameters": num_parameters(network)}


def _pictured(windows: Windows, numbers: Sequence[int]) -> list[int]:
    """Those of the windows whose whole future has pictures; others teach models that need none.

    Raises:
        ConfigError: there is none.
    """
    moments = ((number, windows.moment(number)) for number in numbers)
    pictured = [number for number, (episode, t) in moments if t + windows.horizon < episode.num_frames]
    if numbers and not pictured:
        problem, fix = "no window has pictures of its future", "record more frames with pictures"
        raise ConfigError(problem, field="record.num_frames", expected=f"> {windows.horizon}", fix=fix)
    return pictured


def clips_of(windows: Windows, numbers: Sequence[int], *, config: PixelsConfig) -> Clip:
    """The windows `numbers` as the network gets them, [b], with their futures."""
    rows, cameras = [], windows.cameras[: config.num_views]
    for number in numbers:
        episode, t = windows.moment(int(number))
        track = track_of(episode.actions[:t], episode.proprio[: t + 1], num_past=config.num_past_actions)
        frames = episode.read(t + 1 - config.num_past, t + 1 + config.horizon, cameras=cameras).stacked()
        rows.append(
            Clip(
                pictures=frames.rgb[: config.num_past],
                past_actions=track.actions,
                actions=episode.actions[t : t + config.horizon],
                past_proprio=track.proprio,
                known=torch.tensor(1.0),
                task=torch.tensor(list(windows.tasks).index(episode.info["task"]) + 1),
                future=frames.rgb[config.num_past :],
            )
        )
    return Clip.stack(rows)


def _at_rate(train: LoopConfig, lr: float) -> LoopConfig:
    return dataclasses.replace(train, optim=dataclasses.replace(train.optim, lr=lr))


def _trained(
    run: TrainingRun, numbers: Sequence[int], *, train: LoopConfig, folder: Path
) -> tuple[PixelModel, dict[str, Any]]:
    """A fresh network trained on the windows `numbers`, and the result of its training."""
    windows, network = run.windows(), run.fresh(seed=train.seed).network
    read = lambda some: clips_of(windows, some.tolist(), config=network.config)
    batches = ShuffledBatches(read, numbers, batch_size=run.settings.batch_size, seed=train.seed)
    set_scale(network, [clips_of(windows, numbers[:: max(1, len(numbers) // 64)], config=network.config)])

    def step_loss(clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        like = network.residual(clip)
        levels = draw_levels(like.shape[0], config=FlowConfig(), like=like)
        return loss(network, clip, levels=levels, noise=torch.randn_like(like))

    what = Fit(network, step_loss, batches, train)
    return network, fit(what, folder=folder, device=run.device, name=f"pixels {folder.name}")


FAMILY = Family(
    name="pixel_transformer",
    configs={"pixels": PixelsConfig},
    build=build,
    parts=parts,
    settings=PixelsStageConfig,
    part_configs=fitted,
    stages=stages,
)

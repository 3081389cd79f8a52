"""The parts of the world model that are trained apart: the robot's own state, its actions, and new matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from scene4d.apps.training.cache import WindowCache
from scene4d.apps.training.prepare import RunFolders
from scene4d.apps.training.run_config import RunConfig
from scene4d.data.load.shuffled_batches import ShuffledBatches
from scene4d.geometry.camera import unproject
from scene4d.geometry.neighbours import nearest
from scene4d.models.gaussian_flow.loss import DynamicsBatch, scene_tokens, track_of_batch
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.models.gaussian_flow.motion.confidence import calibrate_actions
from scene4d.models.gaussian_flow.networks.action_denoiser import blurred, intent_loss
from scene4d.models.gaussian_flow.networks.completion import completion_loss
from scene4d.models.gaussian_flow.networks.proprio import proprio_loss
from scene4d.train.device import at_device
from scene4d.train.log import line_progress
from scene4d.train.loop import train
from scene4d.types import Frames, Gaussians


def train_proprio(
    folders: RunFolders, config: RunConfig, *, cache: WindowCache, numbers: Sequence[int], model: GaussianWorldModel
) -> float:
    """Train the forecast of the robot's own state on the episodes of the windows `numbers`.

    Returns the hand's error at the end in mm.
    """
    stage, futures, proprio = config.dynamics, cache.proprio_futures(numbers), model.proprio
    proprio.set_statistics(futures)
    batches = ShuffledBatches(
        futures.__getitem__,
        range(len(futures.task)),
        batch_size=stage.proprio_batch_size,
        seed=stage.proprio.seed,
    )
    with at_device(model, config.device):
        result = train(
            proprio,
            lambda batch: proprio_loss(proprio, batch),
            batches=batches,
            config=stage.proprio,
            folder=folders.dynamics / "proprio",
            progress=line_progress("proprio"),
        )
    return round(float(result["hand_mm"]), 2)


def train_intent(
    folders: RunFolders, config: RunConfig, *, trained: DynamicsBatch, held: DynamicsBatch, model: GaussianWorldModel
) -> float:
    """Train the denoiser of actions on the windows `trained`; result: the temperature that `held` ones ask for."""
    stage, intent = config.dynamics, model.intent.requires_grad_(True)
    intent.set_statistics(trained.actions)

    def loss_fn(batch: DynamicsBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        motion = model.scale.normalize(batch.motion)
        told = blurred(intent, scene=scene_tokens(model, batch), track=track_of_batch(batch), motion=motion)
        return intent_loss(intent, batch.actions, **told, task=batch.task, config=stage.model.flow)

    with at_device(model, config.device):
        train(
            intent,
            loss_fn,
            batches=ShuffledBatches(
                trained.__getitem__,
                range(len(trained.task)),
                batch_size=stage.intent_batch_size,
                seed=stage.intent.seed,
            ),
            config=stage.intent,
            folder=folders.dynamics / "intent",
            progress=line_progress("intent"),
        )
    return calibrate_actions(model, held)


def train_completion(
    folders: RunFolders, config: RunConfig, *, cache: WindowCache, ready: DynamicsBatch, model: GaussianWorldModel
) -> dict[str, Any]:
    """Train the decoder of new matter on pictures of all cameras.

    Result: psnr_completed, of its last batches; None where every camera is an input: there is nothing to learn from.
    """
    stage, completion = config.dynamics, model.completion.requires_grad_(True)
    missed = _missed_points(cache)
    if len(missed) == 0:
        return {"psnr_completed": None}
    if not config.start:  # weights that are gone on from keep the places that they speak of
        completion.set_places(missed)

    def read(numbers: torch.Tensor) -> tuple[DynamicsBatch, Gaussians, Frames]:
        windows = cache.scene_windows(numbers, futures=False)
        return ready[numbers], windows.memory, windows.frames

    with at_device(model, config.device):
        result = train(
            completion,
            lambda batch: completion_loss(
                completion,
                scene_tokens(model, batch[0]),
                memory=batch[1],
                targets=batch[2],
                config=stage.completion_loss,
            ),
            batches=ShuffledBatches(
                read, range(len(cache)), batch_size=stage.completion_batch_size, seed=stage.completion.seed
            ),
            config=stage.completion,
            folder=folders.dynamics / "completion",
            progress=line_progress("completion"),
        )
    return {"psnr_completed": round(float(result["psnr"]), 2)}


@torch.no_grad()
def _missed_points(cache: WindowCache, *, num_windows: int = 24, num_points: int = 20000) -> torch.Tensor:
    """Points [n 3] that cameras beside the inputs saw and the memory lacks, from windows spread over the cache."""
    found, far = [], 0.03
    for number in torch.linspace(0, len(cache) - 1, min(num_windows, len(cache))).long().tolist():
        window = cache.window(number, futures=False)
        views = window.frames[cache.num_inputs :]
        points = unproject(views.depth, views.cameras.viewmats, Ks=views.cameras.Ks)[views.depth > 0]
        distance, _ = nearest(window.memory.means, points, num=1)
        found.append(points[distance[:, 0] > far])
    points = torch.cat(found)
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    return points[order[:num_points]]

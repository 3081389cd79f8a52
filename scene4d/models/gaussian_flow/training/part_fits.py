"""The parts of the world model that are trained apart: the robot's own state, its actions, and new Gaussians."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from scene4d.data.load.shuffled_batches import ShuffledBatches
from scene4d.geometry.camera import unproject
from scene4d.geometry.neighbours import nearest
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.models.gaussian_flow.motion.confidence import calibrate_actions
from scene4d.models.gaussian_flow.motion.known_future import KnownMotion, drawn_known
from scene4d.models.gaussian_flow.networks.action_denoiser import ActionEvidence, action_loss, augmented
from scene4d.models.gaussian_flow.networks.completion import completion_loss
from scene4d.models.instants import Steps
from scene4d.models.tokens.token_windows import TokenWindows, at_steps, is_moving
from scene4d.text.task_vectors import tasks_dropped
from scene4d.train.stage import Fit, fit
from scene4d.types import Frames, Gaussians
from scene4d.world.family import TrainingRun, Windows


def fit_action_denoiser(
    run: TrainingRun, model: GaussianWorldModel, *, trained: TokenWindows, held: TokenWindows, folder: Path
) -> float:
    """Train the denoiser of actions on the windows `trained`; result: the temperature that `held` ones ask for."""
    stage, denoiser = run.settings.dynamics, model.intent.requires_grad_(True)
    num_actions = stage.model.num_actions
    denoiser.set_statistics(trained.actions[:, :num_actions])

    def loss(batch: TokenWindows) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        steps, actions = stage.drawn_steps(model.spec.step_seconds, reach=num_actions), batch.actions[:, :num_actions]
        task = tasks_dropped(batch.task, text=model.config.text, rate=stage.loss.task_dropout)
        future = _future(model, batch, steps=steps)
        given = ActionEvidence(model.window_tokens(batch), batch.track, task, future, steps)
        return action_loss(denoiser, actions, given=augmented(denoiser, given), config=stage.model.flow)

    numbers, size = range(len(trained.task)), stage.intent_batch_size
    batches = ShuffledBatches(trained.__getitem__, numbers, batch_size=size, seed=stage.intent.seed)
    what = Fit(denoiser, loss, batches, stage.intent)
    fit(what, folder=folder / "intent", device=run.device, name="actions", owner=model)
    return calibrate_actions(model, held)


def _future(model: GaussianWorldModel, batch: TokenWindows, *, steps: Steps) -> KnownMotion:
    """What is known of the motion at the ends of steps in training: a part, where the model learns from parts."""
    batch = at_steps(batch, steps, instants=model.config.instants)
    future = KnownMotion.whole(model.scale.normalize(batch.motion, steps))
    if not model.config.dit.known_futures:
        return future
    return future.replace(known=drawn_known(batch.motion, batch.anchors, moving=is_moving(batch.motion)))


def fit_completion(run: TrainingRun, model: GaussianWorldModel, *, ready: TokenWindows, folder: Path) -> dict[str, Any]:
    """Train the decoder of new Gaussians on pictures of all cameras.

    Result: psnr_completed, of its last batches; None where every camera is an input: there is nothing to learn from.
    """
    stage, completion, windows = run.settings.dynamics, model.completion.requires_grad_(True), run.windows()
    missed = _missed_points(windows)
    if len(missed) == 0:
        return {"psnr_completed": None}
    if not run.start:  # weights that are gone on from keep the places that they speak of
        completion.set_places(missed)

    def read(numbers: torch.Tensor) -> tuple[TokenWindows, Gaussians, Frames]:
        # One by one: windows of different robots do not stack.
        each = [windows.window(int(number), futures=False) for number in numbers]
        return ready[numbers], Gaussians.stack([w.memory for w in each]), Frames.stack([w.frames for w in each])

    def loss(batch: tuple[TokenWindows, Gaussians, Frames]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        tokens = model.window_tokens(batch[0])
        return completion_loss(completion, tokens, memory=batch[1], targets=batch[2], config=stage.completion_loss)

    numbers, size = range(len(windows)), stage.completion_batch_size
    batches = ShuffledBatches(read, numbers, batch_size=size, seed=stage.completion.seed)
    what = Fit(completion, loss, batches, stage.completion)
    result = fit(what, folder=folder / "completion", device=run.device, name="completion", owner=model)
    return {"psnr_completed": round(float(result["psnr"]), 2)}


@torch.no_grad()
def _missed_points(windows: Windows, *, num_windows: int = 24, num_points: int = 20000) -> torch.Tensor:
    """Points [n 3] that cameras beside the inputs saw and the memory lacks, from windows spread over the run."""
    found, far = [], 0.03
    for number in torch.linspace(0, len(windows) - 1, min(num_windows, len(windows))).long().tolist():
        window = windows.window(number, futures=False)
        views = window.frames[windows.num_inputs :]
        points = unproject(views.known_depth, views.cameras.viewmats, Ks=views.cameras.Ks)[views.known_depth > 0]
        distance, _ = nearest(window.memory.means, points, num=1)
        found.append(points[distance[:, 0] > far])
    points = torch.cat(found)
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:num_points]]

"""The world model's stage: windows as tokens made once, the denoiser trained on them, its parts one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from scene4d.data.load.shuffled_batches import ShuffledBatches
from scene4d.layers import num_parameters
from scene4d.models.gaussian_flow.loss import loss as dynamics_loss
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.models.gaussian_flow.motion.confidence import calibrate
from scene4d.models.gaussian_flow.motion.rollout_training import rolled_out
from scene4d.models.gaussian_flow.networks.vae import GaussianVAE
from scene4d.models.gaussian_flow.training.part_fits import fit_action_denoiser, fit_completion
from scene4d.models.gaussian_flow.training.stage_configs import DynamicsStageConfig
from scene4d.models.proprio import fit_proprio
from scene4d.models.tokens.token_windows import TokenWindows, at_steps, prepare_all
from scene4d.train.checkpoint import load_weights, save_tensors
from scene4d.train.distributed import rank_zero_first
from scene4d.train.stage import Fit, fit, rounded
from scene4d.world.family import TrainingRun, Windows

JUDGED_EVERY = 10
"""One episode of each task in so many is kept from the denoiser, to measure how sure it may be."""


def train_dynamics(run: TrainingRun, model: GaussianWorldModel, *, folder: Path) -> dict[str, Any]:
    """Train the world model on windows as tokens; result: steps, loss, its parts, parameters."""
    stage, windows = run.settings.dynamics, run.windows()
    with rank_zero_first():
        ready = run.prepared(TokenWindows, tokens_of_episode, folder=folder / "ready")
    run.start_from(model, "dynamics")
    load_weights(model.codec, run.folder("vae") / "vae.safetensors")
    model.codec.eval().requires_grad_(False)
    rest, held = windows.split(every=JUDGED_EVERY)
    if not run.start:
        # The statistics that latents and motions are scaled by come from the training windows alone.
        model.set_statistics([ready[i] for i in rest], instants=stage.model.instants)
    loop, size = stage.proprio, stage.proprio_batch_size
    hand = fit_proprio(run, model.proprio, numbers=rest, train=loop, batch_size=size, owner=model, folder=folder)
    for part in (model.proprio, model.intent, model.completion):
        part.requires_grad_(False)  # trained apart
    trained, judged, reached = ready[torch.tensor(rest)], ready[torch.tensor(held, dtype=torch.int64)], [0]
    numbers, size = range(len(rest)), stage.batch_size
    shuffled = ShuffledBatches(trained.__getitem__, numbers, batch_size=size, seed=stage.train.seed)

    def batches(step: int) -> TokenWindows:
        reached[0] = step
        return shuffled(step)

    def loss(batch: TokenWindows) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        steps = stage.drawn_steps(model.spec.step_seconds)
        batch = at_steps(batch, steps, instants=stage.model.instants)
        if rolls_out(stage, step=reached[0]):
            batch, steps = rolled_out(model, batch, steps=steps, num_steps=steps.num // 2)
        return dynamics_loss(model, batch, config=stage.loss, steps=steps)

    result = fit(Fit(model, loss, batches, stage.train), folder=folder, device=run.device, name="dynamics")
    coverage = calibrate(model, judged)
    temperature = fit_action_denoiser(run, model, trained=trained, held=judged, folder=folder)
    completed = fit_completion(run, model, ready=ready, folder=folder)
    save_tensors(folder / "dynamics.safetensors", model.state_dict(), state={})
    return {
        **result,
        "proprio_hand_mm": hand,
        "temperature": round(temperature, 3),
        "coverage": [rounded(x) if x.isfinite() else None for x in coverage.flatten()],
        **completed,
        "parameters": num_parameters(model.requires_grad_(True)),
    }


@torch.no_grad()
def tokens_of_episode(run: TrainingRun, windows: Windows, *, first: int) -> list[TokenWindows]:
    """The windows of one episode as tokens; the choice of rows hangs on the number `first` of its first window."""
    codec = GaussianVAE(run.settings.vae.model)
    load_weights(codec, run.folder("vae") / "vae.safetensors")
    codec.eval()
    config = run.settings.dynamics
    model, num_rows = config.model, config.num_rows
    return prepare_all(
        codec, windows, first=first, anchors=model.anchors, slots=model.slots, text=model.text, num_rows=num_rows
    )


def rolls_out(stage: DynamicsStageConfig, *, step: int) -> bool:
    """Whether a step of the world model's training begins at its own forecast: the same for every rank."""
    draw = torch.rand((), generator=torch.Generator().manual_seed(stage.train.seed * 1_000_003 + step))
    return step >= 2 * stage.train.steps // 3 and float(draw) < stage.own_rollout

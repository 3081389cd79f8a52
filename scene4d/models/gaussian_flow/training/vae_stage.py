"""The autoencoder's stage: its cells computed once, trained on recorded pictures, its weights left in the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from scene4d.data.load.shuffled_batches import ShuffledBatches
from scene4d.layers import num_parameters
from scene4d.models.gaussian_flow.networks.vae import Cells, GaussianVAE
from scene4d.models.gaussian_flow.networks.vae_loss import vae_loss
from scene4d.models.tokens.anchors import choose_anchors, focus_of
from scene4d.render.losses import psnr
from scene4d.render.render import render
from scene4d.train.checkpoint import save_tensors
from scene4d.train.distributed import rank_zero_first
from scene4d.train.stage import Fit, fit, rounded
from scene4d.types import Frames
from scene4d.world.family import TrainingRun, Windows


def train_vae(run: TrainingRun, model: Any, *, folder: Path) -> dict[str, Any]:
    """Train the autoencoder on recorded pictures of the input cameras and its own Gaussians rendered for the others.

    Result: steps, loss, psnr, psnr_decoded (both against those pictures), parameters.
    """
    stage, windows, vae = run.settings.vae, run.windows(), model.codec
    with rank_zero_first():
        cells = run.prepared(Cells, cells_of_episode, folder=folder / "cells")
    run.start_from(model, "vae")

    def read(numbers: torch.Tensor) -> tuple[Any, Frames]:
        return cells[numbers], Frames.stack([pictures_to_code(windows, int(n)) for n in numbers])

    batches = ShuffledBatches(read, range(len(windows)), batch_size=stage.batch_size, seed=stage.train.seed)
    loss = lambda batch: vae_loss(vae, batch[0], targets=batch[1], config=stage.loss)
    result = fit(Fit(vae, loss, batches, stage.train), folder=folder, device=run.device, name="vae")
    with torch.no_grad():
        some = range(0, len(windows), max(1, len(windows) // 64))
        vae.set_statistics(torch.cat([vae.encode_cells(cells[n])[0].tokens for n in some]))
        quality = []
        for n in some:
            frames = pictures_to_code(windows, n)
            rendered = render(vae.decode(vae.encode_cells(cells[n])[0]), frames.cameras)
            quality.append(psnr(rendered.rgb, frames.rgb, mask=frames.known_depth > 0).nanmean())
    save_tensors(folder / "vae.safetensors", vae.state_dict(), state={})
    return {**result, "psnr_decoded": rounded(torch.stack(quality).mean()), "parameters": num_parameters(vae)}


@torch.no_grad()
def cells_of_episode(run: TrainingRun, windows: Windows, *, first: int) -> list[Cells]:
    """What the anchors see in the windows of one episode, about the anchors that the world model would choose."""
    vae, rows = GaussianVAE(run.settings.vae.model).eval(), []
    for number in range(len(windows)):
        window = windows.window(number, futures=False)
        focus = focus_of(window.memory, window.past_proprio[-1], robot=windows.robot_of(number))
        anchors, _ = choose_anchors(window.memory, focus=focus, config=run.settings.dynamics.model.anchors)
        rows.append(vae.cells_of(window.memory, anchors))
    return rows


def pictures_to_code(windows: Windows, number: int) -> Frames:
    """What a decoded window is to look like, [v]: the recorded pictures of the input cameras, and from the others what
    they would show of its Gaussians (what no input has seen is not for the autoencoder to know)."""
    window, num = windows.window(number, futures=False), windows.num_inputs
    frames = window.frames
    if num >= len(frames.rgb):
        return frames
    # Confidence 0 marks the sky shell metres behind everything, which is not coded.
    known = window.memory.pick(window.memory.extras["confidence"][:, 0] > 0)
    with torch.no_grad():
        seen = render(known, frames.cameras[num:])
    depth = torch.where(seen.known_alpha > 0.5, seen.known_depth, 0.0)
    rgb, depth = torch.cat([frames.rgb[:num], seen.rgb]), torch.cat([frames.known_depth[:num], depth])
    return frames.replace(rgb=rgb, depth=depth)

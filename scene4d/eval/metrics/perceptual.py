"""LPIPS, where the package and its weights are on this machine already; nothing is fetched."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

BACKBONES = {"alex": "alexnet-*.pth", "vgg": "vgg16-*.pth"}
Perceptual = Callable[[Tensor, Tensor], float]


def find_lpips(*, network: str = "alex") -> tuple[Perceptual | None, str]:
    """(distance of two images [h w 3] in [0, 1], "") or (None, why it cannot be had).

    The `lpips` package asks the network for its backbone unless that lies in torch's own cache, so without it there
    the metric is left out.

    Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if not list(folder.glob(BACKBONES[network])):
        return None, f"no backbone weights {BACKBONES[network]} in torch's cache"
    try:
        lpips = importlib.import_module("lpips")
        model = lpips.LPIPS(net=network, verbose=False).eval()
    except (ImportError, RuntimeError, OSError) as error:
        return None, f"the lpips package does not load: {str(error)[:80]}"

    @torch.no_grad()
    def distance(image: Tensor, target: Tensor) -> float:
        pair = [(2 * x.clamp(0, 1) - 1).movedim(-1, 0)[None].float() for x in (image, target)]
        return float(model(pair[0], pair[1]))

    return distance, ""

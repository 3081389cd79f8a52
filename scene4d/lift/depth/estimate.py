"""Depth for cameras that have none: a depth estimator with the user's weights, brought to the scale of the cameras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scene4d.check import check
from scene4d.errors import CheckpointError, ConfigError, DepthError, SecurityError
from scene4d.extras import optional
from scene4d.geometry.frame_images import depth_of
from scene4d.lift.depth.alignment import AlignConfig, Kind, align_depth
from scene4d.types import Episode, Frames

METRIC_MODELS = ("zoedepth", "glpn", "depth_pro")
RELATIVE_MODELS = ("dpt",)
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
Estimator = Callable[[Tensor], Tensor]


class DepthEstimator:
    """A Hugging Face depth-estimation model, called with rgb [v h w 3] in [0, 1], giving predictions [v h w].

    Weights are read from safetensors only. Nothing is fetched from anywhere unless `download` is set.

    Args:
        weights: a folder with config.json, preprocessor_config.json and model.safetensors, or the name of a model.
        kind: "relative" (inverse depth up to scale and shift) or "metric"; by default what the model's own
            configuration says.
        download: look a name up and fetch it, rather than in what was fetched before.
        device: where the model runs.
    Raises:
        ConfigError: no weights are named, or it is not known whether they are relative or metric.
        EnvError: transformers is missing. CheckpointError: the folder holds no such model. SecurityError: its weights
            are a pickle.
    """

    def __init__(
        self, weights: str | Path | None, *, kind: Kind | None = None, download: bool = False, device: str = "cpu"
    ):
        if not weights:
            files = "config.json, preprocessor_config.json, model.safetensors"
            fix = f"name the folder of a depth-estimation model ({files}), or record depth"
            raise ConfigError("no weights are named, and none come with scene4d", field="depth_weights", fix=fix)
        transformers = optional("transformers", extra="depth", what="estimating depth")
        name, folder = str(weights), Path(weights)
        if folder.is_dir():
            _checked_folder(folder)
        elif not download and (folder.is_absolute() or name.startswith((".", "~"))):
            raise CheckpointError("no such folder", file=folder, field="depth_weights")
        self.name = name
        self._pipeline = _pipeline(transformers, name, download=download, device=device)
        self.kind: Kind = kind or _kind_of(self._pipeline.model.config, file=name)

    @torch.no_grad()
    def __call__(self, rgb: Tensor) -> Tensor:
        """Predictions [v h w] for pictures [v h w 3]: inverse depth up to scale and shift, or metres up to scale."""
        check(rgb=(rgb, "v h w 3"))
        size = tuple(rgb.shape[1:3])
        predictions = []
        for picture in (rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy():
            depth = self._pipeline(Image.fromarray(np.ascontiguousarray(picture)))["predicted_depth"]
            depth = depth.detach().float().cpu().reshape(1, 1, *depth.shape[-2:])
            if depth.shape[-2:] != size:
                depth = torch.nn.functional.interpolate(depth, size=size, mode="bilinear", align_corners=False)
            predictions.append(depth[0, 0])
        return torch.stack(predictions) if predictions else rgb.new_zeros(rgb.shape[:3])


@dataclass(frozen=True)
class EstimatedDepthConfig:
    """How estimated depth is made usable."""

    align: AlignConfig | None = None
    """How predictions are brought to scale; None = the defaults."""
    min_agreement: float = 0.2
    """Share of a view's measurements that its depth must match to 10 %; below, the view gets none."""


def estimate_depth(
    frames: Frames,
    estimator: Estimator,
    *,
    kind: Kind | None = None,
    points: Tensor | None = None,
    visible: Tensor | None = None,
    groups: Tensor | None = None,
    config: EstimatedDepthConfig | None = None,
) -> Frames:
    """Frames [v] with depth in m where they had none; what a sensor measured is kept.

    Args:
        estimator: a `DepthEstimator`, or any function from rgb [v h w 3] to predictions [v h w].
        kind: what it predicts, "relative" or "metric"; by default the estimator's own `kind`.
        points, visible, groups: as `align_depth` takes them.
    Raises:
        ConfigError: the kind is not known. DepthError: a view cannot be brought to scale, or no view agrees with it.
    """
    config = config or EstimatedDepthConfig()
    kind = kind or getattr(estimator, "kind", None)
    if kind not in ("relative", "metric"):
        raise ConfigError("is not known", field="kind", found=kind, expected="relative or metric")
    prediction = estimator(frames.rgb)
    check(prediction=(prediction, "v h w"), rgb=(frames.rgb, "v h w 3"))
    aligned = align_depth(
        prediction, frames, kind=kind, points=points, visible=visible, groups=groups, config=config.align
    )
    good = ~(aligned.agreement < config.min_agreement)
    if not bool(good.any()):
        raise DepthError(
            "what was estimated fits neither the cameras nor what was measured",
            field="depth",
            found=f"agreement {float(aligned.agreement.nan_to_num().max()):.2f}",
            expected=f"at least {config.min_agreement}",
            fix="check the poses (scene4d check --calibration) and the kind of the weights (relative or metric)",
        )
    depth = torch.where(good[:, None, None], aligned.depth, 0.0)
    if frames.depth is not None:
        depth = torch.where(frames.depth > 0, frames.depth, depth)
    return frames.replace(depth=depth)


def episode_with_depth(
    episode: Episode,
    estimator: Estimator,
    *,
    cameras: Sequence[str] | None = None,
    kind: Kind | None = None,
    points: Tensor | None = None,
    config: EstimatedDepthConfig | None = None,
) -> Episode:
    """An unbatched episode [t] whose named cameras (by default those without depth) have estimated depth.

    Several cameras are brought to scale against one another at each instant; a single moving one along its own path,
    as if nothing else moved.

    Raises:
        As `estimate_depth`. ShapeError: the cameras differ in size.
    """
    names = list(cameras or [n for n, f in episode.views.items() if f.depth is None])
    if not names:
        return episode
    size = episode.views[names[0]].rgb.shape
    helpers = [n for n, f in episode.views.items() if n in names or f.rgb.shape == size]
    with_depth = {n: episode.views[n].replace(depth=_depth_or_none(episode.views[n]), extras={}) for n in helpers}
    stacked = episode.replace(views=with_depth).stacked(helpers)  # [t v]
    count, num_views = stacked.batch_shape
    flat = stacked.map(lambda x: x.flatten(0, 1))
    groups = torch.arange(count).repeat_interleave(num_views) if num_views > 1 else None
    estimated = estimate_depth(flat, estimator, kind=kind, points=points, groups=groups, config=config)
    depth = depth_of(estimated).unflatten(0, (count, num_views))
    views = dict(episode.views)
    for v, name in enumerate(helpers):
        if name in names:
            views[name] = views[name].replace(depth=depth[:, v])
    return episode.replace(views=views)


def _depth_or_none(frames: Frames) -> Tensor:
    """The depth of frames, zeros where they have none: so that cameras with and without can be stacked."""
    return torch.zeros_like(frames.rgb[..., 0]) if frames.depth is None else frames.depth


def _checked_folder(folder: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise CheckpointError("is no depth-estimation model", file=folder, field=name, found="no such file")
    if not list(folder.glob("*.safetensors")):
        if any(list(folder.glob(pattern)) for pattern in PICKLED):
            raise SecurityError(
                "holds its weights as a pickle, which is not opened", file=folder, expected="model.safetensors",
                fix="convert it: model.save_pretrained(FOLDER, safe_serialization=True)",
            )  # fmt: skip
        raise CheckpointError("holds no weights", file=folder, field="model.safetensors", found="no such file")


def _pipeline(transformers: Any, name: str, *, download: bool, device: str) -> Any:
    """The depth-estimation pipeline, from local files only unless `download`."""
    local = {"local_files_only": not download}
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, **local)
        model = transformers.AutoModelForDepthEstimation.from_pretrained(name, use_safetensors=True, **local)
    except (OSError, ValueError, KeyError, ImportError) as error:
        fix = "give a folder, or fetch it first" if not download else "check the name"
        found = " ".join(str(error).split())[:160]
        raise CheckpointError(
            "cannot be loaded as a depth-estimation model", file=name, found=found, fix=fix
        ) from error
    return transformers.pipeline("depth-estimation", model=model.eval(), image_processor=processor, device=device)


def _kind_of(config: Any, *, file: str) -> Kind:
    declared = getattr(config, "depth_estimation_type", None)
    if declared in ("relative", "metric"):
        return declared
    if config.model_type in METRIC_MODELS + RELATIVE_MODELS:
        return "metric" if config.model_type in METRIC_MODELS else "relative"
    raise ConfigError(
        "does not say whether it predicts metres or inverse depth", file=file, field="kind", found=config.model_type,
        fix="give the kind: relative or metric",
    )  # fmt: skip

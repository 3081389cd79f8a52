"""gsplat behind the call of scene4d.render: the same picture by other kernels, on CUDA, to compare with.

What differs, and is left as it is: gsplat bounds a splat at 3.33 standard deviations, clamps tangents round the
principal point and lets colour pull a Gaussian sideways through the view direction.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor

from scene4d.errors import ConfigError, EnvError
from scene4d.native.ops import Raster, RasterSettings
from scene4d.render.reference import COVERAGE_MIN
from scene4d.render.render import RenderOptions, draw
from scene4d.types import Cameras, Frames, Gaussians

_FIX = "pip install 'scene4d[gsplat]' on a machine with a CUDA GPU"


def gsplat_rasterization() -> Callable[..., Any]:
    """gsplat's function, imported when it is first asked for.

    Raises:
        EnvError: without gsplat or without a GPU.
    """
    if not torch.cuda.is_available():
        raise EnvError("the gsplat backend needs a CUDA GPU", field="gsplat", fix=_FIX)
    try:
        return importlib.import_module("gsplat").rasterization
    except ImportError as error:
        raise EnvError("gsplat is not installed", field="gsplat", found=str(error), fix=_FIX) from error


def rasterize_gsplat(
    gaussians: dict[str, Tensor],
    cameras: dict[str, Tensor],
    *,
    settings: RasterSettings,
    absgrads: Tensor | None = None,
) -> Raster:
    """`scene4d.native.ops.rasterize` by gsplat: same arguments, same result, float32 on CUDA.

    Raises:
        EnvError: without gsplat or without a GPU.
        ConfigError: for what gsplat does not have (median depth, gradients of `absgrads`).
    Source: Ye et al., gsplat: An Open-Source Library for Gaussian Splatting, 2024.
    """
    if settings.median or absgrads is not None:
        raise ConfigError("gsplat does not give this", field="settings", found="median or absgrads")
    rasterization = gsplat_rasterization()
    drawn = _drawable(gaussians)
    shared = dict(
        means=torch.where(drawn[..., None], gaussians["means"], 0.0),
        quats=torch.where(drawn[..., None], gaussians["quats"], 1.0),
        scales=torch.where(drawn[..., None], gaussians["scales"], 1.0),
        opacities=torch.where(drawn, gaussians["opacities"], 0.0),
        viewmats=cameras["viewmats"], Ks=cameras["Ks"], width=settings.width, height=settings.height,
        near_plane=settings.near, far_plane=settings.far, eps2d=settings.eps2d, packed=False,
        rasterize_mode="antialiased" if settings.antialiased else "classic",
    )  # fmt: skip
    sh = torch.where(drawn[..., None, None], gaussians["sh"], 0.0)
    degree = math.isqrt(sh.shape[-2]) - 1
    channels, alpha, meta = rasterization(
        colors=sh, sh_degree=degree, backgrounds=cameras["background"], render_mode="RGB+ED", **shared
    )
    alpha = alpha[..., 0]
    extras = channels[..., :0]
    if gaussians["extras"].shape[-1]:
        columns = torch.where(drawn[..., None], gaussians["extras"], 0.0)
        extras = rasterization(colors=columns, sh_degree=None, render_mode="RGB", **shared)[0]
    empty = alpha.new_empty(0)
    radii = meta["radii"].to(alpha) if settings.radii else empty
    depth = torch.where(alpha > COVERAGE_MIN, channels[..., 3], 0.0)
    return Raster(channels[..., :3], depth, alpha, extras, empty, radii)


def _drawable(gaussians: dict[str, Tensor]) -> Tensor:
    """Rows [b n] that are no empty slot and hold finite numbers only."""
    names = ("means", "quats", "scales", "sh")
    finite = [gaussians[name].flatten(2).isfinite().all(-1) for name in names]
    return torch.stack([*finite, gaussians["opacities"].isfinite(), gaussians["ids"] >= 0]).all(0)


def render_gsplat(gaussians: Gaussians, cameras: Cameras, **options: Unpack[RenderOptions]) -> Frames:
    """`scene4d.render.render.render` by gsplat: same arguments and result, on CUDA.

    Raises:
        EnvError: without gsplat or without a GPU. ConfigError: as `rasterize_gsplat`.
    Source: Ye et al., gsplat: An Open-Source Library for Gaussian Splatting, 2024.
    """
    gsplat_rasterization()
    return draw(gaussians, cameras, options=options, rasterizer=lambda x: rasterize_gsplat)[0]

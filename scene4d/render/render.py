"""Gaussians and cameras in, Frames out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scene4d.native.ops import RasterSettings, rasterize
from scene4d.render.reference import flat_background, flatten_views, render_reference, stack_extras
from scene4d.types import Cameras, Frames, Gaussians

FIELDS = ("means", "quats", "scales", "opacities", "sh")


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    background: Tensor | None = None,
    extras: Sequence[str] = (),
    eps2d: float = 0.3,
    near: float = 0.01,
    far: float = 1e10,
) -> Frames:
    """Draw Gaussians [*b n] from cameras [*b *v].

    float32 (and half) on the CPU runs the native kernels; float64 and other devices run the same picture in plain
    torch (render/reference.py), which is slow. Rows with id < 0, a value that is not finite or a centre outside
    (near, far) are not drawn and get zero gradients.

    Args:
        background: colour [3] or [*b *v 3] behind everything; black by default.
        extras: names of `gaussians.extras` to blend as further channels, with the weights of the colour (not
            divided by alpha, no background).
        eps2d: variance in pixels^2 added to every splat (low-pass).
        near, far: range of z-depth in m of the centres that are drawn.
    Returns:
        Frames [*b *v h w]: rgb; depth = mean z of what was blended in m, 0 where alpha <= 1e-3; alpha = coverage;
        extras {name: [*b *v h w c]}. Differentiable to means, quats, scales, opacities, sh, extras, viewmats and
        background; the SH view direction is a constant to the gradient.
    Raises:
        ShapeError: when the batch axes of the Gaussians do not lead those of the cameras.
        EnvError: when the native module is not built.
    Source: Kerbl et al., 3D Gaussian Splatting for Real-Time Radiance Field Rendering, 2023.
    """
    extras = tuple(extras)
    tensors = [*(getattr(gaussians, name) for name in FIELDS), cameras.viewmats, cameras.Ks]
    if any(x.dtype == torch.float64 or x.device.type != "cpu" for x in tensors):
        return render_reference(
            gaussians, cameras, background=background, extras=extras, eps2d=eps2d, near=near, far=far
        )
    sets, views = flatten_views(gaussians, cameras)
    backdrop = flat_background(background, cameras, num_sets=sets.batch_shape[0])
    rgb, depth, alpha, values = rasterize(
        {
            **{name: getattr(sets, name).float() for name in FIELDS},
            "extras": stack_extras(sets, extras).float(),
            "ids": sets.ids,
        },
        {
            "viewmats": views.viewmats.float(),
            "Ks": views.Ks.float(),
            "background": None if backdrop is None else backdrop.float(),
        },
        settings=RasterSettings(cameras.width, cameras.height, eps2d, near, far),
    )
    size = (*cameras.batch_shape, cameras.height, cameras.width)
    widths = [gaussians.extras[name].shape[-1] for name in extras]
    named = (
        {name: x.reshape(*size, x.shape[-1]) for name, x in zip(extras, values.split(widths, dim=-1), strict=True)}
        if extras
        else {}
    )
    return Frames(
        rgb=rgb.reshape(*size, 3), depth=depth.reshape(size), alpha=alpha.reshape(size), cameras=cameras, extras=named
    )

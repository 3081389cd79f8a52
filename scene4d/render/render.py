"""Gaussians and cameras in, Frames out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import Tensor

import scene4d.native.cuda  # noqa: F401  the op's CUDA side is there once this is imported
from scene4d.native.ops import Raster, RasterSettings, rasterize
from scene4d.render.batch_views import (
    FIELDS,
    MEDIAN,
    NORMALS,
    facing_normals,
    flatten_views,
    frames_of_raster,
    one_view_each,
    stack_extras,
)
from scene4d.render.reference import rasterize_reference
from scene4d.types import Cameras, Frames, Gaussians


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    background: Tensor | None = None,
    extras: Sequence[str] = (),
    eps2d: float = 0.3,
    near: float = 0.01,
    far: float = 1e10,
    antialiased: bool = False,
) -> Frames:
    """Draw Gaussians [*b n] from cameras [*b *v].

    float32 (and half) runs the native kernels where they are built for the device; float64 and other devices run the
    same picture in plain torch (render/reference.py), which is slow. Rows with id < 0, a value that is not finite or a
    centre outside (near, far) are not drawn and get zero gradients.

    Args:
        background: colour [3] or [*b *v 3] behind everything; black by default.
        extras: names of `gaussians.extras` to blend as further channels, with the weights of the colour (not
            divided by alpha, no background). Two more are known: "depth_median" (m, depth of the splat that takes
            transmittance to 1/2, 0 where none does, no gradient) and, unless the Gaussians have such an extra of their
            own, "normals" (world frame: the shortest axis of each, turned to the camera).
        eps2d: variance in pixels^2 added to every splat (low-pass).
        near, far: range of z-depth in m of the centres that are drawn.
        antialiased: take from the opacity what the low-pass adds in area, so that small splats do not grow brighter.
    Returns:
        Frames [*b *v h w]: rgb; depth = mean z of what was blended in m, 0 where alpha <= 1e-3; alpha = coverage;
        extras {name: [*b *v h w c]}. Differentiable to means, quats, scales, opacities, sh, extras, viewmats and
        background; the SH view direction is a constant to the gradient.
    Raises:
        ShapeError: when the batch axes of the Gaussians do not lead those of the cameras.
        EnvError: when the native module is not built.
    Source: Kerbl et al., 3D Gaussian Splatting for Real-Time Radiance Field Rendering, 2023; antialiased: Yu et al.,
        Mip-Splatting, 2024.
    """
    options = RenderOptions(
        background=background, extras=extras, eps2d=eps2d, near=near, far=far, antialiased=antialiased
    )
    return draw(gaussians, cameras, options=options, rasterizer=best_rasterizer)[0]


class RenderOptions(TypedDict, total=False):
    """The keyword arguments of `render`, for those that draw as it does."""

    background: Tensor | None
    extras: Sequence[str]
    eps2d: float
    near: float
    far: float
    antialiased: bool


@dataclass(frozen=True)
class Footprints:
    """Where Gaussians fell in the images: what densification and pruning ask for.

    radii [*b *v n 2]: half extents in pixels, 0 = not drawn. absgrads [*b *v n 2]: zeros whose `.grad`, once the loss
    was differentiated, is the sum over pixels of |dL/d(position in pixels)| (AbsGS).
    """

    radii: Tensor
    absgrads: Tensor

    @property
    def visible(self) -> Tensor:
        """[*b *v n] bool."""
        return (self.radii > 0).any(-1)


def render_with_footprints(
    gaussians: Gaussians, cameras: Cameras, **options: Unpack[RenderOptions]
) -> tuple[Frames, Footprints]:
    """`render`, and where each Gaussian fell. Same arguments, errors and source as `render`."""
    shape = (*cameras.batch_shape, gaussians.num_gaussians, 2)
    absgrads = torch.zeros(shape, dtype=gaussians.means.dtype, device=gaussians.means.device, requires_grad=True)
    frames, raster = draw(gaussians, cameras, options=options, rasterizer=best_rasterizer, absgrads=absgrads)
    return frames, Footprints(radii=raster.radii.reshape(shape), absgrads=absgrads)


def render_reference(gaussians: Gaussians, cameras: Cameras, **options: Unpack[RenderOptions]) -> Frames:
    """`render` in plain torch: same arguments, same result, any float dtype, any device."""
    return draw(gaussians, cameras, options=options, rasterizer=lambda x: rasterize_reference)[0]


Rasterizer = Callable[..., Raster]


def best_rasterizer(x: Tensor) -> Rasterizer:
    """The native one for float32 and half on the CPU and on CUDA, plain torch for the rest."""
    native = x.dtype != torch.float64 and x.device.type in ("cpu", "cuda")
    return rasterize if native else rasterize_reference


def draw(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    options: RenderOptions,
    rasterizer: Callable[[Tensor], Rasterizer],
    absgrads: Tensor | None = None,
) -> tuple[Frames, Raster]:
    """`render` by the rasterizer that `rasterizer` names for the widest input; with radii if `absgrads` are given."""
    extras = options.get("extras", ())
    settings = RasterSettings(
        cameras.width, cameras.height, eps2d=options.get("eps2d", 0.3), near=options.get("near", 0.01),
        far=options.get("far", 1e10), antialiased=options.get("antialiased", False), median=MEDIAN in extras,
        radii=absgrads is not None,
    )  # fmt: skip
    names = [name for name in dict.fromkeys(extras) if name != MEDIAN]
    sets, views = flatten_views(gaussians, cameras)
    if NORMALS in names and NORMALS not in sets.extras:
        sets, views = one_view_each(sets, views)
        sets = sets.replace(extras={**sets.extras, NORMALS: facing_normals(sets, views)})
    fields = {**{name: getattr(sets, name) for name in FIELDS}, "extras": stack_extras(sets, names)}
    placed = {"viewmats": views.viewmats, "Ks": views.Ks}
    background = options.get("background")
    if background is not None:  # [b v 3]
        background = background.expand(*cameras.batch_shape, 3).reshape(sets.batch_shape[0], -1, 3)
    given = [*fields.values(), *placed.values()]
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in given) else torch.float32
    fields = {name: x.to(dtype) for name, x in fields.items()}
    placed = {name: x if x is None else x.to(dtype) for name, x in {**placed, "background": background}.items()}
    probe = None if absgrads is None else absgrads.reshape(*views.batch_shape, -1, 2)
    rasterize_views = rasterizer(fields["means"])
    raster = rasterize_views({**fields, "ids": sets.ids}, placed, settings=settings, absgrads=probe)
    widths = {name: sets.extras[name].shape[-1] for name in names}
    return frames_of_raster(raster, cameras, widths=widths), raster

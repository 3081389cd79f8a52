"""Images of Gaussians whose depth is that of a surface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from scene4d.render.render import render
from scene4d.types import Cameras, Frames, Gaussians


def render_surface_depth(gaussians: Gaussians, cameras: Cameras, *, background: Tensor | None = None) -> Frames:
    """Frames [*v] of Gaussians [n]; their depth is where half of the light has been stopped.

    The mean depth of all that is blended lies in the air between a surface and what is far behind its rim or seams.
    """
    image = render(gaussians, cameras, background=background, extras=("depth_median",))
    return image.replace(depth=image.extras["depth_median"][..., 0], extras={})


def render_instants(
    instants: Iterable[Gaussians], cameras: Mapping[str, Cameras], *, background: Tensor
) -> dict[str, Frames]:
    """Frames [k] of the Gaussians [n] of k instants, for each camera [k]."""
    images: dict[str, list[Frames]] = {name: [] for name in cameras}
    for i, gaussians in enumerate(instants):
        for name, track in cameras.items():
            images[name].append(render_surface_depth(gaussians, track[i], background=background))
    return {name: Frames.stack(each) for name, each in images.items()}

"""Gaussians and cameras in, Frames out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from scene4d.render.reference import render_reference
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
) -> Frames:
    """Draw Gaussians [*b n] from cameras [*b *v]."""
    return render_reference(gaussians, cameras, background=background, extras=extras, eps2d=eps2d, near=near, far=far)

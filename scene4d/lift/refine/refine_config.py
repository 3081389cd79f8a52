"""How Gaussians are refined by rendering: at one instant, and through the motion of a scene."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RefineFrameConfig:
    """How Gaussians are refined: splats overlap and spill over edges, so that a lift alone renders blurred."""

    shift_rate: float = 0.08
    """Step size of the position, in pixel spacings."""
    scale_rate: float = 0.04
    """Step size of the log scales."""
    opacity_rate: float = 0.2
    """Step size of the opacity logits."""
    colour_rate: float = 0.03
    """Step size of the degree-0 colours."""
    max_shift: float = 0.5
    """Farthest a Gaussian may go from where it was measured, in pixel spacings."""
    max_scale: float = 2.0
    """Most that a scale may grow or shrink."""
    colour_pull: float = 0.1
    """Weight of staying near the measured colour: what suits these views alone looks like confetti from others."""
    coverage: float = 0.1
    """Weight of covering every measured pixel, beside the squared colour error."""


@dataclass(frozen=True)
class RefineSceneConfig:
    """How the moving part of a scene is refined once all its instants are known."""

    passes: int = 3
    """Times that every instant is visited; 0 = leave the scene as it is."""
    shift_rate: float = 0.1
    """Step size of the position at rest, in splat sizes."""
    scale_rate: float = 0.06
    """Step size of the log scales."""
    opacity_rate: float = 0.3
    """Step size of the opacity logits."""
    colour_rate: float = 0.06
    """Step size of the degree-0 colours."""
    max_shift: float = 1.25
    """Farthest a Gaussian may go from where it was measured, in splat sizes (0.4 pixels each)."""
    max_scale: float = 2.0
    """Most that a scale may grow or shrink."""
    coverage: float = 0.1
    """Weight of covering every measured pixel, beside the squared colour error."""
    seed: int = 0
    """Of the order in which instants are visited."""

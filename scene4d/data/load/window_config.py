"""What a window is: how long, how fast, which cameras and columns, and what becomes of what is missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from scene4d.data.load.augment import AugmentConfig
from scene4d.data.load.normalise import SCALINGS
from scene4d.errors import ConfigError


@dataclass(frozen=True)
class WindowConfig:
    """How recordings are cut into windows."""

    context: int = 1
    """Steps up to now, now included."""
    horizon: int = 8
    """Steps after now."""
    stride: int = 1
    """Steps between the starts of neighbouring windows."""
    rate: float | None = None
    """Steps a second; None: the rate of the slowest recording. No recording may be slower."""
    combine: Literal["auto", "last", "sum", "mean"] = "auto"
    """What several recorded actions in one step become; auto goes by names and units, or asks where they are silent."""
    size: tuple[int, int] = (128, 128)
    """(width, height) px that all pictures get."""
    fit: Literal["stretch", "crop"] = "stretch"
    """How they get it: squeezed (fx and fy differ then), or scaled evenly and cut at the edges."""
    cameras: tuple[str, ...] = ()
    """A slot each: "NAME", "#0" (by position), or several joined by "|"; none: those of the first recording."""
    missing_cameras: Literal["error", "mask"] = "error"
    """A recording that lacks a camera is refused, or gets an empty view that `has_view` tells of."""
    layout: Literal["same", "union"] = "same"
    """Recordings with other action or proprio columns are refused, or all get all columns and a mask."""
    short: Literal["pad", "skip", "error"] = "pad"
    """Recordings with fewer steps than a window are padded and masked, left out, or refused."""
    edges: Literal["inside", "over"] = "inside"
    """Whether windows may begin before a recording or end after it (padded and masked), so that every step is a now."""
    future_pictures: bool = True
    """Whether the steps after now come with pictures, or the context alone."""
    scaling: Literal["gauss", "range", "quantile", "none"] = "gauss"
    """How actions and proprio are normalised."""
    inert: tuple[str, ...] = ()
    """Columns (patterns such as "gripper_*") that may stand still: where they do, they are shifted, not scaled."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How pictures are varied."""
    seed: int = 0
    """Seed of the augmentation; each window of each epoch draws its own."""
    retries: int = 4
    """More tries where a file cannot be reached."""
    retry_wait: float = 0.5
    """Seconds before the first of them; doubled each time."""
    kept_open: int = 4
    """Recordings whose tables stay in memory, in each worker; pictures never do."""

    def __post_init__(self) -> None:
        for name, least in (("context", 1), ("horizon", 0), ("stride", 1), ("retries", 0), ("kept_open", 1)):
            if getattr(self, name) < least:
                raise ConfigError("is out of range", field=name, found=getattr(self, name), expected=f">= {least}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError("is no size", field="size", found=self.size, expected="(width, height) px")
        choices = {
            "fit": ("stretch", "crop"),
            "short": ("pad", "skip", "error"),
            "edges": ("inside", "over"),
            "layout": ("same", "union"),
            "scaling": SCALINGS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError("is none of the choices", field=name, found=getattr(self, name), expected=list(known))

    @property
    def length(self) -> int:
        """Steps of a window."""
        return self.context + self.horizon

    @property
    def num_pictures(self) -> int:
        """Steps with pictures."""
        return self.length if self.future_pictures else self.context

"""Images of frames that a caller relies on: an error where there are none."""

from __future__ import annotations

from torch import Tensor

from scene4d.errors import DataFormatError, DepthError
from scene4d.types import Frames


def depth_of(frames: Frames) -> Tensor:
    """The depth images [*b h w] in m.

    Raises:
        DepthError: there are none.
    """
    if frames.depth is None:
        raise DepthError("has no depth", field="depth", fix="lift from RGB-D cameras, or estimate depth first")
    return frames.depth


def alpha_of(frames: Frames) -> Tensor:
    """The alpha images [*b h w]: coverage of what was rendered, usable pixels of what was recorded.

    Raises:
        DataFormatError: there are none.
    """
    if frames.alpha is None:
        raise DataFormatError("has no alpha", field="alpha", fix="render the frames, or give a mask")
    return frames.alpha

"""What the Gaussian flow model knows at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from scene4d.models.tokens.anchored_state import AnchoredState


@dataclass(frozen=True)
class GaussianState(AnchoredState):
    """The Gaussians of now on their anchors, and where new ones may be.

    unseen_rows [*b r]: whether each row that the completion decodes may be there, given where the cameras looked.
    """

    unseen_rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

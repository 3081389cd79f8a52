"""What the Gaussian VAE makes of a set of Gaussians: tokens with positions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.types import Gaussians


@dataclass(frozen=True)
class Latent(TensorStruct):
    """What the Gaussian VAE makes of a set: tokens with positions.

    tokens [*b l c]; anchors [*b l 3] m; rotations [*b l 4]; present [*b l] bool; ids [*b l] int64.
    """

    tokens: Tensor
    anchors: Tensor
    rotations: Tensor
    present: Tensor
    ids: Tensor

    SHAPES = shapes(tokens="*b l c", anchors="*b l 3", rotations="*b l 4", present="*b l", ids="*b l")


class Codec(nn.Module):
    """What world models ask of an autoencoder of Gaussians: the base class of one."""

    def encode(self, gaussians: Gaussians, *, anchors: Tensor | None = None) -> tuple[Latent, Tensor]:
        """Latent [*b l c] about the rows that `anchors` [*b l] names, and its log-variance."""
        raise NotImplementedError

    def decode(self, latent: Latent) -> Gaussians:
        """Gaussians [*b l*J], the J of a token in a row."""
        raise NotImplementedError

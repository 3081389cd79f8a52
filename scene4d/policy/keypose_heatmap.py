"""The next keypose of the hand (see `policy/learning/keyposes`): a heat map over each view, and a position in space.

So a head learns from a few dozen demonstrations where the object is that is to be grasped or pressed, which actions at
full speed do not show.

Source: heat maps over virtual views of the scene (Goyal et al., RVT, 2023); the position is found by least squares over
the rays instead of on a grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from scene4d.geometry.camera import project
from scene4d.types import Cameras

STRIDE = 2
"""Pixels of a view a side of a cell of its heat map."""
SPREAD = 1.0
"""Standard deviation of the target of a heat map, in cells: sharp, yet its mean is finer than a cell."""
NOWHERE = 1e3
"""A coordinate out of every view, m."""
LEAST_VARIANCE = 0.5
"""Added to the variance of a heat map, in cells squared, where rays are weighted by its inverse."""


class KeyposeHeatmap(nn.Module):
    """Levels of a strided stem, finest first -> one heat map a view, as fine as the finest level.

    Args:
        channels: of the levels, finest first. num_tasks: rows of the task table.
    """

    def __init__(self, channels: Sequence[int], *, num_tasks: int) -> None:
        super().__init__()
        self.task = nn.Embedding(num_tasks, channels[-1])
        pairs = zip(channels[1:], channels[:-1], strict=True)
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for coarse, fine in pairs)
        fine = channels[0]
        self.read = nn.Sequential(
            nn.Conv2d(fine, fine, 3, padding=1), nn.GroupNorm(4, fine), nn.SiLU(), nn.Conv2d(fine, 1, 1)
        )

    def forward(self, levels: Sequence[Tensor], *, task_rows: Tensor, count: int) -> Tensor:
        """Logits [b v y x] of levels [b*v c h w] each, of `count` views, for task rows [b]."""
        x = levels[-1] + self.task(task_rows).repeat_interleave(count, 0)[..., None, None]
        for number in range(len(levels) - 2, -1, -1):
            x = interpolate(self.up[number](silu(x)), scale_factor=2, mode="nearest") + levels[number]
        return self.read(x)[:, 0].unflatten(0, (-1, count))


def keypose_from_heatmap(logits: Tensor, cameras: Cameras) -> Tensor:
    """The position [b 3] m that the rays through the means of heat maps [b v y x] of cameras [b v] meet at.

    Rays count the more the sharper their map is.
    """
    heat = logits.flatten(2).softmax(-1).unflatten(2, logits.shape[2:])
    mean, variance = zip(*(_moments(heat.sum(axis)) for axis in (2, 3)), strict=True)  # x, y: [b v] each
    pixel = (torch.stack(mean, -1) + 0.5) * STRIDE  # [b v 2]
    sure = (variance[0] + variance[1] + LEAST_VARIANCE).rsqrt() / cameras.Ks[..., 0, 0]
    matrix = cameras.Ks @ cameras.viewmats[..., :3, :]  # [b v 3 4]
    # A point lies on the ray if the first two rows, less the pixel times the third, are 0.
    rows = (matrix[..., :2, :] - pixel[..., None] * matrix[..., 2:, :]) * sure[..., None, None]
    rows = rows.flatten(-3, -2)  # [b 2v 4]
    normal = rows[..., :3].mT @ rows[..., :3]
    ridge = 1e-6 * torch.eye(3).to(normal)
    return torch.linalg.solve(normal + ridge, -(rows[..., :3].mT @ rows[..., 3:]))[..., 0]


def heatmap_loss(logits: Tensor, cameras: Cameras, *, place: Tensor) -> Tensor:
    """Cross entropy of heat maps [b v y x] with where `place` [b 3] m is in the views, of those that show it; [].

    Differentiable in the logits; a place that is NaN (unknown) is in no view.
    """
    place = place.nan_to_num(NOWHERE)
    height, width = logits.shape[-2:]
    pixel, depth = project(place[:, None, None].expand(-1, logits.shape[1], 1, 3), cameras.viewmats, Ks=cameras.Ks)
    at = pixel[:, :, 0] / STRIDE - 0.5  # [b v 2] cells
    inside = ((at > 0) & (at < at.new_tensor([width - 1, height - 1]))).all(-1) & (depth[:, :, 0] > 0)
    across, down = (torch.arange(n).to(at) - at[..., axis, None] for axis, n in ((0, width), (1, height)))
    wanted = torch.exp(-(down.square()[..., :, None] + across.square()[..., None, :]) / (2 * SPREAD**2)).flatten(2)
    wanted = wanted / wanted.sum(-1, keepdim=True).clamp_min(1e-9)
    missed = -(wanted * logits.flatten(2).log_softmax(-1)).sum(-1)  # [b v]
    return (missed * inside).sum() / inside.sum().clamp_min(1)


def _moments(heat: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [...] over the cells of maps [... n] that sum to 1."""
    cells = torch.arange(heat.shape[-1]).to(heat)
    mean = (heat * cells).sum(-1)
    return mean, (heat * (cells - mean[..., None]).square()).sum(-1)

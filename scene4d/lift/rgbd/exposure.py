"""One gain per channel and frame: cameras that set their own exposure, brought to a common brightness."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.geometry.camera import invert_rigid, unproject
from scene4d.geometry.frame_images import depth_of
from scene4d.lift.rgbd.depth_images import pixels_of_points, sample_image
from scene4d.lift.rgbd.unproject import valid_pixels
from scene4d.types import Frames


def exposure_gains(frames: Frames, *, num_neighbours: int = 6, stride: int = 8, prior: float = 0.05) -> Tensor:
    """Gains [m 3] that frames [m] must be multiplied with to agree; their geometric mean is 1 in each channel.

    Surface points of every frame are looked up in the frames nearest to it; the median log ratio of what both saw
    there is one equation, and least squares (with a pull of `prior` towards 1) solves for all log gains at once.
    Dark, clipped and occluded points do not count.
    """
    count = frames.batch_shape[0]
    centres = invert_rigid(frames.cameras.viewmats)
    apart = torch.cdist(centres[:, :3, 3], centres[:, :3, 3]) + (1 - centres[:, :3, 2] @ centres[:, :3, 2].T)
    near = apart.argsort(dim=1, stable=True)[:, 1 : num_neighbours + 1]
    valid = valid_pixels(frames)[:, ::stride, ::stride]
    points = unproject(depth_of(frames), frames.cameras.viewmats, Ks=frames.cameras.Ks)[:, ::stride, ::stride]
    matrix = prior * torch.eye(count, dtype=torch.float64)
    right = torch.zeros(count, 3, dtype=torch.float64)
    for i in range(count):
        mine, surface = frames.rgb[i, ::stride, ::stride][valid[i]], points[i][valid[i]]
        for j in near[i].tolist():
            ratio = _log_ratio(mine, surface, other=frames[j])
            if ratio is None:
                continue
            matrix[[i, j], [i, j]] += 1
            matrix[[i, j], [j, i]] -= 1
            # gain_i mine = gain_j theirs, so log gain_i - log gain_j = log(theirs / mine)
            right[i] += ratio
            right[j] -= ratio
    logs = torch.linalg.solve(matrix, right)
    return (logs - logs.mean(0)).exp().to(frames.rgb)


def _log_ratio(mine: Tensor, surface: Tensor, *, other: Frames) -> Tensor | None:
    """Median log(theirs / mine) [3] of the points that the other frame [] sees too, or None if they are too few."""
    pixels, z, inside = pixels_of_points(surface, other.cameras)
    theirs = sample_image(torch.cat([other.rgb, depth_of(other)[..., None]], -1), pixels)
    usable = inside & ((theirs[:, 3] - z).abs() < 0.02 * z)
    both = torch.minimum(mine, theirs[:, :3]).amin(-1) > 0.08
    usable = usable & both & (torch.maximum(mine, theirs[:, :3]).amax(-1) < 0.96)
    if int(usable.sum()) < 50:
        return None
    return (theirs[usable, :3] / mine[usable]).log().median(0).values.double()

"""Camera poses without jitter: every frame is aligned with its neighbours by their pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from scene4d.geometry.camera import invert_rigid, unproject
from scene4d.geometry.frame_images import depth_of
from scene4d.geometry.rotation import matrix_from_quat, quat_from_rotvec, rigid_matrix
from scene4d.lift.rgbd.depth_images import pixels_of_points, sample_image
from scene4d.types import Cameras, Frames


@dataclass(frozen=True)
class PoseRefinementConfig:
    """How far poses may be corrected, and from what."""

    rounds: int = 6
    """Gauss-Newton steps over all frames."""
    reach: int = 2
    """Neighbours in time, before and after, that a frame is compared with."""
    stride: int = 2
    """Every how many-th pixel, in rows and columns, is compared."""
    blurs: tuple[float, ...] = (2.5, 1.0)
    """Blur in px of the pictures, one a step, the last for all further steps."""
    colour_scale: float = 0.08
    """Colour difference from which a pixel is taken to show something else."""
    depth_tolerance: float = 0.05
    """Two depths closer than this fraction are one surface."""
    turn: float = 0.003
    """Likely size of the jitter in rad."""
    shift: float = 0.004
    """Likely size of the jitter in m."""
    drift_frames: float = 1.5
    """Corrections averaged over so many frames (a Gaussian's deviation) must come to none."""
    min_pixels: int = 200
    """A pair with fewer common pixels than this is left out."""


def refined_cameras(frames: Frames, *, config: PoseRefinementConfig | None = None) -> Cameras:
    """Cameras of frames [m], in time order, each turned and shifted so that neighbours in time show the same.

    Pixels with a depth are looked up in the neighbours' pictures; Gauss-Newton on the robust colour difference solves
    for all corrections at once. What is smooth in time stays, because only neighbours decide and the local mean of the
    corrections is held at none: a camera between two frames, which nothing corrects, stands as well as it can.

    Source: Kerl et al., Robust Odometry Estimation for RGB-D Cameras, 2013, section 3, for all frames jointly.
    """
    config = config or PoseRefinementConfig()
    count = frames.batch_shape[0]
    if count < 3 or frames.depth is None or config.rounds < 1:
        return frames.cameras
    chosen = _chosen_pixels(frames, config=config)
    corrections, pictures = torch.zeros(count, 6, dtype=torch.float64), frames.rgb
    for step in range(config.rounds):
        pictures = _with_slopes(frames.rgb, blur=config.blurs[min(step, len(config.blurs) - 1)])
        cameras = _corrected(frames.cameras, corrections)
        matrix, right = _equations(frames, pictures, cameras=cameras, chosen=chosen, config=config)
        corrections = corrections - _solved(matrix, right, corrections=corrections, config=config)
    refined = _corrected(frames.cameras, corrections)
    misfit = partial(_misfit, frames, pictures, chosen=chosen, config=config)
    return refined if misfit(cameras=refined) < misfit(cameras=frames.cameras) else frames.cameras


def _misfit(
    frames: Frames,
    pictures: Tensor,
    *,
    cameras: Cameras,
    chosen: list[tuple[Tensor, Tensor]],
    config: PoseRefinementConfig,
) -> float:
    """How badly cameras [m] predict what a frame between them shows from where its given pose puts it, 0..1.

    Jitter that is taken away makes every neighbour predict better, even a frame that keeps its own; noise does not.
    """
    points = unproject(depth_of(frames), cameras.viewmats, Ks=cameras.Ks)
    total, pixels = 0.0, 0
    for i, (rows, columns) in enumerate(chosen):
        surface, mine = points[i, rows, columns], pictures[i, rows, columns, :3]
        for j in (i - 1, i + 1):
            if not 0 <= j < len(chosen):
                continue
            camera, depth = frames.cameras[j], depth_of(frames)[j]
            found = _compared(surface, mine=mine, picture=pictures[j], depth=depth, camera=camera, config=config)
            if found is not None:
                error = found[2].square().sum(-1)
                total += float((error / (config.colour_scale**2 + error)).sum())
                pixels += len(error)
    return total / max(pixels, 1)


def local_means(count: int, width: float, *, dtype: torch.dtype) -> Tensor:
    """[m m] Weights of the mean over `width` frames (a Gaussian's deviation) round each of `count` frames."""
    frame = torch.arange(count, dtype=dtype)
    near = torch.exp(-((frame[:, None] - frame) ** 2) / (2 * width**2))
    return near / near.sum(1, keepdim=True)


def _corrected(cameras: Cameras, corrections: Tensor) -> Cameras:
    """Cameras [m] turned about their own centres (rad, first three) and shifted (m), in world axes."""
    poses = invert_rigid(cameras.viewmats.double())
    turned = matrix_from_quat(quat_from_rotvec(corrections[:, :3])) @ poses[:, :3, :3]
    viewmats = invert_rigid(rigid_matrix(turned, poses[:, :3, 3] + corrections[:, 3:])).to(cameras.viewmats)
    return cameras.replace(viewmats=viewmats)


def _chosen_pixels(frames: Frames, *, config: PoseRefinementConfig) -> list[tuple[Tensor, Tensor]]:
    """(rows, columns) of the pixels of each frame that have a depth and lie on one surface with their neighbours."""
    depth = depth_of(frames)[:, None]
    far = max_pool2d(depth, 5, 1, 2)
    near = -max_pool2d(torch.where(depth > 0, -depth, -torch.inf), 5, 1, 2)
    solid = ((depth > 0) & (far < (1 + config.depth_tolerance) * near))[:, 0]
    grid = torch.zeros_like(solid[0])
    grid[1 : -1 : config.stride, 1 : -1 : config.stride] = True
    return [(x[:, 0], x[:, 1]) for x in ((image & grid).nonzero() for image in solid)]


def _with_slopes(rgb: Tensor, *, blur: float) -> Tensor:
    """[m h w 9]: blurred colours, their slopes along x, and along y."""
    reach = int(3 * blur) + 1
    x = torch.arange(-reach, reach + 1, dtype=rgb.dtype)
    kernel = torch.exp(-x * x / (2 * blur * blur))
    kernel = kernel / kernel.sum()
    flat = rgb.movedim(-1, 1).flatten(0, 1)[:, None]  # [m*3 1 h w]
    flat = torch.nn.functional.pad(flat, (reach, reach, reach, reach), mode="replicate")
    flat = torch.nn.functional.conv2d(flat, kernel[None, None, None])
    flat = torch.nn.functional.conv2d(flat, kernel[None, None, :, None])
    soft = flat[:, 0].unflatten(0, (-1, 3)).movedim(1, -1)  # [m h w 3]
    along, down = torch.zeros_like(soft), torch.zeros_like(soft)
    along[:, :, 1:-1] = (soft[:, :, 2:] - soft[:, :, :-2]) / 2
    down[:, 1:-1] = (soft[:, 2:] - soft[:, :-2]) / 2
    return torch.cat([soft, along, down], -1)


def _equations(
    frames: Frames,
    pictures: Tensor,
    *,
    cameras: Cameras,
    chosen: list[tuple[Tensor, Tensor]],
    config: PoseRefinementConfig,
) -> tuple[Tensor, Tensor]:
    """Normal equations [m 6 m 6], [m 6] of all pairs of neighbours."""
    count = frames.batch_shape[0]
    matrix = torch.zeros(count, 6, count, 6, dtype=torch.float64)
    right = torch.zeros(count, 6, dtype=torch.float64)
    points = unproject(depth_of(frames), cameras.viewmats, Ks=cameras.Ks)
    centres = invert_rigid(cameras.viewmats)[:, :3, 3]
    for i, (rows, columns) in enumerate(chosen):
        surface, mine = points[i, rows, columns], pictures[i, rows, columns, :3]
        for j in range(max(0, i - config.reach), min(count, i + config.reach + 1)):
            if j == i:
                continue
            camera, depth = cameras[j], depth_of(frames)[j]
            found = _compared(surface, mine=mine, picture=pictures[j], depth=depth, camera=camera, config=config)
            if found is None:
                continue
            seen, slope, difference, weight = found
            # A turn of camera i carries the point; the same turn of camera j carries the picture along with it.
            of_i = torch.cat([torch.linalg.cross((seen - centres[i])[:, None].expand_as(slope), slope), slope], -1)
            of_j = -torch.cat([torch.linalg.cross((seen - centres[j])[:, None].expand_as(slope), slope), slope], -1)
            both = torch.cat([of_i, of_j], -1).flatten(0, 1).double()  # [p*3 12]
            heavy = both * weight[:, None].expand(-1, 3).flatten()[:, None]
            block, side = heavy.T @ both, heavy.T @ difference.flatten().double()
            for a, s in ((i, slice(0, 6)), (j, slice(6, 12))):
                right[a] += side[s]
                for b, t in ((i, slice(0, 6)), (j, slice(6, 12))):
                    matrix[a, :, b] += block[s, t]
    return matrix, right


def _compared(
    surface: Tensor, *, mine: Tensor, picture: Tensor, depth: Tensor, camera: Cameras, config: PoseRefinementConfig
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Points [p 3] that another camera sees too, the slope [p 3 3] of its colours as they move, difference, weight."""
    pixels, z, inside = pixels_of_points(surface, camera)
    rows = inside.nonzero()[:, 0]
    there = depth[pixels[rows, 1].long(), pixels[rows, 0].long()]
    rows = rows[(there > 0) & ((there - z[rows]).abs() < config.depth_tolerance * z[rows])]
    if len(rows) < config.min_pixels:
        return None
    theirs = sample_image(picture, pixels[rows])  # [p 9]
    gain = (mine[rows].mean(0) / theirs[:, :3].mean(0).clamp_min(1e-3)).clamp(0.7, 1.4)
    difference = theirs[:, :3] * gain - mine[rows]
    error = difference.square().sum(-1)
    scale = config.colour_scale**2
    weight = (scale / (scale + error)).square().double()
    turn = camera.viewmats[:3, :3]
    x, y, z = (surface[rows] @ turn.T + camera.viewmats[:3, 3]).unbind(-1)
    along = theirs[:, 3:6] * gain * camera.Ks[0, 0] / z[:, None]
    down = theirs[:, 6:9] * gain * camera.Ks[1, 1] / z[:, None]
    slope = torch.stack([along, down, -(along * x[:, None] + down * y[:, None]) / z[:, None]], -1) @ turn
    return surface[rows], slope, difference, weight


def _solved(matrix: Tensor, right: Tensor, *, corrections: Tensor, config: PoseRefinementConfig) -> Tensor:
    """The step [m 6], with the pull towards none and of the local mean towards none."""
    count = len(corrections)
    near = local_means(count, config.drift_frames, dtype=torch.float64)
    stiff = matrix.flatten(2).flatten(0, 1).diagonal().unflatten(0, (count, 6)).mean(0)  # [6]
    likely = torch.tensor([config.turn] * 3 + [config.shift] * 3, dtype=torch.float64)
    # Neighbouring pixels err alike: twenty of them count as one that errs by itself.
    pull = 20 * config.colour_scale**2 / likely**2
    prior = torch.zeros_like(matrix)
    for k in range(6):
        prior[:, k, :, k] = pull[k] * torch.eye(count, dtype=torch.float64) + stiff[k] * near.T @ near
    flat = prior.reshape(6 * count, 6 * count)
    total = matrix.reshape(6 * count, 6 * count) + flat
    return torch.linalg.solve(total, right.flatten() + flat @ corrections.flatten()).unflatten(0, (count, 6))

"""The classical baseline: a truncated signed distance field over the training views, ray-cast by Open3D."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from scene4d.extras import optional
from scene4d.gaussians.formats.mesh import flat_views
from scene4d.lift.rgbd.depth_images import fill_nearest
from scene4d.types import Cameras, Frames

BLOCK = 8
NUM_BLOCKS = 4096  # to begin with; the grid grows
TRUNCATION = 8.0  # voxels: what Open3D takes by default


class TsdfField:
    """Depth images [*v] fused into Open3D's VoxelBlockGrid; `cast` shows it from a camera.

    Args:
        voxel: edge of a voxel in m; by default as wide as a pixel where most was seen.
    Raises:
        EnvError: Open3D is missing or does not load. ShapeError: there is no depth.
    """

    def __init__(self, frames: Frames, *, voxel: float | None = None):
        self._o3d = optional("open3d", extra="open3d", what="the TSDF baseline")
        core = self._o3d.core
        views = flat_views(frames)
        self.voxel = voxel or pixel_width(views)
        self.max_depth = float(views.known_depth.max()) + 1
        grid, names, kinds = self._o3d.t.geometry.VoxelBlockGrid, ("tsdf", "weight", "color"), (core.float32,) * 3
        self._grid = grid(names, kinds, ((1), (1), (3)), self.voxel, BLOCK, NUM_BLOCKS)
        for i in range(views.batch_shape[0]):
            self._integrate(views[i])

    def _integrate(self, view: Frames) -> None:
        depth = self._o3d.t.geometry.Image(np.ascontiguousarray(view.known_depth.numpy()))
        color = self._o3d.t.geometry.Image(np.ascontiguousarray(view.rgb.clamp(0, 1).numpy()))
        intrinsic, extrinsic = self._camera_matrices(view.cameras)
        scale = (1.0, self.max_depth, TRUNCATION)
        blocks = self._grid.compute_unique_block_coordinates(depth, intrinsic, extrinsic, *scale)
        self._grid.integrate(blocks, depth, color, intrinsic, extrinsic, *scale)

    def cast(self, camera: Cameras) -> Frames:
        """What a camera [] sees of the surface; pixels that no surface reaches take the nearest colour, depth 0."""
        intrinsic, extrinsic = self._camera_matrices(camera)
        table, utility = self._grid.hashmap(), self._o3d.utility
        # The key tensor is as long as the table's capacity; rows that are not in use hold anything.
        blocks = table.key_tensor()[table.active_buf_indices().to(self._o3d.core.int64)]
        cast = lambda: self._grid.ray_cast(
            blocks,
            intrinsic,
            extrinsic,
            camera.width,
            camera.height,
            ["depth", "color"],
            depth_scale=1.0,
            depth_min=0.01,
            depth_max=2 * self.max_depth,
            weight_threshold=0.5,
            trunc_voxel_multiplier=TRUNCATION,
        )
        with utility.VerbosityContextManager(utility.VerbosityLevel.Error):
            cast()  # only finds out how much room the next one needs
            result = cast()
        depth = torch.from_numpy(result["depth"].numpy().copy())[..., 0]
        rgb = torch.from_numpy(result["color"].numpy().copy()).clamp(0, 1)
        depth = torch.where(depth.isfinite(), depth, 0.0)
        seen = depth > 0
        return Frames(rgb=fill_nearest(rgb, seen), depth=depth, alpha=seen.to(rgb), cameras=camera)

    def _camera_matrices(self, camera: Cameras) -> tuple[Any, Any]:
        """(intrinsic, extrinsic) as Open3D wants them: it counts pixel centres from 0, we from 1/2."""
        K = camera.Ks.double().cpu().numpy().copy()
        K[:2, 2] -= 0.5
        make = lambda x: self._o3d.core.Tensor(np.ascontiguousarray(x, np.float64))
        return make(K), make(camera.viewmats.double().cpu().numpy())


def pixel_width(views: Frames) -> float:
    """How wide in m a pixel of depth images [v] is at the median depth: the voxel that showed held-out views best."""
    focal = 0.5 * (views.cameras.Ks[:, 0, 0] + views.cameras.Ks[:, 1, 1])
    return float((views.known_depth / focal[:, None, None])[views.known_depth > 0].median())

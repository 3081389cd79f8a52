"""Open3D and scene4d: meshes and coloured points in both directions, and its TSDF over our depth images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scene4d.extras import optional
from scene4d.gaussians.edit import prune
from scene4d.gaussians.formats.mesh import TRUNCATION, Mesh, fitting_voxel, flat_views
from scene4d.gaussians.formats.points import gaussians_from_points
from scene4d.geometry.sh import rgb_from_sh
from scene4d.types import Frames, Gaussians


def open3d_mesh(mesh: Mesh) -> Any:
    """An `open3d.geometry.TriangleMesh` with the same vertices and faces in the same order.

    Raises:
        EnvError: Open3D is missing or does not load.
    """
    o3d = _open3d()
    result = o3d.geometry.TriangleMesh(_vectors(mesh.vertices), o3d.utility.Vector3iVector(mesh.faces.cpu().numpy()))
    if mesh.colors is not None:
        result.vertex_colors = _vectors(mesh.colors)
    return result


def mesh_from_open3d(mesh: Any) -> Mesh:
    """The mesh of an `open3d.geometry.TriangleMesh`."""
    return Mesh(
        vertices=_tensor(mesh.vertices),
        faces=torch.from_numpy(np.array(mesh.triangles, np.int64).reshape(-1, 3)),
        colors=_tensor(mesh.vertex_colors) if mesh.has_vertex_colors() else None,
    )


def open3d_points(gaussians: Gaussians, *, min_opacity: float = 0.0) -> Any:
    """An `open3d.geometry.PointCloud` of the means and view-independent colours of an unbatched set.

    Empty slots are left out; `extras["normals"]` goes along.

    Raises:
        EnvError: Open3D is missing or does not load. ShapeError: the set has batch axes.
    """
    seen = prune(gaussians.detach().to("cpu"), min_opacity=min_opacity)
    cloud = _open3d().geometry.PointCloud(_vectors(seen.means))
    cloud.colors = _vectors(rgb_from_sh(seen.sh).clamp(0, 1))
    if "normals" in seen.extras:
        cloud.normals = _vectors(seen.extras["normals"])
    return cloud


def gaussians_from_open3d(cloud: Any) -> Gaussians:
    """Round Gaussians at the points of an `open3d.geometry.PointCloud`, as wide as apart; grey without colours."""
    colors = _tensor(cloud.colors) if cloud.has_colors() else None
    gaussians = gaussians_from_points(_tensor(cloud.points), colors=colors)
    return gaussians.replace(extras={"normals": _tensor(cloud.normals)}) if cloud.has_normals() else gaussians


def mesh_from_depth_open3d(frames: Frames, *, voxel: float | None = None) -> Mesh:
    """As `mesh.mesh_from_depth`, by Open3D's VoxelBlockGrid: an image touches only the blocks it saw a surface in.

    Raises:
        ShapeError: there is no depth. EnvError: Open3D is missing or does not load.
    """
    o3d = _open3d()
    views, voxel = flat_views(frames), voxel or fitting_voxel(frames)
    float32, cameras = o3d.core.float32, views.cameras
    grid = o3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight", "color"), (float32,) * 3, ((1,), (1,), (3,)), voxel_size=voxel, block_resolution=8,
        block_count=10_000,
    )  # fmt: skip
    Ks = cameras.Ks.double().clone()
    Ks[:, :2, 2] -= 0.5  # Open3D counts pixel centres from 0, we from 1/2
    reach = float(views.known_depth.max()) + 1
    for index in range(views.batch_shape[0]):
        color, depth = (o3d.t.geometry.Image(x[index].contiguous().numpy()) for x in (views.rgb, views.known_depth))
        lens, pose = (o3d.core.Tensor(x[index].double().numpy()) for x in (Ks, cameras.viewmats))
        blocks = grid.compute_unique_block_coordinates(depth, lens, pose, 1.0, reach, TRUNCATION)
        grid.integrate(blocks, depth, color, lens, lens, pose, 1.0, reach, TRUNCATION)
    mesh = grid.extract_triangle_mesh(weight_threshold=1.0).to_legacy()
    return mesh_from_open3d(mesh)


def _vectors(values: Tensor) -> Any:
    return _open3d().utility.Vector3dVector(values.detach().cpu().double().numpy())


def _tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32).reshape(-1, 3))


def _open3d() -> Any:
    return optional("open3d", extra="open3d", what="this")

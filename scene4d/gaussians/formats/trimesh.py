"""trimesh and scene4d: meshes and coloured points in both directions, and mesh files (.glb, .obj, .ply)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scene4d.errors import ConfigError, ShapeError
from scene4d.extras import optional
from scene4d.files import atomic_file
from scene4d.gaussians.edit import prune
from scene4d.gaussians.formats.mesh import Mesh
from scene4d.gaussians.formats.points import gaussians_from_points
from scene4d.geometry.sh import rgb_from_sh
from scene4d.types import Gaussians

MESH_SUFFIXES = (".glb", ".obj", ".ply")
# glTF is y up: world x stays, world z becomes y.
Y_UP_FROM_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
COLOR = "_COLOR_0"  # as trimesh lets it pass; the file has COLOR_0


def trimesh_from_mesh(mesh: Mesh) -> Any:
    """A `trimesh.Trimesh` with the same vertices and faces in the same order, and vertex colours.

    Raises:
        EnvError: trimesh is missing.
    """
    colors = None if mesh.colors is None else _bytes_from_colors(mesh.colors)
    return _trimesh().Trimesh(
        vertices=mesh.vertices.detach().cpu().numpy(), faces=mesh.faces.cpu().numpy(), vertex_colors=colors,
        process=False,
    )  # fmt: skip


def mesh_from_trimesh(mesh: Any) -> Mesh:
    """The mesh of a `trimesh.Trimesh`, or of a `trimesh.Scene` with all its parts where the scene puts them.

    Colours are taken as they are stored (in glTF: linear); those of textures are not.

    Raises:
        ShapeError: it has no triangles.
    """
    parts = [part for part in _parts(mesh) if len(getattr(part[0], "faces", ()))]
    if not parts:
        raise ShapeError("has no triangles", field="mesh", found=type(mesh).__name__, expected="trimesh.Trimesh")
    colors = [_colors_of(part) for part, _ in parts]
    known = [color for color in colors if color is not None]
    starts = np.cumsum([0, *(len(part.vertices) for part, _ in parts)])
    faces = [np.array(part.faces, np.int64) + start for (part, _), start in zip(parts, starts, strict=False)]
    vertices = [np.asarray(part.vertices) @ pose[:3, :3].T + pose[:3, 3] for part, pose in parts]
    return Mesh(
        vertices=torch.from_numpy(np.concatenate(vertices).astype(np.float32)),
        faces=torch.from_numpy(np.concatenate(faces)),
        colors=torch.cat(known) if len(known) == len(colors) else None,
    )


def _parts(mesh: Any) -> list[tuple[Any, np.ndarray]]:
    """Geometries with their pose [4 4]; `Scene.dump` would lose the colours of those with a material."""
    if not hasattr(mesh, "graph"):
        return [(mesh, np.eye(4))]
    placed = [mesh.graph[node] for node in mesh.graph.nodes_geometry]
    return [(mesh.geometry[name], pose) for pose, name in placed]


def _colors_of(mesh: Any) -> Tensor | None:
    visual = mesh.visual
    stored = getattr(visual, "vertex_attributes", {})
    if "color" in stored:  # where a mesh has a material too, as those of .glb files do
        return _colors_from_stored(stored["color"])
    if not visual.defined or visual.kind not in ("vertex", "face"):
        return None
    return _colors_from_stored(visual.vertex_colors)


def trimesh_points(gaussians: Gaussians, *, min_opacity: float = 0.0) -> Any:
    """A `trimesh.PointCloud` of the means and view-independent colours of an unbatched set, empty slots left out.

    Raises:
        EnvError: trimesh is missing. ShapeError: the set has batch axes.
    """
    seen = prune(gaussians.detach().to("cpu"), min_opacity=min_opacity)
    return _trimesh().PointCloud(seen.means.numpy(), colors=_bytes_from_colors(rgb_from_sh(seen.sh)))


def gaussians_from_trimesh(cloud: Any) -> Gaussians:
    """Round Gaussians at the points of a `trimesh.PointCloud` or the vertices of a `trimesh.Trimesh`.

    As wide as the points are apart; grey where they have no colours.
    """
    points = torch.from_numpy(np.array(cloud.vertices, np.float32))
    if hasattr(cloud, "faces"):
        return gaussians_from_points(points, colors=_colors_of(cloud))
    colors = np.asarray(cloud.colors)
    return gaussians_from_points(points, colors=_colors_from_stored(colors) if len(colors) == len(points) else None)


def write_mesh(path: str | os.PathLike, mesh: Mesh) -> None:
    """Write a .glb (turned y up, as glTF is, by its root node; colours linear, unlit), .obj or .ply (z up; sRGB).

    Raises:
        ConfigError: another suffix. EnvError: trimesh is missing. ResourceError: the disk is full or read-only.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise ConfigError("is no mesh format", file=path, field="output", found=suffix, expected=MESH_SUFFIXES)
    if suffix == ".glb":
        plain = trimesh_from_mesh(Mesh(vertices=mesh.vertices, faces=mesh.faces))
        if mesh.colors is not None:
            linear = _linear_from_srgb(mesh.colors.detach().cpu().float().clamp(0, 1)).numpy()
            plain.vertex_attributes[COLOR] = np.concatenate([linear, np.ones_like(linear[:, :1])], 1)
        scene = _trimesh().Scene()
        scene.add_geometry(plain, transform=Y_UP_FROM_Z_UP)
        data = scene.export(file_type="glb", tree_postprocessor=_made_visible, include_normals=True)
    else:
        data = trimesh_from_mesh(mesh).export(file_type=suffix[1:])
    with atomic_file(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def _made_visible(tree: dict) -> None:
    """Colours as recorded in any viewer: light is in them already, so they are shown unlit where that is known.

    Elsewhere they are matte, for glTF's own default is bare metal, which is shown almost black. They are floats: eight
    bits of linear light are too few for what is dark.
    """
    matte = {"baseColorFactor": [1.0, 1.0, 1.0, 1.0], "metallicFactor": 0.0, "roughnessFactor": 1.0}
    material = {"pbrMetallicRoughness": matte, "doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}
    tree["materials"], tree["extensionsUsed"] = [material], ["KHR_materials_unlit"]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0
            if COLOR in primitive["attributes"]:
                primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop(COLOR)


def _linear_from_srgb(colors: Tensor) -> Tensor:
    return torch.where(colors <= 0.04045, colors / 12.92, ((colors.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def _bytes_from_colors(colors: Tensor) -> np.ndarray:
    return (colors.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _colors_from_stored(colors: Any) -> Tensor:
    colors = np.asarray(colors)[:, :3]
    return torch.from_numpy(colors.astype(np.float32) / (1 if colors.dtype.kind == "f" else np.iinfo(colors.dtype).max))


def _trimesh() -> Any:
    return optional("trimesh", extra="geometry", what="a mesh file")

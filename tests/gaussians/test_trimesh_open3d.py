"""Meshes and points to trimesh and Open3D and back: the same numbers, order and colours; mesh files open elsewhere."""

from __future__ import annotations

import json
import struct
import sys

import numpy as np
import pytest
import torch
from ball import CENTER, RADIUS, ball_colors, ball_frames

from scene4d.errors import ConfigError, EnvError, ShapeError
from scene4d.gaussians.formats import open3d as with_open3d
from scene4d.gaussians.formats import trimesh as with_trimesh
from scene4d.gaussians.formats.mesh import Mesh, mesh_from_depth
from scene4d.geometry.sh import sh_from_rgb
from scene4d.types import Gaussians


@pytest.fixture
def trimesh():
    return pytest.importorskip("trimesh")


@pytest.fixture
def open3d():
    try:
        import open3d
    except (ImportError, OSError) as error:
        pytest.skip(f"Open3D is not here: {error}")
    return open3d


def some_mesh() -> Mesh:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    return Mesh(
        vertices=vertices, faces=faces, colors=torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.2, 0.4, 0.6]])
    )


def some_gaussians() -> Gaussians:
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3) * 0.1
    return Gaussians(
        means=grid,
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(64, 1),
        scales=torch.full((64, 3), 0.1),
        opacities=torch.ones(64),
        sh=sh_from_rgb(torch.rand(64, 3)),
        ids=torch.arange(64).where(torch.arange(64) % 8 != 0, -1),
        extras={"normals": torch.nn.functional.normalize(torch.randn(64, 3), dim=-1)},
    )


def assert_same_mesh(a: Mesh, b: Mesh) -> None:
    assert torch.equal(a.faces, b.faces)
    torch.testing.assert_close(a.vertices, b.vertices)
    torch.testing.assert_close(a.colors, b.colors, atol=0.5 / 255, rtol=0)


def test_a_mesh_survives_trimesh(trimesh):
    theirs = with_trimesh.trimesh_from_mesh(some_mesh())
    assert theirs.is_watertight and theirs.volume == pytest.approx(1.0)
    assert_same_mesh(with_trimesh.mesh_from_trimesh(theirs), some_mesh())
    scene = trimesh.Scene([theirs])
    scene.add_geometry(trimesh.creation.box(), transform=trimesh.transformations.translation_matrix([5, 0, 0]))
    both = with_trimesh.mesh_from_trimesh(scene)
    assert len(both.faces) == 16 and both.vertices[4:, 0].min() == 4.5 and both.faces[4:].min() == 4
    assert both.colors is None, "the box has none"
    with pytest.raises(ShapeError, match="no triangles"):
        with_trimesh.mesh_from_trimesh(trimesh.PointCloud(np.zeros((3, 3))))


def test_points_survive_trimesh(trimesh):
    gaussians = some_gaussians()
    cloud = with_trimesh.trimesh_points(gaussians)
    used = gaussians.pick(gaussians.ids >= 0)
    np.testing.assert_allclose(cloud.vertices, used.means)
    back = with_trimesh.gaussians_from_trimesh(cloud)
    torch.testing.assert_close(back.means, used.means)
    torch.testing.assert_close(back.sh, used.sh, atol=0.01, rtol=0)
    assert back.scales.median() == pytest.approx(0.1, rel=0.05), "as wide as the points are apart"
    of_mesh = with_trimesh.gaussians_from_trimesh(with_trimesh.trimesh_from_mesh(some_mesh()))
    torch.testing.assert_close(of_mesh.means, some_mesh().vertices)


@pytest.mark.parametrize("suffix", [".obj", ".ply"])
def test_z_up_files_hold_the_same_mesh(trimesh, tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with_trimesh.write_mesh(path, some_mesh())
    assert_same_mesh(with_trimesh.mesh_from_trimesh(trimesh.load(path, process=False)), some_mesh())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def glb_parts(data: bytes) -> tuple[dict, bytes]:
    """The JSON and the binary chunk of a .glb, by its specification."""
    assert struct.unpack("<4sII", data[:12]) == (b"glTF", 2, len(data))
    length, kind = struct.unpack("<I4s", data[12:20])
    tree, rest = json.loads(data[20 : 20 + length]), data[20 + length :]
    assert kind == b"JSON" and struct.unpack("<I4s", rest[:8]) == (len(rest) - 8, b"BIN\0")
    return tree, rest[8:]


def test_glb_is_y_up_and_shows_its_colours_anywhere(trimesh, tmp_path):
    dark = some_mesh()
    dark.colors[2] = torch.tensor([0.03, 0.05, 0.1])  # eight bits of linear light would round these by a third
    with_trimesh.write_mesh(tmp_path / "a.glb", dark)
    tree, blob = glb_parts((tmp_path / "a.glb").read_bytes())
    (material,) = tree["materials"]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0 and material["doubleSided"]
    assert material["pbrMetallicRoughness"]["baseColorFactor"] == [1, 1, 1, 1], "it multiplies the vertex colours"
    assert "KHR_materials_unlit" in material["extensions"] and tree["extensionsUsed"] == ["KHR_materials_unlit"]
    assert "extensionsRequired" not in tree, "viewers that do not know it show the matte material"
    (primitive,) = tree["meshes"][0]["primitives"]
    assert set(primitive["attributes"]) == {"POSITION", "NORMAL", "COLOR_0"} and primitive["material"] == 0
    accessor = tree["accessors"][primitive["attributes"]["COLOR_0"]]
    assert (accessor["componentType"], accessor["type"], accessor["count"]) == (5126, "VEC4", 4)  # float
    start = tree["bufferViews"][accessor["bufferView"]]["byteOffset"]
    stored = torch.from_numpy(np.frombuffer(blob, "<f4", 16, start).reshape(4, 4).copy())
    assert bool((stored[:, 3] == 1).all())
    linear = stored[:, :3].double()
    shown = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    torch.testing.assert_close(shown.float(), dark.colors, atol=1e-5, rtol=0)
    placed = with_trimesh.mesh_from_trimesh(trimesh.load(tmp_path / "a.glb", process=False))
    torch.testing.assert_close(placed.vertices, dark.vertices[:, [0, 2, 1]] * torch.tensor([1.0, 1.0, -1.0]))
    torch.testing.assert_close(placed.colors, stored[:, :3], atol=1e-6, rtol=0)
    turned = trimesh.load(tmp_path / "a.glb", force="mesh", process=False)
    assert turned.volume == pytest.approx(1.0), "turned, not mirrored"


def test_glb_without_colours_is_plain(trimesh, tmp_path):
    mesh = some_mesh()
    with_trimesh.write_mesh(tmp_path / "a.glb", Mesh(vertices=mesh.vertices, faces=mesh.faces))
    tree, _ = glb_parts((tmp_path / "a.glb").read_bytes())
    assert set(tree["meshes"][0]["primitives"][0]["attributes"]) == {"POSITION", "NORMAL"}


def test_other_formats_and_missing_libraries_are_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no mesh format"):
        with_trimesh.write_mesh(tmp_path / "a.xyz", some_mesh())
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(EnvError, match=r"scene4d\[geometry\]"):
        with_trimesh.write_mesh(tmp_path / "a.glb", some_mesh())
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(EnvError, match=r"scene4d\[open3d\]"):
        with_open3d.open3d_mesh(some_mesh())
    assert not list(tmp_path.iterdir())


def test_meshes_and_points_survive_open3d(open3d):
    theirs = with_open3d.open3d_mesh(some_mesh())
    assert theirs.is_watertight()
    assert_same_mesh(with_open3d.mesh_from_open3d(theirs), some_mesh())
    gaussians = some_gaussians()
    used = gaussians.pick(gaussians.ids >= 0)
    back = with_open3d.gaussians_from_open3d(with_open3d.open3d_points(gaussians))
    torch.testing.assert_close(back.means, used.means)
    torch.testing.assert_close(back.sh, used.sh, atol=1e-5, rtol=0)
    torch.testing.assert_close(back.extras["normals"], used.extras["normals"])


def test_open3d_fuses_the_same_surface(open3d):
    pytest.importorskip("skimage")
    frames = ball_frames()
    theirs, ours = with_open3d.mesh_from_depth_open3d(frames, voxel=0.02), mesh_from_depth(frames, voxel=0.02)
    for mesh in (theirs, ours):
        off = (mesh.vertices - torch.tensor(CENTER)).norm(dim=-1) - RADIUS
        assert off.abs().mean() < 0.004 and (mesh.colors - ball_colors(mesh.vertices)).abs().mean() < 0.02
    assert len(ours.faces) == pytest.approx(len(theirs.faces), rel=0.1)

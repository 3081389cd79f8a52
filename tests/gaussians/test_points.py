import numpy as np
import pytest
import torch

from scene4d.errors import ShapeError
from scene4d.gaussians.formats.ply_table import read_ply_tables
from scene4d.gaussians.formats.points import robust_bounds, write_flow_npz, write_gaussian_points, write_point_cloud
from scene4d.geometry.sh import sh_from_rgb
from scene4d.scene import Motion, Scene4D
from scene4d.types import Gaussians


def make_scene(n: int = 6) -> Scene4D:
    base = Gaussians(
        means=torch.randn(n, 3),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(n, 4),
        scales=torch.full((n, 3), 0.01),
        opacities=torch.ones(n),
        sh=sh_from_rgb(torch.rand(n, 3)),
        ids=torch.tensor([7, 8, 9, 10, 11, -1]),
    )
    poses = torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).repeat(3, 1, 1)
    poses[:, 0, 4] = torch.tensor([0.0, 0.1, 0.3])
    weights = torch.tensor([1.0, 1, 0, 0, 1, 1])[:, None]
    motion = Motion(
        anchors=torch.zeros(1, 3),
        world_from_rest=poses,
        skin_index=torch.zeros(n, 1, dtype=torch.int64),
        skin_weights=weights,
    )
    alive = torch.tensor([[0.0, 2.0]]).repeat(n, 1)
    alive[1, 0] = 1.0
    return Scene4D(
        base=base, motion=motion, alive=alive, times=torch.arange(3).double(), observed=torch.ones(3, dtype=torch.bool)
    )


def test_point_cloud_is_read_back(tmp_path):
    points, colors, flow = torch.randn(5, 3), torch.rand(5, 3), torch.randn(5, 3)
    write_point_cloud(tmp_path / "a.ply", points, colors=colors, flow=flow)
    rows = read_ply_tables(tmp_path / "a.ply")["vertex"]
    assert rows.dtype.names == ("x", "y", "z", "red", "green", "blue", "vx", "vy", "vz")
    assert np.array_equal(rows["y"], points[:, 1]) and np.array_equal(rows["vz"], flow[:, 2])
    assert np.array_equal(rows["green"], (colors[:, 1] * 255).round().byte())
    trimesh = pytest.importorskip("trimesh")
    cloud = trimesh.load(tmp_path / "a.ply")
    np.testing.assert_array_equal(np.asarray(cloud.vertices, np.float32), points.numpy())
    with pytest.raises(ShapeError):
        write_point_cloud(tmp_path / "b.ply", points, colors=colors[:3])
    assert not (tmp_path / "b.ply").exists()


def test_gaussian_points_leave_out_what_cannot_be_seen(tmp_path):
    scene = make_scene()
    flow, _ = scene.flow(0.0, 1.0)
    write_gaussian_points(tmp_path / "a.ply", scene.at(0.0), flow=flow)
    rows = read_ply_tables(tmp_path / "a.ply")["vertex"]
    assert len(rows) == 4, "one is not born yet, one is an empty slot"
    np.testing.assert_allclose(rows["vx"], [0.1, 0, 0, 0.1], atol=1e-6)


def test_flow_npz_has_its_documented_keys(tmp_path):
    write_flow_npz(tmp_path / "flow.npz", make_scene())
    with np.load(tmp_path / "flow.npz", allow_pickle=False) as table:
        arrays = {name: table[name] for name in table.files}
    assert {k: (v.dtype.str, v.shape) for k, v in arrays.items()} == {
        "times": ("<f8", (3,)),
        "ids": ("<i8", (5,)),
        "positions": ("<f4", (3, 5, 3)),
        "alive": ("|b1", (3, 5)),
        "flow": ("<f4", (2, 5, 3)),
        "valid": ("|b1", (2, 5)),
    }
    assert arrays["ids"].tolist() == [7, 8, 9, 10, 11]
    moved = arrays["positions"][1:] - arrays["positions"][:-1]
    np.testing.assert_allclose(arrays["flow"][arrays["valid"]], moved[arrays["valid"]], atol=1e-6)
    assert arrays["valid"][0].tolist() == [True, False, True, True, True] and (arrays["flow"][0, 1] == 0).all()
    write_flow_npz(tmp_path / "one.npz", make_scene(), times=[0.5])
    with np.load(tmp_path / "one.npz") as table:
        assert table["flow"].shape == (0, 5, 3) and table["positions"].shape == (1, 5, 3)


def test_bounds_ignore_strays():
    means = torch.randn(1000, 3) * 0.1 + torch.tensor([1.0, 2.0, 3.0])
    means[:20] = 1e4
    g = Gaussians(
        means=means,
        quats=torch.tensor([1.0, 0, 0, 0]).expand(1000, 4),
        scales=torch.full((1000, 3), 0.01),
        opacities=torch.ones(1000),
        sh=torch.zeros(1000, 1, 3),
    )
    center, radius = robust_bounds(g)
    torch.testing.assert_close(center, torch.tensor([1.0, 2.0, 3.0]), atol=0.03, rtol=0)
    assert 0.2 < radius < 0.35
    center, radius = robust_bounds(g.pick(g.opacities > 2))
    assert center.tolist() == [0, 0, 0] and radius == 1

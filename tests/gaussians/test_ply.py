import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scene4d.errors import DataFormatError, GaussianError, Scene4DError, ShapeError
from scene4d.gaussians.formats.ply import read_ply, write_ply
from scene4d.geometry.rotation import normalize_quat
from scene4d.types import Gaussians


def make_set(n: int, k: int) -> Gaussians:
    return Gaussians(
        means=torch.randn(n, 3),
        quats=normalize_quat(torch.randn(n, 4)),
        scales=torch.rand(n, 3) * 0.1 + 1e-4,
        opacities=torch.rand(n),
        sh=torch.randn(n, k, 3),
    )


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 50), degree=st.integers(0, 3))
def test_round_trip(tmp_path_factory, n, degree):
    path = tmp_path_factory.mktemp("ply") / "a.ply"
    g = make_set(n, (degree + 1) ** 2)
    write_ply(path, g, sh_degree=degree)
    back = read_ply(path)
    assert torch.equal(back.means, g.means) and torch.equal(back.sh, g.sh)
    torch.testing.assert_close(back.quats, g.quats)
    torch.testing.assert_close(back.scales, g.scales)
    torch.testing.assert_close(back.opacities, g.opacities)


def test_extreme_opacities_and_scales_stay_finite(tmp_path):
    g = make_set(3, 1).replace(opacities=torch.tensor([0.0, 1.0, 0.5]), scales=torch.full((3, 3), 1e-9))
    write_ply(tmp_path / "a.ply", g)
    back = read_ply(tmp_path / "a.ply", strict=True)
    torch.testing.assert_close(back.opacities, g.opacities, atol=1e-6, rtol=0)
    assert back.sh.shape == (3, 16, 3), "the INRIA loader wants degree 3"


def test_layout_is_the_inria_one(tmp_path):
    g = make_set(2, 4).padded(3)
    write_ply(tmp_path / "a.ply", g)
    data = (tmp_path / "a.ply").read_bytes()
    header, body = data.split(b"end_header\n")
    names = [line.split()[-1] for line in header.decode().splitlines() if line.startswith("property")]
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 2\n"), "empty slots are left out"
    assert len(names) == 62 and names[:6] == ["x", "y", "z", "nx", "ny", "nz"] and names[-1] == "rot_3"
    rows = np.frombuffer(body, "<f4").reshape(2, 62)
    at = {name: rows[:, i] for i, name in enumerate(names)}
    assert np.array_equal(at["f_rest_0"], g.sh[:2, 1, 0]), "channel-major: red first"
    assert np.array_equal(at["f_rest_15"], g.sh[:2, 1, 1]) and np.array_equal(at["f_rest_2"], g.sh[:2, 3, 0])
    np.testing.assert_allclose(at["scale_1"], g.scales[:2, 1].log().numpy(), rtol=1e-6)
    np.testing.assert_allclose(at["opacity"], torch.logit(g.opacities[:2]).numpy(), rtol=1e-4, atol=1e-5)


def table_file(path, columns: dict[str, np.ndarray], *, count: int | None = None, kind="float", extra="") -> None:
    rows = np.stack(list(columns.values()), 1).astype("<f4")
    header = f"ply\nformat binary_little_endian 1.0\ncomment made by hand\nelement vertex {count or len(rows)}\n"
    header += "".join(f"property {kind} {name}\n" for name in columns) + extra + "end_header\n"
    path.write_bytes(header.encode() + rows.tobytes())


def splat_columns(n: int = 4, *, rest: int = 9) -> dict[str, np.ndarray]:
    names = ["rot_0", "rot_1", "rot_2", "rot_3", "opacity", "z", "y", "x", "f_dc_1", "f_dc_0", "f_dc_2"]
    names += ["scale_2", "scale_0", "scale_1", "unknown", *(f"f_rest_{i}" for i in reversed(range(rest)))]
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=n).astype(np.float32) for name in names}


def test_any_column_order_and_unknown_columns(tmp_path):
    columns = splat_columns()
    table_file(tmp_path / "a.ply", columns)
    g = read_ply(tmp_path / "a.ply")
    assert np.array_equal(g.means[:, 0], columns["x"]) and np.array_equal(g.sh[:, 0, 1], columns["f_dc_1"])
    assert np.array_equal(g.sh[:, 2, 1], columns["f_rest_4"]) and g.sh.shape == (4, 4, 3)
    np.testing.assert_allclose(g.scales[:, 2], np.exp(columns["scale_2"]), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 10**9}, "shorter than its header"),
        ({"count": 10**30}, "shorter than its header"),
        ({"count": -4}, "bad element"),
        ({"kind": "quux"}, "unknown header line"),
        ({"extra": "element vertex 3\n"}, "bad element"),
        ({"extra": "comment " + "x" * 70_000 + "\n"}, "no end_header"),
    ],
)
def test_headers_that_lie_are_refused_before_allocation(tmp_path, change, words):
    table_file(tmp_path / "a.ply", splat_columns(), **change)
    with pytest.raises(DataFormatError, match=words) as caught:
        read_ply(tmp_path / "a.ply")
    assert str(tmp_path / "a.ply") in str(caught.value)


def test_mesh_or_point_cloud_instead_of_splats(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    (tmp_path / "mesh.ply").write_bytes(trimesh.creation.box().export(file_type="ply"))
    with pytest.raises(DataFormatError, match="--as-points"):
        read_ply(tmp_path / "mesh.ply")


@pytest.mark.parametrize("rest", [3, 10, 44, 48])
def test_f_rest_must_fit_a_degree(tmp_path, rest):
    table_file(tmp_path / "a.ply", splat_columns(rest=rest))
    with pytest.raises(DataFormatError, match="0, 9, 24 or 45"):
        read_ply(tmp_path / "a.ply")


def test_impossible_values_are_mended_with_a_count_or_refused(tmp_path):
    columns = splat_columns()
    columns["x"][0], columns["scale_0"][1] = np.nan, np.inf
    table_file(tmp_path / "a.ply", columns)
    with pytest.warns(UserWarning, match="means_not_finite.: 1"):
        assert read_ply(tmp_path / "a.ply").num_gaussians == 2
    with pytest.raises(GaussianError):
        read_ply(tmp_path / "a.ply", strict=True)


def test_no_such_file_degree_or_batch(tmp_path):
    with pytest.raises(DataFormatError, match="cannot be read"):
        read_ply(tmp_path / "none.ply")
    with pytest.raises(ShapeError):
        write_ply(tmp_path / "a.ply", make_set(2, 1), sh_degree=4)
    with pytest.raises(ShapeError):
        write_ply(tmp_path / "a.ply", Gaussians.stack([make_set(2, 1)] * 2))
    assert not list(tmp_path.iterdir())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mutated_files_give_only_our_errors(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "a.ply"
    table_file(path, splat_columns())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(Scene4DError):
        read_ply(path, strict=True)


def test_real_splats(shared_data, tmp_path):
    source = shared_data / "splats" / "drema_franka" / "link10.ply"
    g = read_ply(source, strict=True)
    assert g.num_gaussians == 1663 and g.sh.shape[-2] == 16
    write_ply(tmp_path / "a.ply", g)
    theirs, ours = source.read_bytes(), (tmp_path / "a.ply").read_bytes()
    split = theirs.index(b"end_header\n") + 11
    assert theirs[:split] == ours[:split] and len(theirs) == len(ours)
    again = read_ply(tmp_path / "a.ply", strict=True)
    assert torch.equal(again.means, g.means) and torch.equal(again.sh, g.sh)
    torch.testing.assert_close(again.quats, g.quats)

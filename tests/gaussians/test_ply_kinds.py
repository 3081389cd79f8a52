"""Kinds of splat .ply that people have: other encodings, flat ones, filtered ones, activated ones, more columns."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from splat_tables import splat_columns, write_table

from scene4d.apps import cli
from scene4d.errors import DataFormatError, GaussianError
from scene4d.gaussians.formats.ply import read_ply, read_ply_splats, write_ply
from scene4d.gaussians.formats.points import read_point_cloud
from scene4d.types import Gaussians

ENCODINGS = ("ascii", "binary_little_endian", "binary_big_endian")


def kinds(path) -> dict[str, bool]:
    """{kind: is it a finding} of the notes of a file."""
    return {note.kind: note.lost for note in read_ply_splats(path).notes}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def assert_same(g: Gaussians, columns: dict[str, np.ndarray], *, atol: float = 1e-6) -> None:
    """The set holds what INRIA's layout says of the columns."""
    for i, name in enumerate("xyz"):
        np.testing.assert_allclose(g.means[:, i], columns[name], atol=atol)
        np.testing.assert_allclose(g.scales[:, i], np.exp(columns[f"scale_{i}"]), rtol=1e-5)
        np.testing.assert_allclose(g.sh[:, 0, i], columns[f"f_dc_{i}"], atol=atol)
    np.testing.assert_allclose(g.opacities, sigmoid(columns["opacity"]), atol=atol)
    quats = np.stack([columns[f"rot_{i}"] for i in range(4)], 1)
    np.testing.assert_allclose(g.quats, quats / np.linalg.norm(quats, axis=1, keepdims=True), atol=1e-5)
    num_rest = sum(name.startswith("f_rest_") for name in columns)
    assert g.sh.shape[1] == 1 + num_rest // 3
    for i in range(num_rest):
        channel, basis = divmod(i, num_rest // 3)
        np.testing.assert_allclose(g.sh[:, 1 + basis, channel], columns[f"f_rest_{i}"], atol=atol)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("num", "degree"), [(1, 0), (60, 1), (300, 3)])
def test_every_encoding_gives_the_same_splats(tmp_path, encoding, num, degree):
    columns = splat_columns(num, degree=degree)
    write_table(tmp_path / "a.ply", columns, encoding=encoding)
    splats = read_ply_splats(tmp_path / "a.ply", strict=True)
    assert_same(splats.gaussians, columns)
    assert splats.notes == () and splats.mended == {}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_order_doubles_and_bytes(tmp_path, encoding):
    columns = dict(reversed(splat_columns(50, degree=2).items()))
    columns["label"] = np.arange(50)
    types = {name: "f8" for name in ("x", "y", "z", "opacity", "scale_1", "rot_0", "f_rest_3")} | {"label": "u1"}
    write_table(tmp_path / "a.ply", columns, encoding=encoding, types=types)
    splats = read_ply_splats(tmp_path / "a.ply", strict=True)
    assert_same(splats.gaussians, columns)
    assert [(n.kind, n.names, n.lost) for n in splats.notes] == [("columns", ("label",), True)]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_points_too(tmp_path, encoding):
    columns = {name: splat_columns(20)[name] for name in "xyz"}
    columns |= {name: np.arange(20) * 12 for name in ("red", "green", "blue")}
    types = dict.fromkeys(("red", "green", "blue"), "u1")
    points, colors = read_point_cloud(write_table(tmp_path / "a.ply", columns, encoding=encoding, types=types))
    np.testing.assert_allclose(points[:, 1], columns["y"], atol=1e-6)
    assert colors is not None
    np.testing.assert_allclose(colors[:, 2], columns["blue"] / 255, atol=1e-6)


def test_colours_of_bytes_for_f_dc(tmp_path):
    columns = {k: v for k, v in splat_columns(40).items() if not k.startswith("f_dc")}
    columns |= {name: np.arange(40) * 6 for name in ("red", "green", "blue")}
    write_table(tmp_path / "a.ply", columns, types=dict.fromkeys(("red", "green", "blue"), "u1"))
    g = read_ply(tmp_path / "a.ply", strict=True)
    np.testing.assert_allclose(g.sh[:, 0, 0] * 0.28209479 + 0.5, columns["red"] / 255, atol=1e-6)


ROW = " ".join(["0.5"] * 14)
TEXTS = {  # what the second of three lines is: field, words of the error
    "a value missing": (ROW[:-4], "line 20", "13 values"),
    "a value too many": (ROW + " 1", "line 20", "15 values"),
    "a word": (ROW.replace("0.5", "x0.5", 1), "line 20: x", "x0.5"),
    "a long number": ("0." + "3" * 100 + ROW[3:], "line 20", "14 values"),
    "empty": ("", "line 20", "0 values"),
    "no line": (None, "header line 3", "shorter"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_ascii_rows_that_are_none(tmp_path, name):
    text, field, word = TEXTS[name]
    columns = {name: np.full(3, 0.5) for name in splat_columns(3)}
    write_table(tmp_path / "a.ply", columns, encoding="ascii")
    head = (tmp_path / "a.ply").read_text().split("end_header\n")[0] + "end_header\n"
    lines = [ROW, ROW, ROW] if text is None else [ROW, text, ROW]
    head = head.replace("vertex 3", "vertex 9") if text is None else head
    (tmp_path / "a.ply").write_text(head + "\n".join(lines))
    with pytest.raises(DataFormatError) as caught:
        read_ply(tmp_path / "a.ply")
    assert caught.value.field == field and word in caught.value.line() and caught.value.file.endswith("a.ply")


def test_ascii_bytes_keep_their_range(tmp_path):
    columns = {**splat_columns(20), "label": np.full(20, 300)}
    write_table(tmp_path / "a.ply", columns, encoding="ascii", types={"label": "i4"})
    text = (tmp_path / "a.ply").read_text()
    (tmp_path / "a.ply").write_text(text.replace("property int label", "property uchar label"))
    with pytest.raises(DataFormatError, match="no number of its column"):
        read_ply(tmp_path / "a.ply")


def test_ascii_nan_is_dropped_and_counted(tmp_path):
    columns = splat_columns(20)
    columns["y"][3], columns["scale_1"][5] = np.nan, np.inf
    splats = read_ply_splats(write_table(tmp_path / "a.ply", columns, encoding="ascii"))
    assert splats.gaussians.num_gaussians == 18
    assert splats.mended == {"means_not_finite": 1, "scales_not_finite": 1}


@pytest.mark.parametrize("degree", [0, 2])
def test_two_scales_are_flat_splats(tmp_path, degree):
    columns = splat_columns(80, degree=degree)
    del columns["scale_2"]
    splats = read_ply_splats(write_table(tmp_path / "a.ply", columns), strict=True)
    g = splats.gaussians
    sizes = np.exp(np.stack([columns["scale_0"], columns["scale_1"]], 1))
    np.testing.assert_allclose(g.scales[:, :2], sizes, rtol=1e-5)
    np.testing.assert_allclose(g.scales[:, 2], 1e-4 * g.scales[:, :2].min(1).values, rtol=1e-5)
    assert [(n.kind, n.lost) for n in splats.notes] == [("flat", False)] and "2DGS" in str(splats.notes[0])
    write_ply(tmp_path / "b.ply", g)
    torch.testing.assert_close(read_ply(tmp_path / "b.ply", strict=True).scales, g.scales)


@pytest.mark.parametrize("flat", [False, True])
def test_the_3d_filter_is_fused(tmp_path, flat):
    columns = splat_columns(70)
    columns["filter_3D"] = np.random.default_rng(1).uniform(0, 0.3, 70)
    if flat:
        del columns["scale_2"]
    splats = read_ply_splats(write_table(tmp_path / "a.ply", columns), strict=True)
    num = 2 if flat else 3
    sizes = np.exp(np.stack([columns[f"scale_{i}"] for i in range(num)], 1).astype(np.float64))
    squares, filtered = sizes**2, sizes**2 + columns["filter_3D"][:, None] ** 2
    np.testing.assert_allclose(splats.gaussians.scales[:, :num], np.sqrt(filtered), rtol=1e-5)
    opacities = sigmoid(columns["opacity"]) * np.sqrt(squares.prod(1) / filtered.prod(1))
    np.testing.assert_allclose(splats.gaussians.opacities, opacities, rtol=1e-4, atol=1e-7)
    assert ("filter_fused", False) in [(n.kind, n.lost) for n in splats.notes]


def activated(num: int = 100, *, scales: bool = True, opacities: bool = True, constant: bool = False):
    columns = splat_columns(num)
    random = np.random.default_rng(2)
    for i in range(3):
        if scales:
            columns[f"scale_{i}"] = np.full(num, 0.04) if constant else random.uniform(0.005, 0.08, num)
    if opacities:
        columns["opacity"] = np.full(num, 0.7) if constant else random.uniform(0, 1, num)
    return columns


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("num", [5, 400])
def test_activated_values_are_certain_by_both_signs(tmp_path, num, constant):
    columns = activated(num, constant=constant)
    write_table(tmp_path / "a.ply", columns)
    splats = read_ply_splats(tmp_path / "a.ply")
    np.testing.assert_allclose(splats.gaussians.scales[:, 1], columns["scale_1"], rtol=1e-5)
    np.testing.assert_allclose(splats.gaussians.opacities, columns["opacity"], atol=1e-6)
    assert [n.field for n in splats.notes if n.kind == "activated_values" and n.lost] == ["scales", "opacities"]
    with pytest.raises(GaussianError, match="activated") as caught:
        read_ply_splats(tmp_path / "a.ply", strict=True)
    assert caught.value.field == "scale_0" and caught.value.file == str(tmp_path / "a.ply")
    with pytest.warns(UserWarning, match="activated values"):
        read_ply(tmp_path / "a.ply")


def test_one_sign_is_believed_where_the_layout_gives_an_absurd_scene(tmp_path):
    columns = activated(100, opacities=False)
    splats = read_ply_splats(write_table(tmp_path / "a.ply", columns))
    np.testing.assert_allclose(splats.gaussians.scales[:, 0], columns["scale_0"], rtol=1e-5)
    np.testing.assert_allclose(splats.gaussians.opacities, sigmoid(columns["opacity"]), atol=1e-6)
    columns = activated(100, scales=False)
    splats = read_ply_splats(write_table(tmp_path / "b.ply", columns))
    np.testing.assert_allclose(splats.gaussians.scales[:, 0], np.exp(columns["scale_0"]), rtol=1e-5)
    np.testing.assert_allclose(splats.gaussians.opacities, columns["opacity"], atol=1e-6)
    for name in "ab":
        assert kinds(tmp_path / f"{name}.ply") == {"activated_values": True}


@pytest.mark.parametrize("num", [10, 100])
def test_what_is_not_certain_is_read_by_the_layout_and_named(tmp_path, num):
    columns = splat_columns(num) | {"opacity": np.full(num, 0.8)}
    splats = read_ply_splats(write_table(tmp_path / "a.ply", columns))
    np.testing.assert_allclose(splats.gaussians.opacities, sigmoid(columns["opacity"]), atol=1e-6)
    assert kinds(tmp_path / "a.ply") == {"activated_values": True} and "may hold" in str(splats.notes[0])


def test_a_scene_in_millimetres_is_healthy(tmp_path):
    columns = splat_columns(200)
    for name in "xyz":
        columns[name] *= 1000
    for i in range(3):
        columns[f"scale_{i}"] = np.random.default_rng(i).uniform(0.5, 3, 200)
    splats = read_ply_splats(write_table(tmp_path / "a.ply", columns), strict=True)
    assert splats.notes == ()
    np.testing.assert_allclose(splats.gaussians.scales[:, 2], np.exp(columns["scale_2"]), rtol=1e-5)


def test_what_is_not_read_is_named(tmp_path):
    columns = splat_columns(30) | {"nx": np.ones(30), "ny": np.zeros(30), "nz": np.zeros(30)}
    columns |= {"semantic_0": np.zeros(30), "f_dc_3": np.zeros(30), "red": np.zeros(30)}
    write_table(tmp_path / "a.ply", columns, types={"red": "u1"}, lines=("comment SplatRenderMode: mip",))
    data = (tmp_path / "a.ply").read_bytes().replace(
        b"end_header\n", b"element camera 2\nproperty float fov\nend_header\n"
    )  # fmt: skip
    (tmp_path / "a.ply").write_bytes(data + bytes(8))
    found = {(n.kind, n.names, n.lost) for n in read_ply_splats(tmp_path / "a.ply").notes}
    assert found == {
        ("columns", ("semantic_0", "f_dc_3"), True), ("columns", ("nx",), False), ("columns", ("red",), False),
        ("elements", ("camera",), False), ("antialiased", ("SplatRenderMode: mip",), False),
    }  # fmt: skip


def test_positions_that_float32_rounds_are_named(tmp_path):
    columns = splat_columns(30)
    columns["x"] = columns["x"].astype(np.float64) + 5e5
    splats = read_ply_splats(write_table(tmp_path / "a.ply", columns, types={"x": "f8"}))
    assert [(n.kind, n.names, n.lost) for n in splats.notes] == [("rounded", ("x",), True)]


@pytest.mark.parametrize("name", ["opacity", "scale_1", "f_dc_0", "rot_2"])
def test_integers_are_no_values_of_splats(tmp_path, name):
    write_table(tmp_path / "a.ply", splat_columns(20), types={name: "u1"})
    with pytest.raises(DataFormatError, match="holds integers") as caught:
        read_ply(tmp_path / "a.ply")
    assert caught.value.field == name


FIELD = {  # notes {kind: finding}, first scales and opacity
    "ascii": ({}, np.full(3, np.exp(-3)), 0.560700),
    "2dgs_two_scales": ({"flat": False}, np.exp(-3) * np.array([1, 1, 1e-4]), 0.560700),
    "mip_splatting_filter3D": ({"filter_fused": False}, np.full(3, np.sqrt(np.exp(-6) + 0.04)), None),
    "activated_values": ({"activated_values": True}, np.full(3, 0.05), 0.8),
}


@pytest.mark.parametrize("name", FIELD)
def test_field_cases(shared_data, tmp_path, capsys, name):
    notes, scales, opacity = FIELD[name]
    source = shared_data / "field" / "splats" / f"{name}.ply"
    splats = read_ply_splats(source)
    g = splats.gaussians
    assert g.num_gaussians == 300 and kinds(source) == notes and splats.mended == {}
    np.testing.assert_allclose(g.scales[0], scales, rtol=1e-5)
    if opacity is None:
        opacity = 0.560700 * float(np.exp(-9) / np.sqrt(np.exp(-6) + 0.04) ** 3)
    np.testing.assert_allclose(g.opacities[0], opacity, rtol=1e-4)
    np.testing.assert_allclose(g.means[0], [0.1257302, 1.203259, -1.1568301], rtol=1e-5)
    assert cli.main(["export", str(source), "-o", str(tmp_path / "out.ply")]) == 0
    facts = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert facts["num_rows"] == 300 and {e["kind"]: e["lost"] for e in facts["left_out"]} == notes
    torch.testing.assert_close(read_ply(tmp_path / "out.ply", strict=True).scales, g.scales, rtol=1e-5, atol=0)

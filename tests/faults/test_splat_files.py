"""Rows 32-35, 38, 55, 58 and 61 of the fault catalogue for splats, scenes and flow: kind, file, field, exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import stat
import struct
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from peak_memory import peak_growth

from scene4d.apps import cli
from scene4d.errors import ResourceError, Scene4DError, SecurityError
from scene4d.gaussians.formats.mesh import Mesh
from scene4d.gaussians.formats.ply import read_ply, write_ply
from scene4d.gaussians.formats.points import read_flow_npz, write_flow_npz, write_point_cloud
from scene4d.gaussians.formats.trimesh import write_mesh
from scene4d.gaussians.s4d.s4d import load_s4d, write_s4d
from scene4d.scene import Motion, Scene4D
from scene4d.types import Gaussians


def splats(num: int = 30) -> Gaussians:
    return Gaussians(
        means=torch.randn(num, 3),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(num, 1),
        scales=torch.full((num, 3), 0.1),
        opacities=torch.full((num,), 0.5),
        sh=torch.randn(num, 4, 3),
    )


def scene(num: int = 30) -> Scene4D:
    motion = Motion(
        anchors=torch.zeros(1, 3),
        world_from_rest=torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).repeat(3, 1, 1),
        skin_index=torch.zeros(num, 1, dtype=torch.int64),
        skin_weights=torch.ones(num, 1),
    )
    alive = torch.tensor([[0.0, 2.0]]).repeat(num, 1)
    times = torch.arange(3, dtype=torch.float64)
    return Scene4D(base=splats(num), motion=motion, alive=alive, times=times, observed=torch.ones(3, dtype=torch.bool))


def tree_hash(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture
def verb(capsys, tmp_path):
    """`scene4d export` as a user runs it: its exit code and, of a failure, the JSON; nothing may be left or changed."""

    def run(source: Path, output: str = "out.ply", *flags: str) -> tuple[int, dict]:
        target = tmp_path / "outputs" / output
        before = tree_hash(source.parent)
        code = cli.main(["export", str(source), "-o", str(target), *flags, "--json-errors"])
        printed = capsys.readouterr()
        assert tree_hash(source.parent) == before, "the input was touched"
        if code == 0:
            return code, json.loads(printed.out.strip().splitlines()[-1])
        left = list((tmp_path / "outputs").rglob("*")) if (tmp_path / "outputs").is_dir() else []
        assert not left, "something half-written was left"
        return code, json.loads(printed.err.strip().splitlines()[-1])["error"]

    return run


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inputs").mkdir()
    return tmp_path / "inputs"


def ply_bytes(*, change=lambda header: header, columns: dict[str, np.ndarray] | None = None, num: int = 30) -> bytes:
    """A splat .ply of `num` rows with a changed header or with other columns."""
    random = np.random.default_rng(0)
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
    names += [f"rot_{i}" for i in range(4)]
    table = {name: random.normal(size=num) for name in names} if columns is None else columns
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {num}\n"
    header += "".join(f"property float {name}\n" for name in table) + "end_header\n"
    return change(header).encode() + np.stack(list(table.values()), 1).astype("<f4").tobytes()


HEADERS = {
    "count lies": (lambda h: h.replace("vertex 30", "vertex 1000000000"), "header line 3", "shorter"),
    "count beyond any integer": (lambda h: h.replace("vertex 30", "vertex " + "9" * 400), "header line 3", "shorter"),
    "count one too many": (lambda h: h.replace("vertex 30", "vertex 31"), "header line 3", "shorter"),
    "negative": (lambda h: h.replace("vertex 30", "vertex -30"), "header line 3", "bad element"),
    "no number": (lambda h: h.replace("vertex 30", "vertex 3e1"), "header line 3", "bad element"),
    "huge header": (
        lambda h: h.replace("end_header", "comment " + "x" * (1 << 20) + "\nend_header"),
        "header",
        "64 KiB",
    ),
    "unknown type": (lambda h: h.replace("float y", "float128 y"), "header line 5", "unknown header line"),
    "twice": (lambda h: h.replace("float y", "float x"), "header line 5", "twice"),
    "no such encoding": (lambda h: h.replace("little", "middle"), "header line 2", "unknown encoding"),
    "ascii that lies": (
        lambda h: h.replace("binary_little_endian", "ascii").replace("vertex 30", "vertex 4000000000"),
        "header line 3",
        "shorter",
    ),
    "big endian that lies": (
        lambda h: h.replace("little", "big").replace("vertex 30", "vertex 31"),
        "header line 3",
        "shorter",
    ),
    "no end": (lambda h: h.replace("end_header", "end"), "header", "no end_header"),
    "no ply": (lambda h: h.replace("ply", "PLY", 1), "header", "no PLY"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_32_headers_that_lie(folder, verb, name):
    change, field, word = HEADERS[name]
    (folder / "a.ply").write_bytes(ply_bytes(change=change))
    code, error = verb(folder / "a.ply")
    assert (code, error["code"], error["file"]) == (3, "DataFormatError", str(folder / "a.ply"))
    assert error["field"] == field and word in error["problem"] + str(error["found"])


def test_32_nothing_is_allocated_for_a_count(folder):
    (folder / "a.ply").write_bytes(ply_bytes(change=lambda h: h.replace("vertex 30", "vertex 4000000000")))
    with peak_growth() as grown:
        with pytest.raises(Scene4DError):
            read_ply(folder / "a.ply")
        assert grown() < 50


def test_33_meshes_and_point_clouds(folder, verb):
    write_point_cloud(folder / "points.ply", torch.rand(40, 3), colors=torch.rand(40, 3))
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 3\n"
    header += "".join(f"property float {n}\n" for n in "xyz")
    header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    body = np.eye(3, dtype="<f4").tobytes() + struct.pack("<Biii", 3, 0, 1, 2)
    (folder / "mesh.ply").write_bytes(header.encode() + body)
    for name, rows in (("points.ply", 40), ("mesh.ply", 3)):
        code, error = verb(folder / name)
        assert (code, error["code"], error["field"]) == (3, "DataFormatError", "element vertex")
        assert error["file"] == str(folder / name) and "--as-points" in error["fix"]
        code, facts = verb(folder / name, f"{name}.ply", "--as-points")
        assert code == 0 and facts["num_rows"] == rows
        (Path(facts["output"])).unlink()


@pytest.mark.parametrize("num", [1, 3, 8, 10, 44, 46, 48])
def test_34_f_rest_that_fits_no_degree(folder, verb, num):
    table = {n: np.zeros(4) for n in ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity")}
    table |= {n: np.zeros(4) for n in ("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")}
    table |= {f"f_rest_{i}": np.zeros(4) for i in range(num)}
    (folder / "a.ply").write_bytes(ply_bytes(columns=table, num=4))
    code, error = verb(folder / "a.ply")
    assert (code, error["code"], error["field"], error["found"]) == (3, "DataFormatError", "f_rest", num)


IMPOSSIBLE = {  # column, value, rule, is the row kept
    "mean": ("y", np.nan, "means_not_finite", False),
    "far": ("z", np.inf, "means_not_finite", False),
    "zero scale": ("scale_1", -np.inf, "scales_out_of_range", True),
    "huge scale": ("scale_1", 80.0, "scales_out_of_range", True),
    "infinite scale": ("scale_2", np.inf, "scales_not_finite", False),
    "logit": ("opacity", np.inf, "opacity_logits_infinite", True),
    "minus logit": ("opacity", -np.inf, "opacity_logits_infinite", True),
    "opacity": ("opacity", np.nan, "opacities_not_finite", False),
    "colour": ("f_dc_1", np.nan, "sh_not_finite", False),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_35_impossible_values(folder, verb, name):
    column, value, rule, kept = IMPOSSIBLE[name]
    table = np.frombuffer(ply_bytes().split(b"end_header\n")[1], "<f4").reshape(30, 14).copy()
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
    columns = dict(zip([*names, *(f"rot_{i}" for i in range(4))], table.T, strict=True))
    columns[column][[4, 7]] = value
    (folder / "a.ply").write_bytes(ply_bytes(columns=columns))
    code, error = verb(folder / "a.ply", "out.ply", "--strict")
    assert (code, error["code"], error["file"], error["frame"]) == (3, "GaussianError", str(folder / "a.ply"), 4)
    assert error["field"] == rule.split("_")[0]
    code, facts = verb(folder / "a.ply")
    assert code == 0 and facts["mended"] == {rule: 2} and facts["num_rows"] == (30 if kept else 28)
    back = read_ply(facts["output"], strict=True)
    assert all(bool(getattr(back, f).isfinite().all()) for f in ("means", "quats", "scales", "opacities", "sh"))


def rezipped(path: Path, *, extra=(), drop=(), manifest=lambda m: None, method=zipfile.ZIP_STORED) -> bytes:
    """The members of a .s4d again, changed, with hashes that fit unless the manifest says otherwise."""
    with zipfile.ZipFile(path) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist() if i.filename not in drop}
    listed = json.loads(members["manifest.json"])
    manifest(listed)
    members["manifest.json"] = json.dumps(listed).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in [*members.items(), *extra]:
            archive.writestr(name, data)
    return buffer.getvalue()


def bomb(path: Path) -> bytes:
    """A member that claims 4 GiB in a file of some kB."""
    data = bytearray(rezipped(path))
    at = data.rindex(b"PK\x01\x02")
    data[at + 20 : at + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    return bytes(data)


def overlapping(path: Path) -> bytes:
    """A thousand names for one and the same member."""
    data = rezipped(path)
    start = data.index(b"PK\x01\x02")
    end = data.rindex(b"PK\x05\x06")
    entries = data[start:end]
    last = entries[entries.rindex(b"PK\x01\x02") :]
    many = b"".join(last[:46] + f"m{i:04d}".encode().ljust(len(last) - 46, b"x") for i in range(1000))
    directory = entries + many
    count = data[start:].count(b"PK\x01\x02") + 1000
    return (
        data[:start]
        + directory
        + data[end : end + 8]
        + struct.pack("<HHII", count, count, len(directory), start)
        + b"\0\0"
    )


ARCHIVES = {
    "truncated": (lambda p: p.read_bytes()[:-30], "DataFormatError", None),
    "half": (lambda p: p.read_bytes()[: p.stat().st_size // 2], "DataFormatError", None),
    "newer version": (lambda p: rezipped(p, manifest=lambda m: m.update(version=2)), "VersionError", "version"),
    "wrong hash": (
        lambda p: rezipped(p, manifest=lambda m: m["members"]["base.safetensors"].update(sha256="0" * 64)),
        "DataFormatError",
        "base.safetensors",
    ),
    "count": (
        lambda p: rezipped(p, manifest=lambda m: m.update(num_gaussians=10**12)),
        "DataFormatError",
        "num_gaussians",
    ),
    "traversal": (lambda p: rezipped(p, extra=[("../../evil", b"x")]), "SecurityError", None),
    "absolute": (lambda p: rezipped(p, extra=[("/tmp/evil", b"x")]), "SecurityError", None),
    "backslash": (lambda p: rezipped(p, extra=[("a\\..\\evil", b"x")]), "SecurityError", None),
    "deflated bomb": (
        lambda p: rezipped(p, extra=[("frames/9.safetensors", bytes(1 << 26))], method=zipfile.ZIP_DEFLATED),
        "DataFormatError",
        "manifest.json",
    ),
    "claims 4 GiB": (bomb, "DataFormatError", None),
    "overlapping": (overlapping, "DataFormatError", None),
    "missing member": (lambda p: rezipped(p, drop=["frames/0001.safetensors"]), "DataFormatError", "members"),
    "a long manifest": (
        lambda p: rezipped(p, manifest=lambda m: m.update(pad="x" * (1 << 25))),
        "DataFormatError",
        "manifest.json",
    ),
    "another zip": (lambda p: rezipped(p, manifest=lambda m: m.update(format="x")), "DataFormatError", "format"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_38_scene_files(folder, verb, name):
    change, kind, field = ARCHIVES[name]
    write_s4d(folder / "a.s4d", scene())
    (folder / "a.s4d").write_bytes(change(folder / "a.s4d"))
    with peak_growth() as grown:
        code, error = verb(folder / "a.s4d")
        assert grown() < 100
    assert (code, error["code"], error["file"]) == (3, kind, str(folder / "a.s4d"))
    assert field is None or error["field"] == field


def test_38_a_long_list_of_members_is_not_read(folder):
    """zipfile would hold every entry in memory before anyone could count them."""
    name = b"x" * 20
    entry = struct.pack(
        "<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0
    )
    directory = (entry + name) * 250_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0)
    (folder / "a.s4d").write_bytes(directory + end)
    with pytest.raises(Scene4DError, match="lists too many members"):
        load_s4d(folder / "a.s4d")


def writers() -> dict:
    mesh = Mesh(vertices=torch.eye(3), faces=torch.tensor([[0, 1, 2]]), colors=torch.rand(3, 3))
    return {
        "a.ply": lambda path: write_ply(path, splats()),
        "b.ply": lambda path: write_point_cloud(path, torch.rand(5, 3)),
        "a.s4d": lambda path: write_s4d(path, scene()),
        "a.npz": lambda path: write_flow_npz(path, scene()),
        "a.obj": lambda path: write_mesh(path, mesh),
    }


@pytest.mark.parametrize(
    "place", ["with a space", "ünïcødé 场景", "new/deeper", os.fsdecode(b"not\xffutf8"), "-o", "*?[a]"]
)
def test_55_names_that_are_unusual(tmp_path, place):
    pytest.importorskip("trimesh")
    for name, write in writers().items():
        path = tmp_path / place / name
        write(path)
        assert [p.name for p in path.parent.iterdir()] == [name]
        path.unlink()
    write_ply(tmp_path / place / "a.ply", splats())
    assert read_ply(tmp_path / place / "a.ply").num_gaussians == 30
    write_s4d(tmp_path / place / "a.s4d", scene())
    assert load_s4d(tmp_path / place / "a.s4d").base.num_gaussians == 30


@contextlib.contextmanager
def without_rights():
    """As somebody who may not write everywhere: root may, whatever the mode of the folder."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_55_folders_that_cannot_be_written(tmp_path):
    pytest.importorskip("trimesh")
    with tempfile.TemporaryDirectory() as outer:
        closed = Path(outer) / "closed"
        for name, write in writers().items():
            write(closed / name)  # what is imported meanwhile is there now
        os.chmod(outer, 0o755)
        closed.chmod(0o555)
        before = tree_hash(closed)
        try:
            for name, write in writers().items():
                with without_rights(), pytest.raises(ResourceError, match="no permission") as caught:
                    write(closed / name)
                assert caught.value.file == str(closed / name) and caught.value.exit_code == 4 and caught.value.fix
            assert tree_hash(closed) == before and not [p for p in closed.iterdir() if p.name.startswith(".")]
        finally:
            closed.chmod(stat.S_IRWXU)
    (tmp_path / "file").write_text("x")
    for name, write in writers().items():
        for path, word in ((tmp_path / "file" / name, "is a file"), (tmp_path / ("x" * 300 + name), "too long")):
            with pytest.raises(ResourceError, match=word):
                write(path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_58_flow_with_python_objects(folder):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(folder / "evil"),)

    write_flow_npz(folder / "good.npz", scene())
    with np.load(folder / "good.npz") as table:
        arrays = dict(table)
    np.savez(folder / "a.npz", **{**arrays, "ids": np.array([Evil()], dtype=object)}, allow_pickle=True)
    before = tree_hash(folder)
    with pytest.raises(SecurityError) as caught:
        read_flow_npz(folder / "a.npz")
    assert (caught.value.file, caught.value.field, caught.value.exit_code) == (str(folder / "a.npz"), "ids", 3)
    assert tree_hash(folder) == before and not (folder / "evil").exists()
    assert read_flow_npz(folder / "good.npz")["flow"].shape == (2, 30, 3)


def test_58_flow_that_is_damaged_or_a_bomb(folder):
    write_flow_npz(folder / "good.npz", scene())
    good = (folder / "good.npz").read_bytes()
    with np.load(folder / "good.npz") as table:
        arrays = dict(table)
    np.savez_compressed(folder / "bomb.npz", **{**arrays, "flow": np.zeros((2, 1 << 24, 3), np.float32)})
    np.savez(folder / "odd.npz", **{**arrays, "flow": arrays["flow"][:1]})
    np.savez(folder / "less.npz", ids=arrays["ids"])
    (folder / "cut.npz").write_bytes(good[: len(good) // 2])
    (folder / "text.npz").write_text("no zip")
    with pytest.raises(Scene4DError, match="of a size"):
        read_flow_npz(folder / "bomb.npz", max_bytes=1 << 20)
    for name, word in (("odd", "does not fit"), ("less", "scene flow"), ("cut", r"no \.npz"), ("text", r"no \.npz")):
        with pytest.raises(Scene4DError, match=word) as caught:
            read_flow_npz(folder / f"{name}.npz")
        assert caught.value.code == "DataFormatError" and caught.value.file == str(folder / f"{name}.npz")


@pytest.mark.parametrize(
    ("module", "output", "flags", "extra"),
    [
        ("trimesh", "a.glb", (), "geometry"),
        ("skimage.measure", "a.obj", (), "geometry"),
        ("open3d", "a.glb", ("--tsdf", "open3d"), "open3d"),
    ],
)
def test_61_libraries_that_are_missing(folder, verb, monkeypatch, module, output, flags, extra):
    monkeypatch.setitem(sys.modules, module, None)
    big = scene(300)
    big = dataclasses.replace(big, base=big.base.replace(means=torch.randn(300, 3) * 0.2))
    write_s4d(folder / "a.s4d", big)
    code, error = verb(folder / "a.s4d", output, "--views", "3", "--size", "32", "32", *flags)
    assert (code, error["code"], error["field"]) == (3, "EnvError", module)
    assert error["fix"] == f'pip install "scene4d[{extra}]"'

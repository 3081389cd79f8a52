"""Splats of every format go into check, export, render and view as scenes do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from splat_writers import cloud, ksplat_file, sog_members, splat_file, spz_file, zipped

from scene4d.apps import cli
from scene4d.gaussians.formats.ply import read_ply
from scene4d.gaussians.formats.splat_files import open_splats

FILES = {
    "a.splat": lambda: splat_file(cloud(60)),
    "a.spz": lambda: spz_file(cloud(60, bases=3)),
    "b.spz": lambda: spz_file(cloud(60, bases=8), version=4),
    "a.ksplat": lambda: ksplat_file(cloud(60, bases=3), level=2),
    "a.sog": lambda: zipped(sog_members(cloud(64, bases=3))),
}


@pytest.fixture(params=FILES)
def source(request, tmp_path) -> Path:
    (tmp_path / request.param).write_bytes(FILES[request.param]())
    return tmp_path / request.param


def facts(capsys, *arguments: object, code: int = 0) -> dict:
    """The JSON of a verb as a user runs it."""
    assert cli.main([*map(str, arguments)]) == code
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_check(source, capsys):
    found = facts(capsys, "check", source)
    splats = open_splats(source)
    assert (found["ok"], found["findings"], found["format"]) == (True, [], splats.form)
    assert found["splats"]["num_gaussians"] == splats.gaussians.num_gaussians
    assert found["splats"]["sh_degree"] == {1: 0, 4: 1, 9: 2}[splats.gaussians.sh.shape[1]]


def test_export(source, capsys, tmp_path):
    written = facts(capsys, "export", source, "-o", tmp_path / "out.ply", "--strict")
    truth, back = open_splats(source).gaussians, read_ply(tmp_path / "out.ply", strict=True)
    assert written["num_rows"] == truth.num_gaussians and written["mended"] == {}
    assert [note["kind"] for note in written["left_out"]] == (["axes"] if source.suffix == ".spz" else [])
    torch.testing.assert_close(back.means, truth.means)
    torch.testing.assert_close(back.opacities, truth.opacities, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(back.sh[:, : truth.sh.shape[1]], truth.sh)


def test_render(source, capsys, tmp_path):
    size = ("--size", 48, 32, "--num-frames", 2)
    found = facts(capsys, "render", source, "-o", tmp_path / "film.mp4", *size)
    assert (found["num_frames"], found["mended"]) == (2, {}) and not any(note["lost"] for note in found["left_out"])


def test_check_names_what_is_wrong(capsys, tmp_path):
    (tmp_path / "a.spz").write_bytes(spz_file(cloud(30, bases=24)))
    found = facts(capsys, "check", tmp_path / "a.spz", code=3)
    assert [f["kind"] for f in found["findings"]] == ["sh_degree"] and not found["ok"]
    c = cloud(30)
    c.scales[3] = 0
    (tmp_path / "a.splat").write_bytes(splat_file(c))
    found = facts(capsys, "check", tmp_path / "a.splat", code=3)
    assert [f["kind"] for f in found["findings"]] == ["impossible_values"]
    (tmp_path / "b.spz").write_bytes(spz_file(cloud(30))[:-40])
    found = facts(capsys, "check", tmp_path / "b.spz", code=3)
    assert [f["kind"] for f in found["findings"]] == ["DataFormatError"] and found["format"] is None


def test_check_is_read_by_people(tmp_path):
    from scene4d.apps.terminal.check_report import check_report
    from scene4d.apps.verbs.check_splats import check_splats

    (tmp_path / "a.spz").write_bytes(spz_file(cloud(30, bases=24), flags=1))
    text = check_report(check_splats(tmp_path / "a.spz"))
    assert "SPZ 3, splats" in text and "30 splats, SH degree 3" in text and "WRONG sh_degree" in text
    assert "antialiased=True" in text


def test_view(source):
    pytest.importorskip("viser")
    from scene4d.apps.verbs.options.scenes import ViewOptions
    from scene4d.apps.verbs.run_view import open_view
    from scene4d.errors import DataFormatError

    with open_view(ViewOptions(source, port=0)) as opened:
        assert len(opened.panel.instants) == 1
    with (
        pytest.raises(DataFormatError, match="without a robot"),
        open_view(ViewOptions(source, port=0, task="open the door")),
    ):
        pass


@pytest.mark.parametrize("name", ["activated_values", "ascii", "2dgs_two_scales", "mip_splatting_filter3D"])
def test_field_cases(shared_data, capsys, name):
    source = shared_data / "field" / "splats" / f"{name}.ply"
    wrong = name == "activated_values"
    found = facts(capsys, "check", source, code=3 if wrong else 0)
    assert {f["kind"] for f in found["findings"]} == ({"activated_values"} if wrong else set())
    kinds = {"2dgs_two_scales": ["flat"], "mip_splatting_filter3D": ["filter_fused"], "ascii": []}
    if not wrong:
        assert [note["kind"] for note in found["splats"]["left_out"]] == kinds[name]

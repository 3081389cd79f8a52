"""Packed splats (.splat, .spz, .ksplat, SOG) decode to what was packed, within what the format can hold."""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from splat_writers import (
    Cloud,
    cloud,
    ksplat_file,
    sog_members,
    splat_file,
    spz_extension,
    spz_file,
    with_palette,
    zipped,
)

from scene4d.errors import DataFormatError, GaussianError
from scene4d.gaussians.edit import with_sh_bases
from scene4d.gaussians.formats.ply import read_ply, write_ply
from scene4d.gaussians.formats.splat_axes import SYSTEMS, in_ply_axes
from scene4d.gaussians.formats.splat_files import is_splats, open_splats
from scene4d.geometry.camera import orbit
from scene4d.geometry.rotation import matrix_from_quat
from scene4d.geometry.sh import sh_basis
from scene4d.render.render import render
from scene4d.types import Gaussians


def gaussians_of(c: Cloud) -> Gaussians:
    """The truth."""
    means, quats, scales, opacities = (
        torch.from_numpy(x.astype(np.float32)) for x in (c.means, c.quats, c.scales, c.opacities)
    )
    sh = torch.from_numpy(np.concatenate([c.dc[:, None], c.rest], 1).astype(np.float32))
    return Gaussians(means=means, quats=quats, scales=scales, opacities=opacities, sh=sh)


def nearest_rows(g: Gaussians, truth: Gaussians) -> Gaussians:
    """`g` in the order of the truth: .ksplat sorts by place."""
    return g.pick(torch.cdist(truth.means.double(), g.means.double()).argmin(1))


def assert_near(
    g: Gaussians, c: Cloud, *, means: float, scales: float, opacities: float, rest: float, dc: float, turn: float = 2.0
):
    """Largest errors: metres, of log scales, of rotations in degrees, and of the others as they are."""
    truth = gaussians_of(c)
    assert g.num_gaussians == truth.num_gaussians and g.sh.shape == truth.sh.shape
    g = nearest_rows(g, truth)
    assert float((g.means - truth.means).abs().max()) < means
    assert float((g.scales.log() - truth.scales.log()).abs().max()) < scales
    assert float((g.opacities - truth.opacities).abs().max()) < opacities
    assert float((g.sh[:, 0] - truth.sh[:, 0]).abs().max()) < dc
    assert float((g.sh[:, 1:] - truth.sh[:, 1:]).abs().max() if g.sh.shape[1] > 1 else 0) < rest
    cosine = (g.quats * truth.quats).sum(-1).abs().clamp_max(1)
    assert float(2 * cosine.acos().max()) < math.radians(turn)
    assert float(2 * cosine.acos().median()) < math.radians(2)


def test_splat(tmp_path):
    c = cloud(200)
    (tmp_path / "a.splat").write_bytes(splat_file(c))
    splats = open_splats(tmp_path / "a.splat", strict=True)
    assert (splats.form, splats.mended, splats.notes) == (".splat", {}, ())
    assert_near(splats.gaussians, c, means=1e-6, scales=1e-5, opacities=1 / 254, rest=1, dc=1 / 254 / 0.282)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize(("bases", "num"), [(0, 1), (3, 50), (8, 200), (15, 90)])
def test_spz(tmp_path, version, bases, num):
    c = cloud(num, bases=bases)
    (tmp_path / "a.spz").write_bytes(spz_file(c, version=version))
    splats = open_splats(tmp_path / "a.spz", strict=True)
    assert (splats.form, splats.mended) == (f"SPZ {version}", {})
    assert [(n.kind, n.names, n.lost) for n in splats.notes] == [("axes", ("RUB",), False)]
    means = 1e-3 if version == 1 else 0.51 / 4096
    limits = {"scales": 1 / 31, "opacities": 1 / 509, "rest": 0.51 / 128, "dc": 0.0135}
    # Three bytes leave the fourth number to the length, which is little to go by where it is small.
    assert_near(splats.gaussians, c, means=means, turn=15 if version < 3 else 2, **limits)


@pytest.mark.parametrize("version", [3, 4])
def test_spz_positions_of_any_precision(tmp_path, version):
    c = replace(cloud(40), means=cloud(40).means * 100)
    (tmp_path / "a.spz").write_bytes(spz_file(c, version=version, fraction=8))
    found = open_splats(tmp_path / "a.spz").gaussians.means
    np.testing.assert_allclose(found, c.means, atol=0.51 / 256)


@pytest.mark.parametrize("version", [3, 4])
def test_spz_of_degree_4_keeps_3_and_says_so(tmp_path, version):
    c = cloud(30, bases=24)
    (tmp_path / "a.spz").write_bytes(spz_file(c, version=version, flags=1))
    splats = open_splats(tmp_path / "a.spz")
    assert {(n.kind, n.lost) for n in splats.notes} == {("axes", False), ("sh_degree", True), ("antialiased", False)}
    np.testing.assert_allclose(splats.gaussians.sh[:, 1:], c.rest[:, :15], atol=0.51 / 128)


@pytest.mark.parametrize("version", [3, 4])
def test_spz_extensions(tmp_path, version):
    c = cloud(30, bases=3)
    plain = spz_file(c, version=version)
    (tmp_path / "plain.spz").write_bytes(plain)
    known = spz_extension(0xADBE0003, (8).to_bytes(4, "little")) + spz_extension(0xADBE0002, bytes(12))
    (tmp_path / "a.spz").write_bytes(spz_file(c, version=version, extensions=known + spz_extension(0x12340001, b"abc")))
    splats, same = open_splats(tmp_path / "a.spz"), open_splats(tmp_path / "plain.spz").gaussians
    # RUF (8) is RUB with z turned round: in .ply axes, z is the other one.
    torch.testing.assert_close(splats.gaussians.means, same.means * torch.tensor([1.0, 1, -1]))
    found = {(n.names, n.lost) for n in splats.notes}
    assert found == {(("RUF",), False), (("camera limits",), False), (("0x12340001",), True)}
    (tmp_path / "b.spz").write_bytes(spz_file(c, version=version, extensions=spz_extension(0xADBE0003, bytes(4))))
    with pytest.raises(DataFormatError, match="names no axes"):
        open_splats(tmp_path / "b.spz")


@pytest.mark.parametrize("system", SYSTEMS)
def test_axes_move_places_shapes_and_colours_alike(system):
    """Against the matrix that the letters spell."""
    units = {"R": [1, 0, 0], "L": [-1, 0, 0], "D": [0, 1, 0], "U": [0, -1, 0], "F": [0, 0, 1], "B": [0, 0, -1]}
    matrix = torch.tensor([units[letter] for letter in system], dtype=torch.float32).T
    g = gaussians_of(cloud(20, bases=15))
    turned = in_ply_axes(g, system)
    torch.testing.assert_close(turned.means, g.means @ matrix.T)

    def covariances(x: Gaussians) -> torch.Tensor:
        axes = matrix_from_quat(x.quats) * x.scales[:, None]
        return axes @ axes.transpose(1, 2)

    torch.testing.assert_close(covariances(turned), matrix @ covariances(g) @ matrix.T, rtol=1e-4, atol=1e-7)
    directions = torch.nn.functional.normalize(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    before = (sh_basis(directions, 3)[..., None] * g.sh).sum(1)
    after = (sh_basis(directions @ matrix.T, 3)[..., None] * turned.sh).sum(1)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize(("bases", "num", "sections"), [(0, 1, 1), (3, 300, 1), (8, 200, 3), (15, 60, 2)])
def test_ksplat(tmp_path, level, bases, num, sections):
    c = cloud(num, bases=bases)
    (tmp_path / "a.ksplat").write_bytes(ksplat_file(c, level=level, sections=sections))
    splats = open_splats(tmp_path / "a.ksplat", strict=True)
    assert (splats.form, splats.mended, splats.notes) == (".ksplat", {}, ())
    means, rest = (1e-6, 1e-6) if level == 0 else (0.51 / 65534, 1e-3 if level == 1 else 1.81 / 255)
    assert_near(splats.gaussians, c, means=means + 1e-6, scales=2e-2, opacities=1 / 254, rest=rest, dc=1 / 254 / 0.282)


def test_ksplat_of_sections_of_several_degrees(tmp_path):
    first, second = (ksplat_file(cloud(5, bases=b, seed=b), level=0) for b in (3, 8))
    head = bytearray(first[:4096])
    head[4:8], head[8:12], head[12:16], head[16:20] = (n.to_bytes(4, "little") for n in (2, 2, 10, 10))
    data = bytes(head) + first[4096:5120] + second[4096:5120] + first[5120:] + second[5120:]
    (tmp_path / "a.ksplat").write_bytes(data)
    g = open_splats(tmp_path / "a.ksplat").gaussians
    assert g.sh.shape == (10, 9, 3) and not bool(g.sh[:5, 4:].any()) and bool(g.sh[5:, 4:].any())


def test_ksplat_of_a_half_loaded_scene_names_its_empty_rows(tmp_path):
    data = bytearray(ksplat_file(cloud(6)))
    data[16:20] = data[4096:4100] = (4).to_bytes(4, "little")
    (tmp_path / "a.ksplat").write_bytes(data)
    splats = open_splats(tmp_path / "a.ksplat")
    assert splats.gaussians.num_gaussians == 4
    assert [(n.kind, n.names, n.lost) for n in splats.notes] == [("unfilled", ("section 0: 2",), True)]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("bases", "num"), [(0, 1), (3, 70), (8, 300), (15, 130)])
def test_sog(tmp_path, version, bases, num):
    c = with_palette(cloud(max(num, 2), bases=bases))
    members = sog_members(c, version=version)
    (tmp_path / "scene").mkdir()
    for name, data in members.items():
        (tmp_path / "scene" / name).write_bytes(data)
    (tmp_path / "a.sog").write_bytes(zipped(members))
    inside = {f"my scene/{name}": data for name, data in members.items()} | {"__MACOSX/._meta.json": b"x"}
    (tmp_path / "b.sog").write_bytes(zipped(inside, method=zipfile.ZIP_DEFLATED))
    for place in ("scene", "scene/meta.json", "a.sog", "b.sog"):
        assert is_splats(tmp_path / place)
        splats = open_splats(tmp_path / place, strict=True)
        assert (splats.form, splats.mended, splats.notes) == (f"SOG {version}", {}, ())
        opacities = 0.03 if version == 1 else 1 / 509
        assert_near(splats.gaussians, c, means=2e-4, scales=0.2, opacities=opacities, rest=0.1, dc=0.2)


def test_formats_are_known_by_content_where_it_says(tmp_path):
    c = cloud(20)
    write_ply(tmp_path / "a.splat", gaussians_of(c))
    (tmp_path / "b.ply").write_bytes(spz_file(c, version=4))
    (tmp_path / "scene.bin").write_bytes(spz_file(c, version=3))
    (tmp_path / "c").write_bytes(spz_file(c, version=4))
    forms = [open_splats(tmp_path / name).form for name in ("a.splat", "b.ply", "scene.bin", "c")]
    assert forms == ["PLY", "SPZ 4", "SPZ 3", "SPZ 4"] and is_splats(tmp_path / "c")
    (tmp_path / "d.txt").write_text("hello")
    (tmp_path / "e.splat").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert not is_splats(tmp_path / "d.txt") and not is_splats(tmp_path)
    for name, words in (("d.txt", "no file of splats"), ("e.splat", "Git LFS"), ("none.spz", "cannot be read")):
        with pytest.raises(DataFormatError, match=words):
            open_splats(tmp_path / name)


def test_impossible_values_are_mended_or_refused(tmp_path):
    c = cloud(50)
    c.means[3], c.scales[7] = np.nan, 0
    (tmp_path / "a.splat").write_bytes(splat_file(c))
    splats = open_splats(tmp_path / "a.splat")
    assert splats.mended == {"means_not_finite": 1, "scales_out_of_range": 1}
    assert splats.gaussians.num_gaussians == 49
    with pytest.raises(GaussianError) as caught:
        open_splats(tmp_path / "a.splat", strict=True)
    assert caught.value.file == str(tmp_path / "a.splat") and caught.value.frame == 3


def psnr(a: Gaussians, b: Gaussians) -> float:
    """Of pictures from four sides."""
    cameras = orbit(torch.zeros(3), radius=6.0, elevation=0.3, num_views=4, width=96, height=96)
    with torch.no_grad():
        errors = [(render(a, cameras[i]).rgb - render(b, cameras[i]).rgb).square().mean() for i in range(4)]
    return float(-10 * torch.stack(errors).mean().log10())


@pytest.mark.parametrize(
    ("name", "write", "least"),
    [
        ("a.splat", splat_file, 45), ("a.spz", spz_file, 40), ("b.spz", lambda c: spz_file(c, version=4), 40),
        ("a.ksplat", lambda c: ksplat_file(c, level=2), 45), ("a.sog", lambda c: zipped(sog_members(c)), 40),
    ],
)  # fmt: skip
def test_pictures_are_those_of_the_ply(tmp_path, name, write, least):
    c = with_palette(cloud(400, bases=0 if name == "a.splat" else 8))
    c.rest *= 0.2
    (tmp_path / name).write_bytes(write(c))
    write_ply(tmp_path / "a.ply", gaussians_of(c))
    ply = read_ply(tmp_path / "a.ply", strict=True)
    g = open_splats(tmp_path / name, strict=True).gaussians
    ply = ply.replace(sh=with_sh_bases(ply.sh, g.sh.shape[1]))
    assert psnr(g, ply) > least
    assert psnr(g.replace(means=g.means * torch.tensor([1.0, -1, -1])), ply) < 30, (
        "which pictures of other axes are not"
    )


def test_real_files(shared_data):
    folder = shared_data / "splats" / "playcanvas"
    spz, ply = open_splats(folder / "biker.spz", strict=True), open_splats(folder / "biker.compressed.ply", strict=True)
    assert (spz.form, ply.form) == ("SPZ 4", "compressed PLY")
    assert spz.gaussians.num_gaussians == ply.gaussians.num_gaussians == 152746
    torch.testing.assert_close(spz.gaussians.means.mean(0), ply.gaussians.means.mean(0), rtol=0, atol=1e-4)
    torch.testing.assert_close(spz.gaussians.sh.mean((0, 1)), ply.gaussians.sh.mean((0, 1)), rtol=0, atol=0.01)
    counts = {}
    for level in (2, 3, 5):
        place = folder / "playbot_sog" / f"{level}_0"
        splats = open_splats(place, strict=True)
        g, meta = splats.gaussians, json.loads(Path(place / "meta.json").read_text())
        counts[level] = g.num_gaussians
        assert splats.form == "SOG 2" and g.num_gaussians == meta["count"] and g.sh.shape[1] == 9
        limits = np.array([meta["means"]["mins"], meta["means"]["maxs"]])
        found = torch.stack([g.means.amin(0), g.means.amax(0)])
        np.testing.assert_allclose(found, np.sign(limits) * np.expm1(np.abs(limits)), atol=1e-6)
    assert counts == {2: 125000, 3: 31000, 5: 3000}

"""The meeting point with nerfstudio: its world and ours, its splats and ours, its dataparser on our recordings."""

import importlib
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_folder import episode, fingerprint, walk, write_set

from scene4d.apps.compose.nerfstudio_scene import pictures_of_recording, read_nerf_scene
from scene4d.apps.verbs.run_export import ExportOptions, run_export
from scene4d.data.detect import open_recordings
from scene4d.errors import ConfigError, DataFormatError
from scene4d.gaussians.formats.nerfstudio import (
    Placement,
    cameras_from_nerfstudio,
    cameras_to_nerfstudio,
    from_nerfstudio,
    placement_of,
    read_nerfstudio_splats,
    read_placement,
    to_nerfstudio,
)
from scene4d.gaussians.formats.ply import read_ply, write_ply
from scene4d.geometry.camera import CV_FROM_GL, invert_rigid, unproject
from scene4d.geometry.rotation import matrix_from_quat, normalize_quat, pose_from_matrix, quat_from_rotvec
from scene4d.geometry.sh import sh_basis
from scene4d.render.render import render
from scene4d.types import Cameras, Gaussians

ROOT = Path(__file__).parents[2]
PERMUTED = [[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]  # what nerfstudio applies to COLMAP's world


def splats(count=60, *, bases=9):
    generator = torch.Generator().manual_seed(3)
    uniform = lambda *shape: torch.rand(*shape, generator=generator)
    return Gaussians(
        means=uniform(count, 3) - 0.5,
        quats=normalize_quat(uniform(count, 4) - 0.5),
        scales=0.01 + 0.1 * uniform(count, 3),
        opacities=0.2 + 0.7 * uniform(count),
        sh=0.6 * (uniform(count, bases, 3) - 0.5),
    )


def placement(*, scale=0.37):
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = matrix_from_quat(quat_from_rotvec(torch.tensor([0.4, -1.1, 0.7], dtype=torch.float64)))
    matrix[:3, 3] = torch.tensor([0.3, -0.2, 0.5])
    return Placement(matrix, scale)


def covariances(g):
    axes = matrix_from_quat(g.quats.double()) * g.scales.double()[:, None]
    return axes @ axes.mT


def test_there_and_back_is_identity():
    ours, place = splats(), placement()
    back = from_nerfstudio(to_nerfstudio(ours, place), place)
    torch.testing.assert_close(back.means, ours.means, rtol=0, atol=1e-6)
    torch.testing.assert_close(covariances(back), covariances(ours), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(back.sh, ours.sh, rtol=0, atol=2e-6)
    viewmats = walk(6, start=0.2).cameras.viewmats
    again = cameras_from_nerfstudio(cameras_to_nerfstudio(viewmats, place), place)
    torch.testing.assert_close(again, viewmats, rtol=0, atol=2e-6)


def test_the_formula_in_double_precision():
    """x = scale (R x + t), covariance = scale^2 R S R^T, colour seen along R d is that along d."""
    ours, place = splats(), placement()
    theirs, R, t = to_nerfstudio(ours, place), place.nerfstudio_from_world[:3, :3], place.nerfstudio_from_world[:3, 3]
    expected = place.scale * (ours.means.double() @ R.T + t)
    torch.testing.assert_close(theirs.means.double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(covariances(theirs), place.scale**2 * R @ covariances(ours) @ R.T, rtol=1e-4, atol=1e-8)
    directions = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=-1)
    seen = torch.einsum("dk,nkc->ndc", sh_basis(directions, 2), ours.sh.double())
    seen_there = torch.einsum("dk,nkc->ndc", sh_basis(directions @ R.T, 2), theirs.sh.double())
    torch.testing.assert_close(seen_there, seen, rtol=0, atol=1e-5)


def test_the_picture_is_the_same_in_either_world():
    ours, place = splats(), placement()
    cameras = walk(3, start=0.1).cameras
    c2w = cameras_to_nerfstudio(cameras.viewmats, place).double()
    opencv = torch.cat([c2w * c2w.new_tensor([*CV_FROM_GL, 1]), c2w.new_tensor([0, 0, 0, 1.0]).expand(3, 1, 4)], 1)
    there = Cameras(viewmats=invert_rigid(opencv).float(), Ks=cameras.Ks, width=cameras.width, height=cameras.height)
    theirs = to_nerfstudio(ours, place)
    for k in range(3):
        a, b = render(ours, cameras[k]), render(theirs, there[k])
        assert float(a.alpha.max()) > 0.5
        torch.testing.assert_close(b.rgb, a.rgb, rtol=0, atol=1e-4)
        torch.testing.assert_close(b.depth, place.scale * a.depth, rtol=0, atol=1e-4)


@pytest.mark.parametrize("applied", [None, (PERMUTED, 1.0), (PERMUTED, 0.25)])
def test_exported_splats_come_back_to_the_world_of_the_recording(tmp_path, applied):
    """The run's file counts from before what its data set had applied, as nerfstudio's own dataparser writes it."""
    ours, own = splats(), placement()
    matrix, scale = own.nerfstudio_from_world, own.scale
    given = {"frames": []}
    if applied is not None:
        given |= {"applied_transform": applied[0], "applied_scale": applied[1]}
        whole = torch.cat([torch.tensor(applied[0], dtype=torch.float64), torch.tensor([[0, 0, 0, 1.0]])])
        matrix, scale = matrix @ whole, scale * applied[1]
    (tmp_path / "transforms.json").write_text(json.dumps(given))
    run = tmp_path / "dataparser_transforms.json"
    run.write_text(json.dumps({"transform": matrix[:3].tolist(), "scale": scale}))
    write_ply(tmp_path / "splat.ply", to_nerfstudio(ours, own))
    back = read_nerfstudio_splats(tmp_path / "splat.ply", transforms=run, recording=tmp_path)
    torch.testing.assert_close(back.means, ours.means, rtol=0, atol=2e-6)
    torch.testing.assert_close(covariances(back), covariances(ours), rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(back.sh[:, :9], ours.sh, rtol=0, atol=1e-5)
    if applied is None:
        same = read_nerfstudio_splats(tmp_path / "splat.ply", transforms=run)
        assert torch.equal(same.means, back.means)


def test_export_brings_splats_home(tmp_path):
    """`scene4d export splat.ply -o home.ply --nerfstudio dataparser_transforms.json`."""
    ours, place, run = splats(), placement(), tmp_path / "dataparser_transforms.json"
    run.write_text(json.dumps(place.as_dict()))
    write_ply(tmp_path / "splat.ply", to_nerfstudio(ours, place))
    run_export(ExportOptions(tmp_path / "splat.ply", tmp_path / "home.ply", nerfstudio=run))
    torch.testing.assert_close(read_ply(tmp_path / "home.ply").means, ours.means, rtol=0, atol=2e-6)
    with pytest.raises(ConfigError, match="is for splats"):
        ExportOptions(tmp_path / "scene.s4d", nerfstudio=run)


IMPOSSIBLE = {
    "not there": (None, "JSON"),
    "not JSON": ("{", "JSON"),
    "a list": ("[]", "object"),
    "no transform": ("{}", "no matrix"),
    "words": ('{"transform": "x"}', "no matrix"),
    "too few rows": ('{"transform": [[1, 0, 0, 0]]}', "no matrix"),
    "NaN": ('{"transform": [[NaN, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}', "no matrix"),
    "a mirror": ('{"transform": [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}', "rigid"),
    "a stretch": ('{"transform": [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]}', "rigid"),
    "scale 0": ('{"transform": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "scale": 0}', "no scale"),
    "scale true": ('{"transform": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "scale": true}', "no scale"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_placements_are_refused(tmp_path, name):
    text, words = IMPOSSIBLE[name]
    if text is not None:
        (tmp_path / "dataparser_transforms.json").write_text(text)
    with pytest.raises(DataFormatError, match=words) as caught:
        read_placement(tmp_path / "dataparser_transforms.json")
    assert caught.value.exit_code == 3 and "dataparser_transforms.json" in caught.value.fix


def test_splats_with_plain_colours_are_read(tmp_path):
    """`ns-export gaussian-splat --ply-color-mode rgb`: red green blue bytes, no f_dc."""
    names = ["x", "y", "z", "nx", "ny", "nz", "red", "green", "blue", "opacity"]
    names += [*(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    rows = np.zeros(2, [(n, "u1" if n in ("red", "green", "blue") else "<f4") for n in names])
    rows["x"], rows["rot_0"], rows["red"], rows["blue"] = [1, 2], 1, [255, 0], [51, 102]
    kinds = {"u1": "uchar", "<f4": "float"}
    header = ["ply", "format binary_little_endian 1.0", "comment Generated by Nerfstudio", "element vertex 2"]
    header += [f"property {kinds[rows.dtype[n].str.lstrip('|')]} {n}" for n in names] + ["end_header", ""]
    (tmp_path / "a.ply").write_bytes("\n".join(header).encode() + rows.tobytes())
    read = read_ply(tmp_path / "a.ply", strict=True)
    rgb = read.sh[:, 0] * 0.28209479 + 0.5
    torch.testing.assert_close(rgb, torch.tensor([[1, 0, 0.2], [0, 0, 0.4]]), rtol=0, atol=1e-6)
    assert read.opacities.tolist() == [0.5, 0.5] and read.means[:, 0].tolist() == [1, 2]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A LeRobot set of three walks, and the folder of the first one's pictures."""
    root = tmp_path_factory.mktemp("nerf")
    write_set(root / "set")
    before = fingerprint(root / "set")
    folder = pictures_of_recording(root / "set", store=root / "store")
    assert fingerprint(root / "set") == before
    return root, folder


def test_the_pictures_read_back_as_the_recording(recorded):
    root, folder = recorded
    truth, (recording,) = open_recordings(root / "set")[0].read(), open_recordings(folder)
    read = recording.read()
    assert torch.equal(read.times, truth.times)
    (got,), (frames,) = read.views.values(), truth.views.values()
    assert float((got.rgb - frames.rgb).abs().max()) < 1e-6, "PNG keeps what the video held"
    assert float((got.depth - frames.depth).abs().max()) <= 0.5001e-3
    torch.testing.assert_close(got.cameras.viewmats, frames.cameras.viewmats, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.cameras.Ks, frames.cameras.Ks)


def test_pictures_are_made_once_and_anew_when_the_recording_changes(recorded, tmp_path):
    write_set(tmp_path / "set", episodes=1)
    first = pictures_of_recording(tmp_path / "set", store=tmp_path / "store")
    stamp = (first / "transforms.json").stat().st_mtime_ns
    assert pictures_of_recording(tmp_path / "set", store=tmp_path / "store") == first
    assert (first / "transforms.json").stat().st_mtime_ns == stamp
    (tmp_path / "set" / "note.txt").write_text("moved")
    other = pictures_of_recording(tmp_path / "set", store=tmp_path / "store")
    few = pictures_of_recording(tmp_path / "set", store=tmp_path / "store", every=3)
    assert len({first, other, few}) == 3
    assert len(json.loads((few / "transforms.json").read_text())["frames"]) == 3
    with pytest.raises(ConfigError, match="no such recording"):
        pictures_of_recording(tmp_path / "set", store=tmp_path / "store", recording=5)


def test_a_scene_for_nerfstudio(recorded):
    root, folder = recorded
    truth = open_recordings(root / "set")[0].read().views["hand"]
    train, held = (read_nerf_scene(folder, split=s, eval_interval=4) for s in ("train", "val"))
    assert len(train.images) == 6 and len(held.images) == 2 and not set(train.images) & set(held.images)
    assert all(p.is_file() for p in (*train.images, *train.depths))
    reach = torch.cat([train.camera_to_worlds, held.camera_to_worlds])[:, :, 3].abs()
    assert float(reach.max()) == pytest.approx(1, abs=1e-5) and float(train.times.min()) == 0
    back = cameras_from_nerfstudio(held.camera_to_worlds, held.placement)
    torch.testing.assert_close(back, truth.cameras.viewmats[[2, 6]], rtol=0, atol=1e-5)
    torch.testing.assert_close(held.Ks, truth.cameras.Ks[[2, 6]])
    surface = unproject(truth.depth, truth.cameras.viewmats, Ks=truth.cameras.Ks)[truth.depth > 0]
    place = train.placement
    points = train.points[::97].double() / place.scale - place.nerfstudio_from_world[:3, 3]
    assert len(points) > 100 and float(torch.cdist(points.float(), surface).amin(1).max()) < 2e-3
    metres = read_nerf_scene(folder, scaled=False, eval_interval=0, num_points=0)
    assert metres.placement.scale == 1 and len(metres.images) == 8 and len(metres.points) == 0
    torch.testing.assert_close(placement_of(truth.cameras.viewmats).scale, place.scale)
    with pytest.raises(ConfigError, match="no such split"):
        read_nerf_scene(folder, split="all")


def test_settings_that_would_harm_are_refused(recorded):
    """One in one held out leaves nothing to train on; pictures inside a recording would change it."""
    root, folder = recorded
    for interval in (1, -2):
        with pytest.raises(ConfigError, match="eval_interval"):
            read_nerf_scene(folder, eval_interval=interval)
    before = fingerprint(root / "set")
    for store in (root / "set", root / "set" / "deep" / "store"):
        with pytest.raises(ConfigError, match="store"):
            pictures_of_recording(root / "set", store=store)
    assert fingerprint(root / "set") == before


def parser():
    """The module that nerfstudio loads; skips where nerfstudio is not installed."""
    try:
        importlib.import_module("nerfstudio.data.dataparsers.base_dataparser")
    except Exception as error:  # half an installation fails in many ways
        pytest.skip(f"nerfstudio is not installed: {str(error)[:80]}")
    return importlib.import_module("scene4d.apps.plugins.nerfstudio_dataparser")


def test_nerfstudio_finds_the_dataparser():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (entry,) = table["entry-points"]["nerfstudio.dataparser_configs"].values()
    module, name = entry.split(":")
    assert (ROOT / (module.replace(".", "/") + ".py")).is_file() and "nerfstudio" in table["optional-dependencies"]
    registry = importlib.import_module("nerfstudio.plugins.registry_dataparser") if parser() else None
    assert isinstance(getattr(importlib.import_module(module), name), registry.DataParserSpecification)


def test_nerfstudio_sees_what_was_recorded(recorded, tmp_path):
    """Its own cameras, rays, pictures and depth of our dataparser's outputs, against the recording."""
    module, (root, _) = parser(), recorded
    datasets = importlib.import_module("nerfstudio.data.datasets.base_dataset")
    images = importlib.import_module("nerfstudio.data.utils.data_utils")
    config = module.Scene4DDataParserConfig(data=root / "set", store=root / "store", eval_interval=4)
    outputs = config.setup().get_dataparser_outputs(split="train")
    truth = open_recordings(root / "set")[0].read().views["hand"][[0, 1, 3, 4, 5, 7]]
    outputs.save_dataparser_transform(tmp_path / "dataparser_transforms.json")
    place = read_placement(tmp_path / "dataparser_transforms.json")
    original = outputs.transform_poses_to_original_space(outputs.cameras.camera_to_worlds)
    torch.testing.assert_close(original, invert_rigid(truth.cameras.viewmats)[:, :3], rtol=0, atol=1e-5)
    dataset = datasets.InputDataset(outputs)
    for k in (0, 3, 5):
        torch.testing.assert_close(dataset.get_image_float32(k), truth.rgb[k], rtol=0, atol=1e-6)
        rays = outputs.cameras.generate_rays(camera_indices=k)
        ends = unproject(torch.ones_like(truth.depth[k]), truth.cameras.viewmats[k], Ks=truth.cameras.Ks[k]).double()
        placed = place.scale * (ends + place.nerfstudio_from_world[:3, 3])
        along = torch.nn.functional.normalize(placed - rays.origins.double(), dim=-1)
        torch.testing.assert_close(rays.directions.double(), along, rtol=0, atol=1e-4)
        scale = outputs.metadata["depth_unit_scale_factor"] * outputs.dataparser_scale
        size = {"height": truth.cameras.height, "width": truth.cameras.width, "scale_factor": scale}
        depth = images.get_depth_image_from_path(outputs.metadata["depth_filenames"][k], **size)
        assert float((depth[..., 0] - place.scale * truth.depth[k]).abs().max()) <= 0.51e-3 * place.scale
    assert len(outputs.metadata["points3D_xyz"]) and outputs.metadata["points3D_rgb"].dtype == torch.uint8


def test_an_episode_is_needed_for_none_of_this():
    """A camera that stands still keeps its scale, centred."""
    viewmats = episode(3).views["hand"].cameras.viewmats[:1].expand(4, 4, 4)
    place = placement_of(viewmats)
    assert place.scale == 1 and torch.allclose(cameras_to_nerfstudio(viewmats, place)[:, :, 3], torch.zeros(4, 3))
    assert pose_from_matrix(place.nerfstudio_from_world)[:4].tolist() == [1, 0, 0, 0]

"""`scene4d export`: what each file holds is the scene at that time, as its own format's readers see it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from scene4d.apps.verbs.run_export import ExportOptions, run_export
from scene4d.errors import ConfigError, DataFormatError, ResourceError
from scene4d.gaussians.edit import concatenate
from scene4d.gaussians.formats.ply import read_ply, write_ply
from scene4d.gaussians.formats.points import read_flow_npz, read_point_cloud
from scene4d.gaussians.s4d.s4d import S4DFile, write_s4d
from scene4d.geometry.camera import look_at, orbit, project
from scene4d.geometry.rotation import identity_pose
from scene4d.geometry.sh import sh_from_rgb
from scene4d.scene import Motion, Scene4D
from scene4d.types import Cameras, Gaussians

RADIUS, STEP = 0.3, 0.05
TIMES = [0.0, 0.5, 1.0, 1.5, 2.0]


def ball_scene(num: int = 3000) -> Scene4D:
    """A ball of flat splats that moves STEP m an instant along x; its last ten splats live for the first second."""
    index = torch.arange(num) + 0.5
    polar, turn = torch.acos(1 - 2 * index / num), math.pi * (1 + 5**0.5) * index
    normals = torch.stack([turn.cos() * polar.sin(), turn.sin() * polar.sin(), polar.cos()], -1)
    half = torch.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], torch.zeros(num)], -1)  # z to the normal
    base = Gaussians(
        means=normals * RADIUS,
        quats=torch.nn.functional.normalize(half, dim=-1),
        scales=torch.tensor([0.012, 0.012, 0.001]).repeat(num, 1),
        opacities=torch.full((num,), 0.95),
        sh=sh_from_rgb(normals * 0.5 + 0.5),
    )
    poses = identity_pose(len(TIMES), 1, like=base.means).clone()
    poses[:, 0, 4] = torch.arange(len(TIMES)) * STEP
    motion = Motion(
        anchors=torch.zeros(1, 3),
        world_from_rest=poses,
        skin_index=torch.zeros(num, 1, dtype=torch.int64),
        skin_weights=torch.ones(num, 1),
    )
    alive = torch.tensor([[0.0, 2.0]]).repeat(num, 1)
    alive[-10:, 1] = 1.0
    times = torch.tensor(TIMES, dtype=torch.float64)
    return Scene4D(base=base, motion=motion, alive=alive, times=times, observed=torch.ones(5, dtype=torch.bool))


def cameras() -> dict[str, Cameras]:
    ring = orbit(torch.zeros(3), radius=1.2, elevation=0.4, num_views=5, width=64, height=48)
    still = look_at(torch.tensor([0.0, -1.0, 0.0]), torch.zeros(3))
    return {"moving": ring, "still": Cameras(viewmats=still, Ks=ring.Ks[0], width=64, height=48)}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "ball.s4d"
    write_s4d(path, ball_scene(), cameras=cameras())
    return path


def export(file, output, **options) -> dict:
    return run_export(ExportOptions(scene=file, output=output, **options))


def test_splats_at_a_time_between_instants(file, tmp_path, monkeypatch):
    asked, whole = [], S4DFile.scene
    monkeypatch.setattr(S4DFile, "scene", lambda self, frames: asked.extend(frames) or whole(self, frames=frames))
    facts = export(file, tmp_path / "a.ply", time=1.25)
    splats, truth = read_ply(tmp_path / "a.ply", strict=True), ball_scene().at(1.25)
    assert asked == [2, 3], "no other instant is read"
    assert facts["num_rows"] == splats.num_gaussians == 2990 and facts["times"] == [1.25] and facts["mended"] == {}
    torch.testing.assert_close(splats.means, truth.means[:2990])
    torch.testing.assert_close(splats.means[:, 0].mean(), torch.tensor(2.5 * STEP), atol=0.002, rtol=0)
    torch.testing.assert_close(splats.scales, truth.scales[:2990])


def test_points_with_colours_and_flow(file, tmp_path):
    export(file, tmp_path / "a.ply", points=True)
    points, colors = read_point_cloud(tmp_path / "a.ply")
    torch.testing.assert_close(points, ball_scene().base.means)
    torch.testing.assert_close(colors, points / RADIUS * 0.5 + 0.5, atol=0.003, rtol=0)
    rows = np.frombuffer(
        (tmp_path / "a.ply").read_bytes().split(b"end_header\n")[1], np.dtype("<f4,<f4,<f4,u1,u1,u1,<f4,<f4,<f4")
    )
    np.testing.assert_allclose(rows["f6"], STEP, atol=1e-6)
    np.testing.assert_allclose(rows["f7"], 0, atol=1e-6)


def test_a_sequence_is_a_folder_and_appears_whole(file, tmp_path):
    facts = export(file, tmp_path / "a.ply", every=2)
    assert [p.name for p in sorted((tmp_path / "a").iterdir())] == ["0000.ply", "0002.ply", "0004.ply"]
    assert facts["output"] == str(tmp_path / "a") and facts["times"] == [0.0, 1.0, 2.0]
    assert facts["num_rows"] == 3000 + 3000 + 2990
    moved = read_ply(tmp_path / "a" / "0004.ply").means - read_ply(tmp_path / "a" / "0000.ply").means[:2990]
    torch.testing.assert_close(moved, torch.tensor([4 * STEP, 0, 0]).expand(2990, 3), atol=1e-6, rtol=0)
    with pytest.raises(ResourceError, match="exists already"):
        export(file, tmp_path / "a.ply", every=2)


def test_flow(file, tmp_path):
    export(file, tmp_path / "flow.npz", every=2)
    flow = read_flow_npz(tmp_path / "flow.npz")
    assert flow["times"].tolist() == [0.0, 1.0, 2.0] and flow["valid"].sum(1).tolist() == [3000, 2990]
    np.testing.assert_allclose(flow["flow"][flow["valid"]], [[2 * STEP, 0, 0]] * 5990, atol=1e-6)


def test_depth_in_millimetres_lies_on_the_ball(file, tmp_path):
    export(file, tmp_path / "d.png", camera="moving", every=2)
    stored = json.loads((tmp_path / "d" / "camera.json").read_text())
    assert (stored["width"], stored["height"], len(stored["Ks"])) == (64, 48, 3)
    for slot, index in enumerate((0, 2, 4)):
        picture = Image.open(tmp_path / "d" / f"{index:04d}.png")
        mm = np.asarray(picture)
        assert mm.dtype == np.uint16 and mm.shape == (48, 64)
        viewmat = torch.tensor(stored["viewmats"][slot])
        torch.testing.assert_close(viewmat, cameras()["moving"].viewmats[index])
        middle = torch.tensor([[index * STEP, 0.0, 0.0]])
        pixel, z = project(middle, viewmat, Ks=torch.tensor(stored["Ks"][slot]))
        column, row = pixel[0].int().tolist()
        assert mm[row, column] == pytest.approx(1000 * (float(z[0]) - RADIUS), abs=12)
        assert mm[0, 0] == 0
    export(file, tmp_path / "one.png", camera="moving", time=1.0)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "one.png")), np.asarray(Image.open(tmp_path / "d/0002.png")))


def test_film(file, tmp_path):
    av = pytest.importorskip("av")
    facts = export(file, tmp_path / "film.mp4", camera="still")
    with av.open(str(tmp_path / "film.mp4")) as film:
        pictures = [f.to_ndarray(format="rgb24") for f in film.decode(video=0)]
    assert len(pictures) == len(facts["times"]) == 5
    centres = [np.nonzero(p.max(-1) > 60)[1].mean() for p in pictures]
    pixels = STEP * float(cameras()["still"].Ks[0, 0])  # at 1 m
    np.testing.assert_allclose(np.diff(centres), pixels, atol=0.35 * pixels)


@pytest.mark.parametrize("camera", ["", "orbit"])
def test_mesh_is_the_ball_where_it_is_then(file, tmp_path, camera):
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("skimage")
    facts = export(file, tmp_path / "m.obj", time=2.0, voxel=0.02, camera=camera, views=9, size=(96, 96), scale=2)
    mesh = trimesh.load(tmp_path / "m.obj", process=False)
    assert facts["num_faces"] == len(mesh.faces) > 500
    off = np.linalg.norm(mesh.vertices - [4 * STEP, 0, 0], axis=1) - RADIUS
    assert np.abs(off).mean() < 0.012 and np.quantile(np.abs(off), 0.95) < 0.03


def test_splats_that_come_in_as_ply(tmp_path):
    ball = ball_scene().base.replace(opacities=torch.full((3000,), 0.9))
    write_ply(tmp_path / "in.ply", ball)
    export(tmp_path / "in.ply", tmp_path / "out.ply")
    assert (tmp_path / "out.ply").read_bytes()[:60] == (tmp_path / "in.ply").read_bytes()[:60]
    torch.testing.assert_close(read_ply(tmp_path / "out.ply").means, ball.means)
    export(tmp_path / "in.ply", tmp_path / "points.ply", points=True)
    with pytest.raises(DataFormatError, match="--as-points"):
        export(tmp_path / "points.ply", tmp_path / "again.ply")
    export(tmp_path / "points.ply", tmp_path / "again.ply", as_points=True)
    again = read_ply(tmp_path / "again.ply", strict=True)
    torch.testing.assert_close(again.means, ball.means)
    spacing = math.sqrt(4 * math.pi / 3000) * RADIUS
    assert 0.7 * spacing < float(again.scales.median()) < 1.3 * spacing


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"output": "a.xyz"}, ConfigError, ".glb"),
        ({"output": "a"}, ConfigError, "no suffix"),
        ({"time": 9.0}, ConfigError, "0..2 s"),
        ({"time": math.nan}, ConfigError, "0..2 s"),
        ({"time": 1.0, "every": 2}, ConfigError, "one instant"),
        ({"output": "a.npz", "time": 1.0}, ConfigError, "one instant"),
        ({"every": -1}, ConfigError, "out of range"),
        ({"points": True, "mesh": True}, ConfigError, "one or the other"),
        ({"scene": "a.xyz"}, DataFormatError, "a folder with SOG"),
        ({"output": "d.png", "camera": "nowhere"}, DataFormatError, "no such camera"),
    ],
)
def test_what_cannot_be_is_named_and_nothing_is_written(file, tmp_path, options, error, word):
    options = {"scene": file, "output": "a.ply", **options}
    options["output"] = tmp_path / options["output"]
    with pytest.raises(Exception, match=word) as caught:
        run_export(ExportOptions(**{**options, "scene": type(file)(options["scene"])}))
    assert isinstance(caught.value, error) or type(caught.value).__name__ == "CalibrationError"
    assert not list(tmp_path.iterdir())


def test_samples_and_empty_scenes_are_named(tmp_path):
    write_s4d(tmp_path / "two.s4d", Scene4D.stack([ball_scene(20)] * 2))
    with pytest.raises(DataFormatError, match="no single scene"):
        export(tmp_path / "two.s4d", tmp_path / "a.ply")


def two_balls() -> Scene4D:
    """A red ball that moves STEP m an instant along x, and a blue one that stands."""
    ball = ball_scene(800)
    paint = lambda colour: sh_from_rgb(torch.tensor(colour).expand(800, 3))
    red = ball.base.replace(sh=paint((0.8, 0.1, 0.1)), means=ball.base.means * 0.3)
    blue = red.replace(sh=paint((0.1, 0.1, 0.9)), means=red.means + torch.tensor([0.0, 0.5, 0.0]))
    base = concatenate([red, blue], renumber=True)
    weights = torch.cat([torch.ones(800, 1), torch.zeros(800, 1)])
    motion = ball.motion.replace(skin_index=torch.zeros(1600, 1, dtype=torch.int64), skin_weights=weights)
    alive = torch.tensor([[0.0, 2.0]]).repeat(1600, 1)
    return ball.replace(base=base, motion=motion, alive=alive)


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    path = tmp_path_factory.mktemp("balls") / "balls.s4d"
    write_s4d(path, two_balls(), cameras=cameras())
    return path


def test_objects_are_a_folder_with_one_file_each_and_what_is_known_of_them(balls, tmp_path):
    facts = export(balls, tmp_path / "o.ply", what="objects")
    assert facts["output"] == str(tmp_path / "o") and facts["num_objects"] == 2 and facts["times"] == [2.0]
    listed = json.loads((tmp_path / "o" / "objects.json").read_text())
    assert facts["num_rows"] == 1600 and listed["time"] == 2.0 and listed["times"] == TIMES
    by_moved = {one["moved"]: one for one in listed["objects"]}
    assert set(by_moved) == {True, False} and not any(one["robot"] for one in listed["objects"])
    for moved, centre, colour in ((True, [4 * STEP, 0, 0], [0.8, 0.1, 0.1]), (False, [0, 0.5, 0], [0.1, 0.1, 0.9])):
        one = by_moved[moved]
        assert one["centre_m"] == pytest.approx(centre, abs=0.01) and one["colour"] == pytest.approx(colour, abs=0.01)
        assert one["extent_m"] == pytest.approx([0.6 * RADIUS] * 3, abs=0.02) and one["num_rows"] == 800
        splats = read_ply(tmp_path / "o" / one["file"], strict=True)
        torch.testing.assert_close(splats.means.mean(0), torch.tensor(centre).float(), atol=0.003, rtol=0)
    went = np.array(by_moved[True]["motion"])[:, 4:]
    np.testing.assert_allclose(went, [[STEP * t, 0, 0] for t in range(5)], atol=1e-4)
    with pytest.raises(ResourceError, match="exists already"):
        export(balls, tmp_path / "o.ply", what="objects")


def test_objects_as_points_at_a_time_and_splats_by_place_and_colour(balls, tmp_path):
    export(balls, tmp_path / "o.ply", what="objects", points=True, time=0.5)
    listed = json.loads((tmp_path / "o" / "objects.json").read_text())
    (moved,) = (one for one in listed["objects"] if one["moved"])
    points, colors = read_point_cloud(tmp_path / "o" / moved["file"])
    torch.testing.assert_close(points.mean(0), torch.tensor([STEP, 0, 0]), atol=0.003, rtol=0)
    torch.testing.assert_close(colors.mean(0), torch.tensor([0.8, 0.1, 0.1]), atol=0.01, rtol=0)
    write_ply(tmp_path / "in.ply", two_balls().base.replace(opacities=torch.full((1600,), 0.9)))
    facts = export(tmp_path / "in.ply", tmp_path / "still.ply", what="objects")
    assert facts["num_objects"] == 2 and facts["num_rows"] == 1600


def test_a_film_in_the_colours_of_objects(balls, tmp_path):
    av = pytest.importorskip("av")
    export(balls, tmp_path / "film.mp4", camera="still", what="objects")
    export(balls, tmp_path / "plain.mp4", camera="still")
    last = {}
    for name in ("film", "plain"):
        with av.open(str(tmp_path / f"{name}.mp4")) as film:
            last[name] = [f.to_ndarray(format="rgb24") for f in film.decode(video=0)][-1].astype(int)
    bright = lambda picture: picture.max(-1) > 60
    assert (bright(last["film"]) == bright(last["plain"])).mean() > 0.9
    assert np.abs(last["film"] - last["plain"])[bright(last["plain"])].max() > 60


def test_the_robot_is_known_where_the_scene_holds_the_hand(tmp_path):
    scene = two_balls()
    states = [[STEP * t, 0.0, 0.0, 0.04] for t in range(5)]
    names = [*({"name": f"hand_{axis}", "unit": "m"} for axis in "xyz"), {"name": "gripper_opening", "unit": "m"}]
    scene = scene.replace(info={"proprio": states, "proprio_spec": names})
    write_s4d(tmp_path / "robot.s4d", scene)
    export(tmp_path / "robot.s4d", tmp_path / "o.ply", what="objects")
    listed = json.loads((tmp_path / "o" / "objects.json").read_text())["objects"]
    assert [one["robot"] for one in listed] == [one["moved"] for one in listed]


@pytest.mark.parametrize(
    ("options", "word"),
    [({"output": "a.glb"}, "name a .ply"), ({"output": "d.png"}, "name a .ply"), ({"mesh": True}, "name a .ply"),
     ({"every": 2}, "one instant"), ({"output": "f.npz"}, "name a .ply")],
)  # fmt: skip
def test_objects_go_into_no_other_file(tmp_path, options, word):
    output = tmp_path / options.pop("output", "a.ply")
    with pytest.raises(ConfigError, match=word):
        ExportOptions(scene=tmp_path / "s.s4d", output=output, what="objects", **options)

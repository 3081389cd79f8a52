"""Pictures mean what they show: depth order, flow direction, labelled panels, one self-contained page."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scene4d.apps.page.page import Page, write_page
from scene4d.apps.terminal.picture_strips import colour_picture, depth_picture, flow_picture, panels
from scene4d.apps.terminal.scene_pictures import choose_cameras, pictures_of, read_cameras, render_over_time
from scene4d.apps.verbs.run_render import RenderOptions, run_render
from scene4d.errors import CalibrationError, ConfigError
from scene4d.gaussians.s4d.s4d import write_s4d
from scene4d.geometry.rotation import identity_pose
from scene4d.scene import Motion, Scene4D
from scene4d.types import Gaussians


@pytest.fixture
def sliding():
    """Two Gaussians; the first slides 0.1 m along x from second 0 to second 1."""
    base = Gaussians(
        means=torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0]]),
        quats=torch.tensor([[1.0, 0, 0, 0]] * 2),
        scales=torch.full((2, 3), 0.05),
        opacities=torch.ones(2),
        sh=torch.zeros(2, 1, 3),
    )
    poses = identity_pose(2, 1, like=base.means).clone()
    poses[1, 0, 4] = 0.1
    motion = Motion(
        anchors=torch.zeros(1, 3),
        world_from_rest=poses,
        skin_index=torch.zeros(2, 1, dtype=torch.int64),
        skin_weights=torch.tensor([[1.0], [0.0]]),
    )
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    alive = torch.tensor([[0.0, 1.0]] * 2, dtype=torch.float64)
    return Scene4D(base=base, motion=motion, alive=alive, times=times, observed=torch.tensor([True, False]))


def test_colour_is_rounded_and_clamped():
    picture = colour_picture(torch.tensor([[[-1.0, 0.5, 2.0]]]))
    assert picture.tolist() == [[[0, 128, 255]]]


def test_depth_is_ordered_and_holes_are_black():
    picture = depth_picture(torch.tensor([[0.0, 1.0, 1.5, 2.0]]), near=1.0, far=2.0)[0].astype(int)
    assert picture[0].tolist() == [0, 0, 0]
    assert picture[1].sum() < picture[2].sum() < picture[3].sum()


def test_flow_hue_follows_the_image_direction():
    flow = torch.tensor([[[1.0, 0, 0], [-1.0, 0, 0], [0, 0, 0]]])
    right, left, still = flow_picture(flow, torch.eye(4), longest=1.0)[0].astype(int)
    assert right.argmax() == 0 and right.min() == 0  # hue 0 is red
    assert left.argmin() == 0  # the opposite hue is cyan
    assert np.ptp(still) == 0


def test_panels_have_even_sizes_and_hold_every_picture():
    image = panels({"a": np.full((10, 13, 3), 255, np.uint8), "b": np.zeros((20, 21, 3), np.uint8)}, height=40)
    assert image.shape[0] % 2 == 0 and image.shape[1] % 2 == 0
    assert (image[30:60, :40] == 255).all()


def test_rendered_flow_is_the_motion(sliding):
    cameras = choose_cameras(sliding, {}, camera="orbit", times=sliding.times, size=(64, 48))
    frames = render_over_time(sliding, cameras, times=sliding.times, flow_step=1.0)
    lengths = frames.extras["flow"][0].norm(dim=-1)
    assert lengths.max() == pytest.approx(0.1, abs=0.01)
    assert len(pictures_of(frames, "flow")) == 2


def test_one_picture_shows_the_second_that_is_asked_for(sliding, tmp_path):
    write_s4d(tmp_path / "scene.s4d", sliding)
    cameras = tmp_path / "camera.json"
    camera = choose_cameras(sliding, {}, camera="orbit", times=sliding.times, size=(64, 48))[0]
    fields = {"viewmats": camera.viewmats.tolist(), "Ks": camera.Ks.tolist(), "width": 64, "height": 48}
    cameras.write_text(json.dumps(fields))

    def shown(output, **options):
        run_render(RenderOptions(tmp_path / "scene.s4d", tmp_path / output, camera=str(cameras), **options))
        return np.asarray(Image.open(tmp_path / output)) if output.endswith(".png") else None

    last = float(sliding.times[-1])
    first_picture, last_picture = shown("first.png"), shown("last.png", time=last)
    shown("sequence", num_frames=2)
    for name, picture in (("0000", first_picture), ("0001", last_picture)):
        assert (np.asarray(Image.open(tmp_path / f"sequence/{name}.png")) == picture).all()
    assert (first_picture != last_picture).any() and first_picture.shape == (48, 64, 3)
    with pytest.raises(ConfigError, match="lies outside the scene"):
        shown("late.png", time=last + 1)
    for options in ({"output": Path("a.png"), "num_frames": 3}, {"output": Path("a.mp4"), "time": 0.0}):
        with pytest.raises(ConfigError):
            RenderOptions(tmp_path / "scene.s4d", **options)
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["camera.json", "first.png", "last.png", "scene.s4d", "sequence"]


def test_unknown_camera_names_the_known_ones(sliding, tmp_path):
    with pytest.raises(CalibrationError, match="orbit"):
        choose_cameras(sliding, {}, camera="nowhere", times=sliding.times, size=(8, 8))
    broken = tmp_path / "camera.json"
    broken.write_text('{"viewmats": 3}')
    with pytest.raises(CalibrationError, match=r"camera\.json"):
        read_cameras(broken)


def test_page_is_one_file_with_everything_inside(sliding, tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"not really a video")
    actions = {"task": "press", "names": ["dx"], "units": ["m"], "actions": [[0.1], [0.2]]}
    numbers = {"psnr": 20.0, "copy_last": {"psnr": 18.0}, "constant_velocity": {"psnr": 19.0}}
    videos = dict.fromkeys(("forecast", "orbit", "flow"), video)
    page = Page("<title>", "summary", videos, sliding, {"8": numbers}, actions, ["scene.s4d"])
    write_page(tmp_path / "index.html", page)
    text = (tmp_path / "index.html").read_text()
    assert "&lt;title&gt;" in text
    assert "<td class=best>20.0</td>" in text
    assert not re.search(r'(src|href)="(https?:)?//', text)
    assert not re.search(r"\$[a-z_]+", text), "a placeholder was left"
    points = json.loads(re.search(r"const scene = (\{.*\});", text).group(1))
    places = [np.frombuffer(base64.b64decode(f), np.int16).reshape(-1, 4)[:, :3] for f in points["frames"]]
    moved = (places[1].astype(int) - places[0])[:, 0]
    assert moved[0] > 0 and moved[1] == 0

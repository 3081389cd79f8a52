"""`scene4d view`: what is drawn is the scene, strangers stay out, and a browser shows it."""

import dataclasses
import http.client
import math
import re
import socket
from types import SimpleNamespace

import pytest
import torch
from chromium import open_page
from tiny_agent import PROPRIO, SPEC, TASKS, box_views, tiny_models

from scene4d.apps.agent.server.access import access_to, is_plain_path
from scene4d.apps.compose.models import save_models
from scene4d.apps.compose.scene_start import head_start
from scene4d.apps.verbs.run_act import ActOptions, run_act
from scene4d.apps.verbs.run_view import ViewOptions, _rollout, open_view, run_view
from scene4d.apps.viewer.arrays import (
    arrows_between,
    frusta_of,
    instants_of,
    splats_of,
    uncertainty_colours,
    uncertainty_of,
)
from scene4d.apps.viewer.live_forecast import _refuse_wild, roll_forward
from scene4d.errors import ConfigError, DataFormatError, NumericsError, SecurityError
from scene4d.gaussians.formats.points import robust_bounds
from scene4d.gaussians.s4d.s4d import open_s4d, write_s4d
from scene4d.geometry.camera import intrinsics_from_fov, invert_rigid, look_at
from scene4d.geometry.rotation import matrix_from_quat
from scene4d.geometry.sh import sh_from_rgb
from scene4d.lift.stream.stream import SceneStream
from scene4d.robot.spec import RobotSpec
from scene4d.scene import Motion, Scene4D
from scene4d.types import Cameras, Gaussians, Task
from scene4d.world.observation import Observation

CONTROLS = 550
"""Column of the picture where the viewer's controls begin."""
TEXT = "document.body?.innerText ?? ''"
CAMERA = Cameras(
    viewmats=look_at(torch.tensor([0.0, -2.0, 0.5]), torch.zeros(3)),
    Ks=intrinsics_from_fov(0.9, width=64, height=48),
    width=64,
    height=48,
)


def ball_scene(num: int = 400) -> Scene4D:
    """A red ball that goes right by 0.1 m an instant past a green one that rests; the last of 5 instants is predicted,
    to within 30 mm."""
    generator = torch.Generator().manual_seed(0)
    means = 0.12 * torch.nn.functional.normalize(torch.randn(num, 3, generator=generator), dim=-1)
    moving = torch.arange(num) < num // 2
    means[~moving, 2] += 0.5
    rgb = torch.where(moving[:, None], torch.tensor([0.9, 0.05, 0.05]), torch.tensor([0.05, 0.8, 0.1]))
    poses = torch.zeros(5, 1, 7)
    poses[..., 0] = 1.0
    poses[..., 4] = 0.1 * torch.arange(5)[:, None] - 0.2
    log_var = torch.full((5, 1, 6), -18.4)
    log_var[4, :, 3:] = math.log(0.03**2 / 3)
    return Scene4D(
        base=Gaussians(
            means=means,
            quats=torch.randn(num, 4, generator=generator),
            scales=torch.rand(num, 3, generator=generator) * 0.02 + 0.005,
            opacities=torch.full((num,), 0.95),
            sh=sh_from_rgb(rgb),
        ),
        motion=Motion(
            anchors=torch.zeros(1, 3),
            world_from_rest=poses,
            log_var=log_var,
            skin_index=torch.zeros(num, 1, dtype=torch.int64),
            skin_weights=moving[:, None].float(),
        ),
        alive=torch.tensor([-math.inf, math.inf]).expand(num, 2),
        times=0.1 * torch.arange(5, dtype=torch.float64),
        observed=torch.tensor([True, True, True, True, False]),
    )


@pytest.fixture(scope="module")
def s4d(tmp_path_factory):
    path = tmp_path_factory.mktemp("view") / "balls.s4d"
    write_s4d(path, ball_scene(), cameras={"front": CAMERA})
    return path


def test_splats_are_the_gaussians():
    gaussians = ball_scene().at(0.0)
    gaussians = gaussians.replace(
        opacities=gaussians.opacities.clone().index_fill(0, torch.tensor([5]), 0.0),
        means=gaussians.means.clone().index_fill(0, torch.tensor([7]), math.nan),
    )
    splats = splats_of(gaussians)
    kept = [i for i in range(400) if i not in (5, 7)]
    assert torch.equal(torch.from_numpy(splats.centers), gaussians.means[kept])
    variances = torch.linalg.eigvalsh(torch.from_numpy(splats.covariances).double())
    expected = gaussians.scales[kept].double().square().sort(-1).values
    assert torch.allclose(variances, expected, rtol=1e-3)
    few = splats_of(gaussians, most=100)
    assert len(few.centers) == 100 and few.rgbs[:, 0].max() > 0.8 and few.rgbs[:, 1].max() > 0.7
    later = splats_of(ball_scene().at(0.3), most=100)
    share = torch.from_numpy(few.covariances).diagonal(dim1=1, dim2=2).sum()
    whole = torch.from_numpy(splats.covariances).diagonal(dim1=1, dim2=2).sum()
    assert share == pytest.approx(float(whole), rel=0.2)  # a quarter of them, each with four times the area
    assert abs(len(set(map(bytes, few.rgbs))) - len(set(map(bytes, later.rgbs)))) == 0


def test_uncertainty_flow_and_cameras_are_those_of_the_scene():
    instants = instants_of(ball_scene())
    assert [i.observed for i in instants] == [True] * 4 + [False]
    unsure = uncertainty_of(instants[4])
    assert torch.allclose(unsure[:200], torch.full((200,), 0.03)) and bool((unsure[200:] == 0).all())
    colours = uncertainty_colours(torch.tensor([0.0, 1e-3, 1e-2, 0.1, 9.0, math.nan]))
    assert torch.equal(colours[0], colours[1]) and torch.equal(colours[3], colours[4])
    assert torch.equal(colours[5], colours[4]) and colours[2, 0] > colours[1, 0]
    arrows = arrows_between(instants[0], instants[1], stretch=3.0, most=50)
    assert len(arrows.starts) == 50
    assert torch.allclose(torch.from_numpy(arrows.ends - arrows.starts), torch.tensor([0.3, 0, 0]), atol=1e-5)
    moving = CAMERA.map(lambda x: torch.stack([x, x]))
    for view in frusta_of({"a": CAMERA, "b": moving}, index=4).values():
        world_from_cam = invert_rigid(CAMERA.viewmats)
        assert torch.allclose(matrix_from_quat(torch.from_numpy(view.wxyz)).float(), world_from_cam[:3, :3], atol=1e-5)
        assert torch.allclose(torch.from_numpy(view.position).float(), world_from_cam[:3, 3], atol=1e-5)
        assert view.fov == pytest.approx(0.9, abs=1e-5) and view.aspect == pytest.approx(4 / 3)


@pytest.fixture(scope="module")
def models():
    return tiny_models()


@pytest.fixture(scope="module")
def boxes():
    stream = SceneStream()
    for step in range(2):
        views = box_views(step)
        stream.update(type(views["left"]).stack(list(views.values())), time=0.025 * step)
    return stream.scene()


def known(scene, *, task: str, **info) -> Observation:
    """What is known of the scene now: the robot's state and what its numbers mean, nothing of its past."""
    robot = RobotSpec.from_info(info, num_actions=4, num_proprio=4)
    return Observation(actions=torch.zeros(0, 4), proprio=PROPRIO[None], robot=robot, scene=scene, task=Task(task))


def test_the_agent_acts_on_in_its_own_prediction(models, boxes):
    start = head_start(models, known(boxes, task="drawer-open-v3", action_spec=SPEC))
    chunks = list(roll_forward(models, start, num_steps=5, replan_every=2))
    assert [len(c.times) for c in chunks] == [3, 3, 2]
    instants = instants_of(boxes)
    for chunk in chunks:
        instants = instants_of(chunk, past=instants)
    assert [i.observed for i in instants] == [True] * 2 + [False] * 5
    steps = torch.tensor([i.time for i in instants], dtype=torch.float64).diff()
    assert torch.allclose(steps, torch.full_like(steps, 0.025), atol=1e-6)
    same = list(roll_forward(models, start, num_steps=2, replan_every=2))
    assert torch.equal(same[0].motion.world_from_rest, chunks[0].motion.world_from_rest)


@pytest.mark.parametrize(("share", "way"), [(1.0, 99.0), (1.0, math.nan), (0.45, 1e6), (0.02, 1e6), (0.02, math.inf)])
def test_a_prediction_that_leaves_the_scene_is_refused(models, boxes, share, way):
    """However few of the anchors run off, and whenever: the median of all Gaussians does not tell."""
    state = models.world.observe(head_start(models, known(boxes, task=TASKS[0])))
    prediction = models.world.predict(state, actions=torch.zeros(3, 4))
    centre, radius = robust_bounds(state.gaussians)
    scene = models.world.scene(state, prediction)
    _refuse_wild(scene, centre=centre, radius=radius, step=0)
    poses = scene.motion.world_from_rest.clone()
    used = scene.motion.skin_index[scene.motion.skin_weights > 0.5].unique()
    poses[2, used[: max(1, round(share * len(used)))], 4] += way  # on the way, not at the end
    wild = scene.replace(motion=scene.motion.replace(world_from_rest=poses))
    with pytest.raises(NumericsError, match="left the scene"):
        _refuse_wild(wild, centre=centre, radius=radius, step=0)


def test_strays_of_a_reconstruction_stop_no_rollout():
    """What lay far off before the prediction began is not its fault."""
    scene = ball_scene()
    means = scene.base.means.clone()
    means[:3] += 1e4
    centre, radius = robust_bounds(scene.at(0.0))
    _refuse_wild(scene.replace(base=scene.base.replace(means=means)), centre=centre, radius=radius, step=0)


def test_rollouts_and_act_begin_alike(models, boxes, tmp_path, monkeypatch):
    """Cameras, past actions and goal of the file reach the world model and the head in the viewer too."""
    save_models(tmp_path / "w.safetensors", models, info=models.info)
    cameras = {name: f.cameras for name, f in box_views(0).items()}
    values = {"proprio": [PROPRIO.tolist()] * 2, "input_cameras": ["left"], "action_meaning": "ways"}
    path = tmp_path / "boxes.s4d"
    write_s4d(path, boxes, cameras=cameras, actions=torch.full((2, 4), 0.25), action_spec=SPEC, info=values)
    options = ViewOptions(path, weights=tmp_path / "w.safetensors", goal=(0.1, 0.2, 0.3))
    file, kind = open_s4d(path), type(models.world)
    seen, goals = [], []
    observe, act = kind.observe, type(models.policy).act
    monkeypatch.setattr(kind, "observe", lambda model, known: seen.append(known) or observe(model, known))
    monkeypatch.setattr(type(models.policy), "act", lambda *a, **k: goals.append(k["goal"]) or act(*a, **k))
    next(_rollout(options, file, scene=file.scene())("open the door", num_steps=2, seed=0))
    acted = ActOptions(path, task="open the door", weights=options.weights, goal=options.goal)
    run_act(acted)
    rolled, planned = seen
    assert list(rolled.cameras) == list(planned.cameras) == ["left"] and rolled.robot.meaning.text == "ways"
    assert rolled.robot == planned.robot and rolled.task.text == planned.task.text == "door-open-v3"
    assert rolled.actions.tolist() == planned.actions.tolist() == [[0.25] * 4]
    assert torch.equal(rolled.proprio, planned.proprio)
    assert [g.tolist() for g in goals] == [pytest.approx((0.1, 0.2, 0.3))] * 2


def test_a_rollout_of_another_robot_is_refused(models, boxes, tmp_path):
    save_models(tmp_path / "w.safetensors", models, info=models.info)
    metres = [{**row, "unit": "m"} for row in SPEC]
    values = {"proprio": [PROPRIO.tolist()] * 2}
    write_s4d(tmp_path / "m.s4d", boxes, actions=torch.zeros(2, 4), action_spec=metres, info=values)
    file = open_s4d(tmp_path / "m.s4d")
    with pytest.raises(ConfigError, match=r"action_spec\[0\]: .*dx \[m\].*dx \[0.02 m\]"):
        _rollout(ViewOptions(file.path, weights=tmp_path / "w.safetensors"), file, scene=boxes)(
            "open the door", num_steps=2, seed=0
        )
    knows_seven = {**models.info, "context": {"action_spec": [*SPEC, *SPEC[:3]]}}
    save_models(tmp_path / "7.safetensors", models, info=knows_seven)
    with pytest.raises(ConfigError, match="7 numbers"):
        _rollout(ViewOptions(file.path, weights=tmp_path / "7.safetensors"), file, scene=boxes)(
            "open the door", num_steps=2, seed=0
        )


def test_the_label_never_stays_at_work(models, boxes, tmp_path):
    """A robot state that is none is a word on the page; whatever else goes wrong is one too."""
    pytest.importorskip("viser")
    save_models(tmp_path / "w.safetensors", models, info=models.info)
    write_s4d(tmp_path / "b.s4d", boxes, info={"proprio": [["a", "b", "c", "d"]] * 2})
    options = ViewOptions(tmp_path / "b.s4d", port=0, weights=tmp_path / "w.safetensors")
    label = SimpleNamespace(content="")
    for given, reply in ((None, "info.proprio"), ((0.0, 0.0, 0.0), "4 finite numbers"), ((math.nan,) * 4, "finite")):
        with open_view(dataclasses.replace(options, proprio=given)) as opened:
            opened.panel.roll_out_and_report("open the door", label)
            assert label.content.startswith("stopped: ") and reply in label.content
            opened.panel.rollout = lambda *_, **__: 1 / 0
            with pytest.raises(ZeroDivisionError):
                opened.panel.roll_out_and_report("open the door", label)
            assert "internal error (ZeroDivisionError)" in label.content
            assert not opened.panel._rolling.locked()
    with pytest.raises(DataFormatError, match=r"b\.s4d: info\.proprio"):
        run_view(dataclasses.replace(options, task="open the door", seconds=0.0))


def test_what_cannot_be_shown_is_refused(s4d, tmp_path, boxes):
    with pytest.raises(SecurityError, match="allow-remote"):
        run_view(ViewOptions(s4d, host="0.0.0.0"))
    with pytest.raises(DataFormatError, match="--proprio"):
        run_view(ViewOptions(s4d, port=0, task="open the door", seconds=0.0))
    with pytest.raises(ConfigError):
        run_view(ViewOptions(s4d, max_splats=0))
    scene = ball_scene()
    write_s4d(tmp_path / "none.s4d", scene.replace(**nothing_of(scene)))
    with pytest.raises(DataFormatError, match="nothing to look at"):
        run_view(ViewOptions(tmp_path / "none.s4d"))


def nothing_of(scene):
    none = torch.zeros(0, dtype=torch.int64)
    skin = {"skin_index": scene.motion.skin_index[none], "skin_weights": scene.motion.skin_weights[none]}
    return {"base": scene.base.pick(none), "alive": scene.alive[none], "motion": scene.motion.replace(**skin)}


def get(port, path="/", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in {"Host": f"127.0.0.1:{port}", **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def knock(port, **options):
    """The status that a websocket's handshake ends with."""
    client = pytest.importorskip("websockets.sync.client")
    from websockets.exceptions import InvalidStatus

    viser = pytest.importorskip("viser")
    try:
        with client.connect(f"ws://127.0.0.1:{port}", subprotocols=[f"viser-v{viser.__version__}"], **options):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_strangers_stay_out(s4d):
    pytest.importorskip("viser")
    taken = socket.create_server(("127.0.0.1", 0))
    with open_view(ViewOptions(s4d, port=taken.getsockname()[1])) as opened:
        port = opened.server.get_port()
        taken.close()
        good = f"127.0.0.1:{port}"
        assert opened.url == f"http://{good}/" and opened.server.get_host() == "127.0.0.1"  # the next free port
        assert get(port)[0] == 200 and get(port, Host=f"localhost:{port}")[0] == 200
        for headers in ({"Host": "evil.example"}, {"Host": f"evil.example:{port}"}, {"Origin": "http://evil.example"}):
            assert get(port, **headers)[0] == 403
        for path in ("/../../../../etc/passwd", "//etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..\\x", "/no_such_file"):
            status, content, _ = get(port, path)
            assert status == 404 and b"root:" not in content
        assert knock(port, origin=f"http://{good}") == 101
        assert {knock(port, origin=o) for o in ("http://evil.example", "null", f"http://{good}.evil.example")} == {403}
        assert knock(port, origin=None) == 403
        assert knock(port, origin="http://evil.example", additional_headers={"Host": "evil.example"}) == 403


def test_floods_and_crowds_end(s4d):
    viser, msgspec = pytest.importorskip("viser"), pytest.importorskip("msgspec")
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    from scene4d.apps.viewer.guarded_server import MAX_CLIENTS, MESSAGES_AT_ONCE

    with open_view(ViewOptions(s4d, port=0)) as opened:
        port = opened.server.get_port()
        options = {"origin": f"http://127.0.0.1:{port}", "subprotocols": [f"viser-v{viser.__version__}"]}
        url = f"ws://127.0.0.1:{port}"
        # Valid ones, beyond what a hand can cause; one that is malformed; one that is huge.
        camera = {
            "wxyz": (1.0, 0, 0, 0),
            "position": (0.0, 0, 1),
            "fov": 1.0,
            "near": 0.1,
            "far": 9.0,
            "image_height": 9,
        }
        camera |= {"image_width": 9, "look_at": (0.0, 0, 0), "up_direction": (0.0, 0, 1)}
        valid = msgspec.msgpack.encode({"type": "ViewerCameraMessage", **camera})
        for messages, code in (([valid] * (2 * MESSAGES_AT_ONCE), 1008), ([b"\xc1"], 1011), ([b"x" * (1 << 21)], 1009)):
            caller = connect(url, **options)
            with pytest.raises(ConnectionClosed) as caught:
                for message in messages:
                    caller.send(message)
                while True:
                    caller.recv(timeout=10)
            assert caught.value.rcvd is None or caught.value.rcvd.code == code
        crowd = [connect(url, **options) for _ in range(MAX_CLIENTS)]
        late = connect(url, **options)
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                late.recv(timeout=10)
        assert caught.value.rcvd.code == 1013
        for each in crowd:
            each.close()
        assert get(port)[0] == 200


def test_another_machine_needs_the_token(s4d):
    pytest.importorskip("viser")
    with open_view(ViewOptions(s4d, host="0.0.0.0", port=0, allow_remote=True)) as opened:
        port, token = opened.server.get_port(), re.search(r"token=(.+)$", opened.url).group(1)
        assert get(port)[0] == 403 and get(port, "/?token=wrong")[0] == 403
        status, _, headers = get(port, f"/?token={token}")
        assert status == 303 and headers["Location"] == "/"
        cookie = headers["Set-Cookie"].split(";")[0]
        assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
        assert get(port, Cookie=cookie)[0] == 200
        origin = f"http://127.0.0.1:{port}"
        assert knock(port, origin=origin) == 403
        assert knock(port, origin=origin, additional_headers={"Cookie": cookie}) == 101


def test_paths():
    assert all(is_plain_path(p) for p in ("/", "/assets/a-1.js", "/?token=a..b"))
    assert not any(is_plain_path(p) for p in ("//a", "/../a", "/a/..", "/%2e", "/a\\b", "a", "/a\0"))
    assert access_to("127.0.0.1").token is None


def red_centre(picture):
    """Column of the middle of what is red left of the controls, and how many pixels are."""
    picture = picture[:, :CONTROLS]
    red = (picture[..., 0] > 110) & (picture[..., 1] < 70) & (picture[..., 2] < 70)
    columns = red.nonzero()[1]
    return (float(columns.mean()) if len(columns) else -1.0), int(red.sum())


def green_count(picture):
    picture = picture[:, :CONTROLS]
    return int(((picture[..., 1] > 100) & (picture[..., 0] < 70) & (picture[..., 2] < 80)).sum())


@pytest.mark.slow
def test_a_browser_shows_the_scene_and_the_slider_moves_it(s4d, tmp_path):
    pytest.importorskip("viser")
    options = ViewOptions(s4d, port=0)
    with open_view(options) as opened, open_page(tmp_path / "browser") as page:
        page.call("Page.navigate", url=opened.url)
        page.until(lambda p: "observed" in p.ask(TEXT))
        page.until(lambda p: red_centre(p.picture())[1] > 300)
        _, far = red_centre(page.picture())
        opened.panel.jump(next(iter(opened.server.get_clients().values())), "front")
        page.until(lambda p: red_centre(p.picture())[1] > 1.3 * far)  # visitors begin behind the camera
        column, _ = red_centre(page.picture())
        opened.panel.slider.value = 4
        page.until(lambda p: "PREDICTED" in p.ask(TEXT))
        page.until(lambda p: red_centre(p.picture())[0] > column + 40)
        assert green_count(page.picture()) > 300
        opened.panel.colours.value = "uncertainty"
        page.until(lambda p: green_count(p.picture()) < 50)  # what rests is sure, and blue
        opened.panel.colours.value = "recorded"
        opened.panel.ours.value = True
        page.until(lambda p: red_centre(p.picture())[1] > 300)  # our own picture behind the empty scene
        opened.panel.ours.value = False
        page.ask("document.querySelector('[role=slider]').focus()")
        page.call("Input.dispatchKeyEvent", type="keyDown", key="Home", code="Home", windowsVirtualKeyCode=36)
        page.until(lambda _: opened.panel.index == 0)  # the page's own slider drives the panel
        page.until(lambda p: abs(red_centre(p.picture())[0] - column) < 10)
        assert all("computeBoundingSphere" in e for e in page.errors)  # viser says that of any splats
        assert page.requests and all(re.match(r"(http|ws)://127\.0\.0\.1:", url) for url in page.requests)


def test_a_rollout_comes_behind_what_was_seen(models, boxes, tmp_path, capsys):
    pytest.importorskip("viser")
    save_models(tmp_path / "w.safetensors", models, info=models.info)
    path = tmp_path / "boxes.s4d"
    cameras = {name: f.cameras for name, f in box_views(0).items()}
    write_s4d(path, boxes, cameras=cameras, info={"proprio": [PROPRIO.tolist()] * 2})
    options = ViewOptions(path, port=0, task="open the door", weights=tmp_path / "w.safetensors", steps=4, seconds=0.0)
    result = run_view(options)
    assert (result["instants"], result["observed"], result["predicted"]) == (6, 2, 4)
    assert "4 predicted instants" in capsys.readouterr().out
    with open_view(dataclasses.replace(options, task="", seed=7)) as opened:
        assert opened.panel.seed.value == 7
        reply = opened.panel.roll_out("fold towels", seed=0)
        assert reply.startswith("stopped") and "drawer-open-v3" in reply and len(opened.panel.instants) == 2
        assert "2 predicted" in opened.panel.roll_out("open door", seed=1, num_steps=2)
        assert "4 predicted" in opened.panel.roll_out("open door", seed=1)  # in the place of the last one
        assert opened.panel.index == 5 and "PREDICTED" in opened.panel.status.content

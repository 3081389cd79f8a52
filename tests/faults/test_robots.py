"""Fault 80: weights of one robot, a scene of another: what differs is named, and nothing is forecast."""

import json

import pytest
import torch
from tiny_agent import box_views

from scene4d.apps.cli import main
from scene4d.apps.compose.models import load_models
from scene4d.gaussians.s4d.s4d import write_s4d
from scene4d.lift.stream.stream import SceneStream
from scene4d.types import Frames

NUM = 4


@pytest.fixture(scope="module")
def robot():
    """What the shipped weights say of their robot."""
    return load_models("tiny").robot


@pytest.fixture(scope="module")
def scene():
    """Boxes over time, a step of the weights' robot apart."""
    stream = SceneStream()
    for k in range(NUM):
        frames = [f.replace(alpha=torch.ones_like(f.depth)) for f in box_views(k).values()]
        stream.update(Frames.stack(frames), time=0.025 * k)
    return stream.scene()


@pytest.fixture
def scene_of(tmp_path, robot, scene):
    """A scene of boxes with actions and states of a robot that differs from the weights' in what is given."""

    def write(*, slower=1.0, actions=4, states=4, **changes):
        known = robot.as_info() | changes
        spec = known.pop("action_spec")
        info = known | {"task": "open the door", "proprio": [[0.0, 0.6, 0.1, 0.1, *[0.0] * states][:states]] * NUM}
        path = tmp_path / "scene.s4d"
        cameras = {name: f.cameras for name, f in box_views(0).items()}
        acted = torch.zeros(NUM, actions)
        slow = scene.replace(times=slower * scene.times)
        write_s4d(path, slow, cameras=cameras, actions=acted, action_spec=spec, info=info)
        return path

    return write


def rows(robot, key, **changes):
    """A spec with one row changed."""
    found = [dict(row) for row in robot.as_info()[key]]
    found[0] |= changes
    return found


def joints(count):
    return [{"name": f"joint{k + 1}", "unit": "rad", "frame": "joint"} for k in range(count)]


DIFFERENCES = {
    "another name": (lambda r: {"robot": "franka"}, "robot"),
    "another number of actions": (lambda r: {"action_spec": joints(7), "actions": 7}, "action_spec"),
    "other names of actions": (lambda r: {"action_spec": joints(4)}, "action_spec"),
    "another unit": (lambda r: {"action_spec": rows(r, "action_spec", unit="m")}, "action_spec"),
    "another frame": (lambda r: {"action_spec": rows(r, "action_spec", frame="tool")}, "action_spec"),
    "an order of actions": (lambda r: {"action_spec": r.as_info()["action_spec"][::-1]}, "action_spec"),
    "states of joints": (lambda r: {"proprio_spec": joints(7), "states": 7}, "proprio_spec"),
    "states in millimetres": (lambda r: {"proprio_spec": rows(r, "proprio_spec", unit="mm")}, "proprio_spec"),
    "another rate": (lambda r: {"slower": 4.0}, "step_seconds"),
}


@pytest.mark.parametrize("words", ["forecast SCENE --start 2 --steps 1", "act SCENE --task open"])
@pytest.mark.parametrize("kind", DIFFERENCES)
def test_80_what_differs_is_named(scene_of, robot, tmp_path, monkeypatch, capsys, kind, words):
    changes, field = DIFFERENCES[kind]
    path = scene_of(**changes(robot))
    before = path.read_bytes()
    monkeypatch.chdir(tmp_path)
    words = words.replace("open", "door-open-v3").replace("SCENE", str(path)).split()
    code = main(["--json-errors", *words, "--weights", "tiny"])
    lines = capsys.readouterr().err.splitlines()
    error = json.loads(lines[-1])["error"]
    assert (code, error["code"]) == (2, "ConfigError"), error
    assert error["field"].startswith(field) and error["file"] == str(path), error
    assert error["found"] != error["expected"] and error["fix"]
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["scene.s4d"], "nothing is forecast"


def test_80_its_own_robot_is_forecast(scene_of, tmp_path, monkeypatch):
    path = scene_of()
    monkeypatch.chdir(tmp_path)
    assert main(["forecast", str(path), "--start", "2", "--steps", "1", "--weights", "tiny"]) == 0
    assert (tmp_path / "future.s4d").is_file()

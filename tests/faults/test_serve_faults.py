"""Faults 76, 85 and 86: what is sent to `scene4d serve`, and who only sits there."""

import http.client
import json
import socket
import struct
import time

import numpy as np
import pytest
import torch
from tiny_agent import PROPRIO, box_views
from tiny_server import serving

from scene4d.apps.agent.server.access import Access
from scene4d.apps.agent.server.client import PolicyClient, view_of
from scene4d.apps.agent.server.connections import Connections
from scene4d.apps.agent.server.http_server import MAX_CONNECTIONS
from scene4d.apps.agent.server.messages import MEDIA_TYPE, ObservationMessage, View, pack

TASK = "open the door"
TOKEN = "the token of this test"


@pytest.fixture(scope="module")
def server():
    with serving(max_episodes=64) as server:
        yield server


def ask(server, method, path, content=None, kind=MEDIA_TYPE, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    given = {} if content is None else {"Content-Type": kind}
    connection.request(method, path, content, {**given, **headers})
    answer = connection.getresponse()
    reply = json.loads(answer.read() or b"{}")
    connection.close()
    return answer.status, reply


def begin(server):
    status, reply = ask(server, "POST", "/v1/episodes", json.dumps({"task": TASK}).encode(), kind="application/json")
    assert status == 200
    return f"/v1/episodes/{reply['episode']}"


def body(*, left=None, **changes):
    views = {name: view_of(frames) for name, frames in box_views(0).items()}
    if left is not None:
        views["left"] = View(**{**vars(views["left"]), **left})
    return pack(ObservationMessage(**{"views": views, "proprio": PROPRIO.numpy(), **changes}))


def reheaded(change):
    """A whole observation whose header was changed."""
    whole = body()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    header = change(header) or header
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + length :]


def moved(name, *, by):
    def change(header):
        header[name]["data_offsets"] = [place + by for place in header[name]["data_offsets"]]

    return change


def over(name, other):
    """One array placed upon another of its size, so that all sizes together are still right."""

    def change(header):
        header[name]["data_offsets"] = header[other]["data_offsets"]

    return change


def many_keys(header):
    return header | {str(i): 0 for i in range(10**6)}


def a_key_twice(header):
    text = json.dumps(header)
    return (text[:-1] + ', "proprio": ' + json.dumps(header["proprio"]) + "}").encode()


def places_of(*, at):
    """The camera's matrix with its place at [3] m."""
    view = view_of(box_views(0)["left"])
    matrix = view.viewmat.copy()
    matrix[:3, 3] = -(matrix[:3, :3] @ np.float32(at))
    return {"viewmat": matrix}


def depth_of(value):
    depth = view_of(box_views(0)["left"]).depth.copy()
    depth[3, 4] = value
    return {"depth": depth}


def proprio_of(value, *, at=0):
    values = PROPRIO.numpy().copy()
    values[at] = value
    return values


BODIES = {
    "an array moved": (lambda: reheaded(moved("proprio", by=4)), ""),
    "an array upon another": (lambda: reheaded(over("viewmat/left", "viewmat/right")), "viewmat"),
    "K upon K": (lambda: reheaded(over("K/right", "K/left")), "K"),
    "a million keys": (lambda: reheaded(many_keys), "body"),
    "proprio 20 times": (lambda: reheaded(lambda h: h | {f"{i}": h["proprio"] for i in range(20)}), ""),
    "depth of 1e30": (lambda: body(left=depth_of(1e30)), "left.depth"),
    "depth of 3e38": (lambda: body(left=depth_of(3e38)), "left.depth"),
    "depth of a kilometre and more": (lambda: body(left=depth_of(1e5)), "left.depth"),
    "proprio NaN": (lambda: body(proprio=proprio_of(np.nan)), "proprio"),
    "proprio infinite": (lambda: body(proprio=proprio_of(np.inf, at=3)), "proprio"),
    "proprio 1e38": (lambda: body(proprio=proprio_of(1e38)), "proprio"),
    "proprio -1e38": (lambda: body(proprio=proprio_of(-1e38, at=2)), "proprio"),
    "proprio in millimetres": (lambda: body(proprio=1000 * PROPRIO.numpy()), "proprio"),
    "a camera at 1e20 m": (lambda: body(left=places_of(at=[1e20, 0, 0])), "left.viewmats"),
    "a camera at 3 km": (lambda: body(left=places_of(at=[0, 0, 3e3])), "left.viewmats"),
    "a focal length of 1e30": (lambda: body(left={"K": np.diag(np.float32([1e30, 1e30, 1]))}), "left.Ks"),
    "a goal at 1e38": (lambda: body(goal=np.full(3, 1e38)), "goal"),
    "a goal at 1 km": (lambda: body(goal=np.float32([0, 1e3, 0])), "goal"),
    "a goal that is no number": (lambda: body(goal=np.float32([0, np.nan, 0])), "goal"),
}


@pytest.mark.parametrize("name", BODIES)
def test_76_and_86_are_refused_with_their_field(server, name, capfd):
    make, field = BODIES[name]
    place, content = begin(server), make()
    status, reply = ask(server, "POST", f"{place}/step", content)
    assert status == 400, reply
    assert field in reply["error"]["field"] and reply["error"]["problem"] and "Traceback" not in json.dumps(reply)
    assert ask(server, "POST", f"{place}/step", body())[0] == 200, "the episode goes on"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("value", [1e38, float("nan"), 1e5])
def test_86_actions_that_were_carried_out_too(server, value):
    place = begin(server)
    assert ask(server, "POST", f"{place}/chunk", body())[0] == 200
    status, reply = ask(server, "POST", f"{place}/chunk", body(actions=np.full((1, 4), value, np.float32)))
    assert (status, reply["error"]["field"]) == (400, "actions"), reply


def test_86_a_key_twice(server):
    place = begin(server)
    assert ask(server, "POST", f"{place}/step", reheaded(a_key_twice))[0] in (200, 400)
    assert ask(server, "POST", f"{place}/step", body())[0] == 200


def test_86_what_is_usual_is_taken(server):
    place = begin(server)
    goal = torch.tensor([0.3, 0.6, 0.1]).numpy()
    assert ask(server, "POST", f"{place}/step", body(goal=goal, left=depth_of(np.inf)))[0] == 200


def silent(server, count):
    return [socket.create_connection(("127.0.0.1", server.server_port), timeout=10) for _ in range(count)]


def is_closed(connection, *, seconds):
    connection.settimeout(seconds)
    try:
        return connection.recv(100) == b""
    except TimeoutError:
        return False


def answered(server, **headers):
    """Seconds until a caller on a fresh connection is served."""
    start = time.monotonic()
    status, _ = ask(server, "GET", "/v1/info", **headers)
    assert status == 200
    return time.monotonic() - start


@pytest.mark.parametrize("count", [MAX_CONNECTIONS, 3 * MAX_CONNECTIONS])
def test_85_who_is_silent_keeps_nobody_out(count):
    access = Access(host="127.0.0.1", token=TOKEN)
    with serving(access=access, request_seconds=60, idle_seconds=60) as server:
        crowd = silent(server, count)
        for connection in crowd[::2]:
            connection.sendall(b"GET /v1/info HTTP/1.1\r\n")  # half a request
        shown = {"Authorization": f"Bearer {TOKEN}"}
        assert answered(server, **shown) < 1.0
        assert is_closed(crowd[0], seconds=2), "the one that waited longest has to go"
        assert not is_closed(crowd[-1], seconds=0.1) and len(server.connections) <= 2 * MAX_CONNECTIONS
        with PolicyClient(server.url, token=TOKEN) as client:
            for step in range(2):
                assert client.step(box_views(step), proprio=PROPRIO, task=TASK).isfinite().all()
        for connection in crowd:
            connection.close()


def test_85_a_place_is_taken_only_after_the_token_was_shown():
    access = Access(host="127.0.0.1", token=TOKEN)
    with serving(access=access) as server, PolicyClient(server.url, token=TOKEN) as robot:
        robot.step(box_views(0), proprio=PROPRIO, task=TASK)
        kept = robot._connection.sock
        crowd = silent(server, 2 * MAX_CONNECTIONS)
        for _ in range(MAX_CONNECTIONS):
            assert ask(server, "GET", "/v1/info", Authorization="Bearer wrong")[0] == 403
        robot.step(box_views(1), proprio=PROPRIO, task=TASK)
        assert robot._connection.sock is kept, "a robot that rests between steps is not closed for strangers"
        for connection in crowd:
            connection.close()


def test_85_of_those_that_may_come_in_the_one_that_rested_longest_goes():
    with serving(idle_seconds=60) as server:
        kept = [http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10) for _ in range(MAX_CONNECTIONS)]
        for connection in kept:
            connection.request("GET", "/v1/info")
            assert connection.getresponse().read()
        assert answered(server) < 1.0
        assert is_closed(kept[0].sock, seconds=2)
        assert not any(is_closed(connection.sock, seconds=0.05) for connection in kept[1:])
        for connection in kept:
            connection.close()


def test_85_where_all_work_the_next_one_is_told_so():
    def pair():
        ours, theirs = socket.socketpair()
        return ours, theirs

    rooms, pairs = Connections(places=2, waiting=2), [pair() for _ in range(5)]
    ends = [ours for ours, _ in pairs]
    for end in ends[:2]:
        rooms.come(end)
        assert rooms.begin(end)
    rooms.come(ends[2])
    assert not rooms.begin(ends[2]) and len(rooms) == 3, "it waits; nobody who works is closed"
    rooms.rest(ends[0])
    assert rooms.begin(ends[2]) and is_closed(pairs[0][1], seconds=1)
    for end in ends[3:]:
        rooms.come(end)
    rooms.come(ends[0])
    assert is_closed(pairs[3][1], seconds=1) and not is_closed(pairs[4][1], seconds=0.05) and rooms.num_closed == 2
    for end in ends:
        rooms.gone(end)
    assert len(rooms) == 0
    for both in pairs:
        for end in both:
            end.close()

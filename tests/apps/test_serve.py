"""`scene4d serve`: what comes back is what the agent says, and nothing that is sent breaks it."""

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_agent import PROPRIO, box_views, tiny_models
from tiny_server import serving

from scene4d.apps.agent.agent import AgentConfig, agent_maker
from scene4d.apps.agent.server.access import access_to, split_host
from scene4d.apps.agent.server.client import PolicyClient, view_of
from scene4d.apps.agent.server.http_server import MAX_BODY, MAX_CONNECTIONS, PolicyServer
from scene4d.apps.agent.server.messages import MEDIA_TYPE, ObservationMessage, pack, unpack
from scene4d.apps.agent.server.policy_host import PolicyHost
from scene4d.apps.compose.models import save_models
from scene4d.apps.verbs.run_serve import ServeOptions, run_serve
from scene4d.errors import (
    ConfigError,
    DataFormatError,
    NumericsError,
    ResourceError,
    Scene4DError,
    SecurityError,
)

TASK, NAME = "open the door", "door-open-v3"
DOCUMENT = Path(__file__).parents[2] / "docs" / "serve.md"


@pytest.fixture(scope="module")
def models():
    return tiny_models()


@pytest.fixture(scope="module")
def server(models):
    with serving(models, max_episodes=64) as server:
        yield server


@pytest.fixture(scope="module")
def local(models):
    """What the agent itself answers to three steps."""
    agent = agent_maker(models, forecast=False, config=AgentConfig())(NAME)
    return [agent.step(box_views(i), proprio=PROPRIO, task=NAME) for i in range(3)]


def body(step=0, **changes):
    views = {name: view_of(f) for name, f in box_views(step).items()}
    return pack(ObservationMessage(**{"views": views, "proprio": PROPRIO.numpy(), **changes}))


def ask(server, method, path, content=None, kind=MEDIA_TYPE, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest(method, path, skip_host="Host" in headers)
    if content is not None:
        headers = {"Content-Length": str(len(content)), "Content-Type": kind, **headers}
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders(content)
    answer = connection.getresponse()
    reply = json.loads(answer.read() or b"{}")
    connection.close()
    return answer.status, reply


def begin(server, task=TASK):
    status, reply = ask(server, "POST", "/v1/episodes", json.dumps({"task": task}).encode(), kind="application/json")
    assert status == 200 and reply["task"] == NAME
    return f"/v1/episodes/{reply['episode']}"


def test_the_client_is_the_agent(server, local):
    """Two robots at once, each with a memory of its own: bit for bit what each would be told alone."""
    with PolicyClient(server.url) as one, PolicyClient(server.url) as two:
        for i, expected in enumerate(local):
            for client in (one, two):
                assert torch.equal(client.step(box_views(i), proprio=PROPRIO, task=TASK), expected)
        one.reset()
        chunk = one.step_chunk(box_views(0), proprio=PROPRIO, task=TASK)
        assert torch.equal(chunk[0], local[0]) and chunk.shape == (8, 4)
        again = one.step_chunk(box_views(2), proprio=PROPRIO, task=TASK, done=chunk[:2])
        assert again.shape == (8, 4) and not torch.equal(again, chunk)
        for client in (one, two):
            client.reset()
        there = one.step(box_views(0), proprio=PROPRIO, task=TASK, goal=torch.tensor([0.5, 0.0, 0.1]))
        chunk = two.step_chunk(box_views(0), proprio=PROPRIO, task=TASK, goal=torch.tensor([0.5, 0.0, 0.1]))
        assert torch.equal(there, chunk[0]) and not torch.equal(there, local[0])
        info = one.info()
        assert info["cameras"] == ["left", "right"] and NAME in info["tasks"] and info["fps"] == 40 and info["goal"]
        assert [a["name"] for a in info["action"]] == ["dx", "dy", "dz", "gripper"] and len(info["proprio"]) == 4
        with pytest.raises(ConfigError, match="changed"):
            one.step(box_views(0), proprio=PROPRIO, task="press the button")


def test_the_code_of_the_document_drives_it(server, local):
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL).group(1)
    assert set(re.findall(r"^(?:import|from) ([\w.]+)", code, re.MULTILINE)) == {"http.client", "json", "numpy"}
    names: dict = {}
    exec(compile(code, str(DOCUMENT), "exec"), names)
    observations = []
    for i in range(2):
        arrays = {"proprio": PROPRIO.numpy()}
        for name, frames in box_views(i).items():
            arrays |= {f"{kind}/{name}": values for kind, values in vars(view_of(frames)).items()}
        observations.append(arrays)
    actions = names["drive"](server.server_port, TASK, observations)
    assert np.array_equal(actions, torch.stack(local[:2]).numpy())
    with pytest.raises(RuntimeError, match="drawer-open-v3"):
        names["drive"](server.server_port, "fold towels", observations)


def broken_bodies():
    views = {name: view_of(f) for name, f in box_views(0).items()}
    whole, left = body(), views["left"]

    def with_left(**changes):
        return body(views={**views, "left": type(left)(**{**vars(left), **changes})})

    header = json.dumps(
        {"__metadata__": {"version": "1"}, "proprio": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}
    )
    overlap = json.dumps(
        {
            "__metadata__": {"version": "1"},
            **{n: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for n in ("proprio", "rgb/left")},
        }
    )
    framed = lambda text, rest=b"": len(text).to_bytes(8, "little") + text.encode() + rest
    return {
        "nothing": b"",
        "a pickle": b"\x80\x04\x95\x1c\x00\x00\x00cos\nsystem\n(S'true'\ntR.",
        "a header of 2^60 bytes": (1 << 60).to_bytes(8, "little") + whole[8:],
        "the end is missing": whole[:-5],
        "more behind the end": whole + b"\0\0",
        "a huge array": framed(header, b"\0" * 4),
        "arrays that overlap": framed(overlap, b"\0" * 16),
        "deep JSON": framed("[" * 60_000),
        "a list": framed("[]"),
        "another version": whole.replace(b'"version":"1"', b'"version":"9"'),
        "another type": whole.replace(b'"U8"', b'"I8"'),
        "no depth": with_left(depth=np.zeros((0, 0), np.float32)),
        "depth of another size": with_left(depth=left.depth[:-1]),
        "one pixel": with_left(rgb=left.rgb[:1, :1], depth=left.depth[:1, :1]),
        "no rotation": with_left(viewmat=np.eye(3, dtype=np.float32)),
        "a camera nowhere": with_left(viewmat=np.full((4, 4), np.nan, np.float32)),
        "a mirrored camera": with_left(viewmat=np.diag(np.float32([-1, 1, 1, 1])) @ left.viewmat),
        "a camera over 1 2 3 4": with_left(viewmat=np.concatenate([left.viewmat[:3], np.float32([[1, 2, 3, 4]])])),
        "a transposed K": with_left(K=left.K.T),
        "a camera is missing": body(views={"left": left}),
        "an array of nobody": whole.replace(b"rgb/left", b"rgc/left"),
        "short proprio": body(proprio=np.zeros(3)),
        "proprio is not finite": body(proprio=np.full(4, np.nan)),
        "a goal of two numbers": body(goal=np.zeros(2)),
        "a goal nowhere": body(goal=np.full(3, np.nan)),
        "actions in a step": body(actions=np.zeros((1, 4))),
    }  # fmt: skip


def test_malformed_observations_are_refused_and_leave_no_trace(server, local):
    place, known = begin(server), {"DataFormatError", "DepthError", "CalibrationError", "VersionError"}
    assert ask(server, "POST", f"{place}/step", body(0))[1]["action"] == local[0].tolist()
    for name, content in broken_bodies().items():
        status, reply = ask(server, "POST", f"{place}/step", content)
        assert (name, status) == (name, 400) and reply["error"]["code"] in known, (name, reply)
        assert reply["error"]["problem"] and "Traceback" not in json.dumps(reply)
    assert ask(server, "POST", f"{place}/step", body(1))[1]["action"] == local[1].tolist()


def test_an_episode_goes_on_after_a_plan_that_failed(models, server, local, monkeypatch):
    """One 500; what was sent with it has been seen, and the next observation is a step of rest later."""
    act = type(models.policy).act

    def fail(self, *args, **options):
        monkeypatch.setattr(type(self), "act", act)
        return act(self, *args, **options) * torch.nan

    with PolicyClient(server.url) as client:
        assert torch.equal(client.step(box_views(0), proprio=PROPRIO, task=TASK), local[0])
        assert torch.equal(client.step(box_views(1), proprio=PROPRIO, task=TASK), local[1])
        monkeypatch.setattr(type(models.policy), "act", fail)
        with pytest.raises(NumericsError, match="actions"):
            client.step(box_views(2), proprio=PROPRIO, task=TASK)
        actions = [client.step(box_views(step), proprio=PROPRIO, task=TASK) for step in (2, 3)]
        assert bool(torch.stack(actions).isfinite().all())
        agent = server.host._episodes[client._episode].agent
        assert agent.num_steps == 4 and torch.equal(agent.observation_builder.actions[2], torch.zeros(4))


def test_what_the_client_cannot_send_as_it_is_it_refuses():
    views = box_views(0)
    with pytest.raises(DataFormatError, match="255"):
        view_of(views["left"].replace(rgb=views["left"].rgb * 255), name="left")
    assert view_of(views["left"].replace(rgb=views["left"].rgb * 1.001)).rgb.max() <= 255


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_bytes_break_the_reader(data):
    whole = bytearray(body())
    start = int.from_bytes(whole[:8], "little") + 8
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, start - 1), st.integers(0, 255)), max_size=6)):
        whole[place] = value
    cut = data.draw(st.integers(0, len(whole)) | st.just(len(whole)))
    try:
        observation = unpack(bytes(whole[:cut]))
    except Scene4DError as error:
        assert error.field
    else:
        assert observation.proprio.ndim == 1


def test_requests_of_others_are_refused(server):
    port = server.server_port
    good = f"127.0.0.1:{port}"
    assert ask(server, "GET", "/v1/info", Host=good)[0] == 200
    assert ask(server, "GET", "/v1/info", Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"evil.example:{port}"},
        {"Host": "127.0.0.1:1"},
        {"Host": f"{good}@evil.example"},
        {"Host": good, "Origin": "http://evil.example"},
        {"Host": good, "Origin": "null"},
        {"Host": good, "Origin": f"http://{good}.evil.example"},
    ):
        status, reply = ask(server, "GET", "/v1/info", **headers)
        assert (status, reply["error"]["code"]) == (403, "SecurityError"), headers
    assert ask(server, "GET", "/v1/../etc/passwd")[0] == 404 and ask(server, "GET", "/v1/episodes")[0] == 405
    assert ask(server, "PATCH", "/v1/info")[0] == 501
    assert ask(server, "POST", "/v1/episodes/0/step", body())[0] == 404


def test_begin_says_what_it_wants(server):
    for content in (
        b"",
        b"{",
        b"[]",
        b'{"task": 3}',
        b'{"task": ""}',
        b'{"task": "open", "seed": -1}',
        b'{"tusk": "a"}',
        b"[" * 9000,
    ):
        status, reply = ask(server, "POST", "/v1/episodes", content, kind="application/json")
        assert status == 400 and reply["error"]["code"] == "DataFormatError", content
    assert ask(server, "POST", "/v1/episodes", b"x" * (1 << 15), kind="application/json")[0] == 413
    status, reply = ask(server, "POST", "/v1/episodes", b'{"task": "fold towels"}', kind="application/json")
    assert status == 422 and NAME in reply["error"]["expected"]


def test_sizes_and_lengths_have_an_end(server):
    place = begin(server)
    assert ask(server, "POST", f"{place}/step", b"", **{"Content-Length": str(MAX_BODY + 1)})[0] == 413
    for length in ("-5", "1e3", "", "٣"):
        raw = socket.create_connection(("127.0.0.1", server.server_port), timeout=10)
        text = f"POST {place}/step HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\nContent-Type: {MEDIA_TYPE}\r\n"
        raw.sendall(f"{text}Content-Length: {length}\r\n\r\n".encode())
        assert b" 400 " in raw.recv(4096)
        raw.close()
    text_plain = ask(server, "POST", f"{place}/step", body(), kind="text/plain")
    assert text_plain[0] == 400 and text_plain[1]["error"]["field"] == "Content-Type"


def test_who_is_slow_is_hung_up_on(models):
    with serving(models, request_seconds=0.5, idle_seconds=60) as server:
        slow = socket.create_connection(("127.0.0.1", server.server_port), timeout=10)
        start = time.monotonic()
        answer = b"?"
        try:
            for byte in b"POST /v1/episodes HTTP/1.1\r\n" * 9:
                slow.sendall(bytes([byte]))
                time.sleep(0.02)
        except OSError:
            answer = b""  # hung up while it dripped
        assert (answer == b"" or slow.recv(100) == b"") and time.monotonic() - start < 5
        crowd = [
            socket.create_connection(("127.0.0.1", server.server_port), timeout=10) for _ in range(MAX_CONNECTIONS)
        ]
        assert all(idle.recv(100) == b"" for idle in crowd)  # they said nothing, and their time is over
        for each in (slow, *crowd):
            each.close()
        assert ask(server, "GET", "/v1/info")[0] == 200
        kept = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        for pause in (0.0, 0.8):  # who has asked once may think for longer
            time.sleep(pause)
            kept.request("GET", "/v1/info")
            assert kept.getresponse().read().startswith(b"{")
        kept.close()


def test_a_place_is_given_back_where_no_thread_could_be_started(models, monkeypatch, capsys):
    def no_thread(*_):
        raise RuntimeError("can't start new thread")

    with serving(models) as server:
        with monkeypatch.context() as patch:
            patch.setattr(ThreadingHTTPServer, "process_request", no_thread)
            for _ in range(MAX_CONNECTIONS + 1):
                with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as caller:
                    assert caller.recv(100) == b""
        assert ask(server, "GET", "/v1/info")[0] == 200 and server.num_refused == 0


def test_waiting_for_others_has_an_end_and_old_episodes_are_forgotten(models):
    with serving(models, patience=0.05, max_episodes=2) as server:
        first, second = begin(server), begin(server)
        assert ask(server, "POST", f"{first}/step", body())[0] == 200
        third = begin(server)  # the second was not asked for longest
        assert [ask(server, "POST", f"{p}/step", body(1))[0] for p in (first, second, third)] == [200, 404, 200]
        with server.host._lock:
            status, reply = ask(server, "POST", f"{first}/step", body(2))
        assert status == 503 and reply["error"]["code"] == "ResourceError"


def test_doors():
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        assert access_to(host).token is None
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.com"):
        with pytest.raises(SecurityError, match="allow-remote"):
            access_to(host)
    access = access_to("0.0.0.0", allow_remote=True)
    given = {"port": 80, "hosts": ["robot.example:80"], "origins": []}
    assert len(access.token) >= 24 and access.refusal(**given, token=access.token) is None
    assert access.refusal(**given) and access.refusal(**given, token=access.token[:-1])
    assert access.refusal(**{**given, "origins": ["http://evil.example"]}, token=access.token)
    assert access.refusal(**{**given, "hosts": ["a", "a"]}, token=access.token)
    assert split_host("[::1]:8080") == ("::1", 8080) and split_host("localhost") == ("localhost", 80)
    assert all(split_host(h) is None for h in ("", "a:b", "a/b", "a@b", "a:99999", "a?b"))


def test_a_remote_door_wants_its_token(models):
    access = access_to("127.0.0.2", allow_remote=True)
    remote = type(access)(host="127.0.0.1", token="secret")
    with serving(models, access=remote) as server:
        assert ask(server, "GET", "/v1/info")[0] == 403
        with PolicyClient(server.url, token="secret") as client:
            assert client.info()["version"] == "1"
        with PolicyClient(server.url, token="wrong") as client, pytest.raises(SecurityError, match="token"):
            client.info()


def test_the_client_says_when_nobody_is_there(models):
    with serving(models) as server:
        url = server.url
        with pytest.raises(ResourceError, match="port"):
            PolicyServer(server.host, access=server.access, port=server.server_port)
    with PolicyClient(url, seconds=2) as client, pytest.raises(ResourceError, match="scene4d serve"):
        client.info()
    wrong = (
        "ftp://127.0.0.1",
        "http://h:99999",
        "http://h:0",
        "http://h:port",
        "http://[::1",
        "http://a b:80",
        "http://",
    )
    for address in wrong:
        with pytest.raises(ConfigError, match="url"):
            PolicyClient(address)


def test_a_client_may_rest_for_longer_than_the_server_waits(models, local):
    with serving(models, idle_seconds=0.2) as server, PolicyClient(server.url) as client:
        for i, expected in enumerate(local):
            assert torch.equal(client.step(box_views(i), proprio=PROPRIO, task=TASK), expected)
            time.sleep(0.8)
        assert client.info()["version"] == "1" and server.host.num_steps == len(local)


@contextmanager
def scripted(*connections):
    """A server that answers what it is told; None: it reads the request and hangs up. Gives (url, what was asked)."""
    asked = []

    def serve():
        for answers in connections:
            with listener.accept()[0] as caller, caller.makefile("rb") as reader:
                for answer in answers:
                    asked.append(reader.readline().decode().split(" ")[:2])
                    fields = http.client.parse_headers(reader)
                    reader.read(int(fields.get("Content-Length", 0)))
                    if answer is not None:
                        text = json.dumps(answer).encode()
                        caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        thread.join()


def test_a_step_whose_answer_is_lost_is_not_taken_twice():
    with scripted([{"episode": "e"}, {"action": [1.0]}, None]) as (url, asked):
        client = PolicyClient(url, seconds=5)
        assert client.step(box_views(0), proprio=PROPRIO, task=TASK) == torch.ones(1)
        with pytest.raises(ResourceError, match="reset"):
            client.step(box_views(1), proprio=PROPRIO, task=TASK)
    assert [path for _, path in asked] == ["/v1/episodes", *["/v1/episodes/e/step"] * 2]


def test_what_changes_nothing_is_asked_again_once():
    with scripted([{"a": 1}, None], [{"a": 2}, None], [None]) as (url, asked):
        client = PolicyClient(url, seconds=5)
        assert [client.info(), client.info()] == [{"a": 1}, {"a": 2}]
        with pytest.raises(ResourceError, match="scene4d serve"):  # the new connection breaks too
            client.info()
    assert len(asked) == 5


def test_a_request_that_did_not_go_out_whole_goes_out_again(server, local, monkeypatch):
    with PolicyClient(server.url) as client:
        assert torch.equal(client.step(box_views(0), proprio=PROPRIO, task=TASK), local[0])
        request = client._connection.request

        def broken(*_):
            monkeypatch.setattr(client._connection, "request", request)
            raise BrokenPipeError

        monkeypatch.setattr(client._connection, "request", broken)
        assert torch.equal(client.step(box_views(1), proprio=PROPRIO, task=TASK), local[1])


@pytest.fixture
def interruptible():
    """Python's own answer to SIGINT: a shell starts what runs in its background without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_the_verb_serves_until_it_is_interrupted(models, tmp_path, capsys):
    save_models(tmp_path / "w.safetensors", models, info=models.info)
    threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    result = run_serve(ServeOptions(weights=tmp_path / "w.safetensors", port=0, forecast=False))
    assert result["steps"] == 0 and result["url"].startswith("http://127.0.0.1:") and json.dumps(result)
    assert result["url"] in capsys.readouterr().out
    with pytest.raises(SecurityError):
        run_serve(ServeOptions(weights=tmp_path / "w.safetensors", host="0.0.0.0"))
    for wrong in ({"fps": 0.0}, {"size": (64, 4)}, {"cameras": ()}, {"threads": 0}):
        with pytest.raises(ConfigError):
            run_serve(ServeOptions(weights=tmp_path / "w.safetensors", **wrong))


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, (["wrist", "top"], [32, 32], 10.0)),
        ({"cameras": ("left",), "size": (48, 16), "fps": 20.0}, (["left"], [48, 16], 20.0)),
    ],
)
def test_what_is_served_comes_from_the_weights_unless_it_is_given(models, tmp_path, monkeypatch, given, expected):
    values = {"policy_cameras": ["wrist", "top"], "policy_size": 32, "step_seconds": 0.1}
    save_models(tmp_path / "w.safetensors", models, info={**models.info, **values})
    reply = []

    def at_once(self, *_):
        reply.append(self.host.info())
        raise KeyboardInterrupt

    monkeypatch.setattr(PolicyServer, "serve_forever", at_once)
    run_serve(ServeOptions(weights=tmp_path / "w.safetensors", port=0, **given))
    assert tuple(reply[0][key] for key in ("cameras", "size", "fps")) == expected
    assert PolicyHost(models).info()["cameras"] == ["left", "right"]

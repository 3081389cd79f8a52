"""Fault 66: what a path or a file's content could make a decoder open: other files, the network."""

import json
import os
import socket
import struct
import threading

import numpy as np
import pytest
from data_fixtures import FPS, HEIGHT, LENGTH, WIDTH, K, assert_refused, lerobot_set, rgbd_folder

from scene4d.apps.cli import main
from scene4d.data.detect import open_recordings
from scene4d.data.diagnose.repair.video_cut import copy_video, whole_frames
from scene4d.data.video.video import count_frames, encode_video, video_facts
from scene4d.data.video.video_file import open_video
from scene4d.errors import SecurityError, VideoError

LONG_AGO = 10**18  # ns; a file that was read since has another time of access
PROTOCOLS = [
    "http://127.0.0.1:{port}/a.mp4",
    "HTTP://127.0.0.1:{port}/a.mp4",
    "tcp://127.0.0.1:{port}",
    "crypto+http://127.0.0.1:{port}/a.mp4",
    "hls+http://127.0.0.1:{port}/a.m3u8",
    "async:http://127.0.0.1:{port}/a.mp4",
    "file:{secret}",
    "file:secret.mp4",
    "cache:file:{secret}",
    "subfile,,start,0,end,0,,:{secret}",
    "concat:{secret}|{secret}",
    "concatf:{secret}",
    "data:video/mp4;base64,AAAA",
    "pipe:0",
    "fd:",
    "unix:{secret}",
    "C:\\videos\\a.mp4",
    "c:a.mp4",
]


@pytest.fixture
def port():
    """The port of a socket that nobody may ask."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        asked = []

        def accept():
            while True:
                try:
                    asked.append(listening.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        # What asked before this is in the queue before it: the answer is then certain.
        with socket.create_connection(listening.getsockname()):
            pass
        for _ in range(500):
            if asked:
                break
            threading.Event().wait(0.01)
        assert len(asked) == 1, "the network was asked"
        listening.shutdown(socket.SHUT_RDWR)
        for each in asked:
            each.close()


@pytest.fixture
def secret(tmp_path):
    """A whole video outside every recording, never to be read: whoever opened it would get frames."""
    path = tmp_path / "outside" / "secret.mp4"
    path.parent.mkdir()
    encode_video(path, np.full((2 * LENGTH, HEIGHT, WIDTH, 3), 255, np.uint8), fps=FPS)
    os.utime(path, ns=(LONG_AGO, 2 * LONG_AGO))
    yield path
    unread = path.stat().st_atime_ns == LONG_AGO
    path.read_bytes()
    if path.stat().st_atime_ns == LONG_AGO:
        pytest.skip("this disk does not note when a file is read")
    assert unread, "the secret was read"


def spelled(protocol, *, port, secret):
    return protocol.format(port=port, secret=secret)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("field", ["video_path", "data_path"])
def test_66_path_templates_of_lerobot(tmp_path, port, secret, protocol, field):
    root = lerobot_set(tmp_path / "set")
    info = json.loads((root / "meta/info.json").read_text())
    info[field] = spelled(protocol, port=port, secret=secret)
    (root / "meta/info.json").write_text(json.dumps(info))
    act = lambda: [r.read() for r in open_recordings(root)]
    assert_refused(root, act, kind=SecurityError, file="meta/info.json", field=field, words="protocol")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("key", ["file_path", "depth_file_path", "mask_path"])
def test_66_names_in_transforms(tmp_path, port, secret, protocol, key):
    root = rgbd_folder(tmp_path / "set")
    frames = [{"file_path": f"images/{i:03d}.png", "transform_matrix": np.eye(4).tolist()} for i in range(LENGTH)]
    frames[2][key] = spelled(protocol, port=port, secret=secret)
    table = {"fl_x": 20, "fl_y": 20, "cx": 12, "cy": 8, "w": WIDTH, "h": HEIGHT, "frames": frames}
    (root / "transforms.json").write_text(json.dumps(table))
    act = lambda: [r.read() for r in open_recordings(root)]
    assert_refused(root, act, kind=SecurityError, file="transforms.json", field="frames[2]", words="protocol")


def rig(root, **front):
    root.mkdir()
    encode_video(root / "front.mp4", np.zeros((LENGTH, HEIGHT, WIDTH, 3), np.uint8), fps=FPS)
    camera = {"width": WIDTH, "height": HEIGHT, "K": K.tolist(), "viewmat": np.eye(4).tolist(), "rgb": "front.mp4"}
    (root / "cameras.json").write_text(json.dumps({"cameras": {"front": camera | front}}))
    return root


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("key", ["rgb", "depth"])
def test_66_names_in_cameras_json(tmp_path, port, secret, protocol, key):
    root = rig(tmp_path / "rig", **{key: spelled(protocol, port=port, secret=secret)})
    act = lambda: [r.read() for r in open_recordings(root)]
    assert_refused(root, act, kind=SecurityError, file="cameras.json", field=f"front.{key}", words="protocol")


@pytest.mark.parametrize("verb", ["check", "convert", "reconstruct", "repair", "render", "forecast", "train", "view"])
@pytest.mark.parametrize("protocol", ["http://127.0.0.1:{port}/set", "file:{secret}", "concat:a|b", "C:\\data\\set"])
def test_66_sources_of_the_command_line(tmp_path, monkeypatch, capsys, port, secret, verb, protocol):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    out = [] if verb in ("check", "view", "train") else ["-o", str(tmp_path / "here" / "out")]
    code = main(["--json-errors", verb, spelled(protocol, port=port, secret=secret), *out])
    error = json.loads(capsys.readouterr().err)["error"]
    assert (code, error["code"]) == (3, "SecurityError") and error["field"] in ("--source", "--scene", "--config")
    assert not os.listdir(tmp_path / "here")


@pytest.mark.parametrize("option", ["--weights", "--pixels-weights", "--episodes"])
def test_66_other_paths_of_the_command_line(capsys, port, option):
    code = main(["--json-errors", "eval", "forecast", option, f"http://127.0.0.1:{port}/w.safetensors"])
    error = json.loads(capsys.readouterr().err)["error"]
    assert (code, error["code"], error["field"]) == (3, "SecurityError", option)


def test_66_a_file_with_a_colon_in_its_name_is_a_file(tmp_path, monkeypatch):
    """Log names such as frame:12.png are common: where the file is there, it is read."""
    root = rig(tmp_path / "rig")
    (root / "front.mp4").rename(root / "cam:0.mp4")
    cameras = json.loads((root / "cameras.json").read_text())
    cameras["cameras"]["front"]["rgb"] = "cam:0.mp4"
    (root / "cameras.json").write_text(json.dumps(cameras))
    assert len(open_recordings(root)[0].read().times) == LENGTH
    root.rename(tmp_path / "set:1")
    monkeypatch.chdir(tmp_path)
    assert len(open_recordings("set:1")[0].read().times) == LENGTH


PLAYLIST = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{target}\n#EXT-X-ENDLIST\n"
MPD = """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"
 minBufferTime="PT1S" profiles="urn:mpeg:dash:profile:full:2011"><Period><AdaptationSet mimeType="video/mp4">
 <Representation id="a" bandwidth="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"""
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
SDP += "a=rtpmap:96 H264/90000\n"
CONTENTS = {
    "HLS to a file": PLAYLIST,
    "HLS to the network": PLAYLIST.replace("{target}", "http://127.0.0.1:{port}/a.ts"),
    "HLS with a key": PLAYLIST.replace("#EXTINF", '#EXT-X-KEY:METHOD=AES-128,URI="http://127.0.0.1:{port}/k"\n#EXTINF'),
    "concat script": "ffconcat version 1.0\nfile '{target}'\n",
    "DASH": MPD,
    "DASH to the network": MPD.replace("{target}", "http://127.0.0.1:{port}/a.mp4"),
    "SDP": SDP,
    "list of pictures": "%03d.png",
    "RTSP text": "RTSPtextrtsp://127.0.0.1:{port}/a",
    "RealMedia list": "rtsp://127.0.0.1:{port}/a\nfile://{target}\n",
}
READINGS = {
    "frames": lambda path: [r.read() for r in open_recordings(path.parent)],
    "facts": video_facts,
    "count": count_frames,
    "cut": lambda path: copy_video(path, path.with_name("copy.mkv"), num_frames=1, fps=FPS),
}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_66_files_that_only_point_at_others(tmp_path, port, secret, content, reading, suffix):
    root = rig(tmp_path / "rig", rgb=f"front{suffix}")
    (root / "front.mp4").rename(root / "beside.mp4")
    for target in (str(secret), "../outside/secret.mp4", "beside.mp4"):
        (root / f"front{suffix}").write_text(CONTENTS[content].format(target=target, port=port))
        act = lambda: READINGS[reading](root / f"front{suffix}")
        assert_refused(root, act, kind=VideoError, file=f"front{suffix}", words="another kind|cannot be opened")
        count, reason = whole_frames(root / f"front{suffix}")
        assert count == 0 and "cannot be" in reason


def box(kind, *parts):
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def alias(target):
    """A QuickTime alias record: a volume and an absolute path with colons."""
    name = target.name.encode()
    fixed = struct.pack(">IHH", 0, 0, 2) + struct.pack(">H", 0) + bytes([4]) + b"disk".ljust(27, b"\0")
    fixed += bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16) + struct.pack(">hh", 1, 1) + bytes(16)
    full = str(target).encode()
    return fixed + struct.pack(">HH", 2, len(full)) + full + bytes(len(full) % 2) + struct.pack(">H", 0xFFFF)


@pytest.mark.parametrize("kind", [b"url ", b"alis"])
@pytest.mark.parametrize("relative", [False, True])
def test_66_movies_whose_pictures_lie_in_another_file(tmp_path, secret, kind, relative):
    root = rig(tmp_path / "rig")
    encode_video(root / "beside.mp4", np.zeros((LENGTH, HEIGHT, WIDTH, 3), np.uint8), fps=FPS)
    target = root / "beside.mp4" if relative else secret
    data = (root / "front.mp4").read_bytes()
    reference = alias(target) if kind == b"alis" else str(target).encode() + b"\0"
    at = data.index(b"dref") - 4
    (old,) = struct.unpack(">I", data[at : at + 4])
    new = box(b"dref", struct.pack(">II", 0, 1), box(kind, bytes(4), reference))
    grown = bytearray(data[:at] + new + data[at + old :])
    for outer in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        place = grown.index(outer) - 4
        size = struct.unpack(">I", grown[place : place + 4])[0] + len(new) - old
        grown[place : place + 4] = struct.pack(">I", size)
    (root / "front.mp4").write_bytes(grown)
    act = lambda: [r.read() for r in open_recordings(root)]
    assert_refused(root, act, kind=VideoError, file="front.mp4")


def test_66_the_same_movie_with_its_own_pictures_is_read(tmp_path):
    assert len(open_recordings(rig(tmp_path / "rig"))[0].read().times) == LENGTH


@pytest.mark.parametrize("name", ["%03d.mp4", "a*b?.mp4", "-i.mp4", "a|b.mp4", "http:.mp4"])
def test_66_odd_names_are_names(tmp_path, name):
    encode_video(tmp_path / name, np.zeros((LENGTH, HEIGHT, WIDTH, 3), np.uint8), fps=FPS)
    assert count_frames(tmp_path / name) == LENGTH
    with open_video(os.path.relpath(tmp_path / name)) as container:
        assert container.streams.video[0].frames == LENGTH


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), lambda path: os.symlink(path, path)]
)
def test_70_no_video_that_never_ends(tmp_path, make):
    make(tmp_path / "a.mp4")
    assert_refused(tmp_path, lambda: video_facts(tmp_path / "a.mp4"), kind=VideoError, file="a.mp4")

"""Faults 68, 70 and 84: weights whose header lies, asks for too much, or that are no file at all."""

import json
import os
import socket
import struct

import pytest
import torch
from data_fixtures import assert_refused
from peak_memory import peak_growth

from scene4d.apps.cli import main
from scene4d.apps.compose.assets import WEIGHTS
from scene4d.apps.compose.models import load_models
from scene4d.errors import EXIT_INPUT, CheckpointError, DataFormatError, SecurityError, VersionError
from scene4d.gaussians.formats.ply import read_ply
from scene4d.gaussians.s4d.s4d import open_s4d
from scene4d.tensor_file import MAX_HEADER, MAX_TENSORS, header_of_bytes
from scene4d.train.checkpoint import load_tensors


def entry(first, last, *, shape=None, dtype="U8"):
    return {"dtype": dtype, "shape": [last - first] if shape is None else shape, "data_offsets": [first, last]}


def written(path, header, *, data=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def nested(depth, *, opening=b"[", closing=b"]"):
    return b'{"a":' + opening * depth + closing * depth + b"}"


HEADERS = {
    "empty file": (b"", {"length": 0, "data": b""}, "header"),
    "longer than the file": ({"a": entry(0, 8)}, {"length": 1 << 20}, "header"),
    "longer than anything": ({"a": entry(0, 8)}, {"length": (1 << 64) - 1}, "header"),
    "too large": (b'{"a":"' + b"x" * MAX_HEADER + b'"}', {}, "header"),
    "10,000 deep": (nested(10_000), {}, "header"),
    "tables 10,000 deep": (nested(10_000, opening=b'{"a":', closing=b"}").replace(b"{}", b"1"), {}, "header"),
    "no JSON": (b'{"a":' + b" " * 40, {}, "header"),
    "no UTF-8": (b'{"\xff\xfe":1}', {}, "header"),
    "a list": ([entry(0, 8)], {}, "header"),
    "a name twice": (b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 8)).encode(),) * 2), {}, "a"),
    "a key twice": (b'{"a":{"dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8]}}', {}, "dtype"),
    "over one another": ({"a": entry(0, 6), "b": entry(2, 8)}, {}, "b"),
    "over all": ({"a": entry(0, 8), "b": entry(0, 8)}, {}, "b"),
    "a gap": ({"a": entry(0, 2), "b": entry(4, 8)}, {}, "b"),
    "a gap at the start": ({"a": entry(2, 8)}, {}, "a"),
    "bytes that nobody names": ({"a": entry(0, 4)}, {}, "header"),
    "beyond the end": ({"a": entry(0, 1 << 40)}, {}, "header"),
    "backwards": ({"a": entry(8, 0, shape=[8])}, {}, "a"),
    "negative": ({"a": entry(-8, 0, shape=[8])}, {}, "a"),
    "another size": ({"a": entry(0, 8, shape=[3], dtype="F32")}, {}, "a"),
    "sizes that overflow": ({"a": entry(0, 8, shape=[1 << 33, 1 << 33], dtype="F32")}, {}, "a"),
    "5,000 digits": (b'{"a":{"dtype":"U8","shape":[%s],"data_offsets":[0,8]}}' % (b"9" * 5000), {}, "header"),
    "1,000 dimensions": ({"a": entry(0, 8, shape=[1] * 999 + [8])}, {}, "a"),
    "no such type": ({"a": entry(0, 8, dtype="object")}, {}, "a"),
    "a shape of texts": ({"a": entry(0, 8, shape=["8"])}, {}, "a"),
    "a name of 5,000": ({"a" * 5000: entry(0, 8)}, {}, "aaa"),
    "metadata that is no text": ({"__metadata__": {"state": {}}, "a": entry(0, 8)}, {}, "__metadata__"),
    "200,000 tensors": ({f"{i}": entry(0, 0) for i in range(MAX_TENSORS + 1)}, {"data": b""}, "header"),
    "state 10,000 deep": ({"__metadata__": {"state": "[" * 10_000}, "a": entry(0, 8)}, {}, "state"),
    "state of 5,000 digits": ({"__metadata__": {"state": "9" * 5000}, "a": entry(0, 8)}, {}, "state"),
    "state that is a list": ({"__metadata__": {"state": "[]"}, "a": entry(0, 8)}, {}, "state"),
    "version of 5,000 digits": ({"__metadata__": {"version": "9" * 5000}, "a": entry(0, 8)}, {}, "version"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_68_headers_that_lie(tmp_path, kind):
    header, more, field = HEADERS[kind]
    path = written(tmp_path / "w.safetensors", header, **more)
    for read in (load_tensors, load_models):
        assert_refused(tmp_path, lambda: read(path), kind=CheckpointError, file="w.safetensors", field=field)  # noqa: B023


def test_68_what_is_right_is_read(tmp_path):
    path = written(tmp_path / "w.safetensors", {"b": entry(4, 8), "a": entry(0, 4), "none": entry(4, 4)})
    tensors, state = load_tensors(path)
    assert {name: list(value.shape) for name, value in tensors.items()} == {"a": [4], "b": [4], "none": [0]}
    assert state == {}


def test_68_a_later_version_is_named_as_such(tmp_path):
    path = written(tmp_path / "w.safetensors", {"__metadata__": {"version": "2"}, "a": entry(0, 8)})
    assert_refused(tmp_path, lambda: load_tensors(path), kind=VersionError, file="w.safetensors")


def test_68_of_a_member_the_member_is_named():
    data = struct.pack("<Q", 2) + b"[]"
    with pytest.raises(DataFormatError) as caught:
        header_of_bytes(data, file="a.s4d", field="base.safetensors", kind=DataFormatError)
    assert caught.value.file == "a.s4d" and caught.value.field.startswith("base.safetensors")


def shipped_with(path, change):
    """The shipped weights with another state in their header."""
    data = WEIGHTS.with_name("tiny.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    state = json.loads(header["__metadata__"]["state"])
    change(state)
    header["__metadata__"]["state"] = json.dumps(state)
    return written(path, header, data=data[8 + length :])


def numbers_in(table, path=()):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from numbers_in(value, (*path, key))
        elif type(value) is int:
            yield (*path, key)


def absurd(path, value):
    def change(state):
        table = state["configs"]
        for key in path[:-1]:
            table = table[key]
        table[path[-1]] = value

    return change


def settings_of_shipped():
    data = WEIGHTS.with_name("tiny.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return list(numbers_in(json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["state"])["configs"]))


@pytest.mark.parametrize("value", [-1, 10**9, 10**11, 10**30], ids=["negative", "1e9", "1e11", "1e30"])
def test_84_no_number_of_a_configuration_may_be_absurd(tmp_path, value):
    """Each of them in turn: refused by name, and at once; what does not decide a size may be read."""
    for setting in settings_of_shipped():
        path = shipped_with(tmp_path / "w.safetensors", absurd(setting, value))
        act = lambda: load_models(path)  # noqa: B023
        if value != 10**9 or setting[-1] in ("width", "hidden", "depth", "num_anchors", "horizon", "num_tasks"):
            assert_refused(tmp_path, act, kind=CheckpointError, file="w.safetensors", field=".".join(setting))


def test_84_a_size_that_is_allowed_must_be_that_of_the_tensors(tmp_path):
    wide = [s for s in settings_of_shipped() if s[-1] in ("width", "hidden", "condition", "channels")]
    assert len(wide) > 3
    for setting in wide:
        path = shipped_with(tmp_path / "w.safetensors", absurd(setting, 16_000))
        error = assert_refused(tmp_path, lambda: load_models(path), kind=CheckpointError, file="w.safetensors")  # noqa: B023
        assert "configs" in str(error.field) or "another model" in error.problem, error


def test_84_memory_is_bounded(tmp_path):
    path = shipped_with(tmp_path / "wide.safetensors", absurd(("vae", "width"), 16_000))
    many = {f"{i}": entry(0, 0) for i in range(200_000)}
    load_models("tiny")  # what is loaded once is not counted
    for each in (path, written(tmp_path / "many.safetensors", many, data=b"")):
        with peak_growth() as grown:
            with pytest.raises(CheckpointError):
                load_models(each)
            assert grown() < 400


def fifo(path):
    os.mkfifo(path)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


OTHERS = {
    "FIFO": (fifo, "FIFO"),
    "socket": (a_socket, "socket"),
    "device": (lambda path: os.symlink("/dev/zero", path), "device"),
    "folder": (os.mkdir, ""),
    "link to itself": (lambda path: os.symlink(path, path), ""),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize(
    ("name", "read", "kind"),
    [
        ("w.safetensors", load_models, CheckpointError),
        ("a.s4d", open_s4d, DataFormatError),
        ("a.ply", read_ply, DataFormatError),
    ],
)
def test_70_only_regular_files_are_opened(tmp_path, monkeypatch, other, name, read, kind):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    make, word = OTHERS[other]
    make(name)
    error = assert_refused(tmp_path, lambda: read(tmp_path / name), kind=kind, file=name)
    assert word in str(error.found or error.problem)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("other", ["FIFO", "device", "socket"])
@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        ("train X", 2, "ConfigError"),
        ("reconstruct X", 3, "DataFormatError"),
        ("convert X", 3, "DataFormatError"),
        ("render X", 3, "DataFormatError"),
        ("forecast X", 3, "DataFormatError"),
        ("export X", 3, "DataFormatError"),
        ("demo --weights X", 3, "CheckpointError"),
        ("serve --weights X", 3, "CheckpointError"),
        ("eval policy --weights X", 3, "CheckpointError"),
    ],
)
def test_70_verbs_do_not_wait_for_what_never_comes(tmp_path, monkeypatch, capsys, other, words, code, kind):
    monkeypatch.chdir(tmp_path)
    OTHERS[other][0]("x.ply" if "export" in words else "x")
    name = "x.ply" if "export" in words else "x"
    assert main(["--json-errors", *words.replace("X", name).split()]) == code
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert error["code"] == kind and error["file"] == name
    assert os.listdir() == [name], "nothing else is made"


def test_70_the_loaders_of_small_numbers_are_as_they_were(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "w.safetensors")
    assert_refused(tmp_path, lambda: load_tensors(tmp_path / "w.safetensors"), kind=SecurityError, file="w.safetensors")
    assert EXIT_INPUT == CheckpointError.exit_code == 3

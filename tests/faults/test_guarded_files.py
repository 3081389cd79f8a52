"""Faults 57 and 59 of the catalogue: HDF5 that takes its reader down, stops or takes all memory; MCAP cut anywhere."""

import json
import os
import time

import numpy as np
import pytest
from data_fixtures import HEIGHT, LENGTH, WIDTH, K, assert_refused, tree_hash

from scene4d.apps.verbs.run_repair import RepairOptions, run_repair, text_of
from scene4d.data.detect import open_recordings
from scene4d.data.diagnose.repair.mcap_repair import repair_mcap
from scene4d.data.formats.hdf5 import hdf5_guard
from scene4d.data.formats.hdf5.hdf5_guard import GuardedFile
from scene4d.errors import EXIT_RESOURCE, DataFormatError, ResourceError, SecurityError

CAMERA = {"width": WIDTH, "height": HEIGHT, "K": K.tolist(), "viewmat": np.eye(4).tolist(), "rgb": "rgb"}


@pytest.fixture
def folder(tmp_path):
    """One episode described by a field map."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "run.hdf5", "w") as file:
        file["rgb"] = np.full((LENGTH, HEIGHT, WIDTH, 3), 99, np.uint8)
        file["action"] = np.arange(2.0 * LENGTH).reshape(LENGTH, 2)
    fields = {"actions": "action", "fps": 10}
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": {"front": CAMERA}, "fields": fields}))
    return tmp_path


def edited(folder, change):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "run.hdf5", "a") as file:
        del file["action"]
        change(file, h5py)
    return folder


def reading(folder):
    return lambda: [r.read() for r in open_recordings(folder)]


def with_server(monkeypatch, tmp_path_factory, body):
    """Replace what answers questions by the real server with `body` run before each answer about rows."""
    source = hdf5_guard.SERVER.read_text()
    marked = '        case "rows":\n'
    assert marked in source
    place = tmp_path_factory.mktemp("server") / "server.py"
    place.write_text(source.replace(marked, marked + "".join(f"            {line}\n" for line in body.splitlines())))
    monkeypatch.setattr(hdf5_guard, "SERVER", place)
    hdf5_guard._open.clear()


def test_57_a_file_that_crashes_its_library_is_refused_and_reading_goes_on(folder, monkeypatch, tmp_path_factory):
    with monkeypatch.context() as patched:
        with_server(patched, tmp_path_factory, "import ctypes\nctypes.string_at(0)")
        error = assert_refused(
            folder, reading(folder), kind=DataFormatError, file="run.hdf5", field="action", words="library fail"
        )
        assert "signal 11" in error.found and "h5repack" in error.fix
        hdf5_guard._open.clear()
    assert open_recordings(folder)[0].read().actions[-1].tolist() == [10, 11], "this process is as it was"


def test_57_a_file_that_hangs_is_given_up(folder, monkeypatch, tmp_path_factory):
    with_server(monkeypatch, tmp_path_factory, "import time\ntime.sleep(60)")
    monkeypatch.setattr(hdf5_guard, "SECONDS", 0.8)
    start = time.monotonic()
    kinds = {"kind": ResourceError, "code": EXIT_RESOURCE}
    assert_refused(folder, reading(folder), file="run.hdf5", field="action", words="too long", **kinds)
    assert time.monotonic() - start < 20


def test_57_memory_is_limited(folder):
    size = (1 << 24, 2)
    edited(folder, lambda file, _: file.create_dataset("action", size, "f8", chunks=(1 << 16, 2), compression=1))
    file = GuardedFile(folder / "run.hdf5", memory=100 << 20)
    before = tree_hash(folder)
    with pytest.raises(ResourceError) as caught:
        file.rows("action", start=0, stop=size[0], shape=size, dtype=np.dtype("f8"))
    assert caught.value.exit_code == EXIT_RESOURCE and "run.hdf5" in caught.value.file
    few = file.rows("action", start=5, stop=7, shape=size, dtype=np.dtype("f8"))
    assert few.tolist() == [[0, 0], [0, 0]], "what fits is still answered"
    file.close()
    assert tree_hash(folder) == before


@pytest.mark.parametrize("kind", ["attribute of objects", "huge attribute", "names that are not text"])
def test_57_odd_attributes_and_names_do_no_harm(folder, kind):
    def change(file, h5py):
        file["action"] = np.zeros((LENGTH, 2))
        if kind == "attribute of objects":
            file.attrs["env_args"] = np.array([b"a", b"bc"], h5py.string_dtype())
        elif kind == "huge attribute":
            file["action"].attrs.create("x", "y" * (32 << 20))
        else:
            file.create_group(b"\xff\xfe")

    assert open_recordings(edited(folder, change))[0].read().actions.shape == (LENGTH, 2)


def test_57_a_soft_link_through_an_external_one_is_refused(folder):
    def change(file, h5py):
        file["link"] = h5py.ExternalLink("/etc/hostname", "/x")
        file["action"] = h5py.SoftLink("/link/action")

    assert_refused(
        edited(folder, change), reading(folder), kind=SecurityError, file="run.hdf5", field="action", words="not opened"
    )


def test_57_links_in_a_circle(folder):
    def change(file, h5py):
        file["action"] = h5py.SoftLink("/b")
        file["b"] = h5py.SoftLink("/action")

    assert_refused(edited(folder, change), reading(folder), kind=DataFormatError, file="run.hdf5", words="circle")


@pytest.mark.parametrize("seed", range(6))
def test_57_damaged_bytes(folder, seed):
    """Bits turned over anywhere: read, or refused by name; the process that reads lives on."""
    dice = np.random.default_rng(seed)
    data = bytearray((folder / "run.hdf5").read_bytes())
    for at in dice.integers(0, 4096, 40):
        data[at] ^= 1 << dice.integers(8)
    (folder / "run.hdf5").write_bytes(data)
    try:
        reading(folder)()
    except (DataFormatError, ResourceError, SecurityError) as error:
        assert "run.hdf5" in error.file and error.problem


def test_57_processes_do_not_pile_up(folder):
    for k in range(7):
        (folder / f"copy{k}").mkdir()
        for name in ("run.hdf5", "cameras.json"):
            os.link(folder / name, folder / f"copy{k}" / name)
        open_recordings(folder / f"copy{k}")[0].read(0, 1)
    assert len(hdf5_guard._open) <= hdf5_guard.MAX_OPEN


def chatter(path, *, count=60):
    """A log of one topic, a message a second, in small chunks."""
    writer = pytest.importorskip("mcap_ros2.writer")
    with path.open("wb") as file:
        out = writer.Writer(file, chunk_size=200)
        schema = out.register_msgdef("std_msgs/msg/String", "string data")
        for i in range(count):
            out.write_message(
                "/chatter", schema, {"data": f"{i} " + "x" * 50}, log_time=i * 10**9, publish_time=i * 10**9
            )
        out.finish()
    return path.read_bytes()


def heard(path):
    reader = pytest.importorskip("mcap.reader")
    with path.open("rb") as file:
        return [m.log_time for _, _, m in reader.make_reader(file).iter_messages()]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_59_what_was_recorded_before_the_cut_is_kept(tmp_path, share):
    data = chatter(tmp_path / "run.mcap")
    (tmp_path / "run.mcap").write_bytes(data[: int(share * len(data))])
    before = (tmp_path / "run.mcap").read_bytes()
    report = run_repair(RepairOptions(tmp_path / "run.mcap", tmp_path / "whole.mcap"))
    kept = heard(tmp_path / "whole.mcap")
    assert kept == [i * 10**9 for i in range(len(kept))] and report["messages"] == len(kept) > 5
    last = f"/chatter at {kept[-1] / 1e9:.3f} s"
    assert last in report["reason"] and last in text_of(report)
    assert 0 <= report["lost_bytes"] < 600, "at most the chunk that was being written"
    assert (tmp_path / "run.mcap").read_bytes() == before


def test_59_a_whole_file_is_copied_as_it_is(tmp_path):
    chatter(tmp_path / "run.mcap")
    report = repair_mcap(tmp_path / "run.mcap", tmp_path / "copy.mcap")
    counts = {"messages": 60, "topics": {"/chatter": 60}, "unknown_channel": 0}
    assert report == counts | {"lost_bytes": 0, "reason": None}
    assert heard(tmp_path / "copy.mcap") == heard(tmp_path / "run.mcap")


def test_59_a_damaged_chunk_ends_the_reading(tmp_path):
    """Its checksum tells: nothing false is kept."""
    data = bytearray(chatter(tmp_path / "run.mcap"))
    with (tmp_path / "run.mcap").open("rb") as file:
        chunks = pytest.importorskip("mcap.reader").make_reader(file).get_summary().chunk_indexes
    chunk = sorted(chunks, key=lambda c: c.chunk_start_offset)[len(chunks) // 2]
    data[chunk.chunk_start_offset + chunk.chunk_length - 20] ^= 0xFF
    (tmp_path / "run.mcap").write_bytes(data)
    report = repair_mcap(tmp_path / "run.mcap", tmp_path / "copy.mcap")
    kept = heard(tmp_path / "copy.mcap")
    assert kept == [i * 10**9 for i in range(len(kept))] and 5 < len(kept) < 60 and report["lost_bytes"] > 0


def test_59_the_header_stays_and_messages_of_no_channel_are_counted(tmp_path):
    """A log without chunks, cut before its summary, in which one channel lost its schema and another never came."""
    records = pytest.importorskip("mcap.records")
    builder = pytest.importorskip("mcap.data_stream").RecordBuilder()
    message = {"data": b"x", "log_time": 5, "publish_time": 5, "sequence": 0}
    records.Header(profile="ros2", library="recorder 7").write(builder)
    records.Schema(id=1, name="s", encoding="ros2msg", data=b"").write(builder)
    channels = {1: ("/kept", 1), 2: ("/schemaless", 9)}
    for number, (topic, schema) in channels.items():
        named = {"topic": topic, "message_encoding": "cdr", "metadata": {}}
        records.Channel(id=number, schema_id=schema, **named).write(builder)
    for number in (1, 2, 7, 1):
        records.Message(channel_id=number, **message).write(builder)
    (tmp_path / "run.mcap").write_bytes(b"\x89MCAP0\r\n" + builder.end())
    report = repair_mcap(tmp_path / "run.mcap", tmp_path / "copy.mcap")
    assert (report["messages"], report["topics"], report["unknown_channel"]) == (2, {"/kept": 2}, 2)
    assert report["reason"] is not None
    with (tmp_path / "copy.mcap").open("rb") as file:
        header = pytest.importorskip("mcap.reader").make_reader(file).get_header()
    assert (header.profile, header.library) == ("ros2", "recorder 7")


@pytest.mark.parametrize("data", [b"", b"\x89MCAP0\r\n", b"not an mcap file at all", b"\x89MCAP0\r\n" + b"\xff" * 64])
def test_59_where_nothing_is_whole_nothing_is_written(tmp_path, data):
    pytest.importorskip("mcap.writer")
    (tmp_path / "run.mcap").write_bytes(data)
    assert_refused(
        tmp_path, lambda: repair_mcap(tmp_path / "run.mcap", tmp_path / "copy.mcap"), kind=DataFormatError,
        file="run.mcap", words="no message is whole",
    )  # fmt: skip
    assert not (tmp_path / "copy.mcap").exists()

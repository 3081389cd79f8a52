"""Bags of ROS 1 and ROS 2, written by rosbags, packed in every way it knows; damaged and hostile ones."""

import bz2
import json
import pickle
import shutil
import sqlite3
import struct
import sys

import pytest
import torch
from data_fixtures import tree_hash
from floor_scene import assert_true_to_the_floor
from left_out_names import left_out_names
from ros_bags import COUNT, FPS, Ros, write_bag1, write_bag2

from scene4d.apps.cli import main
from scene4d.data.detect import open_recordings
from scene4d.data.formats.ros import ros_unpack
from scene4d.errors import EXIT_INPUT, DataFormatError, EnvError, ResourceError, Scene4DError
from scene4d.ledger import left_out

KINDS = {
    "bag": lambda p: write_bag1(p / "run.bag"),
    "bag in bz2": lambda p: write_bag1(p / "run.bag", compression="BZ2"),
    "bag in lz4": lambda p: write_bag1(p / "run.bag", compression="LZ4"),
    "db3": lambda p: write_bag2(p / "run"),
    "db3, files packed": lambda p: write_bag2(p / "run", compression="FILE"),
    "db3, messages packed": lambda p: write_bag2(p / "run", compression="MESSAGE"),
    "mcap": lambda p: write_bag2(p / "run", plugin="MCAP"),
    "mcap, files packed": lambda p: write_bag2(p / "run", plugin="MCAP", compression="FILE"),
    "mcap, messages packed": lambda p: write_bag2(p / "run", plugin="MCAP", compression="MESSAGE"),
    "mcap, chunks packed": lambda p: write_bag2(p / "run", plugin="MCAP", compression="STORAGE"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_bag_is_the_same_recording(tmp_path, name):
    path = KINDS[name](tmp_path)
    before = tree_hash(tmp_path)
    for root in (tmp_path, path):
        (recording,) = open_recordings(root)
    assert recording.cameras == recording.depth_cameras == ("cam",) and recording.fps == pytest.approx(FPS)
    episode = pickle.loads(pickle.dumps(recording)).read()
    assert_true_to_the_floor(episode)
    assert torch.allclose(episode.times, torch.arange(COUNT).double() / FPS, atol=1e-6) and episode.valid.all()
    assert [row["name"] for row in recording.info["proprio_spec"]] == ["left.j1", "right.j1"]
    assert episode.proprio.tolist() == [[i, -i] for i in range(COUNT)]
    found = {(e.kind, n.split()[0], e.lost) for e in left_out(recording.info) for n in e.names}
    assert found == {("no_calibration", "/side/image/compressed", True), ("topics", "/chatter", False)}
    assert recording.info["source"] == ("ROS 1 bag" if name.startswith("bag") else "ROS 2 bag")
    assert tree_hash(tmp_path) == before


def test_a_bag_in_several_files_is_one_recording(tmp_path):
    """The fixed links of tf lie in the first file only."""
    for number, (first, last) in enumerate([(0, 3), (3, 11)]):
        write_bag2(tmp_path / f"part{number}", lambda ros, a=first, b=last: ros.messages(a, b))
    (tmp_path / "run").mkdir()
    for number in range(2):
        (source,) = (tmp_path / f"part{number}").glob("*.db3")
        shutil.move(source, tmp_path / f"run/run_{number}.db3")
        shutil.rmtree(tmp_path / f"part{number}")
    listed = "".join(f"    - run_{n}.db3\n" for n in (0, 1, 2))
    (tmp_path / "run/metadata.yaml").write_text(f"rosbag2_bagfile_information:\n  relative_file_paths:\n{listed}")
    (recording,) = open_recordings(tmp_path)
    assert recording.num_frames == 11
    assert_true_to_the_floor(recording.read())
    assert left_out_names(recording, "missing_files") == ["run_2.db3"]


def test_a_lone_file_needs_no_metadata(tmp_path):
    (file,) = write_bag2(tmp_path / "run").glob("*.db3")
    assert_true_to_the_floor(open_recordings(file)[0].read())


def test_check_and_convert(tmp_path, capsys):
    write_bag1(tmp_path / "run.bag", lambda ros: (m for m in ros.messages() if not m[0].startswith("/side")))
    main(["check", str(tmp_path / "run.bag")])
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["format"] == "ROS 1 bag" and result["recordings"][0]["num_frames"] == COUNT
    assert main(["convert", str(tmp_path / "run.bag"), "-o", str(tmp_path / "out")]) == 0
    assert_true_to_the_floor(open_recordings(tmp_path / "out")[0].read(), tolerance=0.06)


@pytest.mark.parametrize("share", [0.02, 0.4, 0.9, 0.999])
@pytest.mark.parametrize("name", ["bag", "bag in lz4", "db3", "db3, files packed", "mcap"])
def test_bags_that_were_cut(tmp_path, name, share):
    path = KINDS[name](tmp_path)
    file = path if path.is_file() else next(p for p in path.iterdir() if p.suffix != ".yaml")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    before = tree_hash(tmp_path)
    with pytest.raises(DataFormatError, match=r"damaged|cut short") as caught:
        open_recordings(tmp_path)[0].read()
    assert file.name.removesuffix(".zstd") in caught.value.file and tree_hash(tmp_path) == before
    assert main(["check", str(tmp_path)]) == EXIT_INPUT


@pytest.mark.parametrize("at", ["header", "chunk", "message", "index"])
def test_sizes_that_lie_cost_nothing(tmp_path, at):
    """Four gigabytes are claimed; a few megabytes are set aside."""
    data = bytearray(write_bag1(tmp_path / "run.bag").read_bytes())
    place = {
        "header": 13,
        "chunk": data.index(b"compression=none") + len(b"compression=none"),
        "message": data.index(b"time=") + 13,
        "index": data.rindex(b"chunk_pos=") - 4,
    }[at]
    struct.pack_into("<I", data, place, 0xFFFFFFF0)
    (tmp_path / "run.bag").write_bytes(data)
    with pytest.raises(DataFormatError):
        open_recordings(tmp_path)[0].read()


def test_what_unpacks_to_more_than_any_message_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ros_unpack, "MAX_UNPACKED", 1 << 12)
    for kind in ("bag in bz2", "bag in lz4"):
        path = KINDS[kind](tmp_path)
        with pytest.raises(DataFormatError, match="unpacks to more than 4096 bytes"):
            open_recordings(path)[0].read()
        path.unlink()
    with pytest.raises(ValueError, match="cut short"):
        ros_unpack.from_bz2(bz2.compress(bytes(9))[:-4])


def test_a_packed_file_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ros_unpack, "MAX_RATIO", 1)
    write_bag2(tmp_path / "run", compression="FILE")
    with pytest.raises(ResourceError, match="unpacks to far more"):
        open_recordings(tmp_path)


def edited(folder, *commands):
    (file,) = write_bag2(folder / "run").glob("*.db3")
    with sqlite3.connect(file) as base:
        for command in commands:
            base.execute(command)
    base.close()
    return file


HOSTILE = {
    "a view": ("ALTER TABLE messages RENAME TO other", "CREATE VIEW messages AS SELECT * FROM other"),
    "no table": ("DROP TABLE topics",),
    "times of text": ("UPDATE messages SET timestamp = 'soon'",),
    "data of text": ("UPDATE messages SET data = 'picture'",),
    "empty data": ("UPDATE messages SET data = x''",),
    "two bytes": ("UPDATE messages SET data = x'0001'",),
    "packed nonsense": ("UPDATE messages SET data = x'28b52ffd0000'",),
    "another type": ("UPDATE topics SET type = 'sensor_msgs/msg/Image'",),
    "not CDR": ("UPDATE topics SET serialization_format = 'json'",),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tables(tmp_path, name):
    file = edited(tmp_path, *HOSTILE[name])
    with pytest.raises(Scene4DError) as caught:
        open_recordings(file)[0].read()
    assert caught.value.exit_code == EXIT_INPUT and caught.value.file == str(file)
    assert main(["check", str(tmp_path)]) == EXIT_INPUT


def test_messages_that_are_still_in_the_journal_are_not_passed_over(tmp_path):
    (file,) = write_bag2(tmp_path / "run").glob("*.db3")
    file.with_name(file.name + "-wal").write_bytes(b"x")
    with pytest.raises(DataFormatError, match="was not closed"):
        open_recordings(file)


def test_67_a_standard_name_with_another_definition(tmp_path):
    """Its digest tells: what lies in the bag as a definition is never compiled."""
    messages = lambda ros: (m for m in ros.messages() if not m[0].startswith("/side"))
    data = write_bag1(tmp_path / "run.bag", messages).read_bytes()
    digest = Ros(1).store.generate_msgdef("sensor_msgs/msg/Image")[1].encode()
    assert digest in data
    (tmp_path / "run.bag").write_bytes(data.replace(digest, digest[::-1]))
    with pytest.raises(DataFormatError, match=r"no ROS images.*its definition is not that of sensor_msgs/msg/Image"):
        open_recordings(tmp_path)


def test_the_extra_is_named_where_rosbags_is_missing(tmp_path, monkeypatch):
    write_bag1(tmp_path / "run.bag")
    monkeypatch.setitem(sys.modules, "rosbags.rosbag1.reader", None)
    with pytest.raises(EnvError, match=r'pip install "scene4d\[rosbag\]"'):
        open_recordings(tmp_path)


def test_a_bag_without_messages_or_of_another_kind(tmp_path):
    (tmp_path / "run.bag").write_bytes(b"not a bag at all")
    with pytest.raises(DataFormatError, match="damaged"):
        open_recordings(tmp_path)
    write_bag1(tmp_path / "empty.bag", lambda ros: ())
    with pytest.raises(DataFormatError, match=r"no ROS images.*no topics"):
        open_recordings(tmp_path / "empty.bag")

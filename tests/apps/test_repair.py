"""`scene4d repair`: what a crash or a bad copy leaves of a data set is kept, verified, in a folder of its own."""

import json
import shutil
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from floor_scene import decode_frames

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from data_fixtures import EPISODES, KEY, LENGTH, assert_refused, episode, tree_hash

from scene4d.apps.verbs.run_repair import RepairOptions, run_repair
from scene4d.data.diagnose.repair.video_cut import copy_video, whole_frames
from scene4d.data.formats.lerobot.lerobot import open_lerobot, write_lerobot
from scene4d.data.video.video import encode_video
from scene4d.errors import ConfigError, DataFormatError, ResourceError, VersionError

NUM = 4


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("repair") / "whole"
    write_lerobot(path, [episode(k) for k in range(NUM)])
    return path


@pytest.fixture
def source(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "source"))


def data_file(k):
    return f"data/chunk-000/file-{k:03d}.parquet"


def video_file(k):
    return f"videos/{KEY}/chunk-000/file-{k:03d}.mp4"


def cut_file(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def repaired(source, tmp_path):
    """The report and the recordings of the copy; the input must be as it was."""
    before = tree_hash(source)
    report = run_repair(RepairOptions(source, tmp_path / "copy"))
    assert tree_hash(source) == before
    json.dumps(report)
    return report, open_lerobot(tmp_path / "copy")


def assert_first(recordings, count, *, of):
    """The first `count` episodes, equal to those of the undamaged set."""
    assert len(recordings) == count
    for mine, whole in zip(recordings, open_lerobot(of), strict=False):
        a, b = mine.read(), whole.read()
        assert torch.equal(a.actions, b.actions) and torch.equal(a.times, b.times)
        assert torch.equal(a.views["front"].rgb, b.views["front"].rgb)
        assert torch.equal(a.views["front"].depth, b.views["front"].depth)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_a_table_that_was_never_finished_ends_the_prefix(source, written, tmp_path, share):
    cut_file(source / data_file(2), share)
    report, recordings = repaired(source, tmp_path)
    assert (report["episodes"], report["dropped_episodes"], report["dropped_frames"]) == (2, 2, 2 * LENGTH)
    assert report["reason"]["episode"] == 2 and report["reason"]["file"] == data_file(2)
    assert_first(recordings, 2, of=written)
    assert not (tmp_path / "copy" / data_file(2)).exists() and not (tmp_path / "copy" / video_file(3)).exists()
    assert not (tmp_path / "copy/meta/stats.json").exists(), "statistics of four episodes are not those of two"


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_cut_video_ends_the_prefix(source, written, tmp_path, share):
    cut_file(source / video_file(1), share)
    report, recordings = repaired(source, tmp_path)
    assert report["reason"]["file"] == video_file(1) and report["episodes"] == 1
    assert_first(recordings, 1, of=written)


def test_the_list_of_episodes_may_have_lost_its_last_file(source, written, tmp_path):
    table = pq.read_table(source / EPISODES)
    pq.write_table(table.slice(0, 3), source / EPISODES)
    second = source / EPISODES.replace("file-000", "file-001")
    pq.write_table(table.slice(3), second)
    cut_file(second, 0.5)
    report, recordings = repaired(source, tmp_path)
    assert report["episodes"] == 3 and report["dropped_episodes"] == 1
    assert report["reason"]["file"].endswith("file-001.parquet")
    assert_first(recordings, 3, of=written)


def shared_files(source):
    """All episodes in one table and one video, as other writers have them."""
    rows = pq.read_table(source / EPISODES)
    table = pq.read_table([source / data_file(k) for k in range(NUM)])
    pq.write_table(table, source / data_file(0))
    frames = np.concatenate([decode_frames(source / video_file(k), range(LENGTH)) for k in range(NUM)])
    for k in range(1, NUM):
        (source / data_file(k)).unlink()
        (source / video_file(k)).unlink()
    encode_video(source / video_file(0), frames, fps=10.0)
    columns = {name: rows[name].to_pylist() for name in rows.column_names}
    for name in columns:
        if name.endswith("file_index"):
            columns[name] = [0] * NUM
    columns[f"videos/{KEY}/from_timestamp"] = [k * LENGTH / 10.0 for k in range(NUM)]
    columns[f"videos/{KEY}/to_timestamp"] = [(k + 1) * LENGTH / 10.0 for k in range(NUM)]
    pq.write_table(type(rows).from_pydict(columns, schema=rows.schema), source / EPISODES)
    return source


def test_shared_tables_and_videos_are_cut_where_the_damage_begins(source, tmp_path):
    shared_files(source)
    whole = Path(shutil.copytree(source, tmp_path / "shared"))
    # The rows of episode 2 lost one: what follows is out of step.
    table = pq.read_table(source / data_file(0))
    gone = 2 * LENGTH + 3
    pq.write_table(table.take([i for i in range(len(table)) if i != gone]), source / data_file(0))
    report, recordings = repaired(source, tmp_path)
    assert report["episodes"] == 2 and f"{LENGTH - 1} of {LENGTH} rows" in report["reason"]["problem"]
    assert set(report["cut"]) == {data_file(0), video_file(0)} and not report["reencoded"]
    assert whole_frames(tmp_path / "copy" / video_file(0)) == (2 * LENGTH, None)
    assert_first(recordings, 2, of=whole)


def test_a_video_damaged_in_the_middle_keeps_the_episodes_before(source, tmp_path):
    shared_files(source)
    whole = Path(shutil.copytree(source, tmp_path / "shared"))
    video = source / video_file(0)
    cut_file(video, 0.8)
    kept, ended = whole_frames(video)
    assert ended is not None
    report, recordings = repaired(source, tmp_path)
    assert report["episodes"] == kept // LENGTH > 0
    assert_first(recordings, kept // LENGTH, of=whole)


def test_a_stored_image_that_does_not_decode_ends_the_prefix(source, written, tmp_path):
    file = source / data_file(1)
    table = pq.read_table(file)
    name = "observation.depth.front"
    images = table[name].to_pylist()
    images[4]["bytes"] = images[4]["bytes"][:30]
    column = pa.array(images, table[name].type)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), file)
    report, recordings = repaired(source, tmp_path)
    assert report["episodes"] == 1 and "decoded" in report["reason"]["problem"]
    assert_first(recordings, 1, of=written)


def test_a_whole_set_is_copied_byte_by_byte(source, tmp_path):
    report, _ = repaired(source, tmp_path)
    assert report["reason"] is None and report["cut"] == [] and report["episodes"] == NUM
    for name in [data_file(k) for k in range(NUM)] + [video_file(k) for k in range(NUM)] + ["meta/stats.json"]:
        assert (source / name).read_bytes() == (tmp_path / "copy" / name).read_bytes()


def test_frames_that_lean_on_later_ones_are_encoded_anew(tmp_path):
    block = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    frames = [np.roll(np.kron(block, np.ones((8, 8, 1), np.uint8)), k, axis=1) for k in range(24)]
    with av.open(str(tmp_path / "b.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv444p"
        stream.max_b_frames = 4
        stream.options = {"crf": "10", "x264-params": "bframes=4:b-adapt=0:keyint=24:scenecut=0:threads=1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    whole = decode_frames(tmp_path / "b.mp4", range(7))
    assert not copy_video(tmp_path / "b.mp4", tmp_path / "cut.mp4", num_frames=7, fps=10.0)
    assert whole_frames(tmp_path / "cut.mp4") == (7, None)
    assert np.abs(decode_frames(tmp_path / "cut.mp4", range(7)).astype(int) - whole).max() <= 3


def test_what_cannot_be_repaired_is_refused_and_leaves_nothing(source, tmp_path):
    def act():
        run_repair(RepairOptions(source, tmp_path / "copy"))

    (source / data_file(0)).write_bytes(b"PAR1")
    assert_refused(source, act, kind=DataFormatError, file=data_file(0), words="no episode is whole")
    (source / EPISODES).write_bytes(b"")
    assert_refused(source, act, kind=DataFormatError, file="meta/episodes", words="cannot be read")
    info = json.loads((source / "meta/info.json").read_text())
    (source / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    assert_refused(source, act, kind=VersionError, file="info.json")
    assert not (tmp_path / "copy").exists()


def test_the_output_must_be_new_and_outside(source, tmp_path):
    with pytest.raises(ConfigError, match="inside"):
        RepairOptions(source, source / "copy")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/mine.txt").write_text("mine")
    with pytest.raises(ResourceError, match="exists"):
        run_repair(RepairOptions(source, tmp_path / "copy"))
    assert (tmp_path / "copy/mine.txt").read_text() == "mine"

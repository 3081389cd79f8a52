"""Faults 1-12, 14, 15 and 63 of the catalogue: damaged LeRobot data sets and videos."""

import json
import shutil

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_fixtures import (
    EPISODES,
    FPS,
    HEIGHT,
    KEY,
    LENGTH,
    TABLE,
    VIDEO,
    WIDTH,
    assert_refused,
    lerobot_set,
    tree_hash,
)
from floor_scene import decode_frames
from timed_video import encode_at, level_of

from scene4d.data.detect import open_recordings
from scene4d.data.video.video import encode_video, video_facts
from scene4d.errors import (
    CalibrationError,
    DataFormatError,
    SecurityError,
    TimestampError,
    VersionError,
    VideoError,
)
from scene4d.ledger import left_out


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return lerobot_set(tmp_path_factory.mktemp("faults") / "set")


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made, tmp_path / "set")


def reading(root):
    return lambda: [r.read() for r in open_recordings(root)]


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_rows(path, change):
    rows = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist(change(rows)), path)


def set_column(root, name, values):
    table = pq.read_table(root / TABLE)
    pq.write_table(table.set_column(table.column_names.index(name), name, [values]), root / TABLE)


def test_1_info_is_not_json(root):
    (root / "meta/info.json").write_text('{"fps": 10,\n "features": }')
    error = assert_refused(root, reading(root), kind=DataFormatError, file="meta/info.json")
    assert "line 2 column" in error.found and "meta/" in error.fix
    (root / "meta/info.json").unlink()
    assert_refused(root, reading(root), kind=DataFormatError, file=str(root), words="info.json|no recording")


@pytest.mark.parametrize("fps", [0, -5, "NaN", "Infinity", "1e999", '"10"', "true"])
def test_2_impossible_rate(root, fps):
    text = (root / "meta/info.json").read_text()
    (root / "meta/info.json").write_text(text.replace('"fps": 10,', f'"fps": {fps},', 1))
    error = assert_refused(root, reading(root), kind=DataFormatError, file="meta/info.json")
    assert fps in ("NaN", "Infinity") or error.field == "fps"


@pytest.mark.parametrize(("version", "words"), [("v1.6", "convert_dataset_v1_to_v2"), ("v9.0", "update")])
def test_3_other_versions(root, version, words):
    edit_json(root / "meta/info.json", codebase_version=version)
    error = assert_refused(root, reading(root), kind=VersionError, file="meta/info.json", field="codebase_version")
    assert error.found == version and "v2.0" in error.expected and "v3.0" in error.expected and words in error.fix


@pytest.mark.parametrize("template", ["../out/{chunk_index}.parquet", "/etc/passwd", "data/{chunk_index.__class__}"])
def test_4_paths_that_lead_out(root, template):
    edit_json(root / "meta/info.json", data_path=template)
    assert_refused(root, reading(root), kind=SecurityError, file="meta/info.json")


def test_4_links_that_lead_out(root, tmp_path):
    (root / TABLE).rename(tmp_path / "outside.parquet")
    (root / TABLE).symlink_to(tmp_path / "outside.parquet")
    assert_refused(root, reading(root), kind=SecurityError, file="meta/info.json", words="not opened")


@pytest.mark.parametrize("name", [TABLE, EPISODES])
def test_5_table_cut_short(root, name):
    data = (root / name).read_bytes()
    for size in (0, 3, len(data) // 2, len(data) - 1):
        (root / name).write_bytes(data[:size])
        assert_refused(root, reading(root), kind=DataFormatError, file=name, words="not finalised")


def test_6_columns(root):
    set_column(root, "action", [[0.0] * 3] * LENGTH)
    assert_refused(root, reading(root), kind=DataFormatError, file=TABLE, field="action", words="another shape")
    set_column(root, "action", [["a", "b"]] * LENGTH)
    assert_refused(root, reading(root), kind=DataFormatError, file=TABLE, field="action", words="no.* numbers")
    table = pq.read_table(root / TABLE)
    pq.write_table(table.drop_columns(["action"]), root / TABLE)
    error = assert_refused(root, reading(root), kind=DataFormatError, file=TABLE, field="action", words="missing")
    assert "observation.state" in str(error.found)


def test_7_index_of_episodes(root):
    edit_rows(root / EPISODES, lambda rows: [rows[0], {**rows[1], "episode_index": 5}])
    error = assert_refused(root, reading(root), kind=DataFormatError, file="meta/episodes", field="episode_index")
    assert error.found == [1, 5]
    edit_rows(root / EPISODES, lambda rows: [rows[0], {**rows[1], "episode_index": 0}])
    assert_refused(root, reading(root), kind=DataFormatError, file="meta/episodes", field="episode_index")


def test_7_episodes_are_looked_up_by_index_not_by_place(root):
    before = [r.read().actions for r in open_recordings(root)]
    edit_rows(root / EPISODES, lambda rows: rows[::-1])
    for recording, actions in zip(open_recordings(root), before, strict=True):
        assert (recording.read().actions == actions).all()


def test_8_numbers_of_frames(root):
    edit_json(root / "meta/info.json", total_frames=99)
    error = assert_refused(root, reading(root), kind=DataFormatError, file="meta/info.json", field="total_frames")
    assert all(number in error.found for number in ("99", "sum of lengths 12", "tables 12"))
    edit_json(root / "meta/info.json", total_frames=2 * LENGTH)
    encode_video(root / VIDEO, np.zeros((3, HEIGHT, WIDTH, 3), np.uint8), fps=FPS)
    error = assert_refused(root, reading(root), kind=DataFormatError, file=VIDEO, field=KEY)
    assert error.found == "3 frames of video, 6 rows, total_frames 12"


@pytest.mark.parametrize(
    ("stamps", "frame"),
    [
        ([0.0, 0.1, 0.1, 0.3, 0.4, 0.5], 2),
        ([0.0, 0.1, 0.05, 0.3, 0.4, 0.5], 2),
        ([0.0, 0.1, 0.2, 0.9, 1.0, 1.1], 3),
        ([0.0, 0.1, 0.2, float("nan"), 0.4, 0.5], 3),
    ],
)
def test_9_times(root, stamps, frame):
    set_column(root, "timestamp", pa.array(stamps, pa.float32()))
    error = assert_refused(root, reading(root), kind=TimestampError, file=TABLE, field="timestamp")
    assert error.frame == frame


def test_10_episode_beyond_the_end_of_its_video(root):
    edit_rows(root / EPISODES, lambda rows: [{**rows[0], f"videos/{KEY}/from_timestamp": 7.0}, rows[1]])
    encode_video(root / VIDEO, np.zeros((LENGTH + 2, HEIGHT, WIDTH, 3), np.uint8), fps=FPS)
    error = assert_refused(root, reading(root), kind=TimestampError, file=VIDEO, field="from_timestamp")
    assert error.found == "7.000 s" and error.expected == "<= 0.800 s"


def test_10_one_frame_too_few_is_clamped_and_said(root):
    encode_video(root / VIDEO, np.zeros((LENGTH - 1, HEIGHT, WIDTH, 3), np.uint8), fps=FPS)
    episode = open_recordings(root)[0].read()
    assert len(episode.times) == LENGTH and "5 frames of video, 6 rows" in left_out(episode.info)[0].reason


def test_11_drift_is_resolved_by_counting(root):
    edit_rows(root / EPISODES, lambda rows: [{**rows[0], f"videos/{KEY}/from_timestamp": 0.08}, rows[1]])
    drifted = open_recordings(root)[0].read()
    assert "80.0 ms" in left_out(drifted.info)[0].reason
    edit_rows(root / EPISODES, lambda rows: [{**rows[0], f"videos/{KEY}/from_timestamp": 0.0}, rows[1]])
    assert (open_recordings(root)[0].read().views["front"].rgb == drifted.views["front"].rgb).all()


def test_12_video_cut_short(root):
    data = (root / VIDEO).read_bytes()
    (root / VIDEO).write_bytes(data[: len(data) // 3])
    error = assert_refused(root, reading(root), kind=VideoError, file=VIDEO)
    assert error.fix


def sound_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.write_bytes(b""), "cannot be opened"),
        (lambda p: p.write_bytes(b"no video at all" * 50), "cannot be opened"),
        (sound_only, "no video stream"),
    ],
    ids=["empty", "junk", "sound only"],
)
def test_14_other_files_than_video(root, make, words):
    make(root / VIDEO)
    error = assert_refused(root, reading(root), kind=VideoError, file=VIDEO, words=words)
    assert error.exit_code == 3


def test_82_a_video_with_uneven_times_is_read_by_counting(root):
    """Row i shows frame i: no advice changes which frame belongs to which row."""
    encode_at(root / VIDEO, [0, 100, 350, 400, 430, 500], ticks_per_second=1000, size=(WIDTH, HEIGHT))
    rgb = open_recordings(root)[0].read().views["front"].rgb
    assert [level_of(picture) for picture in (rgb * 255).numpy()] == list(range(LENGTH))


def test_14_a_whole_video_is_not_refused(root):
    facts = video_facts(root / VIDEO)
    assert (facts.width, facts.height, facts.num_frames, facts.codec) == (WIDTH, HEIGHT, LENGTH, "h264")
    assert decode_frames(root / VIDEO, [1, 4]).shape == (2, HEIGHT, WIDTH, 3)


def test_15_other_size_than_calibration(root):
    cameras = json.loads((root / "meta/cameras.json").read_text())
    front = cameras["cameras"]["front"]
    doubled = (np.array(front["K"]) * [[2], [2], [1]]).tolist()
    front |= {"width": 2 * WIDTH, "height": 2 * HEIGHT, "K": doubled}
    (root / "meta/cameras.json").write_text(json.dumps(cameras))
    error = assert_refused(root, reading(root), kind=CalibrationError, file="cameras.json", field="cameras.front")
    assert error.found == (2 * WIDTH, 2 * HEIGHT) and error.expected == (WIDTH, HEIGHT) and "scale" in error.fix
    scaled = open_recordings(root, fit="scale")[0].read(0, 1).views["front"].cameras
    assert float(scaled.Ks[0, 0, 0]) == pytest.approx(doubled[0][0] / 2) and scaled.width == WIDTH
    with pytest.raises(CalibrationError, match="does not fit"):  # half a picture was not cut away
        open_recordings(root, fit="crop")


def test_15_video_of_another_size_than_said(root):
    encode_video(root / VIDEO, np.zeros((LENGTH, 2 * HEIGHT, 2 * WIDTH, 3), np.uint8), fps=FPS)
    assert_refused(root, reading(root), kind=CalibrationError, file=str(root), field="front", words="another size")


def test_63_wall_clock_in_single_precision(root):
    stamps = pa.array([np.float32(1.7e9 + i / FPS) for i in range(LENGTH)], pa.float32())
    set_column(root, "timestamp", stamps)
    assert_refused(root, reading(root), kind=TimestampError, file=TABLE, field="timestamp")
    set_column(root, "timestamp", pa.array([1.7e9 + 128.0 * i for i in range(LENGTH)], pa.float32()))
    error = assert_refused(root, reading(root), kind=TimestampError, file=TABLE, field="timestamp", words="precision")
    assert "start" in error.fix
    set_column(root, "timestamp", pa.array([1.7e9 + i / FPS for i in range(LENGTH)], pa.float64()))
    assert open_recordings(root)[0].read().times.tolist() == pytest.approx([i / FPS for i in range(LENGTH)], abs=1e-6)


def test_a_whole_set_is_read_and_left_alone(root):
    before = tree_hash(root)
    assert [len(e.times) for e in reading(root)()] == [LENGTH, LENGTH] and tree_hash(root) == before

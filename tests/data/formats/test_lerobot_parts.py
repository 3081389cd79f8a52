"""LeRobot data sets as people have them: deleted episodes, several tasks, columns and files that nothing reads."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_fixtures import TABLE, lerobot_set
from left_out_names import left_out_names

from scene4d.apps.cli import main
from scene4d.data.detect import open_recordings
from scene4d.data.formats.lerobot.lerobot import write_lerobot
from scene4d.data.formats.lerobot.lerobot_join import join_lerobot
from scene4d.errors import EXIT_INPUT, DataFormatError
from scene4d.ledger import left_out


@pytest.fixture
def root(tmp_path):
    return lerobot_set(tmp_path / "set")


def deleted(shared_data, tmp_path, names=()):
    """The field case, writable, its episodes renumbered to `names`."""
    folder = shared_data / "field/lerobot_gaps"
    target = tmp_path / "set"
    renamed = dict(zip((1, 3), names or (1, 3), strict=True))
    for file in (p for p in folder.rglob("*") if p.is_file()):
        relative = re.sub(r"_(\d{6})", lambda m: f"_{renamed[int(m[1])]:06d}", str(file.relative_to(folder)))
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        (target / relative).write_bytes(file.read_bytes())
    for number in renamed.values():
        table = target / f"data/chunk-000/episode_{number:06d}.parquet"
        rows = pq.read_table(table)
        place, column = rows.column_names.index("episode_index"), pa.array([number] * len(rows), pa.int64())
        pq.write_table(rows.set_column(place, "episode_index", column), table)
    rows = [json.loads(line) for line in (folder / "meta/episodes.jsonl").read_text().splitlines()]
    lines = [json.dumps({**row, "episode_index": renamed[row["episode_index"]]}) for row in rows]
    (target / "meta/episodes.jsonl").write_text("\n".join(lines))
    return target


@pytest.mark.parametrize(("names", "free"), [((1, 3), ["0", "2"]), ((0, 1), []), ((2, 40), ["0-1", "3-39"])])
def test_numbers_of_deleted_episodes_are_no_finding(shared_data, tmp_path, names, free):
    """The count, the tables and the videos agree with each other: nothing that the data set says it has is missing."""
    recordings = open_recordings(deleted(shared_data, tmp_path, names))
    assert [r.info["episode_index"] for r in recordings] == list(names)
    assert [r.read().times.shape for r in recordings] == [(20,), (20,)]
    entries = [e for e in left_out(recordings[0].info) if e.kind == "free_numbers"]
    assert [list(e.names) for e in entries] == ([free] if free else []) and not any(e.lost for e in entries)


def test_tables_that_are_not_listed_are_a_finding(shared_data, tmp_path):
    root = deleted(shared_data, tmp_path)
    table = root / "data/chunk-000/episode_000003.parquet"
    (root / "data/chunk-000/episode_000002.parquet").write_bytes(table.read_bytes())
    (recording, _) = open_recordings(root)
    (entry,) = [e for e in left_out(recording.info) if e.kind == "unlisted_episodes"]
    assert entry.lost and entry.names == ("data/chunk-000/episode_000002.parquet",)


def test_a_count_that_is_not_that_of_the_list_is_refused(shared_data, tmp_path):
    root = deleted(shared_data, tmp_path)
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "total_episodes": 4}))
    with pytest.raises(DataFormatError, match=r"missing or doubled \(found \[0, 2\]"):
        open_recordings(root)


def test_both_tasks_of_an_episode_in_the_field(shared_data):
    recordings = open_recordings(shared_data / "field/lerobot_tasks_slash")
    for recording in recordings:
        assert recording.cameras == ("top",) and recording.info["task"] == "pick; place"
        info = recording.read().info
        assert info["task"] == "pick; place"
        halves = [("pick", 0, 10), ("place", 10, 20)]
        assert info["task_segments"] == [{"task": t, "start": a, "stop": b} for t, a, b in halves]


def two_tasks(root, numbers):
    """The first episode's frames get these task numbers; meta/ lists two texts for it."""
    rows = pq.read_table(root / TABLE)
    place = rows.column_names.index("task_index")
    pq.write_table(rows.set_column(place, "task_index", pa.array(numbers, pa.int64())), root / TABLE)
    return root


def test_tasks_of_frames_in_v3(root):
    """They are found by the frames' own column, and written again so."""
    two_tasks(root, [0, 0, 1, 1, 1, 0])
    episodes = [r.read() for r in open_recordings(root)]
    assert episodes[0].info["task"] == "task 0; task 1" and episodes[1].info["task"] == "task 1"
    parts = [(p["task"], p["start"], p["stop"]) for p in episodes[0].info["task_segments"]]
    assert parts == [("task 0", 0, 2), ("task 1", 2, 5), ("task 0", 5, 6)]
    again = root.with_name("again")
    write_lerobot(again, episodes)
    assert pq.read_table(again / TABLE)["task_index"].to_pylist() == [0, 0, 1, 1, 1, 0]
    assert open_recordings(again)[0].read().info["task_segments"] == episodes[0].info["task_segments"]
    for number, episode in enumerate(reversed(episodes)):
        write_lerobot(root.with_name(f"part{number}"), [episode])
    join_lerobot(root.with_name("joined"), [root.with_name(f"part{n}") for n in range(2)], report={})
    joined = open_recordings(root.with_name("joined"))
    assert [r.info["task"] for r in joined] == ["task 1", "task 0; task 1"]
    assert joined[1].read().info["task_segments"] == episodes[0].info["task_segments"]


def test_a_task_without_text_is_a_finding(root):
    two_tasks(root, [0, 0, 7, 7, 7, 7])
    assert left_out_names(open_recordings(root)[0].read(), "tasks") == ["7"]


def edit_features(root, **features):
    info = json.loads((root / "meta/info.json").read_text())
    info["features"] |= features
    (root / "meta/info.json").write_text(json.dumps(info))


def test_what_nothing_reads_is_listed(root):
    clean = {e.kind for e in left_out(open_recordings(root)[0].info)}
    assert not clean, "what scene4d writes is read in full"
    number, picture = {"dtype": "float32", "shape": [3], "names": None}, {"dtype": "video", "shape": [16, 24, 3]}
    depth = {"dtype": "video", "shape": [16, 24, 1], "info": {"is_depth_map": True}}
    words = {"dtype": "string", "shape": [1], "names": None}
    edit_features(
        root, **{"observation.force": number, "language": words, "observation.images.side": picture,
                 "observation.images.far": depth}
    )  # fmt: skip
    (root / "meta/subtasks.parquet").write_bytes(b"")
    found = {e.kind: (e.names, e.lost) for e in left_out(open_recordings(root)[0].info)}
    assert found == {
        "no_calibration": (("observation.images.side",), True),
        "depth_without_camera": (("observation.images.far",), True),
        "columns": (("observation.force", "language"), False),
        "files": (("subtasks.parquet",), False),
    }


def test_actions_of_another_name_are_a_finding(root):
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["action.arm"] = info["features"].pop("action")
    (root / "meta/info.json").write_text(json.dumps(info))
    (entry,) = left_out(open_recordings(root)[0].info)
    assert entry.lost and (entry.field, entry.names) == ("actions", ("action.arm",))


def footer_without_utf8(file):
    """A column name of four letters becomes one that is no UTF-8; the lengths stay."""
    table = pq.read_table(file)
    table = table.append_column("name", pa.array(np.zeros(len(table)))).replace_schema_metadata(None)
    pq.write_table(table, file, store_schema=False)
    file.write_bytes(file.read_bytes().replace(b"name", b"n\xe4m\xff"))


@pytest.mark.parametrize("part", [TABLE, "meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet"])
def test_67_a_footer_that_is_no_utf8(root, capsys, part):
    footer_without_utf8(root / part)
    before = (root / part).read_bytes()
    with pytest.raises(DataFormatError, match="UTF-8") as caught:
        open_recordings(root)[0].read()
    assert caught.value.file == str(root / part) and caught.value.field == "schema"
    assert main(["check", str(root)]) == EXIT_INPUT
    assert "internal" not in capsys.readouterr().err and (root / part).read_bytes() == before


def test_67_a_task_that_is_no_utf8(root):
    table = pq.read_table(root / "meta/tasks.parquet")
    spoilt = pa.array([b"t\xe4sk", b"task"], pa.binary()).view(pa.string())
    pq.write_table(table.set_column(table.column_names.index("task"), "task", spoilt), root / "meta/tasks.parquet")
    with pytest.raises(DataFormatError, match=r"UTF-?8") as caught:
        open_recordings(root)
    assert caught.value.file == str(root / "meta/tasks.parquet") and caught.value.field == "task"
    assert caught.value.file == str(root / "meta/tasks.parquet") and caught.value.field == "task"


def test_a_column_of_one_number_is_no_list(root):
    """lerobot opens a feature of shape [1] as a single number; it reads as [t 1] all the same."""
    schema = pq.read_schema(root / TABLE)
    assert schema.field("observation.state").type == pa.float32(), "the fixture's robot has one joint"
    assert open_recordings(root)[0].read().proprio.tolist() == [[i] for i in range(6)]

"""LeRobot v2.0 and v2.1, depth in video, drifting time stamps, and an index of ten thousand episodes."""

import json
import pickle
import subprocess
import sys
import textwrap

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from floor_scene import (
    HEIGHT,
    WIDTH,
    K,
    assert_refused_when_spoiled,
    assert_true_to_the_floor,
    photograph,
    pose,
)
from left_out_names import left_out_names

from scene4d.data.detect import open_recordings
from scene4d.data.formats.lerobot.lerobot import open_lerobot, write_lerobot
from scene4d.data.video.depth_codec import LogDepth
from scene4d.data.video.video import encode_video
from scene4d.errors import CalibrationError, DataFormatError, DepthError, TimestampError, VideoError
from scene4d.ledger import left_out
from scene4d.types import Cameras, Episode, Frames

FPS, KEY = 10.0, "observation.images.front"


def floor_episode(first: int, length: int) -> Episode:
    """The floor from a moving camera; actions and state say which frame it is."""
    pictures = [photograph(0.15 * (first + i)) for i in range(length)]
    poses = np.stack([np.linalg.inv(pose(0.15 * (first + i))) for i in range(length)])
    cameras = Cameras(
        viewmats=torch.from_numpy(poses).float(),
        Ks=torch.from_numpy(K).float().expand(length, 3, 3),
        width=WIDTH,
        height=HEIGHT,
    )
    frames = Frames(
        rgb=torch.from_numpy(np.stack([p for p, _ in pictures])).float() / 255,
        depth=torch.from_numpy(np.stack([d for _, d in pictures])),
        alpha=None,
        cameras=cameras,
    )
    count = torch.arange(length, dtype=torch.float32)[:, None]
    return Episode(
        views={"front": frames},
        times=torch.arange(length, dtype=torch.float64) / FPS,
        valid=torch.ones(length, dtype=torch.bool),
        actions=count + first,
        proprio=torch.cat([count, count * 0 + first], 1),
        info={"task": f"from {first}"},
    )


@pytest.fixture
def packed(tmp_path):
    """A v3.0 set of three episodes."""
    write_lerobot(tmp_path / "v3", [floor_episode(0, 5), floor_episode(3, 4), floor_episode(7, 6)])
    return tmp_path / "v3"


@pytest.fixture
def listed(packed):
    """The same as v2.1."""
    lengths = [5, 4, 6]
    for i in range(3):
        (packed / f"data/chunk-000/file-00{i}.parquet").rename(packed / f"data/chunk-000/episode_{i:06d}.parquet")
        place = packed / f"videos/chunk-000/{KEY}/episode_{i:06d}.mp4"
        place.parent.mkdir(parents=True, exist_ok=True)
        (packed / f"videos/{KEY}/chunk-000/file-00{i}.mp4").rename(place)
    rows = [{"episode_index": i, "tasks": [f"from {k}"], "length": lengths[i]} for i, k in enumerate((0, 3, 7))]
    (packed / "meta/episodes.jsonl").write_text("\n".join(json.dumps(r) for r in reversed(rows)))
    tasks = [{"task_index": i, "task": r["tasks"][0]} for i, r in enumerate(rows)]
    (packed / "meta/tasks.jsonl").write_text("\n".join(json.dumps(r) for r in tasks) + "\n")
    edit_info(
        packed,
        codebase_version="v2.1",
        data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        video_path="videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    )
    return packed


def edit_info(path, **changes):
    file = path / "meta/info.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_v2_reads_as_v3_does(listed):
    recordings = open_recordings(listed)
    assert [r.num_frames for r in recordings] == [5, 4, 6] and [r.info["task"] for r in recordings][1] == "from 3"
    for recording, first in zip(recordings, (0, 3, 7), strict=True):
        episode = pickle.loads(pickle.dumps(recording)).read()  # as a worker of a loader gets it
        assert_true_to_the_floor(episode, tolerance=0.05)
        assert episode.proprio[:, 1].unique().tolist() == [first]
        assert episode.actions[:, 0].tolist() == [first + i for i in range(recording.num_frames)]


def test_v2_copies_may_leave_episodes_out_and_say_so(listed):
    (listed / "data/chunk-000/episode_000001.parquet").unlink()
    recordings = open_lerobot(listed)
    assert [r.info["episode_index"] for r in recordings] == [0, 2]
    assert left_out_names(recordings[0], "missing_episodes") == ["1"]
    assert recordings[1].read().proprio[0, 1] == 7, "found by its index, not by its place"


def jsonl(path, change):
    file = path / "meta/episodes.jsonl"
    file.write_text("\n".join(change(file.read_text().splitlines())))


V2_FAULTS = {
    "no episodes": (lambda p: (p / "meta/episodes.jsonl").unlink(), DataFormatError, "episodes.jsonl"),
    "a gap": (lambda p: jsonl(p, lambda rows: rows[:1] + rows[2:]), DataFormatError, r"missing or doubled.*\[1\]"),
    "doubled": (lambda p: jsonl(p, lambda rows: [*rows, rows[0]]), DataFormatError, r"missing or doubled.*\[2\]"),
    "not JSON": (lambda p: jsonl(p, lambda rows: [*rows, "{"]), DataFormatError, "JSON lines"),
    "no length": (lambda p: jsonl(p, lambda r: ['{"episode_index": 0}']), DataFormatError, "whole numbers"),
    "length lies": (lambda p: jsonl(p, lambda r: [r[0].replace("6", "9"), *r[1:]]), DataFormatError, "15.*18.*15"),
    "video short": (
        lambda p: encode_video(
            p / f"videos/chunk-000/{KEY}/episode_000000.mp4", np.zeros((3, HEIGHT, WIDTH, 3), np.uint8), fps=FPS
        ),
        DataFormatError,
        "3 frames of video, 5 rows, total_frames 15",
    ),
    "video empty": (
        lambda p: (p / f"videos/chunk-000/{KEY}/episode_000000.mp4").write_bytes(b""),
        VideoError,
        "episode_000000.mp4",
    ),
    "no tables": (lambda p: [f.unlink() for f in (p / "data/chunk-000").iterdir()], DataFormatError, "is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", V2_FAULTS)
def test_v2_damage_is_named(listed, name):
    assert_refused_when_spoiled(listed, V2_FAULTS[name])


def test_one_frame_of_video_too_many_or_too_few_is_clamped(listed):
    for count in (4, 6):
        video = listed / f"videos/chunk-000/{KEY}/episode_000000.mp4"
        pictures = np.stack([np.full((HEIGHT, WIDTH, 3), 40 * i, np.uint8) for i in range(count)])
        encode_video(video, pictures, fps=FPS, crf=0)
        episode = open_lerobot(listed)[0].read()
        shown = (episode.views["front"].rgb.mean((1, 2, 3)) * 255 / 40).round().tolist()
        assert shown == [0, 1, 2, 3, min(4, count - 1)]
        assert f"{count} frames of video, 5 rows" in left_out(episode.info)[0].reason


def test_real_v2(shared_data, tmp_path):
    with pytest.raises(CalibrationError, match=r"ego_view \(256x256\)") as caught:
        open_recordings(shared_data / "sim_lerobot_gr1")
    assert caught.value.file.endswith("meta/cameras.json")
    entry = {"width": 256, "height": 256, "K": [[200, 0, 128], [0, 200, 128], [0, 0, 1]], "viewmat": np.eye(4).tolist()}
    table = {"cameras": {"ego": {**entry, "rgb": "observation.images.ego_view"}}}
    (tmp_path / "cameras.json").write_text(json.dumps(table))
    recordings = open_recordings(shared_data / "sim_lerobot_gr1", cameras=tmp_path / "cameras.json")
    assert [r.num_frames for r in recordings] == [470, 328]
    assert left_out_names(recordings[0], "missing_episodes") == [
        "0",
        "2",
        "3",
    ]
    assert [r.info["episode_index"] for r in recordings] == [1, 4] and "sweet potato" in recordings[0].info["task"]
    episode = recordings[1].read(300, 320, stride=10, size=(64, 64))
    assert episode.actions.shape == (2, 44) and episode.times.tolist() == [15.0, 15.5]
    assert recordings[1].info["action_spec"][3]["name"] == "motor_3" and episode.views["ego"].rgb.std() > 0.1
    guessed = open_recordings(shared_data / "sim_lerobot_gr1", fov_deg=60)[0]
    assert guessed.info["calibration"].startswith("approximate")
    assert guessed.cameras == ("ego_view",), "info.json lists egoview too, of which there is no video"


def test_depth_video_with_its_holes(packed):
    """LeRobot's 12-bit codes: a hole is written as code 0, which would read as a wall 10 mm away."""
    feature = {"dtype": "video", "shape": [HEIGHT, WIDTH, 1], "info": {"is_depth_map": True, "video.depth_max": 6.0}}
    info = json.loads((packed / "meta/info.json").read_text())
    edit_info(packed, features={**info["features"], "observation.images.front_depth": feature})
    cameras = json.loads((packed / "meta/cameras.json").read_text())
    cameras["cameras"]["front"]["depth"] = "observation.images.front_depth"
    (packed / "meta/cameras.json").write_text(json.dumps(cameras))
    rows = pq.read_table(packed / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    depths = {}
    for i, (first, length) in enumerate(((0, 5), (3, 4), (7, 6))):
        depths[i] = np.stack([photograph(0.15 * (first + k))[1] for k in range(length)])
        depths[i][:, :4] = 0
        place = packed / f"videos/observation.images.front_depth/chunk-000/file-00{i}.mkv"
        write_depth(place, depths[i], LogDepth(depth_max=6.0))
        place.rename(place.with_suffix(".mp4"))
        where = {"chunk_index": 0, "file_index": i, "from_timestamp": 0.0, "to_timestamp": length / FPS}
        rows[i] |= {f"videos/observation.images.front_depth/{k}": v for k, v in where.items()}
    pq.write_table(pa.Table.from_pylist(rows), packed / "meta/episodes/chunk-000/file-000.parquet")
    for i, recording in enumerate(open_lerobot(packed)):
        frames = recording.read().views["front"]
        assert (frames.depth[:, :4] == 0).all()
        measured = torch.from_numpy(depths[i]) > 0
        assert torch.equal(frames.depth > 0, measured)
        assert (frames.depth - torch.from_numpy(depths[i])).abs().max() < 1.3e-3
    edit_info(packed, features={**info["features"], "observation.images.front_depth": {**feature, "info": {}}})
    with pytest.raises(DepthError, match="no depth map"):
        open_lerobot(packed)[0].read()


def write_depth(path, depth, codec):
    """Depth [t h w] m as the codes of `codec`, lossless, by the formula of the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    low, high = np.log(codec.depth_min + codec.shift), np.log(codec.depth_max + codec.shift)
    share = (np.log(np.maximum(depth, 0) + codec.shift) - low) / (high - low)
    codes = np.rint(share * 4095).clip(0, 4095).astype(np.uint16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=int(FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "gray12le"
        for image in codes:
            frame = av.VideoFrame(WIDTH, HEIGHT, "gray12le")
            plane = frame.planes[0]
            rows = np.zeros((HEIGHT, plane.line_size // 2), np.uint16)
            rows[:, :WIDTH] = image
            plane.update(rows.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_frames_are_counted_where_time_stamps_drift(packed):
    """Episodes packed into one video: from_timestamp adds up rounding, the numbers of frames do not."""
    lengths = [5, 4, 6]
    pictures = np.stack([np.full((HEIGHT, WIDTH, 3), 15 * i, np.uint8) for i in range(15)])
    folder = packed / f"videos/{KEY}/chunk-000"
    encode_video(folder / "file-000.mp4", pictures, fps=FPS, crf=0)
    meta = packed / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(meta).to_pylist()
    for i, start in enumerate((0.0, 0.57, 1.02)):  # the second should be at 0.5, the third at 0.9
        rows[i] |= {f"videos/{KEY}/file_index": 0, f"videos/{KEY}/from_timestamp": start}
    pq.write_table(pa.Table.from_pylist(rows), meta)
    for i, recording in enumerate(open_lerobot(packed)):
        episode = recording.read()
        shown = (episode.views["front"].rgb.mean((1, 2, 3)) * 255 / 15).round().tolist()
        assert shown == [sum(lengths[:i]) + k for k in range(lengths[i])]
        drift = "".join(entry.reason for entry in left_out(episode.info))
        assert (drift == "") if i == 0 else (("70.0 ms", "120.0 ms")[i - 1] in drift)
    rows[2][f"videos/{KEY}/from_timestamp"] = 5.0
    pq.write_table(pa.Table.from_pylist(rows), meta)
    encode_video(folder / "file-000.mp4", pictures[:12], fps=FPS, crf=0)
    with pytest.raises(TimestampError, match=r"beyond the end.*5\.000 s"):
        open_lerobot(packed)[2].read()


def test_a_lost_pose_masks_its_frame(packed):
    file = packed / "data/chunk-000/file-002.parquet"
    table = pq.read_table(file)
    poses = table["observation.extrinsic.front"].to_pylist()
    poses[3] = np.full((4, 4), np.nan).tolist()
    column = pa.array(poses, pa.list_(pa.list_(pa.float32())))
    name = "observation.extrinsic.front"
    pq.write_table(table.set_column(table.column_names.index(name), name, column), file)
    episode = open_lerobot(packed)[2].read()
    assert episode.valid.tolist() == [True, True, True, False, True, True]
    frames = episode.views["front"]
    assert (frames.depth[3] == 0).all() and (frames.alpha[3] == 0).all() and (frames.alpha[2] == 1).all()
    assert_true_to_the_floor(episode[episode.valid], tolerance=0.05)


@pytest.mark.slow
def test_ten_thousand_episodes_open_at_once(tmp_path):
    """In a process of its own, so that its memory is its own; two episodes are then read."""
    write_lerobot(tmp_path / "set", [floor_episode(0, 2)])
    meta, count = tmp_path / "set/meta", 10_000
    row = pq.read_table(meta / "episodes/chunk-000/file-000.parquet").to_pylist()[0]
    columns = {key: [value] * count for key, value in row.items()}
    columns |= {"episode_index": list(range(count)), "tasks": [[f"task {i % 50}"] for i in range(count)]}
    columns |= {"scene4d/info": [json.dumps({"seed": i}) for i in range(count)]}
    columns |= {f"stats/action/{k}": [[0.0] * 7] * count for k in ("min", "max", "mean", "std")}
    for prefix in ("data", f"videos/{KEY}"):
        columns |= {f"{prefix}/file_index": [i % 1000 for i in range(count)]}
        columns |= {f"{prefix}/chunk_index": [i // 1000 for i in range(count)]}
    pq.write_table(pa.table(columns), meta / "episodes/chunk-000/file-000.parquet")
    edit_info(tmp_path / "set", total_episodes=count, total_frames=2 * count)
    source = (tmp_path / "set/data/chunk-000/file-000.parquet").read_bytes()
    for chunk in range(10):
        folder = tmp_path / f"set/data/chunk-{chunk:03d}"
        folder.mkdir(exist_ok=True)
        for i in range(1000):
            (folder / f"file-{i:03d}.parquet").write_bytes(source if chunk + i == 0 else b"")
    program = """
        import sys, time
        from scene4d.data.formats.lerobot.lerobot import open_lerobot
        resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
        before = resident()
        start = time.process_time()  # other work on the machine does not count
        recordings = open_lerobot(sys.argv[1])
        frames = sum(r.num_frames for r in recordings)
        tasks = {r.info["task"] for r in recordings[:100]}
        seconds = time.process_time() - start
        used = resident() - before
        print(len(recordings), frames, len(tasks), seconds, used, len(recordings[0].read().actions))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "set")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    episodes, frames, tasks, seconds, megabytes, read = map(float, done.stdout.split())
    assert (episodes, frames, tasks, read) == (count, 2 * count, 50, 2)
    assert seconds < 2 and megabytes < 300, (seconds, megabytes)
    print(f"{seconds:.2f} s, {megabytes:.0f} MB")

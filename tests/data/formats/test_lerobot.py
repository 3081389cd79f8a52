"""What is written comes back; what is damaged is refused by name."""

import json
import math
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from floor_scene import decode_frames

from scene4d.data.formats.lerobot.lerobot import open_lerobot, write_lerobot
from scene4d.data.video.video import encode_video
from scene4d.errors import (
    CalibrationError,
    DataFormatError,
    DepthError,
    ResourceError,
    SecurityError,
    TimestampError,
    VersionError,
    VideoError,
)
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.types import Cameras, Episode, Frames

FPS, LENGTH = 20.0, 12
VIDEO = "videos/observation.images.fixed/chunk-000/file-000.mp4"


def _episode(seed: int = 0, *, length: int = LENGTH, segments: int = 3) -> Episode:
    """A fixed and a moving camera of different sizes; every frame differs, so that a wrong index shows."""
    generator = torch.Generator().manual_seed(seed)
    views = {}
    for name, (width, height) in {"fixed": (32, 24), "hand": (24, 32)}.items():
        x, y = torch.meshgrid(torch.linspace(0, 1, width), torch.linspace(0, 1, height), indexing="xy")
        t = torch.linspace(0, 1, length)[:, None, None]
        rgb = torch.stack([x + 0 * t, y + 0 * t, (t + 0.2 * seed) % 1 + 0 * x], -1)
        depth = 0.5 + 4 * x * y + t + torch.rand(length, height, width, generator=generator) * 0.01
        depth[:, :3] = 0
        ids = torch.randint(-1, segments, (length, height, width, 1), generator=generator)
        angle = torch.full((length,), 0.3) if name == "fixed" else torch.linspace(0, 2, length)
        positions = torch.stack([angle.cos(), angle.sin(), torch.full((length,), 0.8)], -1)
        K = intrinsics_from_fov(0.8, width=width, height=height).expand(length, 3, 3)
        cameras = Cameras(viewmats=look_at(positions, torch.zeros(length, 3)), Ks=K, width=width, height=height)
        views[name] = Frames(rgb=rgb, depth=depth, alpha=None, cameras=cameras, extras={"segments": ids})
    random = lambda *shape: torch.randn(*shape, generator=generator)
    return Episode(
        views=views,
        times=torch.arange(length, dtype=torch.float64) / FPS,
        valid=torch.ones(length, dtype=torch.bool),
        actions=random(length, 4),
        proprio=random(length, 5),
        rewards=random(length),
        success=torch.arange(length) > 8,
        segment_poses=random(length, segments, 7),
        info={"task": f"task {seed}", "seed": seed, "action_spec": [{"name": n, "unit": "m"} for n in "abcd"]},
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    episodes = [_episode(0), _episode(1, length=9, segments=2)]
    path = tmp_path_factory.mktemp("made") / "set"
    return path, episodes, write_lerobot(path, iter(episodes))


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "copy")


def _psnr(a, b):
    return -10 * math.log10(float(((a - b) ** 2).mean()))


def test_an_episode_comes_back(made):
    path, episodes, written = made
    assert (written["episodes"], written["frames"]) == (2, LENGTH + 9)
    recordings = open_lerobot(path)
    assert [r.num_frames for r in recordings] == [LENGTH, 9] and recordings[0].fps == FPS
    assert recordings[0].cameras == ("fixed", "hand")
    for recording, episode in zip(recordings, episodes, strict=True):
        back = recording.read()
        for name in ("times", "valid", "actions", "proprio", "rewards", "success", "segment_poses"):
            assert torch.equal(getattr(back, name), getattr(episode, name)), name
        assert {k: back.info[k] for k in episode.info} == episode.info
        for name, frames in episode.views.items():
            got = back.views[name]
            assert _psnr(got.rgb, frames.rgb) > 40
            assert (got.depth - frames.depth).abs().max() < 0.51e-4
            assert torch.equal(got.depth == 0, frames.depth == 0)
            assert torch.equal(got.extras["segments"], frames.extras["segments"])
            assert torch.equal(got.cameras.viewmats, frames.cameras.viewmats)
            assert torch.equal(got.cameras.Ks, frames.cameras.Ks)


def test_a_part_is_that_part(made):
    recording = open_lerobot(made[0])[0]
    whole, part = recording.read(), recording.read(2, 11, stride=4, cameras=["hand"])
    assert list(part.views) == ["hand"] and torch.equal(part.times, whole.times[[2, 6, 10]])
    assert torch.equal(part.actions, whole.actions[[2, 6, 10]])
    expected = whole.views["hand"][[2, 6, 10]]
    assert torch.equal(part.views["hand"].rgb, expected.rgb) and torch.equal(part.views["hand"].depth, expected.depth)
    assert torch.equal(part.views["hand"].cameras.viewmats, expected.cameras.viewmats)
    late = recording.read(11, cameras=["fixed"])  # past a key frame: found by seeking
    assert torch.equal(late.views["fixed"].rgb, whole.views["fixed"].rgb[11:])


def test_resized_images_keep_their_cameras_true(made):
    recording = open_lerobot(made[0])[0]
    full, half = (
        recording.read(0, 1).views["fixed"],
        recording.read(0, 1, size=(16, 12), cameras=["fixed"]).views["fixed"],
    )
    assert half.rgb.shape == (1, 12, 16, 3) and half.depth.shape == (1, 12, 16)
    assert torch.allclose(half.cameras.Ks[0, :2], full.cameras.Ks[0, :2] / 2)
    means = torch.nn.functional.avg_pool2d(full.rgb.movedim(-1, 1), 2).movedim(1, -1)
    assert (half.rgb - means).abs().max() < 1.5 / 255


def test_only_what_is_asked_for_is_decoded(made, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        "scene4d.data.video.pictures.iterate_frames",
        lambda file, i: decoded.append((file, i)) or decode_frames(file, i),
    )
    monkeypatch.setattr(
        "scene4d.data.formats.lerobot.lerobot.decode_depth",
        lambda data, **_: decoded.append("depth") or np.ones((24, 32), np.float32),
    )
    recording = open_lerobot(made[0])[0]
    assert decoded == []
    recording.read(0, 2, cameras=["fixed"])
    assert len(decoded) == 3 and decoded[0][1] == [0, 1]


def test_layout_is_lerobot_v3(made):
    path = made[0]
    info = json.loads((path / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["fps"] == 20 and info["total_frames"] == LENGTH + 9
    assert info["features"]["observation.images.fixed"]["dtype"] == "video"
    assert info["features"]["action"]["names"] == list("abcd")
    rows = pq.read_table(path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for row, begin, end in zip(rows, (0, LENGTH), (LENGTH, LENGTH + 9), strict=True):
        assert (row["dataset_from_index"], row["dataset_to_index"], row["length"]) == (begin, end, end - begin)
        where = {k: row[f"data/{k}"] for k in ("chunk_index", "file_index")}
        table = pq.read_table(path / info["data_path"].format(**where))
        assert table["index"].to_pylist() == list(range(begin, end))
        numeric = [n for n, f in info["features"].items() if f["dtype"] != "video"]
        assert table.column_names == numeric
        for name in ("observation.images.fixed", "observation.images.hand"):
            where = {k: row[f"videos/{name}/{k}"] for k in ("chunk_index", "file_index")}
            assert (path / info["video_path"].format(video_key=name, **where)).is_file()
            assert row[f"videos/{name}/to_timestamp"] == pytest.approx(row["length"] / FPS)
    tasks = pq.read_table(path / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    stats = json.loads((path / "meta/stats.json").read_text())
    actions = torch.cat([e.actions for e in made[1]]).double()
    assert np.allclose(stats["action"]["mean"], actions.mean(0)) and stats["action"]["count"] == [LENGTH + 9]


def test_episodes_packed_into_one_file_are_told_apart(copy, made):
    """LeRobot itself puts many episodes into one parquet file and one video."""
    whole = [r.read() for r in open_lerobot(copy)]
    files = [copy / f"data/chunk-000/file-00{i}.parquet" for i in (0, 1)]
    import pyarrow as pa

    pq.write_table(pa.concat_tables([pq.read_table(f) for f in files]), files[0])
    files[1].unlink()
    meta = copy / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(meta).to_pylist()
    rows[1]["data/file_index"] = 0
    for name in ("fixed", "hand"):
        folder = copy / f"videos/observation.images.{name}/chunk-000"
        images = [decode_frames(folder / f"file-00{i}.mp4", range(n)) for i, n in ((0, LENGTH), (1, 9))]
        (folder / "file-001.mp4").unlink()
        encode_video(folder / "file-000.mp4", np.concatenate(images), fps=FPS, crf=0)
        key = f"videos/observation.images.{name}"
        rows[1] |= {
            f"{key}/file_index": 0,
            f"{key}/from_timestamp": LENGTH / FPS,
            f"{key}/to_timestamp": (LENGTH + 9) / FPS,
        }
    pq.write_table(pa.Table.from_pylist(rows), meta)
    for recording, expected in zip(open_lerobot(copy), whole, strict=True):
        back = recording.read()
        assert torch.equal(back.actions, expected.actions)
        assert _psnr(back.views["hand"].rgb, expected.views["hand"].rgb) > 42
        assert torch.equal(back.views["hand"].depth, expected.views["hand"].depth)


def _edit_info(path, **changes):
    file = path / "meta/info.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _edit_camera(path, **changes):
    file = path / "meta/cameras.json"
    value = json.loads(file.read_text())
    value["cameras"]["fixed"] |= changes
    file.write_text(json.dumps(value))


def _cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _truncate_video(path):
    encode_video(path / VIDEO, np.zeros((7, 24, 32, 3), np.uint8), fps=FPS)


FAULTS = {
    "info missing": (lambda p: (p / "meta/info.json").unlink(), DataFormatError, r"info\.json.*missing.*folder"),
    "info not JSON": (lambda p: (p / "meta/info.json").write_text('{"a": }'), DataFormatError, r"line 1 column 7"),
    "info NaN": (lambda p: _edit_info(p, fps=math.nan), DataFormatError, "NaN"),
    "fps 0": (lambda p: _edit_info(p, fps=0), DataFormatError, "fps"),
    "no features": (lambda p: _edit_info(p, features=None), DataFormatError, "features"),
    "old version": (lambda p: _edit_info(p, codebase_version="v1.6"), VersionError, r"v1\.6.*v2\.0, v2\.1.*convert"),
    "newer version": (lambda p: _edit_info(p, codebase_version="v9.0"), VersionError, r"v9\.0"),
    "path up": (lambda p: _edit_info(p, data_path="../{chunk_index}.parquet"), SecurityError, "leads out"),
    "path absolute": (lambda p: _edit_info(p, data_path="/etc/passwd"), SecurityError, "leads out"),
    "path attribute": (lambda p: _edit_info(p, data_path="{chunk_index.__class__}"), SecurityError, "something else"),
    "no calibration": (lambda p: (p / "meta/cameras.json").unlink(), CalibrationError, r"write .*\.json.*viewmat"),
    "K of another size": (lambda p: _edit_camera(p, width=64, height=48), CalibrationError, "fixed.*another image"),
    "K negative": (lambda p: _edit_camera(p, K=[[-9, 0, 16], [0, 9, 12], [0, 0, 1]]), CalibrationError, "fixed"),
    "no pose": (lambda p: _edit_camera(p, viewmat=None), CalibrationError, r"fixed\.viewmat"),
    "pose scaled": (lambda p: _edit_camera(p, viewmat=np.diag([2.0, 2, 2, 1]).tolist()), CalibrationError, "rigid"),
    "unknown feature": (lambda p: _edit_camera(p, depth="depth"), CalibrationError, r"fixed\.depth"),
    "frames differ": (lambda p: _edit_info(p, total_frames=99), DataFormatError, "99.*21.*21"),
    "table missing": (lambda p: (p / "data/chunk-000/file-001.parquet").unlink(), DataFormatError, "file-001.*missing"),
    "table cut": (lambda p: _cut(p / "data/chunk-000/file-000.parquet"), DataFormatError, "file-000.*finalised"),
    "episodes cut": (lambda p: _cut(p / "meta/episodes/chunk-000/file-000.parquet"), DataFormatError, "finalised"),
    "episodes differ": (lambda p: _edit_info(p, total_episodes=3), DataFormatError, "episode_index"),
    "tasks missing": (lambda p: (p / "meta/tasks.parquet").unlink(), DataFormatError, "tasks"),
    "video missing": (lambda p: shutil.rmtree(p / "videos"), VideoError, r"file-000\.mp4"),
    "video cut": (lambda p: _cut(p / VIDEO), VideoError, r"file-000\.mp4"),
    "video short": (_truncate_video, DataFormatError, "7 frames of video, 12 rows"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_named(copy, fault):
    spoil, error, words = FAULTS[fault]
    spoil(copy)
    with pytest.raises(error, match=words):
        open_lerobot(copy)[0].read()


def test_a_link_out_of_the_data_set_is_not_followed(copy, tmp_path):
    table = copy / "data/chunk-000/file-000.parquet"
    table.rename(tmp_path / "elsewhere.parquet")
    table.symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(SecurityError):
        open_lerobot(copy)


def _edit_column(path, name, values):
    file = path / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.column_names.index(name), name, [values]), file)


def test_damaged_columns_are_named(copy):
    _edit_column(copy, "timestamp", [0.0, 0.05, 0.05, *(0.05 * i for i in range(3, LENGTH))])
    with pytest.raises(TimestampError, match="frame 2"):
        open_lerobot(copy)[0].read()
    _edit_column(copy, "timestamp", [0.05 * i for i in range(LENGTH)])
    _edit_column(copy, "action", [[0.0] * 3] * LENGTH)
    with pytest.raises(DataFormatError, match="action"):
        open_lerobot(copy)[0].read()
    _edit_column(copy, "frame_index", [*range(LENGTH - 1), LENGTH])
    with pytest.raises(DataFormatError, match="frame_index"):
        open_lerobot(copy)[0].read()


def test_no_such_frames_or_cameras(made):
    recording = open_lerobot(made[0])[0]
    with pytest.raises(DataFormatError, match="start, stop"):
        recording.read(LENGTH)
    with pytest.raises(DataFormatError, match="wrist"):
        recording.read(cameras=["wrist"])


def test_writing_refuses_what_it_cannot_hold(tmp_path):
    good = _episode(0)
    turned = good.views["fixed"].cameras.replace(viewmats=good.views["hand"].cameras.viewmats[:1].expand(LENGTH, 4, 4))
    other = good.replace(views={**good.views, "fixed": good.views["fixed"].replace(cameras=turned)})
    far = good.replace(
        views={**good.views, "fixed": good.views["fixed"].replace(depth=torch.full((LENGTH, 24, 32), 40.0))}
    )
    cases = [
        ([good, other], CalibrationError, "pose"),
        ([far], DepthError, "depth_unit=0.001"),
        ([good.replace(times=good.times**2 + good.times)], TimestampError, "evenly"),
        ([good, good.replace(rewards=None)], DataFormatError, "next.reward"),
        ([good.replace(actions=good.actions * math.nan)], DataFormatError, "action"),
        ([], DataFormatError, "no episode"),
    ]
    for number, (episodes, error, words) in enumerate(cases):
        with pytest.raises(error, match=words):
            write_lerobot(tmp_path / str(number), episodes)
    assert list(tmp_path.iterdir()) == []  # nothing half-written stays
    write_lerobot(tmp_path / "far", [far], depth_unit=1e-3)
    with pytest.raises(ResourceError, match="exists"):
        write_lerobot(tmp_path / "far", [good])


def test_padding_is_not_written(tmp_path):
    episode = _episode(0).replace(valid=torch.arange(LENGTH) < 7)
    write_lerobot(tmp_path / "set", [episode], fps=FPS)
    back = open_lerobot(tmp_path / "set")[0].read()
    assert len(back.times) == 7 and torch.equal(back.actions, episode.actions[:7])

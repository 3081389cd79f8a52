"""Depth as lerobot keeps it: a lossless video of 12-bit codes, or pictures in a unit that the feature tells."""

import hashlib
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_fixtures import HEIGHT, LENGTH, TABLE, WIDTH, episode, lerobot_set
from PIL import Image

from scene4d.apps.cli import main
from scene4d.data.detect import open_recordings
from scene4d.data.formats.lerobot.lerobot import write_lerobot
from scene4d.data.video.depth_codec import LogDepth
from scene4d.data.video.video import CodesEncoder, iterate_frames, video_facts
from scene4d.errors import DepthError
from scene4d.ledger import left_out

KEY = "observation.depth.front"
FILE = f"videos/{KEY}/chunk-000/file-000.mp4"


def step_of(codec, depth):
    """What one code is worth at a depth [..] m."""
    if not codec.use_log:
        return (codec.depth_max - codec.depth_min) / 4095
    return (depth + codec.shift) * np.log((codec.depth_max + codec.shift) / (codec.depth_min + codec.shift)) / 4095


@pytest.mark.parametrize("codec", [LogDepth(), LogDepth(depth_max=3.0, use_log=False), LogDepth(0.2, 40.0, shift=1.0)])
def test_codes_are_off_by_half_a_step_at_most(codec):
    depth = np.random.default_rng(0).uniform(codec.depth_min + 0.03, codec.depth_max, (50, 40)).astype(np.float32)
    depth[:5] = [[0], [-1], [np.nan], [np.inf], [0]]
    codes = codec.encode(depth)
    again = codec.decode(codes)
    assert codes.dtype == np.uint16 and (codes[:5] == 0).all() and (again[:5] == 0).all(), "holes stay holes"
    assert (np.abs(again - depth)[5:] <= 0.51 * step_of(codec, depth[5:]) + 1e-6).all()


def test_what_is_near_is_no_hole_and_what_is_far_is_refused():
    near = np.full((2, 2), 0.0101, np.float32)
    assert (LogDepth().decode(LogDepth().encode(near)) > 0.01).all()
    with pytest.raises(DepthError, match=r"found 10.50 m, expected <= 10 m"):
        LogDepth().encode(np.full((2, 2), 10.5, np.float32))


@pytest.mark.parametrize("size", [(24, 16), (37, 19), (64, 48)])
def test_the_video_is_lossless_and_the_same_each_time(tmp_path, size):
    codes = np.random.default_rng(1).integers(0, 4096, (25, size[1], size[0])).astype(np.uint16)
    for name in ("a.mp4", "b.mp4"):
        with CodesEncoder(tmp_path / name, fps=30) as film:
            film.add(codes)
    facts = video_facts(tmp_path / "a.mp4")
    assert (facts.codec, facts.pix_fmt, facts.num_frames) == ("hevc", "gray12le", 25)
    assert (np.stack(list(iterate_frames(tmp_path / "a.mp4", range(25), codes=True))) == codes).all()
    assert (next(iter(iterate_frames(tmp_path / "a.mp4", [17], codes=True))) == codes[17]).all()
    digests = {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.mp4", "b.mp4")}
    assert len(digests) == 1


def test_written_and_read_again(tmp_path):
    whole = [episode(0), episode(1)]
    whole[0].views["front"].depth[2, :4] = 0
    codec = LogDepth()
    write_lerobot(tmp_path / "set", whole, depth_video=codec)
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    feature = info["features"][KEY]
    assert feature["dtype"] == "video" and feature["shape"] == [HEIGHT, WIDTH, 1]
    written = {"is_depth_map": True, "video.pix_fmt": "gray12le", "video.codec": "hevc", "depth_unit": "m"}
    written |= {"video.depth_min": 0.01, "video.depth_max": 10.0, "video.shift": 3.5, "video.use_log": True}
    assert written.items() <= feature["info"].items()
    assert KEY not in pq.read_schema(tmp_path / "set" / TABLE).names
    recordings = open_recordings(tmp_path / "set")
    assert recordings[0].depth_cameras == ("front",) and not left_out(recordings[0].info)
    for recording, given in zip(recordings, whole, strict=True):
        depth, true = recording.read().views["front"].depth.numpy(), given.views["front"].depth.numpy()
        assert ((depth == 0) == (true == 0)).all()
        assert (np.abs(depth - true) <= 0.51 * step_of(codec, true) + 1e-6).all()
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())[KEY]
    assert stats["max"] == [[[pytest.approx(1.55, abs=2e-3)]]] and stats["count"] == [2 * LENGTH]


def test_convert_offers_it(tmp_path):
    far = episode(0)
    far.views["front"].depth.add_(11)
    write_lerobot(tmp_path / "far", [far, episode(1)], depth_unit=1e-3)
    lerobot_set(tmp_path / "near")
    for name, reach in (("near", 10.0), ("far", 19)):
        target = tmp_path / f"{name} video"
        assert main(["convert", str(tmp_path / name), "-o", str(target), "--depth", "video"]) == 0
        info = json.loads((target / "meta/info.json").read_text())["features"][KEY]["info"]
        assert info["video.depth_max"] == reach, "as far as the first recording asks for"
        pairs = zip(open_recordings(target), open_recordings(tmp_path / name), strict=True)
        for recording, source in pairs:
            depth, true = (r.read().views["front"].depth for r in (recording, source))
            assert torch.allclose(depth, true, atol=4e-3) and (target / FILE).is_file()


def test_png_in_millimetres_is_marked_as_depth(tmp_path):
    write_lerobot(tmp_path / "mm", [episode(0)], depth_unit=1e-3)
    write_lerobot(tmp_path / "fine", [episode(0)])
    features = [json.loads((tmp_path / n / "meta/info.json").read_text())["features"][KEY] for n in ("mm", "fine")]
    assert features[0]["info"] == {"is_depth_map": True, "depth_unit": "mm"} and "info" not in features[1]
    mm, fine = (open_recordings(tmp_path / n)[0].read().views["front"].depth for n in ("mm", "fine"))
    assert torch.allclose(mm, fine, atol=6e-4)


@pytest.mark.parametrize(
    ("kind", "unit", "step"), [(np.uint16, "mm", 1e-3), (np.float32, "m", 1.0), (np.float32, "mm", 1e-3)]
)
def test_tiff_pictures_in_the_unit_of_their_feature(tmp_path, kind, unit, step):
    """As lerobot writes depth where videos are off; what cameras.json says of the unit is of our own PNG."""
    root = lerobot_set(tmp_path / "set")
    table, true = pq.read_table(root / TABLE), episode(0).views["front"].depth.numpy()
    rows = []
    for metres in true:
        values = (metres / step).round() if kind == np.uint16 else metres / step
        values = values.astype(kind)
        values[0, :3] = 0 if kind == np.uint16 else [0, np.nan, -1]
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "tiff")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    column = pa.array(rows, table.schema.field(KEY).type)
    pq.write_table(table.set_column(table.column_names.index(KEY), KEY, column), root / TABLE)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][KEY]["info"] = {"is_depth_map": True, "depth_unit": unit}
    (root / "meta/info.json").write_text(json.dumps(info))
    depth = open_recordings(root)[0].read().views["front"].depth.numpy()
    assert (depth[:, 0, :3] == 0).all() and np.isfinite(depth).all()
    assert np.allclose(depth[:, 1:], true[:, 1:], atol=6e-4 if kind == np.uint16 else 1e-6)

"""Replay buffers written by zarr itself, version 2 and 3, folders and .zip, and stores that must not be believed."""

import json
import os
import pickle
import shutil
import zipfile
import zlib

import numpy as np
import pytest
from left_out_names import left_out_names

zarr = pytest.importorskip("zarr")
numcodecs = pytest.importorskip("numcodecs")

from scene4d.data.detect import open_recordings
from scene4d.data.diagnose.inspect import ledger_findings
from scene4d.errors import CalibrationError, DataFormatError, ResourceError, SecurityError
from scene4d.ledger import left_out

T, WIDTH, HEIGHT, ENDS = 11, 20, 16, [4, 11]
PICTURES = np.random.default_rng(0).integers(0, 255, (T, HEIGHT, WIDTH, 3), dtype=np.uint8)
STATE = np.arange(T * 3, dtype=np.float32).reshape(T, 3)


def write(path, arrays, *, version=2, **given):
    """A store with arrays {name: values}, in chunks of 3 rows."""
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    for name, values in arrays.items():
        options = dict(given.get(name, {}))
        chunks = options.pop("chunks", (min(3, len(values)), *values.shape[1:]))
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks, **options)
        array[:] = values


def push(**changes):
    arrays = {
        "data/img": PICTURES,
        "data/action": STATE + 100,
        "data/state": STATE,
        "meta/episode_ends": np.array(ENDS),
    }
    return {name: values for name, values in (arrays | changes).items() if values is not None}


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(folder).as_posix())


def shown(recording, camera="img"):
    return (recording.read().views[camera].rgb * 255).round().byte().numpy()


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_replay_buffer(tmp_path, version, packed):
    path = tmp_path / "pusht.zarr"
    write(path, push(), version=version)
    if packed:
        zipped(path, tmp_path / "pusht.zarr.zip")
        shutil.rmtree(path)
        path = tmp_path / "pusht.zarr.zip"
    with pytest.raises(CalibrationError, match=r"no calibration.*data/img \(20x16\)"):
        open_recordings(path)
    first, second = pickle.loads(pickle.dumps(open_recordings(tmp_path, fov_deg=60)))
    assert (first.num_frames, second.num_frames) == (4, 7) and second.path.endswith("#episode_1")
    assert (shown(first) == PICTURES[:4]).all() and (shown(second) == PICTURES[4:]).all()
    episode = second.read(1, 7, stride=2)
    assert (episode.views["img"].rgb[1] * 255).round().byte().numpy().tolist() == PICTURES[7].tolist()
    assert episode.actions[:, 0].tolist() == [115, 121, 127] and episode.proprio[:, 0].tolist() == [15, 21, 27]
    assert first.fps == 10 and "nominal" in first.info["times"]
    assert not ledger_findings(left_out(first.info))


CODECS = {
    "none": dict(compressors=None),
    "zlib": dict(compressors=numcodecs.Zlib(3)),
    "gzip": dict(compressors=numcodecs.GZip(3)),
    "bz2": dict(compressors=numcodecs.BZ2(3)),
    "lz4": dict(compressors=numcodecs.LZ4()),
    "zstd": dict(compressors=numcodecs.Zstd(3)),
    "blosc": dict(compressors=numcodecs.Blosc("lz4", 5, numcodecs.Blosc.BITSHUFFLE)),
    "fortran": dict(compressors=None, order="F"),
}


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_of_version_2(tmp_path, codec):
    pieces = {"data/img": CODECS[codec] | {"chunks": (2, 5, 20, 2)}, "data/state": CODECS[codec]}
    write(tmp_path / "a.zarr", push(), **pieces)
    recording = open_recordings(tmp_path, fov_deg=60)[1]
    assert (shown(recording) == PICTURES[4:]).all() and (recording.read().proprio.numpy() == STATE[4:]).all()


@pytest.mark.parametrize("codec", ["gzip", "zstd", "blosc", "crc32c", "big", "turned"])
def test_codecs_of_version_3(tmp_path, codec):
    from zarr import codecs

    options = {
        "gzip": dict(compressors=codecs.GzipCodec()),
        "zstd": dict(compressors=[codecs.ZstdCodec(), codecs.Crc32cCodec()]),
        "blosc": dict(compressors=codecs.BloscCodec(cname="zstd")),
        "crc32c": dict(compressors=[codecs.Crc32cCodec()]),
        "big": dict(serializer=codecs.BytesCodec(endian="big")),
        "turned": dict(filters=[codecs.TransposeCodec(order=(1, 0))]),
    }[codec]
    write(tmp_path / "a.zarr", push(), version=3, **{"data/state": options})
    assert (open_recordings(tmp_path, fov_deg=60)[1].read().proprio.numpy() == STATE[4:]).all()


def umi(tmp_path, **options):
    arrays = {"data/camera0_rgb": PICTURES, "meta/episode_ends": np.array(ENDS)}
    for name, width in {"eef_pos": 3, "eef_rot_axis_angle": 3, "gripper_width": 1, "demo_start_pose": 6}.items():
        arrays[f"data/robot0_{name}"] = np.arange(T * width, dtype=np.float32).reshape(T, width)
    write(tmp_path / "umi.zarr", arrays, **options)
    return open_recordings(tmp_path, fov_deg=100)[1]


def test_umi_has_no_actions(tmp_path):
    recording = umi(tmp_path)
    assert recording.cameras == ("camera0_rgb",) and recording.fps == pytest.approx(59.94)
    episode = recording.read()
    assert episode.proprio.shape == (7, 7) and (episode.actions[:-1] == episode.proprio[1:]).all()
    assert recording.info["action_meaning"].startswith("state at the next frame")
    assert left_out_names(recording, "unused_columns") == ["data/robot0_demo_start_pose"]


def test_jpeg_xl(tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs")
    umi(tmp_path, **{"data/camera0_rgb": dict(compressors=None, chunks=(1, HEIGHT, WIDTH, 3))})
    folder = tmp_path / "umi.zarr/data/camera0_rgb"
    facts = json.loads((folder / ".zarray").read_text())
    facts["compressor"] = {"id": "imagecodecs_jpegxl", "level": 99, "numthreads": 1}
    (folder / ".zarray").write_text(json.dumps(facts))
    for i in range(T):
        (folder / f"{i}.0.0.0").write_bytes(imagecodecs.jpegxl_encode(PICTURES[i], lossless=True))
    recording = open_recordings(tmp_path, fov_deg=100)[1]
    assert (shown(recording, "camera0_rgb") == PICTURES[4:]).all()
    (folder / "6.0.0.0").write_bytes(imagecodecs.jpegxl_encode(np.zeros((300, 400, 3), np.uint8), lossless=True))
    with pytest.raises(DataFormatError, match=r"6\.0\.0\.0.*cannot be decoded"):
        recording.read()


def test_float_pictures_depth_times_and_what_cameras_json_says(tmp_path):
    depth = np.full((T, HEIGHT, WIDTH), 1500, np.uint16)
    times = 100 + np.arange(T) / 25
    poses = np.tile(np.eye(4, dtype=np.float32), (T, 1, 1))
    poses[:, 0, 3] = np.arange(T)
    arrays = push(
        **{
            "data/img": PICTURES[..., ::-1].astype(np.float32),
            "data/depth": depth,
            "data/timestamp": times,
            "data/cam": poses,
        }
    )
    write(tmp_path / "a.zarr", arrays)
    assert [f.kind for f in ledger_findings(left_out(open_recordings(tmp_path, fov_deg=60)[0].info))] == [
        "unused_depth"
    ]
    camera = {"rgb": "data/img", "depth": "data/depth", "depth_unit": 0.001, "viewmats": "data/cam"}
    camera |= {"width": WIDTH, "height": HEIGHT, "K": [[20, 0, 10], [0, 20, 8], [0, 0, 1]]}
    sidecar = {"cameras": {"front": camera}, "fields": {"color_order": "bgr", "task": "push"}}
    (tmp_path / "a.zarr/cameras.json").write_text(json.dumps(sidecar))
    recording = open_recordings(tmp_path)[1]
    assert (
        recording.info["task"] == "push"
        and recording.depth_cameras == ("front",)
        and recording.fps == pytest.approx(25)
    )
    episode = recording.read()
    assert (shown(recording, "front") == PICTURES[4:]).all()
    assert np.allclose(episode.views["front"].depth, 1.5) and np.allclose(episode.times, np.arange(7) / 25)
    assert episode.views["front"].cameras.viewmats[:, 0, 3].tolist() == list(range(4, 11))


def test_arrays_that_are_not_read_are_listed(tmp_path):
    write(tmp_path / "a.zarr", push(**{"data/keypoint": np.zeros((T, 9, 2), np.float32), "data/short": STATE[:5]}))
    folder = tmp_path / "a.zarr/data/label"
    folder.mkdir()
    facts = {
        "zarr_format": 2,
        "shape": [T],
        "chunks": [T],
        "dtype": "|O",
        "compressor": None,
        "fill_value": "",
        "order": "C",
    }
    (folder / ".zarray").write_text(json.dumps(facts | {"filters": [{"id": "vlen-utf8"}]}))
    recording = open_recordings(tmp_path, fov_deg=60)[0]
    assert left_out_names(recording, "unused_columns") == ["data/keypoint"]
    assert left_out_names(recording, "unread_arrays") == ["data/label"]
    assert [f.kind for f in ledger_findings(left_out(recording.info))] == ["other_lengths"]


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def no_ends_stored(root):
    edit(root / "meta/episode_ends/.zarray", shape=[1 << 19], chunks=[1])
    for chunk in (root / "meta/episode_ends").glob("[0-9]*"):
        chunk.unlink()


def link_out(root):
    shutil.rmtree(root / "data/state")
    (root / "data/state").symlink_to("/etc")


def link_a_chunk_out(root):
    (root / "data/state/1.0").unlink()
    (root / "data/state/1.0").symlink_to("/etc/hostname")


def bomb(root):
    edit(root / "data/state/.zarray", compressor={"id": "zlib", "level": 9})
    (root / "data/state/0.0").write_bytes(zlib.compress(bytes(1 << 26)))


FAULTS = {
    "pickles": (
        lambda r: edit(r / "data/state/.zarray", filters=[{"id": "pickle"}], dtype="|O"),
        SecurityError,
        "pickle",
    ),
    "pickles of version 3": (
        lambda r: (
            (r / "data/state/.zarray").unlink(),
            (r / "data/state/zarr.json").write_text(
                json.dumps({"node_type": "array", "codecs": [{"name": "numcodecs.pickle"}], "data_type": "float32"})
            ),
        ),
        SecurityError,
        "pickle",
    ),
    "objects for actions": (
        lambda r: edit(r / "data/action/.zarray", dtype="|O", filters=[{"id": "json2"}]),
        SecurityError,
        "data/action: holds objects",
    ),
    "linked folder": (link_out, SecurityError, "leads out"),
    "linked chunk": (link_a_chunk_out, SecurityError, "leads out"),
    "bomb": (bomb, DataFormatError, r"data/state/0\.0.*cannot be decoded"),
    "no ends": (lambda r: shutil.rmtree(r / "meta/episode_ends"), DataFormatError, "episode_ends: is missing"),
    "no pictures": (lambda r: shutil.rmtree(r / "data/img"), DataFormatError, "holds no images"),
    "unknown codec": (lambda r: edit(r / "data/img/.zarray", compressor={"id": "own"}), DataFormatError, "codec own"),
    "cut chunk": (lambda r: (r / "data/img/1.0.0.0").write_bytes(b"x"), DataFormatError, "cannot be decoded"),
    "huge chunks": (
        lambda r: edit(r / "data/img/.zarray", chunks=[T, 9999, 9999, 3]),
        ResourceError,
        "impossibly large",
    ),
    "huge shape": (lambda r: edit(r / "data/img/.zarray", shape=[T, -1, 2, 3]), DataFormatError, "has no shape"),
    "rows that are not there": (no_ends_stored, ResourceError, "episode_ends: claims rows that are not stored"),
    "no JSON": (lambda r: (r / "data/img/.zarray").write_text("{"), DataFormatError, "cannot be opened as zarr"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(tmp_path, name):
    spoil, kind, words = FAULTS[name]
    write(tmp_path / "a.zarr", push())
    spoil(tmp_path / "a.zarr")
    with pytest.raises(kind, match=words) as caught:
        [recording.read() for recording in open_recordings(tmp_path / "a.zarr", fov_deg=60)]
    assert caught.value.exit_code in (3, 4) and str(tmp_path) in caught.value.file


def test_actions_in_an_unknown_codec_are_a_finding(tmp_path):
    write(tmp_path / "a.zarr", push())
    edit(tmp_path / "a.zarr/data/action/.zarray", compressor={"id": "own"})
    recording = open_recordings(tmp_path, fov_deg=60)[0]
    assert [f.kind for f in ledger_findings(left_out(recording.info))] == ["unread_arrays"]


def test_ends_that_do_not_increase(tmp_path):
    write(tmp_path / "a.zarr", push(**{"meta/episode_ends": np.array([4, 4, 11])}))
    with pytest.raises(DataFormatError, match="one after the other") as caught:
        open_recordings(tmp_path, fov_deg=60)
    assert caught.value.frame == 1


def test_a_zip_with_a_folder_around_the_store(tmp_path):
    write(tmp_path / "set/a.zarr", push())
    zipped(tmp_path / "set", tmp_path / "b.zip")
    shutil.rmtree(tmp_path / "set")
    assert (shown(open_recordings(tmp_path, fov_deg=60)[0]) == PICTURES[:4]).all()
    (tmp_path / "b.zip").rename(tmp_path / "b.zarr.zip")
    data = (tmp_path / "b.zarr.zip").read_bytes()
    (tmp_path / "b.zarr.zip").write_bytes(data[: len(data) // 2])
    os.utime(tmp_path / "b.zarr.zip", (1, 1))
    with pytest.raises(DataFormatError, match="cannot be opened as zarr"):
        open_recordings(tmp_path, fov_deg=60)

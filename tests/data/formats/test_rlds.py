"""TFRecord by hand: real BridgeData clips, and files written by a small writer of the test's own."""

import io
import json
import pickle
import struct

import numpy as np
import pytest
from floor_scene import HEIGHT, WIDTH, K, assert_true_to_the_floor, fingerprint, photograph, pose
from hypothesis import given, settings
from hypothesis import strategies as st
from left_out_names import left_out_names
from PIL import Image

from scene4d.data.detect import open_recordings
from scene4d.data.diagnose.inspect import ledger_findings
from scene4d.data.formats.robots.tfrecord import crc32c, masked_crc, parse_example, record_places, values_of
from scene4d.errors import CalibrationError, DataFormatError, DepthError, Scene4DError
from scene4d.ledger import left_out

T = 4


def varint(value):
    value &= 2**64 - 1
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def message(field, data):
    return varint(field << 3 | 2) + varint(len(data)) + data


def example(features, *, packed=True):
    """A tf.train.Example as the protobuf encoding has it."""
    entries = b""
    for name, values in features.items():
        if isinstance(values, list):
            body = message(1, b"".join(message(1, v) for v in values))
        elif np.asarray(values).dtype.kind == "f":
            numbers = [struct.pack("<f", v) for v in np.ravel(values)]
            body = message(2, message(1, b"".join(numbers)) if packed else b"".join(b"\x0d" + n for n in numbers))
        else:
            numbers = [varint(int(v)) for v in np.ravel(values)]
            body = message(3, message(1, b"".join(numbers)) if packed else b"".join(b"\x08" + n for n in numbers))
        entries += message(1, message(1, name.encode()) + message(2, body))
    return message(1, entries)


def framed(data):
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked_crc(head)) + data + struct.pack("<I", masked_crc(data))


def png(values):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "png")
    return buffer.getvalue()


def features(first=0, **changes):
    picture, metres = photograph(1)
    return {
        "steps/observation/image_0": [png(picture)] * T,
        "steps/observation/depth_0": [png(np.round(metres * 1000).astype(np.uint16))] * T,
        "steps/observation/state": np.arange(T * 2, dtype=np.float32) + first,
        "steps/observation/embedding": np.zeros(T * 512, np.float32),
        "steps/action": np.arange(T * 3, dtype=np.float32),
        "steps/is_first": np.array([1, 0, 0, 0]),
        "steps/reward": np.array([0, 0, 0, 1], np.float32),
        "steps/language_instruction": [b"greif"] * T,
        "episode_metadata/id": np.array([-7]),
    } | changes


def write(folder, *records):
    path = folder / "toy-train.tfrecord-00000-of-00001"
    path.write_bytes(b"".join(framed(r) for r in records))
    viewmat = np.linalg.inv(pose(1)).tolist()
    entry = {"width": WIDTH, "height": HEIGHT, "K": K.tolist(), "viewmat": viewmat, "depth_unit": 0.001}
    entry |= {"rgb": "steps/observation/image_0", "depth": "steps/observation/depth_0"}
    (folder / "cameras.json").write_text(json.dumps({"cameras": {"front": entry}, "fields": {"fps": 5}}))
    return path


def test_checksum():
    assert crc32c(b"123456789") == 0xE3069283, "the check value of CRC-32C"
    assert crc32c(bytes(32)) == 0x8A9136AA and crc32c(b"\xff" * 32) == 0x62A8AB43, "RFC 3720, B.4"
    rng = np.random.default_rng(0)
    for size in (4095, 4096, 4097, 50_001):  # side by side in lanes must equal byte by byte
        data = rng.integers(0, 256, size, np.uint8).tobytes()
        state = 0xFFFFFFFF
        for byte in data:
            state ^= byte
            for _ in range(8):
                state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
        assert crc32c(data) == state ^ 0xFFFFFFFF


@pytest.mark.parametrize("packed", [True, False])
def test_floor(tmp_path, packed):
    write(tmp_path, example(features(), packed=packed), example(features(100), packed=packed))
    recordings = open_recordings(tmp_path)
    assert [r.path[-2:] for r in recordings] == ["#0", "#1"] and recordings[0].fps == 5
    assert recordings[0].depth_cameras == ("front",) and recordings[0].info["task"] == "greif"
    episode = pickle.loads(pickle.dumps(recordings[1])).read()
    assert_true_to_the_floor(episode)
    assert episode.proprio.tolist() == [[100 + 2 * i, 101 + 2 * i] for i in range(T)] and episode.actions.shape == (
        T,
        3,
    )
    assert episode.rewards.tolist() == [0, 0, 0, 1] and len(recordings[0].info["proprio_spec"]) == 2


def test_signed_numbers_and_nested_actions(tmp_path):
    data = example(features(**{"steps/action/b": np.arange(T, dtype=np.float32), "steps/action": np.arange(T) - 2}))
    parsed = parse_example(data, file=tmp_path)
    assert values_of(data, parsed["steps/action"], file=tmp_path).tolist() == [-2, -1, 0, 1]
    assert values_of(data, parsed["episode_metadata/id"], file=tmp_path).tolist() == [-7]
    write(tmp_path, data)
    assert open_recordings(tmp_path)[0].read().actions.tolist() == [[i - 2, i] for i in range(T)]


def test_depth_as_floats(tmp_path):
    metres = np.repeat(photograph(1)[1][None], T, 0)
    write(tmp_path, example(features(**{"steps/observation/depth_0": metres})))
    assert_true_to_the_floor(open_recordings(tmp_path)[0].read())


def test_real_bridge(shared_data):
    folder = shared_data / "robot_bridge_octo_debug"
    before = fingerprint(folder)
    with pytest.raises(CalibrationError, match=r"no calibration: RLDS.*image_0 \(64x64\)") as caught:
        open_recordings(folder)
    assert caught.value.file.endswith(".cameras.json")
    recordings = open_recordings(folder, fov_deg=60)
    assert len(recordings) == 18 and all(r.num_frames == 10 for r in recordings)
    assert recordings[0].cameras == ("image_0", "image_1", "image_2", "image_3")
    assert len(recordings[0].info["action_spec"]) == 7 and len(recordings[0].info["proprio_spec"]) == 7
    episode = recordings[3].read(cameras=["image_0", "image_3"])
    assert episode.actions.shape == (10, 7) and episode.proprio.shape == (10, 7)
    assert episode.views["image_0"].rgb.std() > 0.05 and episode.views["image_3"].rgb.std() < 0.01, "image_3 is blank"
    assert (episode.views["image_0"].rgb[0] - episode.views["image_0"].rgb[9]).abs().mean() > 0.005
    assert "approximate" in episode.info["calibration"] and fingerprint(folder) == before


def flipped(at):
    def spoil(path):
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(bytes(data))

    return spoil


def without(*names):
    return example({k: v for k, v in features().items() if k not in names})


FAULTS = {
    "cut": (example(features()), lambda p: p.write_bytes(p.read_bytes()[:-9]), DataFormatError, "cut short"),
    "length damaged": (example(features()), flipped(2), DataFormatError, "no TFRecord"),
    "data damaged": (example(features()), flipped(900), DataFormatError, "checksum|Example|decoded"),
    "compressed": (b"", lambda p: p.write_bytes(b"\x1f\x8b\x08" + bytes(40)), DataFormatError, "gunzip"),
    "no example": (b"\x0a\xff\xff\x7f", None, DataFormatError, "no tf.train.Example"),
    "no images": (without("steps/observation/image_0"), None, DataFormatError, "no images"),
    "broken image": (
        example(features(**{"steps/observation/image_0": [b"\x89PNG\r\n"] * T})),
        None,
        DataFormatError,
        "cannot be decoded",
    ),
    "images differ in number": (
        example(features(**{"steps/observation/image_1": [png(photograph(0)[0])]})),
        None,
        DataFormatError,
        "differ",
    ),
    "NaN action": (
        example(features(**{"steps/action": np.array([0, 0, 0, 0, np.nan, 0, 0, 0], np.float32)})),
        None,
        DataFormatError,
        "steps/action: frame 2: is not finite",
    ),
    "depth of 8 bits": (
        example(features(**{"steps/observation/depth_0": [png(photograph(1)[0][..., 0])] * T})),
        None,
        DepthError,
        "mode L",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults(tmp_path, name):
    data, spoil, error, words = FAULTS[name]
    path = write(tmp_path, data)
    if spoil:
        spoil(path)
    with pytest.raises(error, match=words) as caught:
        open_recordings(tmp_path)[0].read()
    assert caught.value.exit_code == 3 and caught.value.file.startswith(str(path))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 4000), st.integers(0, 255))
def test_no_bytes_do_harm(tmp_path_factory, junk, at, value):
    """Junk, and an Example with one byte changed: read, or refused by a Scene4DError."""
    good = bytearray(example({"a": np.arange(3.0), "b": [b"xy"], "c": np.arange(3)}))
    good[at % len(good)] = value
    folder = tmp_path_factory.getbasetemp()
    for data in (junk, bytes(good)):
        try:
            for feature in parse_example(data, file=folder).values():
                values_of(data, feature, file=folder)
        except Scene4DError as error:
            assert error.exit_code == 3
    path = folder / "junk.tfrecord"
    path.write_bytes(junk)
    try:
        record_places(path)
    except DataFormatError as error:
        assert error.fix


def test_features_that_are_not_read_are_listed(tmp_path):
    texts = {"steps/language_instruction": [b"greif", b"greif", b"hebe", b""]}
    write(tmp_path, example(features(**texts)))
    recording = open_recordings(tmp_path)[0]
    listed = ["episode_metadata/id", "steps/is_first", "steps/observation/embedding"]
    assert left_out_names(recording, "unused_columns") == listed
    assert left_out_names(recording, "other_texts") == ["hebe"]
    assert not ledger_findings(left_out(recording.info))


def test_actions_that_fit_no_step_are_a_finding(tmp_path):
    write(tmp_path, example(features(**{"steps/action": np.zeros(T * 3 - 1, np.float32)})))
    recording = open_recordings(tmp_path)[0]
    assert [f.kind for f in ledger_findings(left_out(recording.info))] == ["unused_actions"]


def test_depth_that_no_camera_names_is_a_finding(tmp_path):
    write(tmp_path, example(features()))
    (tmp_path / "cameras.json").unlink()
    recording = open_recordings(tmp_path, fov_deg=60)[0]
    assert left_out_names(recording, "unused_depth") == ["steps/observation/depth_0"]

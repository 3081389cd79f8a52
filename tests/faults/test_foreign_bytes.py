"""Fault 67: headers and titles that libraries stumble over: read where the data is whole, else named, never exit 6."""

import struct
import zipfile

import av
import numpy as np
import pytest
from data_fixtures import VIDEO, K, lerobot_set
from PIL import Image

from scene4d.apps.cli import main
from scene4d.apps.compose.recorded_actions import _read_actions
from scene4d.data.detect import open_recordings
from scene4d.errors import EXIT_INPUT, DataFormatError
from scene4d.gaussians.formats.points import FLOW_KEYS, read_flow_npz

HEADERS = ("{'descr': '<f8', 'shape': (3,", "{'descr': '<f8'\n  'shape': (3, 3)", '"""', "{(", "\t \\ \x01")


def npy(header):
    """A .npy of version 1.0 with that header, and numbers after it."""
    words = header.encode("latin-1").ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(words)) + words + bytes(72)


@pytest.mark.parametrize("header", HEADERS)
def test_67_npy_headers(tmp_path, capsys, header):
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(tmp_path / "frame.png")
    np.save(tmp_path / "intrinsics.npy", K)
    (tmp_path / "extrinsics.npy").write_bytes(npy(header))
    with pytest.raises(DataFormatError) as caught:
        open_recordings(tmp_path)[0].read()
    assert caught.value.file == str(tmp_path / "extrinsics.npy")
    assert main(["check", str(tmp_path)]) == EXIT_INPUT and "internal" not in capsys.readouterr().err
    with pytest.raises(DataFormatError, match="cannot be read as actions"):
        _read_actions(tmp_path / "extrinsics.npy", width=3)
    with zipfile.ZipFile(tmp_path / "flow.npz", "w") as archive:
        for name in FLOW_KEYS:
            archive.writestr(f"{name}.npy", npy(header))
    with pytest.raises(DataFormatError, match=r"is no \.npz"):
        read_flow_npz(tmp_path / "flow.npz")


def test_67_a_title_in_latin_1(tmp_path):
    """The pictures are whole, so they are read."""
    root = lerobot_set(tmp_path / "set")
    file, before = root / VIDEO, open_recordings(root)[0].read()
    with av.open(str(file)) as source, av.open(str(tmp_path / "titled.mp4"), "w") as target:
        target.metadata["title"] = "KuchenXYZ"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    data = (tmp_path / "titled.mp4").read_bytes()
    assert data.count(b"KuchenXYZ") == 1
    file.write_bytes(data.replace(b"KuchenXYZ", b"K\xfcchenXY\xff"))
    after = open_recordings(root)[0].read()
    assert (after.views["front"].rgb == before.views["front"].rgb).all()
    assert main(["check", str(root)]) == 0

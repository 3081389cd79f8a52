"""Replay buffers as .zarr.zip, with damage inside the members: the archive's own sums are made to fit."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numcodecs
import numpy as np

from scene4d.data.cameras.sidecar import Supplied
from scene4d.data.formats.robots.zarr_buffer import open_zarr

SUFFIX = ".zarr.zip"
T, WIDTH, HEIGHT = 5, 8, 6
ARRAYS = {
    "data/img": np.arange(T * WIDTH * HEIGHT * 3, dtype="|u1").reshape(T, HEIGHT, WIDTH, 3),
    "data/action": np.ones((T, 2), "<f4"),
    "data/state": np.ones((T, 3), "<f8"),
    "meta/episode_ends": np.array([2, T], "<i8"),
}
V3_NAMES = {"|u1": "uint8", "<f4": "float32", "<f8": "float64", "<i8": "int64"}


def _packed(version: int, codec: str) -> bytes:
    """A store whose arrays are one chunk of two rows after the other."""
    buffer = io.BytesIO()
    compressor = {"blosc": numcodecs.Blosc("lz4"), "zstd": numcodecs.Zstd(1), "zlib": numcodecs.Zlib(1)}[codec]
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(
            *((".zgroup", '{"zarr_format": 2}') if version == 2 else ("zarr.json", '{"node_type": "group"}'))
        )
        for name, values in ARRAYS.items():
            chunks = [2, *values.shape[1:]]
            facts = {"zarr_format": version, "shape": values.shape, "fill_value": 0}
            if version == 2:
                facts |= {"chunks": chunks, "dtype": values.dtype.str, "compressor": {"id": codec}, "filters": None}
                archive.writestr(f"{name}/.zarray", json.dumps(facts | {"order": "C"}))
            else:
                grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
                codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": codec}]
                facts |= {"node_type": "array", "data_type": V3_NAMES[values.dtype.str], "chunk_grid": grid}
                facts |= {"chunk_key_encoding": {"name": "default"}, "codecs": codecs}
                archive.writestr(f"{name}/zarr.json", json.dumps(facts))
            for k in range(-(-len(values) // 2)):
                chunk = np.zeros(chunks, values.dtype)
                rows = values[2 * k : 2 * k + 2]
                chunk[: len(rows)] = rows
                place = [str(k), *["0"] * (values.ndim - 1)]
                key = ".".join(place) if version == 2 else "/".join(["c", *place])
                archive.writestr(f"{name}/{key}", compressor.encode(chunk))
    return buffer.getvalue()


def golden() -> list[bytes]:
    """Both versions, in three codecs."""
    return [_packed(2, "blosc"), _packed(3, "zstd"), _packed(2, "zlib")]


def mended(data: bytes) -> bytes:
    """The members as they are now, in a new archive whose sums fit them."""
    try:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(buffer, "w") as target:
            for entry in archive.infolist()[:64]:
                start = entry.header_offset + 30 + len(entry.filename)
                target.writestr(entry.filename, data[start : start + min(entry.file_size, 1 << 20)])
    except Exception:
        return data  # too far gone: as it is, then
    return buffer.getvalue()


def read(path: Path) -> None:
    """Every episode: its table, and its first pictures."""
    for recording in open_zarr(path, supplied=Supplied(fov_deg=60))[:4]:
        json.dumps(dict(recording.info), allow_nan=False)
        episode = recording.read(0, min(3, recording.num_frames))
        assert bool(episode.actions.isfinite().all())

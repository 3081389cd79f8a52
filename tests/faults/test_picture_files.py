"""Faults 65 and 87 of the catalogue: pictures of another kind than their name, and pictures that are too large."""

import io
import os
import struct
import subprocess
import time
import zlib

import pytest
from data_fixtures import HEIGHT, WIDTH, assert_refused, rgbd_folder
from PIL import EpsImagePlugin, Image

from scene4d.data.detect import open_recordings
from scene4d.data.video.depth_codec import decode_color, decode_depth, decode_segments
from scene4d.data.video.images import image_size, open_image, read_depth_codes
from scene4d.data.video.pictures import picture_from_bytes, size_from_bytes
from scene4d.errors import DataFormatError

POSTSCRIPT = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 {WIDTH} {HEIGHT}\n%%EndComments\nshowpage\n%%EOF\n".encode()


@pytest.fixture
def mark(tmp_path_factory, monkeypatch):
    """What a Ghostscript on the path would leave behind if anything started it."""
    place = tmp_path_factory.mktemp("programs")
    for name in ("gs", "gswin64c", "djpeg", "ppmtogif"):
        (place / name).write_text(f"#!/bin/sh\necho started > {place}/mark\nexit 1\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow looks once
    return place / "mark"


def test_65_the_mark_can_be_left(mark, tmp_path):
    """A general opener starts what lies on the path; without this the tests below could not fail."""
    (tmp_path / "000.png").write_bytes(POSTSCRIPT)
    with Image.open(tmp_path / "000.png") as picture, pytest.raises(subprocess.CalledProcessError):
        picture.load()
    assert mark.exists()


@pytest.mark.parametrize("kind", ["images", "depth"])
def test_65_a_folder_with_postscript_is_refused(kind, mark, tmp_path):
    for frame in ("000", "003"):  # the first is measured when the folder is opened, others when they are read
        folder = rgbd_folder(tmp_path / frame)
        (folder / kind / f"{frame}.png").write_bytes(POSTSCRIPT)
        assert_refused(
            folder,
            lambda folder=folder: [r.read() for r in open_recordings(folder)],
            kind=DataFormatError,
            file=f"{frame}.png",
        )
    assert not mark.exists()


FILE_OPENERS = [open_image, image_size, read_depth_codes]
BYTE_OPENERS = [
    lambda data: picture_from_bytes(data, file="a.parquet"),
    lambda data: size_from_bytes(data, file="a.parquet"),
    lambda data: decode_color(data, size=(WIDTH, HEIGHT), file="a.parquet"),
    lambda data: decode_segments(data, size=(WIDTH, HEIGHT), file="a.parquet"),
    lambda data: decode_depth(data, unit=1e-3, size=(WIDTH, HEIGHT), file="a.parquet"),
]


def saved(kind, **options):
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [POSTSCRIPT, saved("GIF"), saved("PPM"), saved("PCX"), saved("PDF"), saved("ICO")],
    ids=["eps", "gif", "ppm", "pcx", "pdf", "ico"],
)
def test_65_no_opener_reaches_another_decoder(data, mark, tmp_path):
    path = tmp_path / "000.png"
    path.write_bytes(data)
    for opened in FILE_OPENERS:
        with pytest.raises(DataFormatError) as caught:
            opened(path)
        assert caught.value.file == str(path)
    for opened in BYTE_OPENERS:
        with pytest.raises(DataFormatError) as caught:
            opened(data)
        assert caught.value.file == "a.parquet"
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_65_the_usual_kinds_are_read_whatever_their_name(kind, mark, tmp_path):
    (tmp_path / "000.dat").write_bytes(saved(kind))
    assert image_size(tmp_path / "000.dat") == open_image(tmp_path / "000.dat").size == (WIDTH, HEIGHT)
    assert picture_from_bytes(saved(kind), file="a").shape == (HEIGHT, WIDTH, 3)
    assert not mark.exists()


def png_of(width, height, *, mode):
    """A PNG of zeros: a few hundred kilobytes however large it says it is."""
    depth, color, step = {"RGB": (8, 2, 3), "I;16": (16, 0, 2)}[mode]
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    rows = zlib.compressobj(1)
    body = b"".join([*(rows.compress(bytes(1 + width * step)) for _ in range(height)), rows.flush()])
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("kind", "mode"), [("images", "RGB"), ("depth", "I;16")])
def test_87_a_huge_picture_is_refused_from_its_header(kind, mode, tmp_path):
    folder = rgbd_folder(tmp_path / "set")
    (folder / kind / "000.png").write_bytes(png_of(12_000, 12_000, mode=mode))
    start = time.monotonic()
    error = assert_refused(
        folder, lambda: [r.read() for r in open_recordings(folder)], kind=DataFormatError, file=f"{kind}/000.png"
    )
    assert "12000 x 12000" in str(error.found) and time.monotonic() - start < 2

"""Row 38 of the fault catalogue for packed splats: kind, file, field, exit code, bounded memory, input untouched."""

from __future__ import annotations

import gzip
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from peak_memory import peak_growth
from splat_writers import cloud, ksplat_file, sog_members, splat_file, spz_file, webp_table, zipped

from scene4d.apps import cli
from scene4d.gaussians.formats import splat_notes

SPZ, SPZ4 = spz_file(cloud(60, bases=3)), spz_file(cloud(60, bases=3), version=4)
KSPLAT, SOG = ksplat_file(cloud(60, bases=3), level=1, block=4.0), sog_members(cloud(64, bases=3))
MEBIBYTES = 150


def plain(change: Callable[[bytearray], object], *, num: int | None = None) -> bytes:
    """A .spz of version 3 whose unpacked bytes were changed."""
    data = bytearray(gzip.decompress(SPZ))
    change(data)
    return gzip.compress(bytes(data[:num]))


def put(data: bytes, at: int, value: int, *, size: int = 4) -> bytes:
    """The bytes with a number written over them."""
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


def word(at: int, value: int, *, size: int = 4) -> Callable[[bytearray], object]:
    """Writes a number over bytes."""
    return lambda data: data.__setitem__(slice(at, at + size), value.to_bytes(size, "little"))


def meta(**changes: object) -> bytes:
    """A .sog whose meta.json says otherwise; a key with dots is a path."""
    listed = json.loads(SOG["meta.json"])
    for key, value in changes.items():
        *path, last = key.split("__")
        place = listed
        for part in path:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return zipped({**SOG, "meta.json": json.dumps(listed).encode()})


def wide_webp(data: bytes) -> bytes:
    """A picture that claims 16383 x 16383 pixels."""
    bits = int.from_bytes(data[21:25], "little") >> 28 << 28 | 16382 << 14 | 16382
    return data[:21] + bits.to_bytes(4, "little") + data[25:]


def bomb_member() -> bytes:
    """A zip member that unpacks to 256 MiB."""
    return zipped({**SOG, "meta.json": b" " * (1 << 28)}, method=zipfile.ZIP_DEFLATED)


def lossy(data: bytes) -> bytes:
    """The name of the chunk says that the picture is lossy."""
    return data.replace(b"VP8L", b"VP8 ", 1)


CASES: dict[str, tuple[str, bytes, str, str | None]] = {  # file, bytes, kind of error, field
    ".splat empty": ("a.splat", b"", "DataFormatError", "size"),
    ".splat cut": ("a.splat", splat_file(cloud(9))[:-5], "DataFormatError", "size"),
    ".splat of noise": ("a.splat", np.random.default_rng(0).bytes(3200), "DataFormatError", "scales"),
    ".splat of words": ("a.splat", b"hello world 1234" * 8, "DataFormatError", "scales"),
    "spz cut": ("a.spz", SPZ[:-60], "DataFormatError", "count"),
    "spz cut in its sum": ("a.spz", SPZ[:-3], "DataFormatError", "count"),
    "spz damaged": ("a.spz", SPZ[:90] + b"\xff" * 8 + SPZ[98:], "DataFormatError", None),
    "spz empty": ("a.spz", b"", "DataFormatError", "header"),
    "spz of something else": ("a.spz", gzip.compress(b"hello world, hello world"), "DataFormatError", "header"),
    "spz of version 9": ("a.spz", plain(word(4, 9)), "VersionError", None),
    "spz4 of version 5": ("a.spz", put(SPZ4, 4, 5), "VersionError", None),
    "spz of version 0": ("a.spz", plain(word(4, 0)), "VersionError", None),
    "spz of degree 5": ("a.spz", plain(word(12, 5, size=1)), "DataFormatError", "header"),
    "spz count lies": ("a.spz", plain(word(8, 61)), "DataFormatError", "count"),
    "spz count lies much": ("a.spz", plain(word(8, 40_000_000)), "SecurityError", "count"),
    "spz beyond 2 GiB": ("a.spz", plain(word(8, 0xFFFFFFFF)), "DataFormatError", "size"),
    "spz holds more": ("a.spz", plain(word(8, 30)), "SecurityError", "count"),
    "spz bomb": ("a.spz", gzip.compress(gzip.decompress(SPZ) + bytes(1 << 28), 1), "SecurityError", "count"),
    "spz4 cut": ("a.spz", SPZ4[:-9], "DataFormatError", "sh"),
    "spz4 head cut": ("a.spz", SPZ4[:20], "DataFormatError", "header"),
    "spz4 damaged": ("a.spz", SPZ4[:130] + b"\xff" * 12 + SPZ4[142:], "DataFormatError", "means"),
    "spz4 count lies": ("a.spz", put(SPZ4, 8, 61), "DataFormatError", "means"),
    "spz4 count lies much": ("a.spz", put(SPZ4, 8, 50_000_000), "SecurityError", "count"),
    "spz4 beyond 2 GiB": ("a.spz", put(SPZ4, 8, 0xFFFFFFFF), "DataFormatError", "size"),
    "spz4 streams": ("a.spz", put(SPZ4, 15, 200, size=1), "DataFormatError", "header"),
    "spz4 table outside": ("a.spz", put(SPZ4, 16, 0xFFFFFFF0), "DataFormatError", "header"),
    "spz4 length": ("a.spz", put(SPZ4, 32, 1 << 62, size=8), "DataFormatError", "means"),
    "ksplat short": ("a.ksplat", KSPLAT[:4000], "DataFormatError", "header"),
    "ksplat cut": ("a.ksplat", KSPLAT[:-1], "DataFormatError", "size"),
    "ksplat version": ("a.ksplat", b"\x01" + KSPLAT[1:], "VersionError", None),
    "ksplat level": ("a.ksplat", put(KSPLAT, 20, 3, size=2), "DataFormatError", "header"),
    "ksplat sections": ("a.ksplat", put(KSPLAT, 4, 1 << 31), "DataFormatError", "header"),
    "ksplat count": ("a.ksplat", put(KSPLAT, 16, 61), "DataFormatError", "count"),
    "ksplat section count": ("a.ksplat", put(KSPLAT, 4096, 1 << 31), "DataFormatError", "section 0"),
    "ksplat room": ("a.ksplat", put(KSPLAT, 4100, 1 << 31), "DataFormatError", "size"),
    "ksplat bucket size": ("a.ksplat", put(KSPLAT, 4104, 1 << 31), "DataFormatError", "section 0"),
    "ksplat buckets": ("a.ksplat", put(KSPLAT, 4108, 1 << 31), "DataFormatError", "section 0"),
    "ksplat degree": ("a.ksplat", put(KSPLAT, 4136, 9, size=2), "DataFormatError", "section 0"),
    "ksplat bucket lengths": ("a.ksplat", put(KSPLAT, 5120, 1 << 31), "DataFormatError", "section 0"),
    "sog cut": ("a.sog", zipped(SOG)[:-30], "DataFormatError", None),
    "sog without meta": ("a.sog", zipped({"a.webp": b""}), "DataFormatError", "meta.json"),
    "sog climbs": ("a.sog", zipped({**SOG, "../../evil": b"x"}), "SecurityError", None),
    "sog absolute": ("a.sog", zipped({**SOG, "/tmp/evil": b"x"}), "SecurityError", None),
    "sog backslash": ("a.sog", zipped({**SOG, "a\\..\\evil": b"x"}), "SecurityError", None),
    "sog names outside": ("a.sog", meta(quats__files=["../quats.webp"]), "SecurityError", "meta.json"),
    "sog names absolute": ("a.sog", meta(quats__files=["/etc/passwd"]), "SecurityError", "meta.json"),
    "sog names a number": ("a.sog", meta(quats__files=[7]), "SecurityError", "meta.json"),
    "sog names nothing": ("a.sog", meta(quats__files=["none.webp"]), "DataFormatError", "none.webp"),
    "sog bomb": ("a.sog", bomb_member(), "SecurityError", "meta.json"),
    "sog version": ("a.sog", meta(version=3), "VersionError", "version"),
    "sog no count": ("a.sog", meta(count="many"), "DataFormatError", "count"),
    "sog count lies": ("a.sog", meta(count=65), "DataFormatError", "means"),
    "sog count lies much": ("a.sog", meta(count=1 << 40), "DataFormatError", "size"),
    "sog no means": ("a.sog", meta(means=None), "DataFormatError", "means"),
    "sog limits": ("a.sog", meta(means__mins=[0, "x", 0]), "DataFormatError", "means.mins"),
    "sog short codebook": ("a.sog", meta(scales__codebook=[0.0]), "DataFormatError", "scales.codebook"),
    "sog long codebook": ("a.sog", meta(scales__codebook=[0.0] * 9999), "DataFormatError", "scales.codebook"),
    "sog bands": ("a.sog", meta(shN__bands=2), "DataFormatError", "shN"),
    "sog bands of a list": ("a.sog", meta(shN__bands=[]), "DataFormatError", "shN"),
    "sog wide": ("a.sog", zipped({**SOG, "sh0.webp": wide_webp(SOG["sh0.webp"])}), "SecurityError", "sh0.webp"),
    "sog lossy": ("a.sog", zipped({**SOG, "sh0.webp": lossy(SOG["sh0.webp"])}), "DataFormatError", "sh0.webp"),
    "sog no picture": ("a.sog", zipped({**SOG, "quats.webp": b"%!PS-Adobe"}), "DataFormatError", "quats.webp"),
    "sog damaged": ("a.sog", zipped({**SOG, "quats.webp": SOG["quats.webp"][:60]}), "DataFormatError", "quats.webp"),
    "sog no JSON": ("a.sog", zipped({**SOG, "meta.json": b"{"}), "DataFormatError", "meta.json"),
    "sog deep JSON": ("a.sog", zipped({**SOG, "meta.json": b"[" * 100_000}), "DataFormatError", "meta.json"),
}  # fmt: skip


def refused(source: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict]:
    """The exit code and error of `scene4d export`; the source stays as it is, and nothing is written."""
    before = source.read_bytes() if source.is_file() else None
    code = cli.main(["export", str(source), "-o", str(source.parent / "out" / "a.ply"), "--json-errors"])
    assert before is None or source.read_bytes() == before
    assert not (source.parent / "out").exists() or not list((source.parent / "out").iterdir())
    return code, json.loads(capsys.readouterr().err.strip().splitlines()[-1])["error"]


@pytest.mark.parametrize("name", CASES)
def test_38_packed_splats(tmp_path, capsys, name):
    file, data, kind, field = CASES[name]
    (tmp_path / file).write_bytes(data)
    with peak_growth() as grown:
        code, error = refused(tmp_path / file, capsys)
        assert grown() < MEBIBYTES
    assert (code, error["code"], error["file"]) == (3, kind, str(tmp_path / file)), error
    assert field is None or error["field"] == field, error
    assert error["fix"] or error["expected"] or error["found"]


def test_38_a_constant_picture_is_no_room_for_any_count(tmp_path, capsys):
    """Tables of one colour take no bytes: what a count of them would need of memory is still refused."""
    num = 3_000_000
    members = sog_members(cloud(64, bases=3))
    listed = json.loads(members["meta.json"])
    listed["count"] = num
    flat = webp_table(np.full((num, 4), 255, np.uint8))
    members |= {name: flat for name in members if name.endswith(".webp") and "centroids" not in name}
    members["meta.json"] = json.dumps(listed).encode()
    (tmp_path / "a.sog").write_bytes(zipped(members))
    assert len(flat) < 100_000
    code, error = refused(tmp_path / "a.sog", capsys)
    assert (code, error["code"], error["field"]) == (3, "SecurityError", "count")


@pytest.mark.parametrize("name", ["a.splat", "a.spz", "a.ksplat", "a.sog"])
def test_38_files_beyond_the_limit_are_not_read(tmp_path, capsys, name):
    """A hole of 3 GiB takes no place on the disk."""
    magic = {"a.spz": b"NGSP", "a.sog": b"PK\x03\x04"}.get(name, b"\0\1\0\0")
    with open(tmp_path / name, "wb") as file:
        file.write(magic)
        file.truncate(3 << 30)
    code = cli.main(["export", str(tmp_path / name), "-o", str(tmp_path / "out" / "a.ply"), "--json-errors"])
    error = json.loads(capsys.readouterr().err.strip().splitlines()[-1])["error"]
    assert (code, error["code"], error["field"]) == (3, "DataFormatError", "size")
    assert error["file"] == str(tmp_path / name)
    assert str(splat_notes.MAX_BYTES) in error["expected"]


def test_38_a_folder_of_sog(tmp_path, capsys):
    (tmp_path / "scene").mkdir()
    (tmp_path / "secret.webp").write_bytes(SOG["sh0.webp"])
    for name, data in SOG.items():
        (tmp_path / "scene" / name).write_bytes(data)
    (tmp_path / "scene" / "sh0.webp").unlink()
    code, error = refused(tmp_path / "scene", capsys)
    assert (code, error["code"], error["file"]) == (3, "DataFormatError", str(tmp_path / "scene" / "sh0.webp"))
    os.symlink(tmp_path / "secret.webp", tmp_path / "scene" / "sh0.webp")
    code, error = refused(tmp_path / "scene", capsys)
    assert (code, error["code"], error["file"]) == (3, "SecurityError", str(tmp_path / "scene" / "sh0.webp"))


def test_38_a_long_list_of_members_is_not_read(tmp_path, capsys):
    name = b"x" * 20
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0)
    directory = (entry + name) * 250_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0)
    (tmp_path / "a.sog").write_bytes(directory + end)
    code, error = refused(tmp_path / "a.sog", capsys)
    assert (code, error["code"]) == (3, "DataFormatError") and "too many members" in error["problem"]


def test_sums_of_packed_files_are_checked(tmp_path, capsys):
    """A flipped bit that unpacks well is found by the sum of the gzip stream."""
    body = gzip.decompress(SPZ)
    damaged = bytearray(gzip.compress(body, 0))
    damaged[-100] ^= 1
    assert zlib.decompressobj(31).decompress(gzip.compress(body, 0)) == body
    (tmp_path / "a.spz").write_bytes(damaged)
    code, error = refused(tmp_path / "a.spz", capsys)
    assert (code, error["code"]) == (3, "DataFormatError") and "damaged" in error["problem"]

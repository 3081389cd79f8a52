"""Compressed splats decode to what was packed, and a real file to what another format stores of the same splats."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from scene4d.errors import DataFormatError, GaussianError
from scene4d.gaussians.formats.ply import read_ply
from scene4d.gaussians.formats.ply_table import read_ply_tables
from scene4d.geometry.sh import rgb_from_sh

COLUMNS = ("x", "y", "z", "scale_x", "scale_y", "scale_z", "r", "g", "b")


def packed(values: np.ndarray, low: np.ndarray, high: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """Numbers in [low, high] side by side in one uint32, the first in the top bits."""
    word = np.zeros(len(values), np.uint32)
    for i, b in enumerate(bits):
        share = (values[:, i] - low[:, i]) / np.maximum(high[:, i] - low[:, i], 1e-9)
        word = (word << np.uint32(b)) | np.round(share * (2**b - 1)).astype(np.uint32)
    return word


def packed_quats(quats: np.ndarray) -> np.ndarray:
    largest = np.abs(quats).argmax(1)
    quats = quats * np.sign(np.take_along_axis(quats, largest[:, None], 1))
    small = np.stack([np.delete(q, i) for q, i in zip(quats, largest, strict=True)])
    limit = np.full((len(quats), 3), np.sqrt(0.5))
    return packed(small, -limit, limit, (10, 10, 10)) | (largest.astype(np.uint32) << 30)


def some_splats(num: int, *, rest: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    quats = random.normal(size=(num, 4))
    return {
        "means": random.normal(size=(num, 3)) * 3,
        "quats": quats / np.linalg.norm(quats, axis=1, keepdims=True),
        "log_scales": random.uniform(-7, -2, (num, 3)),
        "rgb": random.uniform(-0.2, 1.3, (num, 3)),
        "opacities": random.uniform(0, 1, num),
        "rest": random.uniform(-3, 3, (num, rest)),
    }


def write_compressed(path, splats: dict[str, np.ndarray], *, colour_limits: bool = True, chunks: int | None = None):
    """The file as SuperSplat's writer lays it out, from its description."""
    num = len(splats["means"])
    values = np.concatenate([splats["means"], splats["log_scales"], splats["rgb"]], 1)
    of = np.arange(num) // 256
    low, high = (np.stack([f(values[of == c], axis=0) for c in range(of[-1] + 1)]) for f in (np.min, np.max))
    if not colour_limits:
        low[:, 6:], high[:, 6:] = 0, 1
    used = len(COLUMNS) if colour_limits else 6
    names = [
        f"{end}_{n}" for group in (COLUMNS[:3], COLUMNS[3:6], COLUMNS[6:used]) for end in ("min", "max") for n in group
    ]
    limits = {f"min_{n}": low[:, i] for i, n in enumerate(COLUMNS)} | {
        f"max_{n}": high[:, i] for i, n in enumerate(COLUMNS)
    }
    table = np.stack([limits[n] for n in names], 1).astype("<f4")[:chunks]
    colour = np.concatenate([values[:, 6:], splats["opacities"][:, None]], 1)
    ends = [np.concatenate([x[of][:, 6:], np.full((num, 1), end)], 1) for x, end in ((low, 0.0), (high, 1.0))]
    words = [
        packed(values[:, :3], low[of][:, :3], high[of][:, :3], (11, 10, 11)),
        packed_quats(splats["quats"]),
        packed(values[:, 3:6], low[of][:, 3:6], high[of][:, 3:6], (11, 10, 11)),
        packed(np.clip(colour, ends[0], ends[1]), ends[0], ends[1], (8, 8, 8, 8)),
    ]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element chunk {len(table)}",
        *(f"property float {n}" for n in names),
    ]
    header += [f"element vertex {num}"]
    header += [f"property uint packed_{n}" for n in ("position", "rotation", "scale", "color")]
    rest = splats["rest"]
    if rest.shape[1]:
        header += [f"element sh {num}", *(f"property uchar f_rest_{i}" for i in range(rest.shape[1]))]
    sh = np.clip((rest / 8 + 0.5) * 256, 0, 255).astype(np.uint8)
    body = table.tobytes() + np.stack(words, 1).astype("<u4").tobytes() + sh.tobytes()
    path.write_bytes("\n".join([*header, "end_header", ""]).encode() + body)


@pytest.mark.parametrize(("num", "rest"), [(1, 0), (256, 9), (700, 45)])
def test_what_was_packed_comes_back_within_the_bits(tmp_path, num, rest):
    splats = some_splats(num, rest=rest)
    if num == 1:
        splats["rgb"] = splats["rgb"].clip(0, 1)
    write_compressed(tmp_path / "a.ply", splats, colour_limits=num > 1)
    g = read_ply(tmp_path / "a.ply", strict=True)
    span = np.ptp(splats["means"], axis=0).max() + 1e-6
    assert g.num_gaussians == num and g.sh.shape[1] == 1 + rest // 3
    np.testing.assert_allclose(g.means, splats["means"], atol=span / 1023)
    np.testing.assert_allclose(g.scales.log(), splats["log_scales"], atol=5 / 1023)
    np.testing.assert_allclose(g.opacities, splats["opacities"], atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(rgb_from_sh(g.sh), splats["rgb"], atol=1.5 / 255)
    cosine = np.abs((g.quats.numpy() * splats["quats"]).sum(1))
    assert cosine.min() > 1 - 1e-5
    assert num == 1 or set(np.abs(splats["quats"]).argmax(1).tolist()) == {0, 1, 2, 3}, "all four cases are met"
    theirs = splats["rest"].reshape(num, 3, -1)  # channel-major
    np.testing.assert_allclose(g.sh[:, 1:].numpy(), theirs.transpose(0, 2, 1), atol=8 / 256)


@pytest.mark.parametrize("encoding", ["ascii", "binary_big_endian"])
def test_other_encodings_give_the_same(tmp_path, encoding):
    write_compressed(tmp_path / "a.ply", some_splats(300, rest=9))
    head, _ = (tmp_path / "a.ply").read_bytes().split(b"end_header\n", 1)
    tables = read_ply_tables(tmp_path / "a.ply", names=("chunk", "vertex", "sh")).values()
    body = b"".join(rows.byteswap().tobytes() for rows in tables)
    if encoding == "ascii":
        body = "".join(" ".join(map(str, row)) + "\n" for rows in tables for row in rows.tolist()).encode()
    head = head.replace(b"binary_little_endian", encoding.encode())
    (tmp_path / "b.ply").write_bytes(head + b"end_header\n" + body)
    g, same = (read_ply(tmp_path / f"{name}.ply", strict=True) for name in "ba")
    assert all(torch.equal(getattr(g, name), getattr(same, name)) for name in ("means", "quats", "scales", "sh"))


def test_a_real_file_agrees_with_the_same_splats_as_spz(shared_data):
    """SPZ stores them in another order, y and z turned round, by other codes: two decoders that agree are right."""
    codec = pytest.importorskip("pyarrow").Codec("zstd")
    folder = shared_data / "splats" / "playcanvas"
    data = (folder / "biker.spz").read_bytes()
    _, version, num, _, fraction, _, streams, start = struct.unpack("<IIIBBBBI", data[:20])
    assert version == 4
    parts, at = [], start + 16 * streams
    for i in range(streams):
        length, size = struct.unpack_from("<QQ", data, start + 16 * i)
        parts.append(np.frombuffer(codec.decompress(data[at : at + length], size), np.uint8).reshape(num, -1))
        at += length
    triples = parts[0].reshape(num, 3, 3).astype(np.int64)
    places = triples[..., 0] | triples[..., 1] << 8 | triples[..., 2] << 16
    places = np.where(places & 0x800000, places - (1 << 24), places) / 2**fraction * [1, -1, -1]
    g = read_ply(folder / "biker.compressed.ply", strict=True)
    assert g.num_gaussians == num == 152746
    spatial = pytest.importorskip("scipy.spatial")
    rows = np.arange(0, num, 50)
    distance, index = spatial.cKDTree(places).query(g.means[rows].numpy())
    assert np.quantile(distance, 0.99) < 0.001
    same = np.abs(g.opacities[rows].numpy() - parts[1][index, 0] / 255) < 1e-4
    assert same.mean() > 0.95, "the nearest one is nearly always the same splat"
    rgb = (parts[2][index] / 255 - 0.5) / 0.15 * 0.28209479 + 0.5
    assert np.median(np.abs(rgb_from_sh(g.sh[rows]).numpy() - rgb)) < 0.004
    assert np.median(np.abs(g.scales[rows].log().numpy() - (parts[3][index] / 16.0 - 10))) < 1 / 16
    words = parts[4][index].astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16, 1 << 24], np.uint32)
    quats, largest = np.zeros((len(rows), 4)), words >> 30
    for i in (3, 2, 1, 0):
        coded = largest != i
        value = np.sqrt(0.5) * (words & 511) / 511 * np.where(words >> 9 & 1, -1, 1)
        quats[coded, i], words = value[coded], np.where(coded, words >> 10, words)
    quats[np.arange(len(rows)), largest] = np.sqrt(1 - (quats**2).sum(1))
    theirs = quats[:, [3, 0, 1, 2]] * [1, 1, -1, -1]  # x y z w
    assert np.median(np.abs((theirs * g.quats[rows].numpy()).sum(1))) > 1 - 1e-5


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d.replace(b"element chunk 3", b"element chunk 2"), "chunks and vertices"),
        (lambda d: d.replace(b"property uint packed_scale", b"property float packed_scale"), "lack a column"),
        (lambda d: d.replace(b"property float max_z", b"property float max_q"), "lack a column"),
        (lambda d: d.replace(b"property uchar f_rest_8", b"property uchar f_rest_9"), "f_rest"),
        (lambda d: d[:-1], "shorter than its header"),
        (lambda d: d.replace(b"element chunk 3", b"element chunk 9999999999"), "shorter than its header"),
    ],
)
def test_files_that_lie_are_refused(tmp_path, change, word):
    write_compressed(tmp_path / "a.ply", some_splats(700, rest=9))
    (tmp_path / "a.ply").write_bytes(change((tmp_path / "a.ply").read_bytes()))
    with pytest.raises(DataFormatError, match=word) as caught:
        read_ply(tmp_path / "a.ply")
    assert caught.value.file == str(tmp_path / "a.ply") and caught.value.field


def test_limits_that_are_not_finite_cost_their_chunk_only(tmp_path):
    splats = some_splats(600)
    write_compressed(tmp_path / "a.ply", splats)
    data = (tmp_path / "a.ply").read_bytes()
    start = data.index(b"end_header\n") + 11
    (tmp_path / "a.ply").write_bytes(data[:start] + struct.pack("<f", np.nan) + data[start + 4 :])
    with pytest.warns(UserWarning, match="means_not_finite.: 256"):
        assert read_ply(tmp_path / "a.ply").num_gaussians == 344
    with pytest.raises(GaussianError) as caught:
        read_ply(tmp_path / "a.ply", strict=True)
    assert (caught.value.field, caught.value.frame) == ("means", 0)
    assert torch.isfinite(torch.tensor(splats["means"])).all()

"""Writers of splat formats for tests, from the descriptions of the formats and apart from our readers.

Each takes `Cloud`: what INRIA's .ply holds, activated, in the axes of .ply files.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from PIL import Image

SH_C0 = 0.28209479177387814
# Signs of SPZ's SH when y and z are turned round (splat-types.h: y z x xy yz 1 xz 1 y xyz y z x z x, and degree 4).
TURNED = [-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1, -1, 1, -1, 1, 1, -1, 1, -1, -1]


@dataclass
class Cloud:
    """means [n 3], quats [n 4] wxyz unit, scales [n 3], opacities [n], dc [n 3], rest [n k 3]."""

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    dc: np.ndarray
    rest: np.ndarray

    @property
    def rgb(self) -> np.ndarray:
        """View-independent colour [n 3]."""
        return self.dc * SH_C0 + 0.5


def cloud(num: int = 100, *, bases: int = 0, seed: int = 0) -> Cloud:
    """Random splats within 2 m of the origin, sizes 1 to 100 mm, colours in [0, 1]."""
    random = np.random.default_rng(seed)
    quats = random.normal(size=(num, 4))
    return Cloud(
        means=random.uniform(-2, 2, (num, 3)), quats=quats / np.linalg.norm(quats, axis=1, keepdims=True),
        scales=np.exp(random.uniform(-6.9, -2.3, (num, 3))), opacities=random.uniform(0.01, 1, num),
        dc=(random.uniform(0, 1, (num, 3)) - 0.5) / SH_C0, rest=random.uniform(-0.9, 0.9, (num, bases, 3)),
    )  # fmt: skip


def splat_file(c: Cloud) -> bytes:
    """antimatter15's convert.py: position, scale, colour and opacity, rotation."""
    rows = np.zeros(len(c.means), np.dtype([("p", "<f4", 3), ("s", "<f4", 3), ("c", "u1", 4), ("q", "u1", 4)]))
    rows["p"], rows["s"] = c.means, c.scales
    rows["c"] = np.clip(np.concatenate([c.rgb, c.opacities[:, None]], 1) * 255, 0, 255)
    rows["q"] = np.clip(c.quats * 128 + 128, 0, 255)
    return rows.tobytes()


def _byte(x: np.ndarray) -> bytes:
    return np.clip(np.round(x), 0, 255).astype(np.uint8).tobytes()


def _spz_quats(xyzw: np.ndarray, version: int) -> bytes:
    if version < 3:
        return _byte(xyzw[:, :3] * np.where(xyzw[:, 3:] < 0, -127.5, 127.5) + 127.5)
    words = []
    for q in xyzw:
        largest = int(np.abs(q).argmax())
        word = largest
        for i in range(4):
            if i != largest:
                negative = (q[i] < 0) != (q[largest] < 0)
                word = word << 10 | int(negative) << 9 | int(511 * abs(q[i]) / np.sqrt(0.5) + 0.5)
        words.append(word)
    return np.array(words, "<u4").tobytes()


def spz_parts(c: Cloud, *, version: int, fraction: int = 12) -> list[bytes]:
    """The parts in file order, turned from the axes of .ply to right, up, back."""
    num, bases = len(c.means), c.rest.shape[1]
    means = c.means * [1, -1, -1]
    if version == 1:
        places = means.astype("<f2").tobytes()
    else:
        whole = np.round(means * (1 << fraction)).astype(np.int64) & 0xFFFFFF
        places = np.stack([whole & 255, whole >> 8 & 255, whole >> 16], -1).astype(np.uint8).tobytes()
    xyzw = c.quats[:, [1, 2, 3, 0]] * [1, -1, -1, 1]
    rest = np.clip(np.round(c.rest * np.array(TURNED[:bases])[:, None] * 128 + 128), 0, 255).reshape(num, -1)
    colours = _byte(c.dc * (0.15 * 255) + 0.5 * 255)
    scales, quats = _byte((np.log(c.scales) + 10) * 16), _spz_quats(xyzw, version)
    return [places, _byte(c.opacities * 255), colours, scales, quats, rest.astype(np.uint8).tobytes()]


def spz_file(
    c: Cloud, *, version: int = 3, fraction: int = 12, flags: int = 0, extensions: bytes = b"", num: int | None = None
) -> bytes:
    """Niantic's README: one gzip stream up to version 3, Zstandard streams in version 4."""
    num = len(c.means) if num is None else num
    degree = {0: 0, 3: 1, 8: 2, 15: 3, 24: 4}[c.rest.shape[1]]
    parts = spz_parts(c, version=version, fraction=fraction)
    flags |= 2 if extensions else 0
    if version < 4:
        head = struct.pack("<4sIIBBBB", b"NGSP", version, num, degree, fraction, flags, 0)
        return gzip.compress(head + b"".join(parts) + extensions, mtime=0)
    parts = [part for part in parts if part]
    packed = [pa.Codec("zstd").compress(part, asbytes=True) for part in parts]
    head = struct.pack("<4sIIBBBB", b"NGSP", version, num, degree, fraction, flags, len(parts))
    head += struct.pack("<I12x", 32 + len(extensions)) + extensions
    table = b"".join(struct.pack("<QQ", len(p), len(raw)) for p, raw in zip(packed, parts, strict=True))
    return head + table + b"".join(packed)


def spz_extension(kind: int, value: bytes) -> bytes:
    """One record: type, length, value."""
    return struct.pack("<II", kind, len(value)) + value


def ksplat_file(c: Cloud, *, level: int = 0, block: float = 1.0, bucket: int = 8, sections: int = 1) -> bytes:
    """GaussianSplats3D's SplatBuffer: a header, headers of sections, sections of buckets and splats."""
    low, high = float(c.rest.min(initial=0)), float(c.rest.max(initial=0))
    bodies, heads = [], []
    for rows in np.array_split(np.arange(len(c.means)), sections):
        body, head = _ksplat_section(c, rows, level=level, block=block, bucket=bucket)
        bodies.append(body)
        heads.append(head)
    num = len(c.means)
    header = struct.pack("<BBxxIIIIHxxfffff", 0, 1, sections, sections, num, num, level, 0, 0, 0, low, high)
    return header.ljust(4096, b"\0") + b"".join(heads) + b"".join(bodies)


def _ksplat_section(c: Cloud, rows: np.ndarray, *, level: int, block: float, bucket: int) -> tuple[bytes, bytes]:
    bases = c.rest.shape[1]
    degree = {0: 0, 3: 1, 8: 2, 15: 3}[bases]
    order, centres, lengths, full = rows, np.zeros((0, 3)), [], 0
    if level:
        cells = np.floor((c.means[rows] + 8) / block).astype(int)
        filled, partial = [], []
        for cell in np.unique(cells, axis=0):
            inside = rows[(cells == cell).all(1)]
            middle = (cell + 0.5) * block - 8
            for at in range(0, len(inside), bucket):
                part = inside[at : at + bucket]
                (filled if len(part) == bucket else partial).append((part, middle))
        order = np.concatenate([part for part, _ in filled + partial])
        centres, full = np.array([middle for _, middle in filled + partial]), len(filled)
        lengths = [len(part) for part, _ in partial]
    body = struct.pack(f"<{len(lengths)}I", *lengths) + centres.astype("<f4").tobytes()
    which = np.concatenate([np.full(len(p), i) for i, (p, _) in enumerate(filled + partial)]) if level else None
    for place, row in enumerate(order):
        rest = [
            c.rest[row, k, ch]
            for a, b in ((0, 3), (3, 8), (8, 15))
            if b <= bases
            for ch in range(3)
            for k in range(a, b)
        ]
        if level == 0:
            numbers = [*c.means[row], *c.scales[row], *c.quats[row]]
            body += struct.pack("<10f", *numbers)
        else:
            offset = np.round((c.means[row] - centres[which[place]]) * (32767 / (block / 2))) + 32767
            body += struct.pack("<3H", *offset.astype(int)) + np.array([*c.scales[row], *c.quats[row]], "<f2").tobytes()
        body += np.clip(np.floor(np.array([*c.rgb[row], c.opacities[row]]) * 255), 0, 255).astype(np.uint8).tobytes()
        if level < 2:
            body += np.array(rest, "<f4" if level == 0 else "<f2").tobytes()
        else:
            low, high = float(c.rest.min(initial=0)), float(c.rest.max(initial=0))
            body += np.floor((np.array(rest) - low) / (high - low) * 255).astype(np.uint8).tobytes()
    sizes = (bucket, len(centres), block, 12) if level else (0, 0, 0.0, 0)
    head = struct.pack(
        "<IIIIfHxxIIIIH", len(rows), len(rows), *sizes, 32767 if level else 0, len(body), full, len(lengths), degree
    )
    return body, head.ljust(1024, b"\0")


def webp_table(rows: np.ndarray, *, width: int | None = None) -> bytes:
    """A table [n 4] as a lossless picture, four pixels or more a row."""
    width = width or max(4, -(-int(np.ceil(np.sqrt(len(rows)))) // 4) * 4)
    height = -(-len(rows) // width)
    pixels = np.zeros((height * width, 4), np.uint8)
    pixels[: len(rows)] = rows
    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(height, width, 4), "RGBA").save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


def _opaque(bytes_: np.ndarray) -> np.ndarray:
    return np.concatenate([bytes_, np.full((len(bytes_), 1), 255)], 1).astype(np.uint8)


def _coded(values: np.ndarray, *, version: int, name: str) -> tuple[np.ndarray, dict]:
    """Values as bytes, and what of meta.json brings them back: a codebook, or limits for each column."""
    if version == 2:
        codebook = np.quantile(values, np.linspace(0, 1, 256))
        return np.abs(values[..., None] - codebook).argmin(-1), {"codebook": codebook.tolist()}
    axes = None if name == "shN" else 0
    low, high = values.min(axes), values.max(axes)
    bytes_ = np.round((values - low) / np.maximum(high - low, 1e-9) * 255)
    return bytes_, {"mins": low.tolist(), "maxs": high.tolist()}


def sog_members(c: Cloud, *, version: int = 2, palette: int = 64) -> dict[str, bytes]:
    """PlayCanvas' SOG: meta.json and its pictures, by name."""
    num, bases = len(c.means), c.rest.shape[1]
    logs = np.sign(c.means) * np.log1p(np.abs(c.means))
    low, high = logs.min(0), logs.max(0)
    whole = np.round((logs - low) / (high - low) * 65535).astype(np.int64)
    largest = np.abs(c.quats).argmax(1)
    signed = c.quats * np.sign(np.take_along_axis(c.quats, largest[:, None], 1))
    small = np.stack([np.delete(q, i) for q, i in zip(signed, largest, strict=True)])
    quats = np.concatenate([np.round((small * np.sqrt(2) * 0.5 + 0.5) * 255), 252 + largest[:, None]], 1)
    scales, scale_code = _coded(np.log(c.scales), version=version, name="scales")
    logits = np.log(c.opacities / np.maximum(1 - c.opacities, 1e-9))
    if version == 2:
        colours, colour_code = _coded(c.dc, version=2, name="sh0")
        colours = np.concatenate([colours, np.round(c.opacities * 255)[:, None]], 1)
    else:
        colours, colour_code = _coded(np.concatenate([c.dc, logits[:, None]], 1), version=1, name="sh0")
    files = {
        "means_l.webp": webp_table(_opaque(whole & 255)), "means_u.webp": webp_table(_opaque(whole >> 8)),
        "quats.webp": webp_table(quats), "scales.webp": webp_table(_opaque(scales)), "sh0.webp": webp_table(colours),
    }  # fmt: skip
    meta = {
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {**scale_code, "files": ["scales.webp"]}, "quats": {"files": ["quats.webp"]},
        "sh0": {**colour_code, "files": ["sh0.webp"]},
    }  # fmt: skip
    meta |= {"version": 2, "count": num} if version == 2 else {}
    if version == 1:
        meta["means"]["shape"] = [num, 3]
    if bases:
        labels = np.arange(num) % palette
        coded, code = _coded(c.rest[:palette], version=version, name="shN")
        table = np.zeros((-(-palette // 64) * 64, bases, 4), np.uint8)
        table[: len(coded), :, :3], table[..., 3] = coded, 255
        files["shN_centroids.webp"] = webp_table(table.reshape(-1, 4), width=64 * bases)
        files["shN_labels.webp"] = webp_table(_opaque(np.stack([labels & 255, labels >> 8, 0 * labels], 1)))
        meta["shN"] = {**code, "files": ["shN_centroids.webp", "shN_labels.webp"]}
        meta["shN"] |= {"count": palette, "bands": {3: 1, 8: 2, 15: 3}[bases]} if version == 2 else {}
    return {"meta.json": json.dumps(meta).encode(), **files}


def with_palette(c: Cloud, palette: int = 64) -> Cloud:
    """The cloud whose SH are those of its first `palette` splats in turn, as SOG stores them."""
    return replace(c, rest=c.rest[np.arange(len(c.means)) % palette])


def zipped(members: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> bytes:
    """The members as a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()

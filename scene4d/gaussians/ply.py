"""Gaussian splat .ply files in the INRIA layout, written exactly and read with any column order and SH degree."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scene4d.errors import DataFormatError, ShapeError
from scene4d.files import atomic_file
from scene4d.gaussians.edit import prune, sanitize, with_sh_bases
from scene4d.types import Gaussians

MAX_HEADER = 1 << 16
REST_BY_DEGREE = (0, 9, 24, 45)
PLY_TYPES = {
    **{"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1"},
    **{"short": "<i2", "int16": "<i2", "ushort": "<u2", "uint16": "<u2"},
    **{"int": "<i4", "int32": "<i4", "uint": "<u4", "uint32": "<u4"},
    **{"float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8"},
}
NEEDED = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity")
NEEDED += tuple(f"scale_{i}" for i in range(3)) + tuple(f"rot_{i}" for i in range(4))


@dataclass(frozen=True)
class Element:
    """One element of a PLY header: its row count and numpy row type (None when it holds lists)."""

    count: int
    dtype: np.dtype | None


def write_ply(path: str | os.PathLike, gaussians: Gaussians, *, sh_degree: int = 3) -> None:
    """Write an unbatched set (empty slots left out) as the INRIA .ply that every splat viewer reads.

    float32 little endian: xyz, normals (0), f_dc 3, f_rest channel-major, logit opacity, log scales, wxyz. `sh_degree`
    is that of the file: 3 (45 f_rest, filled up with zeros) is what the INRIA loader insists on.

    Raises:
        ShapeError: the set has batch axes, or `sh_degree` is not 0 to 3.
        ResourceError: the disk is full or read-only.
    """
    if sh_degree not in range(4):
        raise ShapeError("no such SH degree", field="sh_degree", found=sh_degree, expected="0, 1, 2 or 3")
    g = prune(gaussians.detach().to("cpu"))
    sh = with_sh_bases(g.sh, (sh_degree + 1) ** 2)
    opacities = g.opacities.double().clamp(2.0**-24, 1 - 2.0**-24)
    columns = [
        g.means,
        torch.zeros_like(g.means),
        sh[:, 0],
        sh[:, 1:].transpose(1, 2).flatten(1),  # channel-major
        torch.logit(opacities)[:, None].float(),
        g.scales.double().clamp_min(1e-30).log().float(),
        g.quats,
    ]
    rows = torch.cat([c.float() for c in columns], 1).numpy().astype("<f4")
    names = [*"xyz", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3))]
    names += [f"f_rest_{i}" for i in range(REST_BY_DEGREE[sh_degree])]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [*(f"property float {name}" for name in names), "end_header", ""]
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(rows.tobytes())


def read_ply(path: str | os.PathLike, *, strict: bool = False) -> Gaussians:
    """Read a splat .ply: any column order, with or without normals, SH of degree 0 to 3; other columns are passed over.

    Impossible values are mended or their rows dropped with a warning that counts them (`gaussians.edit.sanitize`).

    Raises:
        DataFormatError: not a binary little-endian splat PLY, or shorter than it claims (checked before allocating).
        GaussianError: `strict` and a value is impossible.
    """
    path = Path(path)
    table = read_ply_vertices(path)
    names = table.dtype.names or ()
    missing = [n for n in NEEDED if n not in names]
    if missing:
        raise DataFormatError(
            "is no Gaussian splat: no " + "/".join(missing[:3]) + (" ..." if len(missing) > 3 else ""),
            file=path,
            field="element vertex",
            found=list(names[:12]),
            fix="a mesh or plain point cloud? did you mean --as-points",
        )
    rest = [n for n in names if n.startswith("f_rest_")]
    if len(rest) not in REST_BY_DEGREE or set(rest) != {f"f_rest_{i}" for i in range(len(rest))}:
        raise DataFormatError(
            "f_rest columns fit no SH degree",
            file=path,
            field="f_rest",
            found=len(rest),
            expected="0, 9, 24 or 45, numbered from 0",
            fix="export the splats again with SH degree 0 to 3",
        )
    gaussians, counts = sanitize(_gaussians_from_table(table, num_rest=len(rest)), strict=strict)
    if counts:
        warnings.warn(f"{path}: mended or dropped impossible values: {counts}", stacklevel=2)
    return gaussians


def _gaussians_from_table(table: np.ndarray, *, num_rest: int) -> Gaussians:
    def columns(*names: str) -> torch.Tensor:
        picked = np.empty((len(table), len(names)), np.float32)
        for i, name in enumerate(names):
            picked[:, i] = table[name]
        return torch.from_numpy(picked)

    dc = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    rest = columns(*(f"f_rest_{i}" for i in range(num_rest))).unflatten(1, (3, num_rest // 3)).transpose(1, 2)
    return Gaussians(
        means=columns("x", "y", "z"),
        quats=columns(*(f"rot_{i}" for i in range(4))),
        scales=columns(*(f"scale_{i}" for i in range(3))).double().exp().float(),
        opacities=torch.sigmoid(columns("opacity")[:, 0]),
        sh=torch.cat([dc, rest], 1),
    )


def read_ply_vertices(path: str | os.PathLike) -> np.ndarray:
    """The vertex rows of a binary little-endian PLY as a structured array.

    Raises:
        DataFormatError: missing, ascii, big endian, a header that lies or a type that does not exist.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            elements, start = _parse_header(file.read(MAX_HEADER), path)
            for name, element in elements.items():
                where = {"file": path, "field": f"element {name}"}
                if element.dtype is None:
                    raise DataFormatError("holds lists", **where, fix="save it as splats, not as a mesh")
                if element.dtype.itemsize == 0:
                    raise DataFormatError("has no columns", **where, found=element.count, fix="export it again")
                end = start + element.count * element.dtype.itemsize
                if end > size:
                    raise DataFormatError(
                        "the file is shorter than its header says",
                        **where,
                        found=f"{size} bytes",
                        expected=f"{end} bytes for {element.count} rows",
                        fix="copy or export it again",
                    )
                if name == "vertex":
                    file.seek(start)
                    return np.frombuffer(file.read(end - start), element.dtype)
                start = end
    except OSError as error:
        raise DataFormatError(f"cannot be read: {error.strerror}", file=path, fix="check the path") from error
    raise DataFormatError("has no vertices", file=path, field="element vertex", found=list(elements))


def _parse_header(head: bytes, path: Path) -> tuple[Mapping[str, Element], int]:
    """Elements in file order and where their data starts."""
    marker = head.find(b"\nend_header")
    end = head.find(b"\n", marker + 1)
    if not head.startswith((b"ply\n", b"ply\r\n")) or marker < 0 or end < 0:
        found = "no end_header in the first 64 KiB" if head.startswith(b"ply") else f"starts with {head[:4]!r}"
        raise DataFormatError("is no PLY file", file=path, field="header", found=found, fix="check the path")
    lines = head[:marker].decode("ascii", errors="replace").splitlines()[1:]
    counts: dict[str, int] = {}
    fields: dict[str, list[tuple[str, str]] | None] = {}
    kind, current = None, None
    for number, line in enumerate(lines, start=2):
        where = {"file": path, "field": f"header line {number}", "found": repr(line[:80])}
        match line.split():
            case ["format", kind, *_]:
                pass
            case ["element", current, count]:
                if not count.isascii() or not count.isdigit() or current in counts:
                    raise DataFormatError("bad element", **where, expected="a new name and a count >= 0")
                counts[current], fields[current] = int(count[:18]), []
            case ["property", "list", *_] if current is not None:
                fields[current] = None
            case ["property", word, name] if current is not None and word in PLY_TYPES:
                columns = fields[current]
                if columns is not None and name in [n for n, _ in columns]:
                    raise DataFormatError("a column appears twice", **where)
                if columns is not None:
                    columns.append((name, PLY_TYPES[word]))
            case ["comment" | "obj_info", *_] | []:
                pass
            case _:
                raise DataFormatError("unknown header line", **where, expected="element, typed property or comment")
    if kind != "binary_little_endian":
        where = {"file": path, "field": "format", "found": kind, "expected": "binary_little_endian"}
        raise DataFormatError("unsupported encoding", **where, fix="save it as binary little endian")
    dtypes = {k: None if v is None else np.dtype(v) for k, v in fields.items()}
    return {k: Element(count=counts[k], dtype=dtypes[k]) for k in counts}, end + 1

"""Splat tables for tests: columns of a .ply with known values, written in any encoding, number type and order."""

from __future__ import annotations

from pathlib import Path

import numpy as np

NAMES = {"f4": "float", "f8": "double", "u1": "uchar", "i4": "int"}


def splat_columns(num: int = 60, *, degree: int = 0, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns as INRIA writes them: log scales, logits, quaternions that are not normalised."""
    random = np.random.default_rng(seed)
    columns = {name: random.normal(size=num) for name in ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2")}
    columns |= {f"f_rest_{i}": 0.3 * random.normal(size=num) for i in range(3 * ((degree + 1) ** 2 - 1))}
    columns["opacity"] = random.normal(0, 3, num)
    columns |= {f"scale_{i}": random.uniform(-6, -2, num) for i in range(3)}
    columns |= {f"rot_{i}": random.normal(0, 2, num) for i in range(4)}
    return {name: values.astype(np.float32) for name, values in columns.items()}


def write_table(
    path: Path, columns: dict[str, np.ndarray], *, encoding: str = "binary_little_endian",
    types: dict[str, str] | None = None, lines: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """The columns as vertices: `types` {column: numpy code} where not float; `lines` after the format's."""
    types = {name: (types or {}).get(name, "f4") for name in columns}
    num = len(next(iter(columns.values())))
    header = ["ply", f"format {encoding} 1.0", *lines, f"element vertex {num}"]
    header += [f"property {NAMES[types[name]]} {name}" for name in columns]
    order = ">" if encoding == "binary_big_endian" else "<"
    rows = np.empty(num, [(name, order + types[name]) for name in columns])
    for name, values in columns.items():
        rows[name] = values
    body = rows.tobytes()
    if encoding == "ascii":
        body = "".join(" ".join(str(value) for value in row) + "\n" for row in rows.tolist()).encode()
    path.write_bytes(("\n".join(header) + "\nend_header\n").encode() + body)
    return path

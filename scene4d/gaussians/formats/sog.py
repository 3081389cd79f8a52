"""SOG scenes of PlayCanvas, versions 1 and 2: meta.json and tables as lossless WebP, in a folder or a zip (.sog)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scene4d.errors import DataFormatError, SecurityError, VersionError
from scene4d.gaussians.formats.sog_parts import META, SogParts, sog_parts
from scene4d.gaussians.formats.splat_notes import Splats, antialiased_note, check_size, checked_splats
from scene4d.gaussians.formats.webp_table import read_webp_table
from scene4d.gaussians.s4d.container import parse_json
from scene4d.types import Gaussians

BASES = (0, 3, 8, 15)
ROW = 64
"""Entries of the SH palette in one row of its picture."""
FIRST_TAG = 252
"""Alpha of a quaternion whose first number is the largest."""
KEPT = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
MOST_RATIO, ALLOWANCE = 1032, 1 << 26
FIX = "copy or export it again"


def read_sog(path: str | os.PathLike, *, strict: bool = False) -> Splats:
    """Splats [n] of a folder with meta.json, of that meta.json, or of a .sog.

    Axes are as in the file, which its writers take from the .ply it was made of.

    Raises:
        DataFormatError: a part is missing, damaged, or does not fit the others. VersionError: another version.
        SecurityError: a name or size that leads outside. GaussianError: `strict` and a value is impossible.
    Source: PlayCanvas, the SOG format; splat-transform, read-sog and read-sog-v1.
    """
    parts = sog_parts(Path(path))
    scene = _Scene(parts)
    notes = (antialiased_note(("model",)),) if scene.meta.get("model") == "antialiased" else ()
    form = f"SOG {scene.version}"
    return checked_splats(scene.gaussians(), form=form, file=parts.path, strict=strict, notes=notes)


class _Scene:
    """A scene whose meta.json is read, and its pictures when they are needed."""

    def __init__(self, parts: SogParts) -> None:
        self._parts = parts
        self.meta = parse_json(parts.read(META), file=parts.path, field=META)
        self.version = self.meta.get("version", 1)
        if self.version not in (1, 2) or isinstance(self.version, bool):
            problem, found = "is of a version that is not read", str(self.version)[:40]
            raise VersionError(problem, file=parts.path, field="version", found=found, expected="1 or 2")
        shape = self.meta.get("count") if self.version == 2 else self._entry("means").get("shape")
        count = shape[0] if isinstance(shape, list) and shape else shape
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise self._wrong("count", found=count, expected="a number of splats")
        self._count = count
        self._packed = 0
        check_size(count, path=parts.path, what="a scene")

    def gaussians(self) -> Gaussians:
        """All numbers, activated."""
        means, quats = self._means(), self._quats()
        scales, (dc, opacities) = np.exp(self._coded("scales", self._table("scales")[:, :3])), self._colours()
        sh = np.concatenate([dc[:, None], self._rest()], 1)
        means, quats, scales, opacities, sh = (
            torch.from_numpy(np.ascontiguousarray(x, np.float32)) for x in (means, quats, scales, opacities, sh)
        )
        return Gaussians(means=means, quats=quats, scales=scales, opacities=opacities, sh=sh)

    def _means(self) -> np.ndarray:
        low, high = self._table("means", 0)[:, :3], self._table("means", 1)[:, :3]
        share = (low.astype(np.float64) + 256.0 * high) / 65535
        least, most = self._numbers("means", "mins", num=3), self._numbers("means", "maxs", num=3)
        logs = least + share * (most - least)
        with np.errstate(over="ignore"):
            return np.sign(logs) * np.expm1(np.abs(logs))

    def _quats(self) -> np.ndarray:
        """w x y z; zero where the alpha names no largest one, which `sanitize` mends and counts."""
        table = self._table("quats")
        small = (table[:, :3].astype(np.float32) / 255 * 2 - 1) * np.float32(0.5**0.5)
        which = table[:, 3].astype(np.int64) - FIRST_TAG
        good = which >= 0
        quats = np.zeros((len(table), 4), np.float32)
        np.put_along_axis(quats, KEPT[np.where(good, which, 0)], small, 1)
        largest = np.sqrt(np.maximum(0, 1 - (small**2).sum(1, keepdims=True)))
        np.put_along_axis(quats, np.where(good, which, 0)[:, None], largest, 1)
        return quats * good[:, None]

    def _colours(self) -> tuple[np.ndarray, np.ndarray]:
        """SH of degree 0 [n 3], and opacities [n]."""
        table = self._table("sh0")
        if self.version == 2:
            return self._coded("sh0", table[:, :3]), table[:, 3].astype(np.float32) / 255
        values = self._coded("sh0", table)
        with np.errstate(over="ignore"):
            return values[:, :3], 1 / (1 + np.exp(-values[:, 3]))

    def _rest(self) -> np.ndarray:
        """SH above degree 0 [n k 3], from a palette."""
        if self.meta.get("shN") is None:
            return np.zeros((self._count, 0, 3), np.float32)
        picture, labels = self._picture("shN", 0), self._table("shN", 1)
        height, width = picture.shape[:2]
        bases = width // ROW
        if width % ROW or bases not in BASES[1:]:
            raise self._wrong("shN", found=f"{width} pixels", expected=[ROW * b for b in BASES[1:]])
        named = self._entry("shN").get("bands")
        if named is not None and named not in range(4):
            raise self._wrong("shN", found=f"{str(named)[:40]} bands", expected="0 to 3")
        if named is not None and BASES[named] != bases:
            raise self._wrong("shN", found=f"{width} pixels for {named} bands", expected=ROW * BASES[named])
        self._check_claim(3 * bases)
        palette = picture.reshape(height * ROW, bases, 4)[..., :3]
        index = labels[:, 0].astype(np.int64) | labels[:, 1].astype(np.int64) << 8
        if index.max(initial=0) >= len(palette):
            raise self._wrong("shN", found=f"label {int(index.max())}", expected=f"< {len(palette)} entries")
        return self._coded("shN", palette)[index]

    def _coded(self, name: str, bytes_: np.ndarray) -> np.ndarray:
        """Bytes as numbers: by the codebook in version 2, between limits (for each column, or one) in version 1."""
        if self.version == 2:
            codebook = self._numbers(name, "codebook", num=None)
            if bytes_.max(initial=0) >= len(codebook):
                raise self._wrong(f"{name}.codebook", found=f"{len(codebook)} numbers", expected="256 numbers")
            return codebook[bytes_].astype(np.float32)
        num = 1 if name == "shN" else bytes_.shape[-1]
        least, most = self._numbers(name, "mins", num=num), self._numbers(name, "maxs", num=num)
        return (least + (most - least) * (bytes_ / 255)).astype(np.float32)

    def _table(self, name: str, index: int = 0) -> np.ndarray:
        """The pixels [n 4] of a picture that has one for each splat."""
        picture = self._picture(name, index)
        if picture.shape[0] * picture.shape[1] < self._count:
            found, expected = f"{picture.shape[1]} x {picture.shape[0]} pixels", f"at least {self._count}"
            raise self._wrong(name, found=found, expected=expected)
        self._check_claim(14)
        return picture.reshape(-1, 4)[: self._count]

    def _picture(self, name: str, index: int) -> np.ndarray:
        files = self._entry(name).get("files")
        if not isinstance(files, list) or len(files) <= index:
            raise self._wrong(f"{name}.files", found=str(files)[:80], expected=f"{index + 1} names")
        data = self._parts.read(files[index])
        self._packed += len(data)
        return read_webp_table(data, file=self._parts.path, field=str(files[index])[:80])

    def _check_claim(self, numbers: int) -> None:
        """Refuse a count of splats that the pictures read so far cannot hold, before memory is taken for it."""
        size = 4 * numbers * self._count
        if size > MOST_RATIO * self._packed + ALLOWANCE:
            found = f"{self._count} splats in {self._packed} bytes"
            raise SecurityError("claims more than it can hold", file=self._parts.path, field="count", found=found)

    def _entry(self, name: str) -> dict[str, Any]:
        entry = self.meta.get(name)
        if not isinstance(entry, dict):
            raise self._wrong(name, found=type(entry).__name__, expected="an object")
        return entry

    def _numbers(self, name: str, key: str, *, num: int | None) -> np.ndarray:
        values = self._entry(name).get(key)
        values = values if isinstance(values, list) else [values]
        good = all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e30 for v in values)
        if not good or (len(values) != num if num else len(values) > 256):
            found, expected = str(values)[:80], f"{num or 'at most 256'} numbers"
            raise self._wrong(f"{name}.{key}", found=found, expected=expected)
        return np.array(values, np.float64)

    def _wrong(self, field: str, *, found: Any, expected: Any) -> DataFormatError:
        problem = "does not fit"
        return DataFormatError(problem, file=self._parts.path, field=field, found=found, expected=expected, fix=FIX)

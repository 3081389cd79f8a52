"""A .s4d that grows with its scene: what is finished goes to disk as it comes, memory holds only what still lives."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scene4d.disk_errors import writing
from scene4d.drafts import OWNER, draft_folder
from scene4d.errors import ShapeError, TimestampError
from scene4d.gaussians.s4d.container import Chunks, write_archive
from scene4d.gaussians.s4d.s4d import base_tensors, camera_member, frame_member, manifest_bytes, safetensors_bytes
from scene4d.scene import Scene4D
from scene4d.types import Cameras

PER_INSTANT = ("times", "observed")
CHUNK = 1 << 20


class GrowingS4D:
    """History of a stream that becomes a .s4d.

    `append` takes pieces of the past: instants in order, and rows that will not change any more. They wait, a column a
    file, in a folder beside the target. `save` writes them and what lives now as one .s4d, which appears whole or not
    at all: at every moment the target is the last scene that was saved, and no more of it than one member's worth of
    bytes is in memory. `close` (or leaving the `with` block) removes the folder.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        cameras: Mapping[str, Cameras] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            path: the file that `save` writes.
            cameras: named cameras, single [].
            info: provenance, JSON-ready; added to the saved scene's.
        Raises:
            ResourceError: the folder cannot be made.
        """
        self.path, self.info = Path(path), dict(info or {})
        self._cameras = cameras
        self._like: dict[str, Tensor] = {}
        self._count = {"rows": 0, "instants": 0}
        self._anchors: list[int] = []
        self._poses_before = [0]  # poses that were appended before each instant, and in all
        self._last = -math.inf
        self._open = contextlib.ExitStack()
        with writing(self.path):
            self._folder = self._open.enter_context(draft_folder(self.path))

    def __enter__(self) -> GrowingS4D:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def num_rows(self) -> int:
        """Finished Gaussians appended so far."""
        return self._count["rows"]

    @property
    def num_frames(self) -> int:
        """Instants appended so far."""
        return self._count["instants"]

    def append(self, piece: Scene4D) -> None:
        """Put a piece of the past behind what is there.

        Args:
            piece: rows that are finished, and instants after those appended. Its anchors begin with those of earlier
                pieces; anchors that are added later rest in it.
        Raises:
            ShapeError: batched, with a residual, or with other columns than before. TimestampError: time goes back.
            ResourceError: the disk is full.
        """
        columns = self._fitting(piece)
        poses = piece.motion.world_from_rest
        try:
            with writing(self.path):
                for name, values in columns.items():
                    with open(self._file(name), "ab") as file:
                        file.write(_bytes_of(values))
                with open(self._folder / "poses", "ab") as file:
                    file.write(_bytes_of(poses.float()))
        except BaseException:
            self._cut()
            raise
        self._like = {name: values[:0].clone() for name, values in columns.items()}
        self._count["rows"] += piece.base.num_gaussians
        self._count["instants"] += len(piece.times)
        for _ in range(len(piece.times)):
            self._anchors.append(poses.shape[1])
            self._poses_before.append(self._poses_before[-1] + poses.shape[1])
        self._last = float(piece.times[-1]) if len(piece.times) else self._last

    def save(self, living: Scene4D) -> None:
        """Write all that was appended and `living`, the rows and instants that were not, to the target.

        Raises:
            as `append`. DataFormatError: `info` is not JSON-ready.
        """
        columns = self._fitting(living)
        columns["anchors"] = living.motion.anchors
        count = {name: len(values) for name, values in columns.items()}
        for name in self._like:
            count[name] += self._count["instants" if name in PER_INSTANT else "rows"]
        header, order = _safetensors_header({name: values[:0] for name, values in columns.items()}, count)

        def base() -> Iterator[bytes]:
            yield header
            for name in order:
                yield from self._chunks(name)
                yield _bytes_of(columns[name])

        def instant(index: int) -> list[bytes]:
            poses = self._poses(index, living)
            return [safetensors_bytes({"world_from_rest": poses})]

        members: dict[str, Chunks] = {"base.safetensors": base}
        members |= {frame_member(i): partial(instant, i) for i in range(count["times"])}
        members |= camera_member(self._cameras, path=self.path)
        counts = {
            "num_gaussians": count["ids"],
            "num_anchors": count["anchors"],
            "num_frames": count["times"],
            "num_observed": sum(data.count(1) for data in self._chunks("observed")) + int(living.observed.sum()),
            "batch_shape": [],
            "sh_degree": int(living.base.sh.shape[-2] ** 0.5) - 1,
            "action_spec": [],
        }
        about = {**living.info, **self.info}
        write_archive(self.path, members, manifest=partial(manifest_bytes, counts=counts, info=about, path=self.path))

    def close(self) -> None:
        """Remove what waits on disk; the target stays as it was saved last."""
        self._open.close()

    def _fitting(self, piece: Scene4D) -> dict[str, Tensor]:
        """The columns of a piece that are appended, after a look at whether they may be."""
        if piece.batch_shape or piece.residual or piece.motion.log_var is not None:
            raise ShapeError("cannot be appended", field="piece", expected="no batch axes, residual or log_var")
        if len(piece.times) and float(piece.times[0]) <= self._last:
            found = float(piece.times[0])
            raise TimestampError("time does not increase", field="times", found=found, expected=f"> {self._last}")
        columns = {k: v.detach().cpu() for k, v in base_tensors(piece).items() if k != "anchors"}
        for name, like in self._like.items():
            found = columns.get(name)
            if found is None or found.dtype != like.dtype or found.shape[1:] != like.shape[1:]:
                there, was = (None if x is None else f"{x.dtype} {list(x.shape[1:])}" for x in (found, like))
                raise ShapeError("is not what it was", field=name, found=there, expected=was)
        if self._like and len(columns) != len(self._like):
            raise ShapeError("has new columns", field=sorted(set(columns) - set(self._like))[0])
        if self._anchors and piece.motion.anchors.shape[0] < self._anchors[-1]:
            found = piece.motion.anchors.shape[0]
            raise ShapeError("has lost anchors", field="anchors", found=found, expected=self._anchors[-1])
        return columns

    def _cut(self) -> None:
        """Take back what a piece that failed has left: half of one would shift every row after it."""
        lengths = {"poses": 28 * self._poses_before[-1]}
        for name, like in self._like.items():
            rows = self._count["instants" if name in PER_INSTANT else "rows"]
            lengths[self._file(name).name] = rows * math.prod(like.shape[1:]) * like.element_size()
        with contextlib.suppress(OSError):
            for file in self._folder.iterdir():
                if file.name != OWNER:
                    os.truncate(file, lengths.get(file.name, 0))

    def _file(self, name: str) -> Path:
        return self._folder / name.replace("/", ".")

    def _chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a column that were appended."""
        path = self._file(name)
        if name not in self._like or not path.exists():
            return
        with open(path, "rb") as file:
            while data := file.read(CHUNK):
                yield data

    def _poses(self, index: int, living: Scene4D) -> Tensor:
        """World-from-rest poses [m 7] of one instant; anchors that were added later rest."""
        if index >= self.num_frames:
            return living.motion.world_from_rest[index - self.num_frames].float()
        num = self._anchors[index]
        with open(self._folder / "poses", "rb") as file:
            file.seek(28 * self._poses_before[index])
            known = torch.frombuffer(bytearray(file.read(28 * num)), dtype=torch.float32).view(num, 7)
        rest = known.new_tensor([1.0, 0, 0, 0, 0, 0, 0]).expand(living.motion.anchors.shape[0] - num, 7)
        return torch.cat([known, rest])


def _bytes_of(values: Tensor) -> bytes:
    return values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _safetensors_header(like: Mapping[str, Tensor], count: Mapping[str, int]) -> tuple[bytes, list[str]]:
    """Length and header of a .safetensors file of `count` rows a tensor [0 ...], and the order of its tensors."""
    entries = json.loads(safetensors_bytes(like)[8:])
    entries.pop("__metadata__", None)
    start = 0
    for name, entry in entries.items():
        size = count[name] * math.prod(like[name].shape[1:]) * like[name].element_size()
        entry.update(shape=[count[name], *like[name].shape[1:]], data_offsets=[start, start + size])
        start += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, list(entries)

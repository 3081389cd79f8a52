"""One LeRobot episode while it comes in, stretch by stretch: pictures go to disk at once, numbers wait for the end.

Only the whole episode tells whether a camera moves, that is which columns its table has; so encoded pictures wait in a
file of their own, and colour in its video, until the table can be written.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from scene4d.data.formats.lerobot import lerobot_layout as layout
from scene4d.data.formats.lerobot.lerobot_features import PictureMoments, image_column
from scene4d.data.video.depth_codec import LogDepth, encode_depth, encode_segments
from scene4d.data.video.video import CodesEncoder, VideoEncoder
from scene4d.errors import DataFormatError
from scene4d.types import Cameras, Episode, Frames


@dataclass(frozen=True)
class Spooled:
    """A whole episode without its pictures."""

    numbers: Episode  # [t], no views
    cameras: Mapping[str, Cameras]  # [t] each
    images: tuple[str, ...]  # columns of encoded pictures that `Spool.stretches` yields, and depth that is a video


class Spool:
    """Takes the stretches of one episode; a context, whose temporary file goes with it."""

    def __init__(
        self, root: Path, *, where: Mapping[str, int], number: int, unit: float, crf: int,
        moments: dict[str, PictureMoments], depth_video: LogDepth | None = None,
    ):  # fmt: skip
        self._root, self._where, self._number, self._unit, self._crf = root, where, number, unit, crf
        self._moments, self._depth_video = moments, depth_video
        self._numbers: list[Episode] = []
        self._cameras: dict[str, list[Cameras]] = {}
        self._lengths: list[int] = []
        self._names: list[str] = []
        self._info: dict[str, Any] | None = None
        self._open, self._writing = contextlib.ExitStack(), contextlib.ExitStack()
        self._films: dict[str, VideoEncoder] = {}
        self._codes: dict[str, CodesEncoder] = {}
        self._images: pq.ParquetWriter | None = None
        self._columns: tuple[str, ...] = ()

    def __enter__(self) -> Spool:
        self._folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix=".spool.", dir=self._root)))
        return self

    def __exit__(self, *error: Any) -> None:
        self._writing.__exit__(*error)
        self._open.__exit__(*error)

    def add(self, stretch: Episode, *, fps: float) -> None:
        """Encode the pictures of the next frames [t]; frames that are not valid are left out."""
        if self._info is None:
            self._info = dict(stretch.info)
        elif "frames" in self._info:
            self._info["frames"] = [*self._info["frames"], *stretch.info.get("frames", ())]
        if not stretch.valid.all():
            stretch = stretch[stretch.valid]
        if not len(stretch.times):
            return
        if not self._lengths:
            self._names = list(stretch.views)
            for name in self._names:
                film = VideoEncoder(self._video(f"observation.images.{name}"), fps=fps, crf=self._crf)
                self._films[name] = self._writing.enter_context(film)
                if self._depth_video is not None and stretch.views[name].depth is not None:
                    codes = CodesEncoder(self._video(f"observation.depth.{name}"), fps=fps)
                    self._codes[name] = self._writing.enter_context(codes)
        images: dict[str, pa.Array] = {}
        for name, frames in stretch.views.items():
            self._cameras.setdefault(name, []).append(frames.cameras)
            if name in self._films:
                rgb = (frames.rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
                self._films[name].add(rgb)
                self._count(f"observation.images.{name}", rgb, step=1 / 255)
            images |= self._image_columns(frames, name=name)
        if self._lengths and (list(stretch.views) != self._names or tuple(images) != self._columns):
            found = sorted({*images} ^ {*self._columns})
            raise DataFormatError("its columns change within it", field="episode", frame=self._number, found=found)
        if images:
            table = pa.table(images)
            if self._images is None:
                writer = pq.ParquetWriter(self._folder / "images.parquet", table.schema, compression="NONE")
                self._images = self._writing.enter_context(writer)
            self._images.write_table(table, row_group_size=len(table))
        self._columns = tuple(images)
        self._numbers.append(stretch.replace(views={}))
        self._lengths.append(len(stretch.times))

    def finish(self) -> Spooled:
        """The whole episode, once all of it was added; its videos are complete then.

        Raises:
            DataFormatError: no frame was valid.
        """
        if not self._lengths:
            raise DataFormatError("no frame is valid", field="episode", frame=self._number)
        self._writing.close()
        numbers = Episode.cat(self._numbers).replace(info=self._info or {})
        cameras = {n: Cameras.cat(parts) for n, parts in self._cameras.items()}
        images = (*self._columns, *(f"observation.depth.{name}" for name in self._codes))
        return Spooled(numbers=numbers, cameras=cameras, images=images)

    def _image_columns(self, frames: Frames, *, name: str) -> dict[str, pa.Array]:
        """Depth and segments of a camera, encoded."""
        columns = {}
        if frames.depth is not None and self._depth_video is not None:
            self._add_codes(frames.depth.detach().cpu().numpy(), name=name)
        elif frames.depth is not None:
            depth = frames.depth.detach().cpu().numpy()
            columns[f"observation.depth.{name}"] = image_column([encode_depth(d, unit=self._unit) for d in depth])
            steps = np.rint(np.nan_to_num(depth, posinf=0, neginf=0).clip(0) / np.float32(self._unit))
            self._count(f"observation.depth.{name}", steps.astype(np.uint16)[..., None])
        if "segments" in frames.extras:
            segments = frames.extras["segments"].detach().cpu().numpy()
            columns[f"observation.segments.{name}"] = image_column([encode_segments(ids[..., 0]) for ids in segments])
            self._count(f"observation.segments.{name}", (segments + 1).astype(np.uint16))
        return columns

    def _add_codes(self, depth: np.ndarray, *, name: str) -> None:
        """Depth [t h w] m into its video, counted in whole millimetres."""
        if name not in self._codes or self._depth_video is None:
            where = {"field": f"observation.depth.{name}", "frame": self._number}
            raise DataFormatError("its columns change within it", **where, found="depth that was not there before")
        codes = [self._depth_video.encode(each) for each in depth]
        self._codes[name].add(codes)
        millimetres = np.rint([1000 * self._depth_video.decode(each) for each in codes]).astype(np.int64)
        self._count(f"observation.depth.{name}", millimetres[..., None], step=1e-3)

    def _video(self, key: str) -> Path:
        file = self._root / layout.VIDEO_PATH.format(video_key=key, **self._where)
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _count(self, column: str, pictures: np.ndarray, *, step: float = 1.0) -> None:
        self._moments.setdefault(column, PictureMoments(step=step)).add(pictures)

    def stretches(self) -> Iterator[tuple[int, dict[str, pa.ChunkedArray]]]:
        """Rows and picture columns of each stretch, after `finish`."""
        source = None if not self._columns else pq.ParquetFile(self._folder / "images.parquet")
        for index, length in enumerate(self._lengths):
            table = None if source is None else source.read_row_group(index)
            yield length, {} if table is None else {name: table[name] for name in self._columns}

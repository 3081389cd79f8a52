"""Where pictures come from: image files, videos, encoded bytes; each callable with frame indices, each picklable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from scene4d.data.video.depth_files import NOT_MEASURED, read_depth
from scene4d.data.video.images import checked_depth, image_from_bytes, open_image, sample_nearest
from scene4d.data.video.video import iterate_frames
from scene4d.errors import CalibrationError, DataFormatError, DepthError

MAX_ASPECT = 0.01  # relative


@dataclass(frozen=True)
class ColorFiles:
    """Colour images, one a frame; alpha is kept where there is any, and masks (white = usable) become alpha."""

    paths: Sequence[Path]  # one image a frame
    size: tuple[int, int] | None = None  # (width, height) that all must have
    masks: Sequence[Path | None] = ()  # one grey image a frame; all is usable where it is None
    resize: tuple[int, int] | None = None  # (width, height) that they are averaged to, where depth has another size
    canvas: Canvas | None = None  # of images of several sizes, instead of `size`

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        """Pictures [h w 3 or 4] uint8."""
        for i in frames:
            image = open_image(self.paths[i])
            wanted = self.size if self.canvas is None else self.canvas.sizes[i]
            if wanted is not None and image.size != tuple(wanted):
                found = image.size
                expected, fix = tuple(wanted), "all images of a recording must have one size"
                raise CalibrationError("has another size", file=self.paths[i], found=found, expected=expected, fix=fix)
            if image.mode not in ("RGB", "RGBA", "L", "P"):
                found = f"mode {image.mode}"
                raise DataFormatError("is no colour image", file=self.paths[i], found=found, expected="8-bit RGB")
            image = image.convert("RGBA" if image.mode == "RGBA" else "RGB")
            if self.resize is not None:
                image = image.resize(self.resize, Image.Resampling.BOX)
            picture = np.asarray(image)
            mask = self.masks[i] if self.masks else None
            if mask is not None:
                usable = np.asarray(open_image(mask).convert("L").resize(image.size, Image.Resampling.NEAREST))
                picture = np.dstack([picture[..., :3], usable])
            elif self.canvas is not None and picture.shape[2] == 3:
                picture = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
            yield picture if self.canvas is None else self.canvas.placed(picture)


@dataclass(frozen=True)
class Canvas:
    """One size for pictures of several: each lies in the upper left corner, so that K holds; nothing is resampled."""

    sizes: Sequence[tuple[int, int]]
    """(width, height) px of each frame's picture."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) px of all."""
        return max(w for w, _ in self.sizes), max(h for _, h in self.sizes)

    def placed(self, values: np.ndarray) -> np.ndarray:
        """A picture [h w ...] on the canvas, 0 beside it."""
        width, height = self.size
        margins = [(0, height - values.shape[0]), (0, width - values.shape[1])]
        return np.pad(values, [*margins, *[(0, 0)] * (values.ndim - 2)])


@dataclass(frozen=True)
class DepthFiles:
    """Depth files, registered to colour: integers count steps of `unit`, 0 and 65535 are not measured; floats are m."""

    paths: Sequence[Path | None]  # one a frame; nothing is measured where it is None
    unit: float = 0.001  # metres a step
    size: tuple[int, int] | None = None  # (width, height) of the colour images; smaller depth is resized to it
    confidences: Sequence[Path | None] = ()  # one grey image a frame, 0 = lowest: nothing is measured there
    canvas: Canvas | None = None  # of images of several sizes, instead of `size`

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        """z-depth [h w] float32 m."""
        for i in frames:
            path, size = self.paths[i], self.size if self.canvas is None else self.canvas.sizes[i]
            if path is None:
                if size is None:
                    raise DepthError("a frame without depth needs the size of colour", field="depth", frame=i)
                depth = np.zeros(size[::-1], np.float32)
            else:
                depth = checked_depth(read_depth(path, unit=self.unit), file=path, frame=path.stem.split(".")[0])
                confidence = self.confidences[i] if self.confidences else None
                if confidence is not None:
                    levels = np.asarray(open_image(confidence).convert("L"))
                    depth = np.where(sample_nearest(levels, depth.shape[::-1]) == 0, np.float32(0), depth)
                depth = _of_color_size(depth, size, path=path)
            yield depth if self.canvas is None else self.canvas.placed(depth)


def _of_color_size(depth: np.ndarray, size: tuple[int, int] | None, *, path: Path) -> np.ndarray:
    """Depth [h w] at the nearest pixels of a colour image that shows the same at another scale."""
    width, height = depth.shape[::-1]
    if size is not None and not same_aspect((width, height), size):
        problem, found = "depth and colour differ in size", (width, height)
        expected, fix = tuple(size), "register depth to the colour camera first"
        raise CalibrationError(problem, file=path, field="depth", found=found, expected=expected, fix=fix)
    return sample_nearest(depth, size)


def same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) can be those of one picture at two scales: sides rounded to whole pixels."""
    small, large = sorted((one, other))
    scale = large[0] / small[0]
    return abs(large[1] / scale - small[1]) <= 1 or abs(one[0] / one[1] * other[1] / other[0] - 1) < MAX_ASPECT


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video, decoded as they are asked for."""

    path: Path  # the video
    first: int = 0  # index in the video of frame 0
    last: int | None = None  # index in the video that none may pass: what lies beyond shows this frame
    chosen: Sequence[int] = ()  # index in the video of each frame, where they do not follow each other from `first`

    def places(self, frames: Sequence[int]) -> list[int]:
        """Index in the video of each frame, increasing; see `last`."""
        places = [self.chosen[i] if self.chosen else self.first + i for i in frames]
        return places if self.last is None else [min(place, self.last) for place in places]

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        """Pictures [h w 3] uint8."""
        wanted = self.places(frames)
        repeats = {place: wanted.count(place) for place in dict.fromkeys(wanted)}
        for place, picture in zip(repeats, iterate_frames(self.path, list(repeats)), strict=True):
            yield from [picture] * repeats[place]


def picture_from_bytes(
    data: bytes, *, file: str | Path, field: str | None = None, frame: int | str | None = None
) -> np.ndarray:
    """An encoded colour image (JPEG, PNG, ...) as uint8 [h w 3].

    Raises:
        DataFormatError: it cannot be decoded.
    """
    with image_from_bytes(data, file=file, field=field, frame=frame) as image:
        return np.asarray(image.convert("RGB"))


def size_from_bytes(data: bytes, *, file: str | Path, field: str | None = None) -> tuple[int, int]:
    """(width, height) of an encoded image, from its header only.

    Raises:
        DataFormatError: it is no image.
    """
    with image_from_bytes(data, file=file, field=field) as image:
        return image.size


def depth_of_codes(codes: np.ndarray, *, unit: float, file: str | Path, frame: str) -> np.ndarray:
    """Integer codes [h w] as checked z-depth in m; 0, negative codes and 65535 are not measured."""
    metres = codes * np.float32(unit)
    metres[codes >= NOT_MEASURED] = 0
    return checked_depth(metres, file=Path(file), frame=frame)

"""Where pictures come from: image files, videos, encoded bytes; each callable with frame indices, each picklable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from scene4d.data.video.images import checked_depth, image_from_bytes, open_image, read_depth_codes
from scene4d.data.video.video import iterate_frames
from scene4d.errors import CalibrationError, DataFormatError

NOT_MEASURED = 65535


@dataclass(frozen=True)
class ColorFiles:
    """Colour images, one a frame; alpha is kept where there is any, and masks (white = usable) become alpha."""

    paths: Sequence[Path]  # one image a frame
    size: tuple[int, int] | None = None  # (width, height) that all must have
    masks: Sequence[Path | None] = ()  # one grey image a frame
    resize: tuple[int, int] | None = None  # (width, height) that they are averaged to, where depth has another size

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        """Pictures [h w 3 or 4] uint8."""
        for i in frames:
            image = open_image(self.paths[i])
            if self.size is not None and image.size != tuple(self.size):
                found = image.size
                expected, fix = tuple(self.size), "all images of a recording must have one size"
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
            yield picture


@dataclass(frozen=True)
class DepthFiles:
    """Depth as 16-bit images: metres = code * unit; 0 and 65535 are not measured."""

    paths: Sequence[Path]  # one image a frame
    unit: float = 0.001  # metres a step
    size: tuple[int, int] | None = None  # (width, height) of the colour images that depth must be registered to

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        """z-depth [h w] float32 m."""
        for i in frames:
            path = self.paths[i]
            codes = read_depth_codes(path)
            if self.size is not None and codes.shape[::-1] != tuple(self.size):
                problem, found = "depth and colour differ in size", codes.shape[::-1]
                expected, fix = tuple(self.size), "register depth to the colour camera first"
                raise CalibrationError(problem, file=path, field="depth", found=found, expected=expected, fix=fix)
            yield depth_of_codes(codes, unit=self.unit, file=path, frame=path.stem.split(".")[0])


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

"""Videos whose frames carry a number, with any time stamps."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 40, 30
STEP = 10  # levels between two numbers


def encode_at(
    path: Path, ticks: Sequence[int], *, ticks_per_second: int, codec: str = "libx264", reordered: int = 0,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> None:  # fmt: skip
    """Frame i (grey level 10 i, modulo 25 frames) is shown at ticks[i]; `reordered`: most frames between references."""
    with av.open(str(path), "w") as container:
        options = {"crf": "4"} if codec == "libx264" else {"qmin": "1", "qmax": "1"}
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, ticks_per_second)
        stream.gop_size, stream.max_b_frames = 10, reordered
        for i, tick in enumerate(ticks):
            picture = np.full((size[1], size[0], 3), STEP * (i % 25), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = tick, stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def level_of(picture: np.ndarray) -> int:
    """The number (modulo 25) that a picture in 0..255 carries."""
    return round(float(np.median(picture)) / STEP)

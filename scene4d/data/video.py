"""Video in and out: near-lossless colour for data, plain .mp4 for people, frames looked up by index."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fractions import Fraction

import av
import numpy as np

from scene4d.errors import VideoError
from scene4d.files import atomic_file

_GOP_SIZE = 10  # frames between key frames: what a lookup decodes in vain at most


def encode_video(path: str | os.PathLike, frames: Iterable[np.ndarray], *, fps: float, crf: int = 6) -> int:
    """Write uint8 frames [h w 3] as near-lossless H.264 for data; the same frames give the same bytes.

    Chroma is not subsampled, which alone would cost 10 dB on small images; some browsers cannot play that.

    Args:
        crf: x264's quality; 6 keeps simulated frames above 43 dB PSNR, 0 is as exact as 8-bit YUV can be.
    Returns:
        The number of frames written.
    """
    return _encode(path, frames, fps=fps, crf=crf, pix_fmt="yuv444p")


def write_video(path: str | os.PathLike, frames: Iterable[np.ndarray], *, fps: float, crf: int = 16) -> int:
    """Write uint8 frames [h w 3] as an .mp4 that every player shows; it appears whole or not at all.

    Odd sizes are cut by one pixel row or column, as halved chroma wants even ones.
    """
    with atomic_file(path) as temporary:
        even = (frame[: frame.shape[0] & ~1, : frame.shape[1] & ~1] for frame in frames)
        return _encode(temporary, even, fps=fps, crf=crf, pix_fmt="yuv420p")


def _encode(path: str | os.PathLike, frames: Iterable[np.ndarray], *, fps: float, crf: int, pix_fmt: str) -> int:
    count, stream = 0, None
    with av.open(os.fspath(path), "w", options={"movflags": "faststart"}) as container:
        for frame in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(100000))
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = pix_fmt
                stream.options = {"crf": str(crf), "preset": "medium", "threads": "1"}
                stream.gop_size, stream.max_b_frames = _GOP_SIZE, 0
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")):
                container.mux(packet)
            count += 1
        if stream is None:
            raise VideoError("there are no frames to write", file=path)
        for packet in stream.encode():
            container.mux(packet)
    return count


def count_frames(path: str | os.PathLike) -> int:
    """Frames that the container declares (or holds, where it does not say).

    Raises:
        VideoError: the file cannot be opened or has no video.
    """
    with _open(path) as container:
        return container.streams.video[0].frames or sum(1 for packet in container.demux(video=0) if packet.size)


def decode_frames(path: str | os.PathLike, indices: Sequence[int]) -> np.ndarray:
    """Frames of the given increasing indices, uint8 [n h w 3]; decodes from the key frame before the first one.

    Raises:
        VideoError: the file cannot be decoded, or holds no frame of some index.
    """
    wanted, found = list(indices), []
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        rate, base = stream.average_rate, stream.time_base
        first_pts = stream.start_time or 0
        if not rate or not base:
            raise VideoError("has no frame rate", file=path)
        try:
            if wanted and wanted[0] > _GOP_SIZE:
                container.seek(first_pts + int(wanted[0] / rate / base), stream=stream, backward=True)
            for frame in container.decode(stream):
                if len(found) == len(wanted):
                    break
                index = round((frame.pts - first_pts) * base * rate)
                if index == wanted[len(found)]:
                    found.append(frame.to_ndarray(format="rgb24"))
        except (av.error.FFmpegError, ValueError, TypeError) as error:
            raise VideoError("cannot be decoded", file=path, frame=_next(wanted, found), found=error) from error
    if len(found) < len(wanted):
        raise VideoError(
            "ends early", file=path, frame=_next(wanted, found), found=f"{len(found)} frames", expected=f"{len(wanted)}"
        )
    return np.stack(found)


def _next(wanted: list[int], found: list) -> int | None:
    return wanted[len(found)] if len(found) < len(wanted) else None


def _open(path: str | os.PathLike):
    try:
        container = av.open(os.fspath(path))
    except (av.error.FFmpegError, OSError) as error:
        fix = "was it copied whole? a file that was never finished has no index"
        raise VideoError("cannot be opened as video", file=path, found=error, fix=fix) from error
    if not container.streams.video:
        container.close()
        raise VideoError("has no video stream", file=path)
    return container

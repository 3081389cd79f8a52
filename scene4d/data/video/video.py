"""Video in and out: near-lossless colour for data, plain .mp4 for people, frames looked up by index."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from scene4d.errors import DepthError, VideoError
from scene4d.files import atomic_file

_GOP_SIZE = 10  # frames between key frames: what a lookup decodes in vain at most
_UNEVEN = 0.3  # of a frame: further from the even grid, an index no longer tells which frame is meant
_REMAKE = "write it again at an even rate and upright: ffmpeg -i IN -fps_mode cfr -r RATE OUT.mp4"


class VideoEncoder:
    """Near-lossless H.264 for data that grows frame by frame; the same frames give the same bytes.

    Chroma is not subsampled, which alone would cost 10 dB on small images; some browsers cannot play that. As a context
    it is finished at the end, unless that comes by an exception.
    """

    def __init__(self, path: str | os.PathLike, *, fps: float, crf: int = 6, pix_fmt: str = "yuv444p"):
        self.path, self.count = path, 0
        self._rate, self._crf, self._pix_fmt = Fraction(fps).limit_denominator(100000), crf, pix_fmt
        self._container = av.open(os.fspath(path), "w", options={"movflags": "faststart"})
        self._stream: Any = None

    def add(self, frames: Iterable[np.ndarray]) -> None:
        """Encode uint8 frames [h w 3], all of one size."""
        for frame in frames:
            if self._stream is None:
                self._stream = self._container.add_stream("libx264", rate=self._rate)
                self._stream.height, self._stream.width = frame.shape[:2]
                self._stream.pix_fmt = self._pix_fmt
                # Its macroblock tree is not the same each time where the sides are no multiples of 16.
                options = {"preset": "medium", "threads": "1", "x264-params": "mbtree=0"}
                self._stream.options = {"crf": str(self._crf), **options}
                self._stream.gop_size, self._stream.max_b_frames = _GOP_SIZE, 0
            self._mux(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
            self.count += 1

    def finish(self) -> None:
        """Write what is still to come, and the index.

        Raises:
            VideoError: there was no frame.
        """
        if self._stream is None:
            self._container.close()
            raise VideoError("there are no frames to write", file=self.path)
        self._mux(None)
        self._container.close()

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def __enter__(self) -> VideoEncoder:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.finish()
        else:
            with contextlib.suppress(FFmpegError, OSError):
                self._container.close()


def encode_video(path: str | os.PathLike, frames: Iterable[np.ndarray], *, fps: float, crf: int = 6) -> int:
    """Write uint8 frames [h w 3] as `VideoEncoder` does.

    Args:
        crf: x264's quality; 6 keeps simulated frames above 43 dB PSNR, 0 is as exact as 8-bit YUV can be.
    Returns:
        The number of frames written.
    """
    with VideoEncoder(path, fps=fps, crf=crf) as encoder:
        encoder.add(frames)
    return encoder.count


def write_video(path: str | os.PathLike, frames: Iterable[np.ndarray], *, fps: float, crf: int = 16) -> int:
    """Write uint8 frames [h w 3] as an .mp4 that every player shows; it appears whole or not at all.

    Odd sizes are cut by one pixel row or column, as halved chroma wants even ones.
    """
    with atomic_file(path) as temporary:
        with VideoEncoder(temporary, fps=fps, crf=crf, pix_fmt="yuv420p") as encoder:
            encoder.add(frame[: frame.shape[0] & ~1, : frame.shape[1] & ~1] for frame in frames)
        return encoder.count


@dataclass(frozen=True)
class VideoFacts:
    """What a container declares of its video, nothing decoded."""

    width: int
    height: int
    fps: float
    num_frames: int
    codec: str
    pix_fmt: str


def video_facts(path: str | os.PathLike) -> VideoFacts:
    """Size, rate, codec and number of frames that the container declares (or holds, where it declares none).

    Raises:
        VideoError: the file cannot be opened, has no video or no frame rate.
    """
    with _open(path) as container:
        stream = container.streams.video[0]
        if not stream.average_rate or not stream.time_base:
            raise VideoError("has no frame rate", file=path, found=stream.codec_context.name, fix=_REMAKE)
        return VideoFacts(
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            fps=float(stream.average_rate),
            num_frames=stream.frames or sum(1 for packet in container.demux(video=0) if packet.size),
            codec=stream.codec_context.name,
            pix_fmt=str(stream.codec_context.pix_fmt),
        )


def count_frames(path: str | os.PathLike) -> int:
    """Frames that the container declares (or holds, where it declares none).

    Raises:
        VideoError: the file cannot be opened or has no video.
    """
    with _open(path) as container:
        return container.streams.video[0].frames or sum(1 for packet in container.demux(video=0) if packet.size)


def iterate_frames(path: str | os.PathLike, indices: Sequence[int], *, codes: bool = False) -> Iterator[np.ndarray]:
    """Frames of the given increasing indices one by one, uint8 [h w 3], or with `codes` the first plane's [h w] uint16.

    Raises:
        VideoError: the file cannot be decoded, is turned by its metadata, has an uneven rate or no frame of some index.
    """
    wanted = list(indices)
    done = 0
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        rate, base = stream.average_rate, stream.time_base
        first_pts = stream.start_time or 0
        if not rate or not base:
            raise VideoError("has no frame rate", file=path, found=stream.codec_context.name, fix=_REMAKE)
        try:
            if wanted and wanted[0] > _GOP_SIZE:
                container.seek(first_pts + int(wanted[0] / rate / base), stream=stream, backward=True)
            for frame in container.decode(stream):
                if done == len(wanted):
                    break
                exact = ((frame.pts or 0) - first_pts) * base * rate
                if abs(exact - round(exact)) > _UNEVEN or frame.rotation:
                    found = f"{stream.codec_context.name}, frame at {float(exact):.2f} of the mean rate"
                    problem = "is turned by its metadata" if frame.rotation else "has an uneven frame rate"
                    raise VideoError(problem, file=path, frame=wanted[done], found=found, fix=_REMAKE)
                if round(exact) == wanted[done]:
                    yield _plane(frame, path) if codes else frame.to_ndarray(format="rgb24")
                    done += 1
        except (FFmpegError, ValueError, TypeError) as error:
            at = wanted[done] if done < len(wanted) else None
            raise VideoError("cannot be decoded", file=path, frame=at, found=error, fix="copy it again") from error
    if done < len(wanted):
        found = f"{done} frames"
        raise VideoError("ends early", file=path, frame=wanted[done], found=found, expected=f"{len(wanted)}")


def _plane(frame: av.VideoFrame, path: str | os.PathLike) -> np.ndarray:
    """The first plane's 16-bit codes, as a depth map is stored."""
    if not any(f"{bits}le" in frame.format.name for bits in (10, 12, 14, 16)):
        found = f"{frame.format.name} ({frame.width}x{frame.height})"
        fix = "8 bits a pixel hold no depth: record it with a 12-bit codec (HEVC Main 12, FFV1) or as 16-bit PNG"
        raise DepthError("is no depth video", file=path, field="pix_fmt", found=found, expected="gray12le", fix=fix)
    rows = np.frombuffer(memoryview(frame.planes[0]), np.uint16).reshape(-1, frame.planes[0].line_size // 2)
    return rows[: frame.height, : frame.width].copy()


def _open(path: str | os.PathLike):
    try:
        container = av.open(os.fspath(path))
    except (FFmpegError, OSError) as error:
        fix = "was it copied whole? a file that was never finished has no index"
        raise VideoError("cannot be opened as video", file=path, found=error, fix=fix) from error
    if not container.streams.video:
        container.close()
        raise VideoError("has no video stream", file=path)
    return container

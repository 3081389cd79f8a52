"""Video in and out: near-lossless colour for data, plain .mp4 for people, frames looked up by index."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import av
import numpy as np
from av.error import FFmpegError

from scene4d.data.video.video_file import new_video, open_video
from scene4d.errors import DepthError, VideoError
from scene4d.files import atomic_file

_GOP_SIZE = 10  # frames between key frames: what a lookup decodes in vain at most
_UPRIGHT = "write it again upright, frame for frame: ffmpeg -i IN -fps_mode passthrough OUT.mp4"
_MAX_INDEXED = 64  # videos whose frames are remembered by their stamps


class VideoEncoder:
    """Near-lossless H.264 for data that grows frame by frame; the same frames give the same bytes.

    Chroma is not subsampled, which alone would cost 10 dB on small images; some browsers cannot play that. As a context
    it is finished at the end, unless that comes by an exception.
    """

    def __init__(
        self, path: str | os.PathLike, *, fps: float, crf: int = 6, pix_fmt: str = "yuv444p", preset: str = "medium"
    ):
        self.path, self.count = path, 0
        self._rate, self._crf, self._pix_fmt = Fraction(fps).limit_denominator(100000), crf, pix_fmt
        self._preset = preset
        self._container = new_video(path)
        self._stream: Any = None

    def add(self, frames: Iterable[np.ndarray]) -> None:
        """Encode uint8 frames [h w 3], all of one size."""
        for frame in frames:
            if self._stream is None:
                # Its macroblock tree is not the same each time where the sides are no multiples of 16.
                options = {"preset": self._preset, "threads": "1", "x264-params": "mbtree=0", "crf": str(self._crf)}
                self._begin("libx264", frame.shape, options=options)
            self._mux(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
            self.count += 1

    def _begin(self, codec: str, shape: Sequence[int], *, options: dict[str, str]) -> None:
        self._stream = self._container.add_stream(codec, rate=self._rate)
        self._stream.height, self._stream.width = shape[:2]
        self._stream.pix_fmt, self._stream.options = self._pix_fmt, options
        self._stream.gop_size, self._stream.max_b_frames = _GOP_SIZE, 0

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.finish()
        else:
            with contextlib.suppress(FFmpegError, OSError):
                self._container.close()


class CodesEncoder(VideoEncoder):
    """Lossless HEVC of 12-bit codes, which is how LeRobot keeps depth (`LogDepth`)."""

    def __init__(self, path: str | os.PathLike, *, fps: float):
        super().__init__(path, fps=fps, pix_fmt="gray12le")

    def add(self, frames: Iterable[np.ndarray]) -> None:
        """Encode uint16 codes [h w] of at most 4095, all of one size."""
        for codes in frames:
            if self._stream is None:
                alone = "lossless=1:pools=1:frame-threads=1:log-level=error"  # the same bytes each time
                self._begin("libx265", codes.shape, options={"x265-params": alone})
            height, width = codes.shape
            frame = av.VideoFrame(width, height, "gray12le")
            rows = np.zeros((height, frame.planes[0].line_size // 2), "<u2")
            rows[:, :width] = codes
            frame.planes[0].update(rows.tobytes())
            self._mux(frame)
            self.count += 1


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
        with VideoEncoder(temporary, fps=fps, crf=crf, pix_fmt="yuv420p", preset="veryfast") as encoder:
            encoder.add(frame[: frame.shape[0] & ~1, : frame.shape[1] & ~1] for frame in frames)
        return encoder.count


@dataclass(frozen=True)
class VideoFacts:
    """What a container tells of its video, nothing decoded."""

    width: int
    height: int
    fps: float
    """Frames a second: of the usual step between two frames, so that a gap leaves it alone."""
    num_frames: int
    codec: str
    pix_fmt: str


def video_facts(path: str | os.PathLike) -> VideoFacts:
    """Size, rate, codec and number of frames of a video.

    Raises:
        VideoError: the file cannot be opened, has no video or no frame rate.
    """
    with open_video(path) as container:
        stream = container.streams.video[0]
        codec, rate = stream.codec_context, stream.average_rate
        size, names = (codec.width, codec.height), (codec.name, str(codec.pix_fmt))
    index = _frame_index(path)
    # Stamps are whole ticks: while they are even, the mean rate is the better one.
    if index.stamps is not None and index.base and not _is_even(index.stamps):
        steps = np.diff(index.stamps)
        usual = steps[np.abs(steps - np.median(steps)) <= 0.5 * np.median(steps)]  # gaps aside
        rate = 1 / (float(usual.mean()) * index.base)
    if not rate:
        fix = "was it copied whole? a video of one picture needs a rate too"
        raise VideoError("has no frame rate", file=path, found=names[0], fix=fix)
    return VideoFacts(*size, fps=float(rate), num_frames=index.count, codec=names[0], pix_fmt=names[1])


def count_frames(path: str | os.PathLike) -> int:
    """Frames that a video holds, nothing decoded.

    Raises:
        VideoError: the file cannot be opened or has no video.
    """
    return _frame_index(path).count


def frame_times(path: str | os.PathLike) -> np.ndarray | None:
    """Time of each frame [n] s from the first, increasing; None where they are even, or the container has none.

    Even is what deviates less than a third of a frame from an even grid.

    Raises:
        VideoError: the file cannot be opened or has no video.
    """
    index = _frame_index(path)
    if index.stamps is None or _is_even(index.stamps):
        return None
    return (index.stamps - index.stamps[0]) * index.base


@dataclass(frozen=True)
class _FrameIndex:
    """The frames of a video in the order in which they are shown."""

    count: int
    stamps: np.ndarray | None  # [n] int64 ticks, increasing; None where the container does not tell frames apart
    base: float  # s a tick


def _is_even(stamps: np.ndarray) -> bool:
    if len(stamps) < 3:
        return True
    step = (stamps[-1] - stamps[0]) / (len(stamps) - 1)
    apart = stamps - stamps[0] - step * np.arange(len(stamps))
    return bool(np.abs(apart).max() < max(step / 3, 1.0))


def _frame_index(path: str | os.PathLike) -> _FrameIndex:
    try:
        state = os.stat(path)
    except OSError as error:
        raise VideoError("cannot be opened as video", file=path, found=error.strerror, fix="check the path") from error
    return _indexed(os.fspath(path), (state.st_mtime_ns, state.st_size))


@functools.lru_cache(_MAX_INDEXED)
def _indexed(path: str, state: tuple[int, int]) -> _FrameIndex:
    """The index of a file in that state; only where the container's own index does not do, all packets are read."""
    with open_video(path) as container:
        stream = container.streams.video[0]
        base, reordered = float(stream.time_base or 0), bool(stream.codec_context.has_b_frames)
        entries = list(getattr(stream, "index_entries", None) or ())  # absent from older libraries
        whole = "mp4" in container.format.name and len(entries) == stream.frames > 0
        if whole and not reordered and not any(entry.is_discard for entry in entries):
            stamps = [(stream.start_time or 0) + entry.timestamp - entries[0].timestamp for entry in entries]
        else:
            try:
                packets = [packet for packet in container.demux(video=0) if packet.size and not packet.is_discard]
            except FFmpegError as error:
                raise VideoError("is damaged", file=path, found=error, fix="copy it again") from error
            stamps = [packet.pts for packet in packets]
        # AVI has no times of showing: frames that are stored in another order are found by decoding from the start.
        told_apart = not (container.format.name == "avi" and reordered)
    ordered = np.array(sorted(stamp for stamp in stamps if stamp is not None), np.int64)
    told_apart = told_apart and len(ordered) == len(stamps) and bool((np.diff(ordered) > 0).all())
    return _FrameIndex(len(stamps), ordered if told_apart else None, base)


def iterate_frames(path: str | os.PathLike, indices: Sequence[int], *, codes: bool = False) -> Iterator[np.ndarray]:
    """Frames of the given increasing indices one by one, uint8 [h w 3], or with `codes` the first plane's [h w] uint16.

    An index counts frames in the order in which they are shown, whatever their times are.

    Raises:
        VideoError: the file cannot be decoded, is damaged, is turned by its metadata, or has no frame of some index.
    """
    wanted = list(indices)
    done, damaged = 0, None
    stamps = _frame_index(path).stamps
    with open_video(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        try:
            for place, frame in _decoded(container, wanted[0] if wanted else 0, stamps=stamps):
                if done == len(wanted):
                    break
                if frame.rotation:
                    found = f"{frame.rotation} degrees"
                    where = {"file": path, "frame": wanted[done], "found": found, "fix": _UPRIGHT}
                    raise VideoError("is turned by its metadata", **where)
                # What follows is made of it, up to the next picture that stands for itself.
                damaged = place if frame.is_corrupt else None if frame.key_frame else damaged
                if place == wanted[done]:
                    if damaged is not None:
                        found, fix = f"picture {damaged} holds other bits than were written", "copy the video again"
                        raise VideoError("is damaged", file=path, frame=place, found=found, fix=fix)
                    yield _plane(frame, path) if codes else frame.to_ndarray(format="rgb24")
                    done += 1
        except (FFmpegError, ValueError, TypeError) as error:
            at = wanted[done] if done < len(wanted) else None
            raise VideoError("cannot be decoded", file=path, frame=at, found=error, fix="copy it again") from error
    if done < len(wanted):
        found = f"{done} frames"
        raise VideoError("ends early", file=path, frame=wanted[done], found=found, expected=f"{len(wanted)}")


def _decoded(container: Any, first: int, *, stamps: np.ndarray | None) -> Iterator[tuple[int, av.VideoFrame]]:
    """(index, frame) from at most `first` on."""
    stream = container.streams.video[0]
    if stamps is None:
        yield from enumerate(container.decode(stream))
        return
    frames = container.decode(stream)
    if _GOP_SIZE < first < len(stamps):
        container.seek(int(stamps[first]), stream=stream, backward=True)
        frames = container.decode(stream)
        ahead = next(frames, None)
        if ahead is None or ahead.pts is None or ahead.pts > stamps[first]:  # it begins behind what it was asked for
            container.seek(int(stamps[0]), stream=stream, backward=True)
            frames = container.decode(stream)
        else:
            frames = itertools.chain([ahead], frames)
    for frame in frames:
        place = int(np.searchsorted(stamps, frame.pts or 0))
        if place == len(stamps) or stamps[place] != (frame.pts or 0):
            raise ValueError(f"a frame at {frame.pts}, of which the container's index knows nothing")
        yield place, frame


def _plane(frame: av.VideoFrame, path: str | os.PathLike) -> np.ndarray:
    """The first plane's 16-bit codes, as a depth map is stored."""
    if not any(f"{bits}le" in frame.format.name for bits in (10, 12, 14, 16)):
        found = f"{frame.format.name} ({frame.width}x{frame.height})"
        fix = "8 bits a pixel hold no depth: record it with a 12-bit codec (HEVC Main 12, FFV1) or as 16-bit PNG"
        raise DepthError("is no depth video", file=path, field="pix_fmt", found=found, expected="gray12le", fix=fix)
    rows = np.frombuffer(memoryview(frame.planes[0]), np.uint16).reshape(-1, frame.planes[0].line_size // 2)
    return rows[: frame.height, : frame.width].copy()

"""The beginning of a video: how many of its frames are whole, and a copy of the first ones."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator

import av
import numpy as np
from av.error import FFmpegError

from scene4d.data.video.video import encode_video
from scene4d.data.video.video_file import new_video, open_video
from scene4d.disk_errors import refuse_shortage
from scene4d.errors import VideoError


def whole_frames(path: str | os.PathLike) -> tuple[int, str | None]:
    """Frames that decode from the start on without a fault, and what ends them too early (None: nothing)."""
    count = 0
    try:
        with open_video(path) as container:
            stream = container.streams.video[0]
            declared = stream.frames
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    return count, f"frame {count} is damaged"
                count += 1
    except (FFmpegError, OSError, ValueError, VideoError) as error:
        refuse_shortage(error, file=path)
        return count, " ".join(f"cannot be decoded from frame {count} on ({error})".split())[:200]
    if declared and count < declared:
        return count, f"ends after {count} of {declared} frames"
    return count, None


def copy_video(path: str | os.PathLike, target: str | os.PathLike, *, num_frames: int, fps: float) -> bool:
    """Write the first `num_frames` frames; returns whether the packets could be copied (else they are encoded anew).

    Raises:
        VideoError: the video holds fewer; or it would have to be encoded anew but holds more than 8 bits a colour.
    """
    wanted = [_digest(frame) for frame in _first_frames(path, num_frames)]
    if len(wanted) < num_frames:
        raise VideoError("ends early", file=path, found=len(wanted), expected=num_frames)
    try:
        _copy_packets(path, target, num_frames=num_frames)
        # Frames that refer to later ones lose them at the cut: only what decodes to the same pictures counts.
        if [_digest(frame) for frame in _first_frames(target, num_frames + 1)] == wanted:
            return True
    except (FFmpegError, OSError, ValueError) as error:
        refuse_shortage(error, file=target)
    pictures = (frame.to_ndarray(format="rgb24") for frame in _eight_bit(_first_frames(path, num_frames), path))
    encode_video(target, pictures, fps=fps, crf=0)
    return False


def _copy_packets(path: str | os.PathLike, target: str | os.PathLike, *, num_frames: int) -> None:
    with open_video(path) as source, new_video(target) as copy:
        stream = source.streams.video[0]
        target_stream = copy.add_stream_from_template(stream)
        for taken, packet in enumerate(source.demux(stream)):
            if packet.dts is None or taken == num_frames:
                break
            packet.stream = target_stream
            copy.mux(packet)


def _first_frames(path: str | os.PathLike, most: int) -> Iterator[av.VideoFrame]:
    with open_video(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        yield from itertools.islice(container.decode(stream), most)


def _eight_bit(frames: Iterator[av.VideoFrame], path: str | os.PathLike) -> Iterator[av.VideoFrame]:
    for frame in frames:
        if max(component.bits for component in frame.format.components) > 8:
            fix = "cut it with the program that wrote it: depth must not be encoded anew"
            raise VideoError("cannot be cut without loss", file=path, found=frame.format.name, fix=fix)
        yield frame


def _digest(frame: av.VideoFrame) -> bytes:
    """Of the decoded values as they are, whatever their depth; line padding left out."""
    digest = hashlib.blake2b(frame.format.name.encode(), digest_size=16)
    size = 2 if max(component.bits for component in frame.format.components) > 8 else 1
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        digest.update(np.ascontiguousarray(rows[:, : plane.width * size]).tobytes())
    return digest.digest()

"""The one place where video files are opened: a file on this machine, of a container that holds its own data.

A name is never given to the video library, which would take "http:" or "concat:" for a protocol. Containers that
point at other files (playlists, lists of parts, patterns of pictures) are never tried, whatever the file is called,
and no other file is opened on behalf of one that is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import av
from av.error import FFmpegError

from scene4d.errors import VideoError
from scene4d.files import open_regular

QUICKTIME, MATROSKA, AVI, STREAM = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts"
# No file may be opened by the library itself; data that a track keeps in another file is left where it is.
_CLOSED = {"protocol_whitelist": "none", "enable_drefs": "0"}
_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"sidx", b"pdin")
_COPY = "was it copied whole? a file that was never finished has no index"


@contextlib.contextmanager
def open_video(path: str | os.PathLike) -> Iterator[Any]:
    """The opened container (MP4, MOV, MKV, WEBM, AVI or TS), which has a video stream; closed at the end.

    Raises:
        VideoError: there is no such file, it is of another kind, or has no video.
    """
    try:
        file = open_regular(path, kind=VideoError)
    except OSError as error:
        problem = "cannot be opened as video"
        raise VideoError(problem, file=path, found=error.strerror or error, fix=_COPY) from error
    with file:
        container = _container(file, path)
        with container:
            if not container.streams.video:
                raise VideoError("has no video stream", file=path)
            yield container


def new_video(path: str | os.PathLike) -> Any:
    """A container to write, of the kind that the suffix names, with its index in front."""
    return av.open(os.path.abspath(path), "w", options={"movflags": "faststart"})


def _container(file: Any, path: str | os.PathLike) -> Any:
    begin = file.read(512)
    kind = _kind(begin)
    if kind is None:
        problem, expected = "cannot be opened as video: it is of another kind", "MP4, MOV, MKV, WEBM, AVI or TS"
        raise VideoError(problem, file=path, found=ascii(begin[:16]), expected=expected, fix=_COPY)
    file.seek(0)
    try:
        return av.open(file, format=kind, options=_CLOSED, metadata_errors="replace")
    except (FFmpegError, OSError, ValueError) as error:
        raise VideoError("cannot be opened as video", file=path, found=error, fix=_COPY) from error


def _kind(begin: bytes) -> str | None:
    """The container that the first bytes of a file belong to."""
    if begin[4:8] in _BOXES:
        return QUICKTIME
    if begin[:4] == b"\x1a\x45\xdf\xa3":
        return MATROSKA
    # Packets of 188 bytes, or with a time of 4 bytes before each, begin with one letter.
    if any(begin[at : at + 2 * step : step] == b"GG" for at, step in ((0, 188), (4, 192))):
        return STREAM
    return AVI if begin[:4] == b"RIFF" and begin[8:11] == b"AVI" else None

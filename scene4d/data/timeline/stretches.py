"""A whole recording, read one stretch of frames after another, so that memory does not grow with its length."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Iterator, Sequence

from scene4d.data.video.images import chosen_cameras
from scene4d.types import Episode, Recording

STRETCH_BYTES = 1 << 26  # of decoded pictures a stretch; reading and writing hold a few times as much
PIXEL_BYTES = 16  # colour and depth in single precision


def read_in_stretches(
    recording: Recording,
    *,
    cameras: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    stride: int = 1,
    budget: int = STRETCH_BYTES,
) -> Iterator[Episode]:
    """Episodes [t] that follow each other and together are `recording.read(stride=stride)` of those cameras and size.

    Raises:
        What the recording raises.
    """
    names = chosen_cameras(recording.cameras, cameras, path=str(recording.path))
    sizes = dict.fromkeys(names, size) if size else full_sizes(recording, names)
    count = max(1, budget // (PIXEL_BYTES * sum(math.prod(sizes[name]) for name in names)))
    for start in range(0, recording.num_frames, count * stride):
        stop = min(start + count * stride, recording.num_frames)
        yield recording.read(start, stop, stride=stride, cameras=cameras, size=size)
        give_memory_back()


def give_memory_back() -> None:
    """Hand freed blocks back to the system where the C library can (glibc).

    Between pictures that come and go lie small tables that stay; without this its heap grows with every stretch.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def full_sizes(recording: Recording, cameras: Sequence[str] | None = None) -> dict[str, tuple[int, int]]:
    """(width, height) px of each camera as recorded, at least of those that are named."""
    known = getattr(recording, "sizes", None)
    if known is None:
        views = recording.read(0, 1, cameras=cameras).views
        known = {n: (f.cameras.width, f.cameras.height) for n, f in views.items()}
    return dict(known)

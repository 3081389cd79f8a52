"""The same frames give the same bytes: recordings can be compared by checksum."""

import hashlib

import numpy as np
import pytest

from scene4d.data.video.video import encode_video


@pytest.mark.parametrize("shape", [(16, 16), (24, 32), (20, 28)])
def test_the_same_frames_give_the_same_bytes(shape, tmp_path):
    """Sides that are no multiples of 16 too, and whatever lay in memory before: x264 once differed in one of ten."""
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 255, (10, *shape, 3), dtype=np.uint8)
    found = set()
    for _ in range(40):
        encode_video(tmp_path / "video.mp4", frames, fps=10)
        found.add(hashlib.sha256((tmp_path / "video.mp4").read_bytes()).hexdigest())
        generator.bytes(int(generator.integers(100, 60_000)))
    assert len(found) == 1

"""Frames are found by counting them, whatever their times, their order in the file and the container are."""

from pathlib import Path

import av
import numpy as np
import pytest
from floor_scene import decode_frames
from timed_video import encode_at, level_of

from scene4d.data.video import video
from scene4d.data.video.video import count_frames, frame_times, video_facts
from scene4d.errors import VideoError

COUNT = 60
EVEN = [i * 512 for i in range(COUNT)]
GAP = [(i + (i >= 23)) * 512 for i in range(COUNT)]
UNEVEN = np.cumsum(np.random.default_rng(3).integers(100, 3000, COUNT)).tolist()


def assert_read_by_index(path):
    assert count_frames(path) == COUNT
    for first in (0, 11, 22, 23, 24, 37, 59):
        wanted = list(range(first, COUNT, 7))
        assert [level_of(p) for p in decode_frames(path, wanted)] == [i % 25 for i in wanted], first


@pytest.mark.parametrize("ticks", [EVEN, GAP, UNEVEN], ids=["even", "gap", "uneven"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.mov"])
@pytest.mark.parametrize("reordered", [0, 3])
def test_any_times_in_any_container(tmp_path, ticks, name, reordered):
    encode_at(tmp_path / name, ticks, ticks_per_second=15360, reordered=reordered)
    assert_read_by_index(tmp_path / name)
    times = frame_times(tmp_path / name)
    assert (times is None) == (ticks is EVEN)
    if times is not None:
        assert np.abs(times - (np.array(ticks) - ticks[0]) / 15360).max() < 2e-3
    if ticks is not UNEVEN:
        assert video_facts(tmp_path / name).fps == pytest.approx(30, rel=0.02)


@pytest.mark.parametrize(("codec", "reordered"), [("libx264", 3), ("mpeg4", 2), ("mjpeg", 0)])
def test_avi_has_no_times(tmp_path, codec, reordered):
    encode_at(tmp_path / "a.avi", list(range(COUNT)), ticks_per_second=30, codec=codec, reordered=reordered)
    assert_read_by_index(tmp_path / "a.avi")


def test_first_frames_before_time_zero(tmp_path):
    encode_at(tmp_path / "a.mkv", [t - 2048 for t in EVEN], ticks_per_second=15360, reordered=2)
    assert_read_by_index(tmp_path / "a.mkv")


def test_what_an_edit_list_cuts_away_is_not_counted(tmp_path):
    """Cut without encoding again, an .mp4 keeps the frames before the cut, and says that they are not shown."""
    encode_at(tmp_path / "whole.mp4", EVEN, ticks_per_second=15360)
    with av.open(str(tmp_path / "whole.mp4")) as source, av.open(str(tmp_path / "cut.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - 5 * 512, packet.dts - 5 * 512
                packet.stream = stream
                target.mux(packet)
    with av.open(str(tmp_path / "cut.mp4")) as container:
        shown = [level_of(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    assert count_frames(tmp_path / "cut.mp4") == len(shown)
    for wanted in ([0, 1, 2], [30, 40], [len(shown) - 1]):
        assert [level_of(p) for p in decode_frames(tmp_path / "cut.mp4", wanted)] == [shown[i] for i in wanted]


def test_a_gap_leaves_the_rate_alone(tmp_path):
    """Also where a tick is a whole millisecond, of which no step of 30 a second is made."""
    for name in ("a.mp4", "a.mkv"):
        encode_at(tmp_path / name, GAP, ticks_per_second=15360)
        assert frame_times(tmp_path / name) is not None and video_facts(tmp_path / name).fps == pytest.approx(
            30, rel=2e-3
        )


def test_no_advice_moves_frames():
    """ffmpeg's constant rate doubles and drops frames, after which rows and frames belong together no more."""
    sources = Path(video.__file__).parents[2].rglob("*.py")
    assert not [path for path in sources if "fps_mode cfr" in path.read_text()]


def test_an_index_beyond_the_end(tmp_path):
    encode_at(tmp_path / "a.mp4", GAP, ticks_per_second=15360)
    with pytest.raises(VideoError, match="ends early"):
        decode_frames(tmp_path / "a.mp4", [0, COUNT])


def test_a_file_that_changed_is_indexed_again(tmp_path):
    encode_at(tmp_path / "a.mp4", EVEN, ticks_per_second=15360)
    assert count_frames(tmp_path / "a.mp4") == COUNT
    encode_at(tmp_path / "a.mp4", UNEVEN[:20], ticks_per_second=15360)
    assert count_frames(tmp_path / "a.mp4") == 20 and frame_times(tmp_path / "a.mp4") is not None

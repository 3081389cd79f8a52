"""Long recordings a stretch at a time: the same data set as in one piece, and never more than two stretches alive."""

import gc
import json
import weakref

import memory_recording as spoil
import pyarrow.parquet as pq
import pytest
import torch
from memory_recording import MemoryRecording

from scene4d.data.formats.lerobot.lerobot import open_lerobot, write_lerobot
from scene4d.data.formats.posed.nerfstudio_write import write_nerfstudio
from scene4d.data.timeline.stretches import PIXEL_BYTES, read_in_stretches
from scene4d.errors import ConfigError, DataFormatError
from scene4d.types import Episode

LENGTH, SIZE = 11, (32, 24)


@pytest.fixture(scope="module")
def whole() -> Episode:
    """Two cameras, small; the right one stands still but for its last three frames."""
    left, right = (spoil.camera_walk(LENGTH, start=a) for a in (0.5, -0.5))
    viewmats = right.viewmats[:1].repeat(LENGTH, 1, 1)
    viewmats[-3:] = right.viewmats[-3:]
    right = right.replace(viewmats=viewmats)
    small = MemoryRecording(spoil.episode_of({"left": left, "right": right})).read(size=SIZE)
    names = [f"frame {i}" for i in range(LENGTH)]
    times = torch.arange(LENGTH, dtype=torch.float64) / 10
    return small.replace(times=times, info={**small.info, "task": "walk", "frames": names})


def pieces(episode: Episode, *, each: int):
    for a in range(0, LENGTH, each):
        part = episode[a : a + each]
        yield part.replace(info={**episode.info, "frames": episode.info["frames"][a : a + each]})


def assert_equal(a: Episode, b: Episode):
    for name in ("times", "actions", "proprio", "valid"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name, frames in a.views.items():
        other = b.views[name]
        assert torch.equal(frames.rgb, other.rgb) and torch.equal(frames.depth, other.depth)
        assert torch.equal(frames.cameras.viewmats, other.cameras.viewmats)


@pytest.mark.parametrize("each", [1, 4, 10])
def test_what_comes_in_pieces_is_written_as_in_one(whole, tmp_path, each):
    write_lerobot(tmp_path / "whole", [whole], fps=10)
    write_lerobot(tmp_path / "pieces", [pieces(whole, each=each)], fps=10)
    for file in sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file()):
        ours, theirs = tmp_path / "whole" / file, tmp_path / "pieces" / file
        if file.suffix == ".parquet":
            assert pq.read_table(ours).equals(pq.read_table(theirs)), file
        else:
            assert ours.read_bytes() == theirs.read_bytes(), file
    (read,) = open_lerobot(tmp_path / "pieces")
    assert_equal(read.read(), open_lerobot(tmp_path / "whole")[0].read())
    assert read.info["frames"] == whole.info["frames"]
    moved = read.read().views["right"].cameras.viewmats
    assert torch.equal(moved, whole.views["right"].cameras.viewmats), "a camera may begin to move in a later piece"
    assert not list(tmp_path.rglob(".spool*")), "no working files are left"


def test_at_most_two_stretches_are_alive(whole, tmp_path):
    alive, most = set(), []

    def counted():
        for number, part in enumerate(pieces(whole, each=1)):
            alive.add(number)
            weakref.finalize(part, alive.discard, number)
            gc.collect()
            most.append(len(alive))
            yield part
            del part

    write_lerobot(tmp_path / "set", [counted()], fps=10)
    assert len(most) == LENGTH and max(most) <= 2


def test_stretches_follow_each_other_and_keep_their_budget(whole):
    asked = []

    class Watched(MemoryRecording):
        def read(self, start=0, stop=None, **how):
            asked.append((start, stop))
            return super().read(start, stop, **how)

    recording, frame = Watched(whole), PIXEL_BYTES * 2 * SIZE[0] * SIZE[1]
    parts = list(read_in_stretches(recording, size=SIZE, budget=3 * frame))
    assert [len(p.times) for p in parts] == [3, 3, 3, 2] and asked == [(0, 3), (3, 6), (6, 9), (9, 11)]
    for name in ("left", "right"):
        joined = torch.cat([p.views[name].rgb for p in parts])
        assert torch.equal(joined, whole.views[name].rgb)
    strided = list(read_in_stretches(recording, size=SIZE, stride=2, budget=2 * frame))
    assert torch.equal(torch.cat([p.times for p in strided]), whole.times[::2])
    (one,) = list(read_in_stretches(recording, cameras=["left"], budget=1 << 40))
    assert list(one.views) == ["left"] and len(one.times) == LENGTH
    assert len(list(read_in_stretches(recording, budget=1))) == LENGTH, "at least a frame at a time"


def test_columns_that_change_half_way_are_refused(whole, tmp_path):
    def parts():
        yield whole[:4]
        second = whole[4:8]
        yield second.replace(views={n: f.replace(depth=None) for n, f in second.views.items()})

    with pytest.raises(DataFormatError, match="columns change within it"):
        write_lerobot(tmp_path / "set", [parts()], fps=10)
    assert not (tmp_path / "set").exists() and not list(tmp_path.iterdir())


def test_an_episode_without_a_valid_frame_is_refused(whole, tmp_path):
    with pytest.raises(DataFormatError, match="no frame is valid"):
        write_lerobot(tmp_path / "set", [whole.replace(valid=torch.zeros(LENGTH, dtype=torch.bool))], fps=10)


def test_stretches_need_a_frame_rate(whole, tmp_path):
    """The first one need not tell it: it may be a single frame, or uneven where the rest is not."""
    with pytest.raises(ConfigError, match="fps"):
        write_lerobot(tmp_path / "set", [pieces(whole, each=1)])
    assert not list(tmp_path.iterdir())
    write_lerobot(tmp_path / "set", [whole, pieces(whole, each=1)])  # the first episode gave it
    first, second = open_lerobot(tmp_path / "set")
    assert_equal(first.read(), second.read())


def test_every_camera_has_a_folder_of_its_own_for_nerfstudio(whole, tmp_path):
    views = list(whole.views.values())
    names = ["a b", "a_b", "a_b-1", "A_B", "..", "."]
    several = whole[:2].replace(views={name: views[i % 2][:2] for i, name in enumerate(names)})
    assert write_nerfstudio(tmp_path / "out", MemoryRecording(several))["frames"] == 2 * len(names)
    rows = json.loads((tmp_path / "out" / "transforms.json").read_text())["frames"]
    files = {row["file_path"].lower() for row in rows}
    assert len(files) == len(rows), "no picture lies on another"
    folder = tmp_path / "out" / "images"
    assert len(list(folder.iterdir())) == len(names)
    assert all((tmp_path / "out" / row["file_path"]).resolve().parent.parent == folder.resolve() for row in rows)

"""What loading does when workers and disks fail: an error that names what failed, in time, and nothing lost."""

import errno
import itertools
import shutil
import time

import pytest
import torch
from data_fixtures import TABLE, assert_refused, lerobot_set, rgbd_folder
from loader_recordings import recording
from PIL import Image

from scene4d.data.detect import open_recordings
from scene4d.data.load.retry import read_with_retries
from scene4d.data.load.shuffled_batches import ShuffledBatches
from scene4d.data.load.window_set import WindowConfig, WindowSet
from scene4d.errors import EXIT_RESOURCE, DataFormatError, ResourceError, VideoError


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr("scene4d.data.load.retry.WAIT_SECONDS", 0.01)


def batches(recordings, **settings):
    windows = WindowSet(recordings, WindowConfig(horizon=1, size=(8, 6)))
    return ShuffledBatches(windows.batch, range(len(windows)), **{"batch_size": 1, **settings})


def all_of(mine):
    """Every batch of an epoch."""
    try:
        return [mine(step) for step in range(len(mine.numbers))]
    finally:
        mine.close()


@pytest.mark.parametrize("what", ["die", "crash", "hang"])
def test_a_worker_that_dies_or_hangs_is_reported_in_time(what):
    """FAULTS row 48."""
    sets = [recording("bad", num=12, trouble=(5, what))]
    mine = batches(sets, workers=1, timeout=1.5)
    first = next(s for s in range(11) if not {4, 5} & set(mine.numbers_of(s).tolist()))
    start = time.monotonic()
    with pytest.raises(ResourceError, match="a worker process failed") as caught:
        for step in itertools.count(first):
            mine(step)
    assert time.monotonic() - start < 8 and caught.value.exit_code == EXIT_RESOURCE
    assert "windows" in caught.value.found and "workers = 0" in caught.value.fix


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_the_same_error_with_and_without_workers(tmp_path, workers):
    folder = rgbd_folder(tmp_path / "r")
    image = folder / "images/003.png"
    image.write_bytes(image.read_bytes()[:40])
    mine = batches(open_recordings(folder), workers=workers)
    error = assert_refused(
        folder, lambda: all_of(mine), kind=DataFormatError, file="003.png", words="cannot be decoded"
    )
    assert "copy the file again" in error.fix


def test_a_damaged_video_keeps_its_kind_through_a_worker(tmp_path):
    root = lerobot_set(tmp_path / "set")
    mine = batches(open_recordings(root), workers=1)
    video = next(root.rglob("file-001.mp4"))
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 3])
    assert_refused(root, lambda: all_of(mine), kind=VideoError, file="file-001.mp4")


@pytest.mark.parametrize("what", ["images/004.png", "depth/004.png"])
def test_a_file_that_vanishes_is_tried_again_then_refused_and_the_run_goes_on(tmp_path, what):
    """FAULTS row 56."""
    folder = rgbd_folder(tmp_path / "r")
    expected, mine, done = all_of(batches(open_recordings(folder))), batches(open_recordings(folder)), []
    shutil.move(folder / what, tmp_path / "away.png")

    def act():
        for step in range(len(expected)):
            done.append(mine(step))

    error = assert_refused(folder, act, kind=DataFormatError, file=what.split("/")[-1], words="5 tries")
    assert "last checkpoint" in error.fix and len(done) < len(expected)
    shutil.move(tmp_path / "away.png", folder / what)
    again = batches(open_recordings(folder))
    done += [again(step) for step in range(len(done), len(expected))]
    assert all(torch.equal(a.frames.rgb, b.frames.rgb) for a, b in zip(done, expected, strict=True))


def test_a_table_that_vanishes_is_refused_through_a_worker(tmp_path):
    root = lerobot_set(tmp_path / "set")
    mine = batches(open_recordings(root), workers=1)
    (root / TABLE).unlink()
    error = assert_refused(root, lambda: all_of(mine), kind=DataFormatError, file=TABLE, words="5 tries")
    assert error.found == "No such file or directory"


def test_a_disk_that_comes_back_costs_only_time(monkeypatch):
    slept, tries = [], []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("scene4d.data.load.retry.WAIT_SECONDS", 0.5)

    def read(*, failures):
        tries.append(1)
        if len(tries) <= failures:
            inner = OSError(errno.ESTALE, "Stale file handle", "/mnt/a.png")
            raise DataFormatError("cannot be decoded", file="/mnt/a.png") from inner
        return "data"

    assert read_with_retries(lambda: read(failures=3), file="/mnt") == "data"
    assert slept == [0.5, 1.0, 2.0]
    tries.clear()
    with pytest.raises(DataFormatError, match=r"5 tries over 7\.5 s.*Stale") as caught:
        read_with_retries(lambda: read(failures=9), file="/mnt")
    assert caught.value.file == "/mnt/a.png"


def test_damage_is_not_waited_for(tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    path = tmp_path / "a.png"
    path.write_bytes(b"no image")

    def broken():
        try:
            Image.open(path)
        except OSError as error:
            raise DataFormatError("is no image", file=path) from error

    with pytest.raises(DataFormatError, match="is no image"):
        read_with_retries(broken, file="x")
    with pytest.raises(ZeroDivisionError):
        read_with_retries(lambda: 1 / 0, file="x")
    assert slept == []

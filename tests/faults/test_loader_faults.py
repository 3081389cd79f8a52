"""What the loader does when workers and disks fail: an error that names the file, in time, and nothing lost."""

import errno
import shutil
import time

import pytest
from data_fixtures import TABLE, assert_refused, lerobot_set, rgbd_folder
from loader_recordings import recording
from PIL import Image

from scene4d.data.detect import open_recordings
from scene4d.data.load.clip import equal_clips
from scene4d.data.load.loader import LoaderConfig, WindowLoader
from scene4d.data.load.patience import read_patiently
from scene4d.data.load.window_config import WindowConfig
from scene4d.data.load.window_set import WindowSet
from scene4d.errors import EXIT_RESOURCE, DataFormatError, ResourceError, VideoError

CONFIG = WindowConfig(horizon=1, size=(8, 6), scaling="none", retries=2, retry_wait=0.02, inert=())


def loader(recordings, *, config=CONFIG, **settings):
    return WindowLoader(WindowSet(recordings, config), LoaderConfig(**{"batch_size": 1, "shuffle": False, **settings}))


def failure_of(mine, *, seconds):
    """What comes, within the time, instead of the batch that cannot be; the batches before it, too."""
    start, given = time.monotonic(), 0
    with pytest.raises(Exception) as caught:
        for _ in mine:
            given += 1
    assert time.monotonic() - start < seconds
    mine.close()
    return caught.value, given


def notes_of(error):
    return "\n".join(getattr(error, "__notes__", []))


@pytest.mark.parametrize("what, words", [("die", "died"), ("crash", "died"), ("hang", "gave nothing")])
def test_a_worker_that_dies_or_hangs_is_reported_with_its_file(what, words):
    """FAULTS row 48."""
    sets = [recording("good", num=2), recording("bad", num=3, trouble=(1, what))]
    error, given = failure_of(loader(sets, workers=1, prefetch=1, timeout=1.5, start_method="fork"), seconds=8)
    assert type(error) is ResourceError and error.exit_code == EXIT_RESOURCE, error
    assert words in error.problem and error.file == "/recordings/bad" and error.field == "workers"
    assert "workers = 0" in error.fix and given <= 1
    if what != "die":  # a process that was killed from outside leaves no traceback
        assert "in cause" in notes_of(error) and "loader_recordings.py" in notes_of(error), notes_of(error)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_in_a_reader_is_reported_with_its_traceback_and_file(workers):
    """FAULTS row 48: an exception that is none of ours."""
    sets = [recording("good", num=2), recording("bad", num=3, trouble=(1, "bug"))]
    error, given = failure_of(loader(sets, workers=workers), seconds=20)
    if workers == 0:
        assert type(error) is ZeroDivisionError
        return
    assert type(error) is DataFormatError and error.file == "/recordings/bad" and given == 1
    assert "ZeroDivisionError: a bug in a reader" in error.problem and "in cause" in notes_of(error)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_the_same_error_with_and_without_workers(tmp_path, workers):
    folder = rgbd_folder(tmp_path / "r")
    image = folder / "images/003.png"
    image.write_bytes(image.read_bytes()[:40])
    mine = loader(open_recordings(folder), workers=workers)
    given = []

    def act():
        given.extend(mine)

    error = assert_refused(folder, act, kind=DataFormatError, file="003.png", words="cannot be decoded")
    assert len(given) == 2 and "copy the file again" in error.fix
    assert ("in a loader's worker" in notes_of(error)) == bool(workers)
    assert mine.state_dict()["place"] == 2, "the state is that of the last whole batch"


def test_a_damaged_video_keeps_its_kind_through_a_worker(tmp_path):
    root = lerobot_set(tmp_path / "set")
    recordings = open_recordings(root)
    video = next(root.rglob("file-001.mp4"))
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 3])
    mine = loader(recordings, workers=1)
    assert_refused(root, lambda: list(mine), kind=VideoError, file="file-001.mp4")


@pytest.mark.parametrize("what", ["images/004.png", "depth/004.png"])
def test_a_file_that_vanishes_is_tried_again_then_refused_and_the_state_goes_on(tmp_path, what):
    """FAULTS row 56."""
    folder = rgbd_folder(tmp_path / "r")
    expected = list(loader(open_recordings(folder)))
    mine = loader(open_recordings(folder))
    steps = iter(mine)
    done = [next(steps) for _ in range(2)]
    shutil.move(folder / what, tmp_path / "away.png")
    done.append(next(steps))
    error = assert_refused(folder, lambda: next(steps), kind=DataFormatError, file=what.split("/")[-1], words="3 tries")
    assert "go on from it" in error.fix
    state = mine.state_dict()
    shutil.move(tmp_path / "away.png", folder / what)
    again = loader(open_recordings(folder))
    again.load_state_dict(state)
    assert all(equal_clips(a, b) for a, b in zip(done + list(again), expected, strict=True))


def test_a_table_that_vanishes_is_refused_through_a_worker(tmp_path):
    root = lerobot_set(tmp_path / "set")
    mine = loader(open_recordings(root), workers=1)
    (root / TABLE).unlink()
    error = assert_refused(root, lambda: list(mine), kind=DataFormatError, file=TABLE, words="3 tries")
    assert error.found == "No such file or directory"


def test_a_disk_that_comes_back_costs_only_time():
    slept, tries = [], []

    def read():
        tries.append(1)
        if len(tries) < 4:
            inner = OSError(errno.ESTALE, "Stale file handle", "/mnt/a.png")
            raise DataFormatError("cannot be decoded", file="/mnt/a.png") from inner
        return "data"

    assert read_patiently(read, file="/mnt", retries=4, wait=0.5, sleep=slept.append) == "data"
    assert slept == [0.5, 1.0, 2.0]
    tries.clear()
    with pytest.raises(DataFormatError, match=r"3 tries over 1\.5 s.*Stale") as caught:
        read_patiently(read, file="/mnt", retries=2, wait=0.5, sleep=slept.append)
    assert caught.value.file == "/mnt/a.png"


def test_damage_is_not_waited_for(tmp_path):
    slept = []
    path = tmp_path / "a.png"
    path.write_bytes(b"no image")

    def broken():
        try:
            Image.open(path)
        except OSError as error:
            raise DataFormatError("is no image", file=path) from error

    with pytest.raises(DataFormatError, match="is no image"):
        read_patiently(broken, file="x", retries=5, wait=9, sleep=slept.append)
    with pytest.raises(ZeroDivisionError):
        read_patiently(lambda: 1 / 0, file="x", retries=5, wait=9, sleep=slept.append)
    assert slept == []


def test_failed_workers_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    sets = [recording("bad", num=3, trouble=(1, "die"))]
    failure_of(loader(sets, workers=1, timeout=2, start_method="fork"), seconds=8)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("scene4d")] == []

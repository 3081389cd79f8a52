"""FAULTS row 73: memory, threads or descriptors that ran out are no fault of the recording, and never skip it."""

import contextlib
import errno
import os
import resource

import av
import pyarrow as pa
import pytest
from data_fixtures import VIDEO, assert_refused, lerobot_set, rgbd_folder, tree_hash

from scene4d.apps.cli import main
from scene4d.apps.verbs.options.recordings import CheckOptions, ConvertOptions, RepairOptions
from scene4d.apps.verbs.run_check import run_check
from scene4d.apps.verbs.run_convert import run_convert
from scene4d.apps.verbs.run_repair import run_repair
from scene4d.data.detect import open_recordings
from scene4d.data.load import retry
from scene4d.disk_errors import shortage
from scene4d.errors import EXIT_RESOURCE, DataFormatError, ResourceError, VideoError

LACKS = {"memory": errno.ENOMEM, "threads": errno.EAGAIN, "files": errno.EMFILE}


@contextlib.contextmanager
def no_more_files():
    """A process that may not open one file more: a real limit of the system."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), before[1]))
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def decoder_lacks(monkeypatch, number, *, of="file-001"):
    """FFmpeg finds no memory, or no thread, for the second video."""
    real = av.open

    def opened(file, *args, **kwargs):
        name = os.readlink(f"/proc/self/fd/{file.fileno()}") if hasattr(file, "fileno") else ""
        if of in name:
            av.error.err_check(-number, name)
        return real(file, *args, **kwargs)

    monkeypatch.setattr(av, "open", opened)


@pytest.mark.parametrize("lack", LACKS)
def test_a_video_is_not_called_damaged(tmp_path, monkeypatch, lack):
    root = lerobot_set(tmp_path / "set")
    decoder_lacks(monkeypatch, LACKS[lack], of=".mp4")
    read = lambda: [r.read() for r in open_recordings(root)]
    error = assert_refused(root, read, kind=ResourceError, file=VIDEO.split("/")[-1], code=EXIT_RESOURCE)
    assert "ulimit" in error.fix


@pytest.mark.parametrize("lack", LACKS)
def test_nothing_is_skipped_found_wrong_or_cut(tmp_path, monkeypatch, lack, capsys):
    root = lerobot_set(tmp_path / "set")
    before = tree_hash(root)
    with monkeypatch.context() as patch:
        decoder_lacks(patch, LACKS[lack])
        with pytest.raises(ResourceError):
            run_convert(ConvertOptions(root, tmp_path / "copy", skip_bad=True))
        with pytest.raises(ResourceError):
            run_repair(RepairOptions(root, tmp_path / "mended"))
        with pytest.raises(ResourceError):
            run_check(CheckOptions(root, deep=True))
        capsys.readouterr()
        assert main(["convert", str(root), "-o", str(tmp_path / "copy"), "--skip-bad"]) == EXIT_RESOURCE
        assert capsys.readouterr().err.count("scene4d: ") == 1
    assert not (tmp_path / "copy").exists() and not (tmp_path / "mended").exists() and tree_hash(root) == before
    assert run_convert(ConvertOptions(root, tmp_path / "copy"))["episodes"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "set"]


def test_a_damaged_video_is_still_one(tmp_path, monkeypatch):
    root = lerobot_set(tmp_path / "set")
    decoder_lacks(monkeypatch, errno.EINVAL, of=".mp4")
    with pytest.raises(VideoError):
        [r.read() for r in open_recordings(root)]


@pytest.mark.parametrize("make", [rgbd_folder, lerobot_set])
def test_no_descriptor_is_left(tmp_path, make):
    root = make(tmp_path / "set")
    recordings = open_recordings(root)
    recordings[0].read(0, 1)  # libraries open files of their own the first time
    for act in (lambda: recordings[0].read(), lambda: open_recordings(root)):
        with no_more_files(), pytest.raises(ResourceError, match="too many files are open"):
            act()
    assert len(recordings[0].read().times) > 1


def test_a_picture_without_memory(tmp_path, monkeypatch):
    root = rgbd_folder(tmp_path / "set")
    recording = open_recordings(root)[0]

    def none(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("PIL.Image.Image.load", none)
    with pytest.raises(ResourceError, match="out of memory") as error:
        recording.read()
    assert error.value.exit_code == EXIT_RESOURCE


@pytest.mark.parametrize(("number", "kind"), [(errno.EAGAIN, ResourceError), (errno.EIO, DataFormatError)])
def test_tried_again_first_where_the_disk_may_come_back(monkeypatch, number, kind):
    monkeypatch.setattr(retry, "WAIT_SECONDS", 0.0)
    tries = []

    def read():
        tries.append(1)
        raise OSError(number, os.strerror(number), "/disk/a.png")

    with pytest.raises(kind, match=r"/disk/a\.png"):
        retry.read_with_retries(read, file="x")
    assert len(tries) == retry.RETRIES + 1


@pytest.mark.parametrize(
    ("cause", "lacks"),
    [
        (MemoryError(), True),
        (MemoryError("malloc of size 12032 failed"), True),
        (MemoryError("malloc of size 9000000000000000000 failed"), False),  # what the file claims no machine has
        (MemoryError("Unable to allocate 7.00 EiB for an array"), False),
        (ImportError("x.so: failed to map segment from shared object: Cannot allocate memory"), True),
        (ImportError("No module named 'x'"), False),
        (ImportError("_ext.so: failed to map segment from shared object"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("unable to open file <a> in read-only mode: Too many open files (24)"), True),
        (pa.ArrowException("Unknown error: Failed to launch worker thread: Resource temporarily unavailable"), True),
        (pa.ArrowInvalid("Could not open: Resource temporarily unavailable in the file's own words"), False),
        (OSError(errno.EIO, "Input/output error"), False),
    ],
)
def test_what_a_reader_refused_for_want_of_memory_is_told_from_what_a_file_claims(cause, lacks):
    try:
        raise DataFormatError("is damaged", file="a.npy") from cause
    except DataFormatError as error:
        assert (shortage(error, file="a.npy") is not None) == lacks

import errno
import os
import stat

import pytest

from scene4d.errors import ResourceError
from scene4d.files import atomic_file, atomic_folder


def test_file_appears_whole_and_in_folders_that_are_made(tmp_path):
    target = tmp_path / "new" / "a.ply"
    with atomic_file(target) as temporary:
        assert temporary.suffix == ".ply" and temporary.name == target.name and not target.exists()
        temporary.write_bytes(b"whole")
    assert target.read_bytes() == b"whole" and os.listdir(target.parent) == ["a.ply"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, OSError])
def test_a_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, failure):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(failure), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise failure
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("writer", [atomic_file, atomic_folder])
def test_a_full_or_read_only_disk_is_a_resource_error(tmp_path, reason, writer):
    with pytest.raises(ResourceError) as caught, writer(tmp_path / "a"):
        raise OSError(reason, os.strerror(reason))
    assert caught.value.exit_code == 4 and caught.value.file == str(tmp_path / "a") and not os.listdir(tmp_path)


def test_folder_appears_whole_or_not_at_all(tmp_path):
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "a.txt").write_text("x")
        assert not (tmp_path / "out").exists()
    assert os.listdir(tmp_path / "out") == ["a.txt"]
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "other") as temporary:
        (temporary / "a.txt").write_text("x")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["out"]


def test_an_empty_folder_may_be_filled_a_full_one_may_not(tmp_path):
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty") as temporary:
        (temporary / "a.txt").write_text("x")
    assert os.listdir(tmp_path / "empty") == ["a.txt"]
    with pytest.raises(ResourceError, match="exists already"), atomic_folder(tmp_path / "empty"):
        pass
    assert os.listdir(tmp_path / "empty") == ["a.txt"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError), atomic_folder(tmp_path / "file"):
        pass


def test_long_and_odd_names(tmp_path):
    for name in ("ä b%c{d}.ply", "x" * 250 + ".ply", ".hidden", "no_suffix"):
        with atomic_file(tmp_path / name) as temporary:
            temporary.write_bytes(b"1")
        assert (tmp_path / name).exists()


def test_impossible_places_are_resource_errors(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "file" / "a.txt", tmp_path / "folder", tmp_path / ("x" * 300)):
        with pytest.raises(ResourceError), atomic_file(target) as temporary:
            temporary.write_text("y")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]

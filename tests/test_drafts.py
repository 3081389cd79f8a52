"""FAULTS rows 74, 75 and 88: one writer an output, nothing left by dead ones, and bytes on disk before the name is."""

import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from scene4d.drafts import DRAFT, JOB, OWNER, PARTS, claimed, draft_folder, leftovers, lock_of, remove_leftovers
from scene4d.errors import EXIT_RESOURCE, ResourceError
from scene4d.files import atomic_file, atomic_folder, save_safetensors, write_text

ROOT = Path(__file__).parents[1]


def other_process(code: str, *arguments) -> subprocess.Popen:
    """A process that runs `code` after the imports, and says a line when it got there."""
    lines = "import sys, time; from scene4d.files import atomic_file, atomic_folder, claimed\n"
    command = [sys.executable, "-c", lines + textwrap.dedent(code), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True)
    assert process.stdout.readline() == "there\n"
    return process


HOLDS = """
with claimed(sys.argv[1]):
    print("there", flush=True)
    time.sleep(100)
"""
WRITES_A_FILE = """
with atomic_file(sys.argv[1]) as draft:
    draft.write_text("half")
    print("there", flush=True)
    time.sleep(100)
"""
WRITES_A_FOLDER = """
with atomic_folder(sys.argv[1]) as draft:
    (draft / "half").write_text("half")
    print("there", flush=True)
    time.sleep(100)
"""


def end(process):
    process.kill()
    assert process.wait() == -signal.SIGKILL


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_the_second_writer_is_refused_and_learns_who_the_first_is(tmp_path):
    target = tmp_path / "new" / "scene.s4d"
    process = other_process(HOLDS, target)
    try:
        with pytest.raises(ResourceError, match="another process writes this") as caught, claimed(target):
            pass
        assert caught.value.found == f"pid {process.pid}" and caught.value.exit_code == EXIT_RESOURCE
        assert caught.value.file == str(target) and "\n" not in caught.value.line()
        with claimed(target.with_name("other.s4d")):
            pass
        (tmp_path / "link").symlink_to(target.parent)
        with pytest.raises(ResourceError, match=str(process.pid)), claimed(tmp_path / "link" / "scene.s4d"):
            pass
    finally:
        end(process)
    with claimed(target):
        pass
    assert names(target.parent) == []


def test_a_lock_of_a_dead_process_is_taken_over_whoever_has_its_number_now(tmp_path):
    target = tmp_path / "out"
    lock_of(target).write_text(str(os.getppid()))  # lives, and holds nothing
    with claimed(target):
        assert lock_of(target).read_text() == str(os.getpid())
    assert names(tmp_path) == []


def test_within_one_process_too_and_what_was_made_for_the_lock_goes(tmp_path):
    target = tmp_path / "a" / "b" / "out"
    with claimed(target), pytest.raises(ResourceError, match=str(os.getpid())), claimed(target):
        pass
    assert names(tmp_path) == []
    with pytest.raises(KeyError), claimed(target):
        write_text(tmp_path / "a" / "kept", "")
        raise KeyError
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["kept"]


@pytest.mark.parametrize("code", [WRITES_A_FILE, WRITES_A_FOLDER])
def test_killed_while_it_writes(tmp_path, code):
    target = tmp_path / "out"
    process = other_process(code, target)
    (living,) = leftovers(tmp_path)
    assert living.held and living.num_bytes > 4 and not target.exists()
    assert remove_leftovers(tmp_path) == [] and leftovers(tmp_path) == [living]
    with atomic_file(target) as draft:  # another writer of the same is not in its place
        assert draft.parent != living.path
    target.unlink()
    end(process)
    assert not target.exists() and [each.held for each in leftovers(tmp_path)] == [False]
    write_text(target, "whole")
    assert names(tmp_path) == ["out"] and target.read_text() == "whole"


def test_the_next_verb_in_the_folder_removes_what_is_dead(tmp_path):
    process = other_process(WRITES_A_FILE, tmp_path / "a.ply")
    end(process)
    with claimed(tmp_path / "b.ply"):
        assert names(tmp_path) == [lock_of(tmp_path / "b.ply").name]
    assert names(tmp_path) == []


def test_only_what_scene4d_made_is_removed(tmp_path):
    foreign = [tmp_path / f".mine.0{DRAFT}", tmp_path / f".mine{PARTS}", tmp_path / "seen" / f"plain{DRAFT}"]
    for folder in foreign:
        folder.mkdir(parents=True)
        (folder / "precious").write_text("x")
    (tmp_path / f".link.0{DRAFT}").symlink_to(tmp_path / "seen")
    (tmp_path / f".file.0{DRAFT}").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    assert leftovers(tmp_path) == [] == remove_leftovers(tmp_path)
    write_text(tmp_path / "mine", "x")
    write_text(tmp_path / "link", "x")
    write_text(tmp_path / "file", "x")
    assert sorted(tmp_path.rglob("*")) == sorted([*before, *(tmp_path / n for n in ("mine", "link", "file"))])


def test_all_kinds_of_leftovers_with_their_sizes(tmp_path):
    draft, parts = tmp_path / "deep" / f".a.0{DRAFT}", tmp_path / f".copy{PARTS}"
    for folder in (draft, parts / "episode-000000", tmp_path / f".b.3{DRAFT}"):
        folder.mkdir(parents=True)
    (draft / OWNER).write_text("1")
    (draft / "a").write_bytes(bytes(999))
    (parts / JOB).write_text("{}")
    lock_of(tmp_path / "c").write_text("")
    found = {each.path.name: each.num_bytes for each in leftovers(tmp_path)}
    assert found == {draft.name: 1000, parts.name: 2, f".b.3{DRAFT}": 0, lock_of(tmp_path / "c").name: 0}
    process = other_process(HOLDS, tmp_path / "copy")
    try:
        assert {e.path.name for e in leftovers(tmp_path) if e.held} == {parts.name, lock_of(tmp_path / "copy").name}
        assert len(remove_leftovers(tmp_path)) == 2 and parts.is_dir()  # the draft beside it went with the claim
    finally:
        end(process)
    assert len(remove_leftovers(tmp_path)) == 2 and names(tmp_path) == ["deep"]


def test_a_folder_takes_the_place_of_another_or_leaves_it(tmp_path):
    target = tmp_path / "points"
    for number in range(3):
        with atomic_folder(target, replace=True) as draft:
            (draft / f"{number}.ply").write_text(str(number))
        assert names(target) == [f"{number}.ply"] and names(tmp_path) == ["points"]
    with pytest.raises(RuntimeError), atomic_folder(target, replace=True) as draft:
        (draft / "half").write_text("")
        raise RuntimeError
    assert names(target) == ["2.ply"] and names(tmp_path) == ["points"]


def test_a_folder_that_was_moved_away_comes_back(tmp_path, monkeypatch):
    """Killed, or refused by the disk, between the old one's leaving and the new one's coming."""
    target = tmp_path / "points"
    with atomic_folder(target) as draft:
        (draft / "old").write_text("")
    real = os.replace

    def refused(source, place):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(ResourceError), atomic_folder(target, replace=True) as draft:
        patch.setattr(os, "replace", refused)
    assert names(target) == ["old"]
    child = os.fork()
    if child == 0:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        with atomic_folder(target, replace=True):
            pass
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL and not target.exists()
    assert os.replace is real and len(remove_leftovers(tmp_path)) == 1
    assert names(target) == ["old"]


@pytest.fixture
def calls(monkeypatch):
    """fsync and rename in the order in which they are asked for, by name."""
    made, sync, replace = [], os.fsync, os.replace

    def synced(handle):
        made.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))))
        sync(handle)

    def replaced(source, target):
        made.append(("replace", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return made


def test_bytes_are_on_disk_before_the_name_and_the_name_before_it_returns(tmp_path, calls):
    write_text(tmp_path / "a.txt", "x")
    assert calls == [("sync", "a.txt"), ("replace", "a.txt"), ("sync", tmp_path.name)]
    calls.clear()
    with atomic_folder(tmp_path / "out") as draft:
        (draft / "inner").mkdir()
        (draft / "inner" / "x").write_text("")
        write_text(draft / "y", "")  # within a draft: the whole is brought to disk at its end
    (at,) = [i for i, call in enumerate(calls) if call == ("replace", "out")]
    assert {("sync", n) for n in ("x", "inner", "y", "out")} == {c for c in calls[:at] if c[0] == "sync"}
    assert calls[at + 1 :] == [("sync", tmp_path.name)]


def test_disks_whose_folders_cannot_be_synced(tmp_path, monkeypatch):
    real = os.fsync

    def only_files(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        real(handle)

    monkeypatch.setattr(os, "fsync", only_files)
    with atomic_folder(tmp_path / "out") as draft:
        (draft / "x").write_text("")
    assert names(tmp_path) == ["out"]


def test_disks_without_locks(tmp_path, monkeypatch):
    def none(handle, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with claimed(tmp_path / "a"):
        write_text(tmp_path / "a", "x")
        with atomic_file(tmp_path / "a") as draft:
            assert remove_leftovers(tmp_path) == [] and draft.exists()  # whether its writer lives cannot be known
    assert names(tmp_path) == ["a"]


def test_files_are_as_readable_as_others(tmp_path):
    save_safetensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)}, metadata={})
    with atomic_folder(tmp_path / "out"):
        pass
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~umask


def test_writers_at_the_same_time_have_drafts_of_their_own(tmp_path):
    """One makes a draft in the very moment in which another removes one of that name."""

    def write(number):
        for _ in range(100):
            with draft_folder(tmp_path / "a") as draft:
                (draft / "folder").mkdir()
                (draft / "folder" / "file").write_text(str(number))
                (draft / "file").write_text(str(number))
                assert (draft / "folder" / "file").read_text() == (draft / "file").read_text() == str(number)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(write, range(8))) == [None] * 8
    finally:
        sys.setswitchinterval(before)
    assert names(tmp_path) == []


def test_a_draft_is_removed_though_no_file_can_be_opened(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        with pytest.raises(ResourceError, match="too many files are open"), atomic_folder(tmp_path / "out") as draft:
            (draft / "a" / "b").mkdir(parents=True)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), before[1]))
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert names(tmp_path) == []

"""scripts/soak.sh in a short form: it finds nothing, it finds what is wrong, and it says what it did."""

import os
import subprocess
import sys
from pathlib import Path

import failing_disk
import pytest
import torch
from long_runs import _judged, train_toy
from memory_use import num_descriptors, num_threads, resident_mb
from result_tables import Table, written

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


def soak(*arguments):
    environment = {**os.environ, "PYTHON": sys.executable}
    command = ["bash", str(ROOT / "scripts" / "soak.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_kills_at_random_instants_do_no_harm():
    done = soak("kill", "--size", "3", "--verbs", "convert")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 kills left nothing half-written" in done.stdout and "| convert | 3 | 3 |" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(failing_disk.compiler() is None, reason="needs Linux and a C compiler")
def test_a_disk_that_fails_does_no_harm():
    done = soak("low", "--size", "5", "--verbs", "convert")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| convert | a disk that works | 5 | 5 | 5 | 0 | 0 |" in done.stdout


def test_a_short_training_stays_where_it_is():
    torch.set_num_threads(1)
    samples = train_toy(40)
    assert len(samples) == 20 and _judged(samples, count=40)[1]


def test_what_grows_is_seen():
    flat = [(100.0 + 0.5 * (k % 2), 7, 3) for k in range(20)]
    assert _judged(flat, count=20_000)[1]
    assert not _judged([(100.0 + 2 * k, 7, 3) for k in range(20)], count=20_000)[1]
    assert not _judged([(100.0, 7 + k, 3) for k in range(20)], count=20_000)[1]
    assert not _judged([(100.0, 7, 3 + k // 15) for k in range(20)], count=20_000)[1]


def test_what_a_process_holds_is_measured():
    files, threads, before = num_descriptors(), num_threads(), resident_mb()
    with open(os.devnull):
        assert num_descriptors() == files + 1 and num_threads() == threads
    held = bytearray(b"x") * (80 << 20)
    assert resident_mb() - before > 60 and len(held)


def test_a_wrong_part_runs_nothing():
    done = soak("boil")
    assert done.returncode == 2 and "is no part" in done.stderr
    assert "SIGKILL" in soak("--help").stdout


def test_a_table_takes_the_place_of_the_one_before(tmp_path, monkeypatch, capsys):
    document = tmp_path / "reliability.md"
    document.write_text("# Before\n<!-- kill -->\nold\n<!-- end of kill -->\nafter\n")
    monkeypatch.setattr("result_tables.DOCUMENT", document)
    table = Table("kill", ("a", "b"), [(1, "x")])
    written(table, text="All.", write=False, command="c")
    assert "old" in document.read_text() and "| 1 | x |" in capsys.readouterr().out
    written(table, text="All.", write=True, command="scripts/soak.sh kill")
    text = document.read_text()
    assert text.startswith("# Before\n<!-- kill -->\n`scripts/soak.sh kill` at commit") and "old" not in text
    assert "| a | b |\n|---|---|\n| 1 | x |\n\nAll.\n<!-- end of kill -->\nafter\n" in text

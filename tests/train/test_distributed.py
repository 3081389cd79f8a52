"""Training on two ranks (gloo, started by torchrun) is training on one: same weights, equal ranks, no hanging."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_training import batch_at, toy_net, toy_train

from scene4d.errors import EXIT_RESOURCE
from scene4d.train.checkpoint import load_tensors
from scene4d.train.distributed import num_ranks, rank, rank_zero_first, share_of, torchrun_group

WORKER = Path(__file__).with_name("ranks_worker.py")
ROOT = str(WORKER.parents[2])
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": ROOT}


@pytest.fixture(autouse=True)
def _one_thread(_repeatable):
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """name -> what each of two ranks ended with: its tensors and its words."""
    folder = tmp_path_factory.mktemp("ranks")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, WORKER, "laws", folder], env=ONE_THREAD, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]

    def of(name):
        return [load_tensors(folder / f"{name}.{r}.safetensors") for r in (0, 1)]

    of.folder = folder
    return of


def same(a, b, *, within=0.0):
    assert a.keys() == b.keys() and len(a) > 0
    return all(torch.equal(a[k], b[k]) if within == 0 else torch.allclose(a[k], b[k], rtol=0, atol=within) for k in a)


@pytest.mark.parametrize("kind", ["copies", "parts"])
def test_two_halves_of_a_batch_teach_what_the_whole_does(finished, tmp_path, kind):
    alone = toy_net()
    before = {k: v.clone() for k, v in alone.state_dict().items()}
    result = toy_train(alone, tmp_path)
    (first, report), (second, also) = finished(kind)
    assert same(first, second) and same(first, alone.state_dict(), within=1e-6)
    assert not same(first, before, within=1e-3)  # it has gone far beyond what is compared
    assert torch.equal(first["blocks.1.1.weight"], before["blocks.1.1.weight"])  # what is frozen stays
    assert torch.equal(first["unused.weight"], before["unused.weight"])  # no decay without a gradient, as alone
    for name in ("loss", "far", "grad_norm"):
        assert report[name] == also[name] == pytest.approx(result[name], rel=1e-4)


@pytest.mark.parametrize("kind", ["copies", "parts"])
def test_resume_on_two_ranks_is_bit_equal(finished, kind):
    for (whole, _), (cut, _) in zip(finished(kind), finished(f"{kind} cut"), strict=True):
        assert same(whole, cut)
    logs = [(finished.folder / name / "log.jsonl").read_text() for name in (kind, f"{kind} cut")]
    assert logs[0] == logs[1] and logs[0].count("\n") == 4  # one rank writes


def test_each_rank_holds_only_its_part(finished):
    total = sum(p.numel() for p in toy_net().blocks[0].parameters())
    held = [state["parts"] for _, state in finished("parts cut")]
    assert sum(held) == total and max(held) < 0.6 * total
    assert [state["parts"] for _, state in finished("copies cut")] == [0, 0]


def test_checkpoints_do_not_depend_on_the_number_of_ranks(finished, tmp_path):
    toy_train(toy_net(), tmp_path)
    alone, state = load_tensors(tmp_path / "checkpoint.safetensors")
    for kind in ("copies", "parts"):
        tensors, others = load_tensors(finished.folder / kind / "checkpoint.safetensors")
        assert same(tensors, alone, within=1e-5) and others.keys() == state.keys()


@pytest.mark.parametrize("kind", ["copies", "parts"])
def test_a_loss_that_is_not_finite_on_one_rank_is_skipped_by_all(finished, kind):
    """FAULTS row 46."""
    (first, report), (second, also) = finished(f"{kind} nan")
    assert report["skipped"] == also["skipped"] == 1
    assert same(first, second) and all(v.isfinite().all() for v in first.values())


def test_shares_of_odd_size_count_by_their_rows(finished, tmp_path):
    alone = toy_net()
    toy_train(alone, tmp_path, batches=lambda step: batch_at(step, rows=7))
    assert same(finished("uneven")[0][0], alone.state_dict(), within=1e-6)


def test_the_first_rank_goes_first_and_too_small_a_batch_is_named(finished):
    (_, first), (_, second) = finished("words")
    assert first["ranks"] == second["ranks"] == 2
    assert (first["found"], second["found"]) == (False, True)
    assert "batch_size" in first["error"] and "found 1, expected >= 2" in second["error"]


def test_a_signal_to_one_rank_stops_both_after_the_same_step(finished):
    """FAULTS row 45."""
    assert [state for _, state in finished("stop")] == [{"code": 143, "step": 6}] * 2


def test_a_killed_rank_ends_the_others_and_one_process_can_finish(tmp_path):
    """FAULTS rows 42, 48: no rank waits for ever, and the checkpoint does not depend on the number of ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, WORKER, "death", tmp_path],
            env=ONE_THREAD | place | {"RANK": str(r), "LOCAL_RANK": str(r)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in (0, 1)
    ]
    try:
        ranks[1].wait(timeout=100)
        start = time.monotonic()
        words = ranks[0].communicate(timeout=100)[1]
    finally:
        for process in ranks:
            process.kill()
    assert time.monotonic() - start < 50  # well before the timeout of the group
    assert ranks[1].returncode == -9 and ranks[0].returncode == EXIT_RESOURCE
    assert "another rank is gone" in words and "checkpoint" in words
    assert load_tensors(tmp_path / "death" / "checkpoint.safetensors")[1]["step"] == 4
    alone, resumed = toy_net(), toy_net(seed=3)
    toy_train(alone, tmp_path / "alone")
    toy_train(resumed, tmp_path / "death")
    assert same(resumed.state_dict(), alone.state_dict(), within=1e-6)


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with torchrun_group(), rank_zero_first():
        assert (rank(), num_ranks()) == (0, 1) and not torch.distributed.is_initialized()
        batch = object()
        assert share_of(batch) == (batch, 1.0)

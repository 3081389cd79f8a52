"""What happens to a training that is killed, runs out of disk or memory, or finds a strange checkpoint."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from toy_training import SLOW_STEPS, batch_at, toy_net, toy_train

from scene4d.apps.compose.models import load_models
from scene4d.errors import (
    EXIT_RESOURCE,
    CheckpointError,
    ConfigError,
    NumericsError,
    ResourceError,
    Scene4DError,
    VersionError,
)
from scene4d.train.checkpoint import load_tensors, load_weights, save_tensors
from scene4d.train.log import JsonLog
from scene4d.train.loop import CHECKPOINT_NAME

SCRIPT = Path(__file__).with_name("toy_training.py")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}


@pytest.fixture(autouse=True)
def _one_thread(_repeatable):
    torch.set_num_threads(1)


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def cut(folder, *, at, **changes):
    """A training that an exception ends before step `at`."""

    def batches(step):
        if step == at:
            raise InterruptedError
        return batch_at(step)

    with pytest.raises(InterruptedError):
        toy_train(toy_net(), folder, batches=batches, **changes)


def test_a_killed_process_goes_on_bit_equal(tmp_path):
    """FAULTS row 42: a real process, killed at whatever it was doing."""
    process = subprocess.Popen([sys.executable, SCRIPT, tmp_path / "killed"], env=ONE_THREAD)
    log, deadline = JsonLog(tmp_path / "killed" / "log.jsonl"), time.monotonic() + 100
    try:
        while not any(line["step"] >= 20 for line in log.read()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 16 <= load_tensors(tmp_path / "killed" / CHECKPOINT_NAME)[1]["step"] < SLOW_STEPS
    whole, resumed = toy_net(), toy_net(seed=5)
    toy_train(whole, tmp_path / "whole", steps=SLOW_STEPS, log_every=1)
    toy_train(resumed, tmp_path / "killed", steps=SLOW_STEPS, log_every=1)
    assert equal(whole, resumed)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1]


def test_killed_at_any_byte_of_a_checkpoint_the_one_before_is_whole(tmp_path, monkeypatch):
    """FAULTS row 42: the process dies by SIGKILL after n bytes of the new checkpoint, for n from none to all."""
    whole, path = toy_net(), tmp_path / "cut" / CHECKPOINT_NAME
    toy_train(whole, tmp_path / "whole")
    cut(tmp_path / "cut", at=9)
    before = path.read_bytes()
    tensors, state = load_tensors(path)

    def save_until(num):
        def written(values, file, metadata):
            with open(file, "wb", buffering=0) as out:
                out.write(save(values, metadata)[:num])
            os.kill(os.getpid(), signal.SIGKILL)

        return written

    sizes = sorted({0, 1, 7, 8, 9, *range(0, len(before), len(before) // 12), len(before) - 1, len(before)})
    for num in sizes:
        with monkeypatch.context() as patch:
            patch.setattr("safetensors.torch.save_file", save_until(num))
            child = os.fork()
            if child == 0:
                try:
                    save_tensors(path, tensors, state={**state, "step": 12})
                finally:
                    os._exit(1)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert path.read_bytes() == before
    assert len(list(path.parent.glob(".checkpoint.*"))) == 1  # each removed what the one before had left
    resumed = toy_net(seed=5)
    toy_train(resumed, path.parent)
    assert equal(whole, resumed)
    assert sorted(p.name for p in path.parent.iterdir()) == [CHECKPOINT_NAME, "log.jsonl"]


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(tmp_path):
    """FAULTS row 43: writes fail after n bytes (a real limit of the system), for n within header and tensors."""
    whole, path = toy_net(), tmp_path / "cut" / CHECKPOINT_NAME
    toy_train(whole, tmp_path / "whole")
    cut(tmp_path / "cut", at=5)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    for num in (100, len(before) // 2, len(before) - 8):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (num, limits[1]))
            with pytest.raises(ResourceError) as error:
                save_tensors(path, load_tensors(path)[0], state=load_tensors(path)[1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert str(path) in str(error.value) and error.value.exit_code == EXIT_RESOURCE
        assert path.read_bytes() == before and not list(path.parent.glob(".checkpoint.*"))
    resumed = toy_net(seed=5)
    toy_train(resumed, path.parent)
    assert equal(whole, resumed)


def test_a_full_disk_in_the_middle_of_training(tmp_path, monkeypatch):
    """FAULTS row 43: the third checkpoint, then a line of the log, finds no room; room made, the run goes on."""
    whole = toy_net()
    toy_train(whole, tmp_path / "whole")
    written, real = [], save_file

    def full(values, file, metadata):
        written.append(file)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(values, file, metadata)

    with monkeypatch.context() as patch, pytest.raises(ResourceError, match="the disk is full"):
        patch.setattr("safetensors.torch.save_file", full)
        toy_train(toy_net(), tmp_path / "cut")
    assert load_tensors(tmp_path / "cut" / CHECKPOINT_NAME)[1]["step"] == 8
    with monkeypatch.context() as patch, pytest.raises(ResourceError) as error:
        patch.setattr(JsonLog, "keep_until", lambda log, step: setattr(log, "path", Path("/dev/full")))
        toy_train(toy_net(), tmp_path / "cut")
    assert error.value.file == "/dev/full" and "the disk is full" in str(error.value)
    resumed = toy_net()
    toy_train(resumed, tmp_path / "cut")
    assert equal(whole, resumed)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_numbers_that_are_not_finite_are_logged_by_step_and_stop_the_run(tmp_path, where):
    """FAULTS row 46: the step names the batch, which depends on nothing else; the last good weights are kept."""
    step = [0]

    def batches(s):
        step[0] = s
        return batch_at(s)

    def broken():
        if step[0] < 10:
            return 1.0
        slope = torch.zeros((), requires_grad=True)  # its root is 0, the slope of the root there is not finite
        return float("inf") if where == "loss" else 1.0 + (slope * net.leave.bias.sum().square()).sqrt()

    net = toy_net()
    with pytest.raises(NumericsError) as error:
        toy_train(net, tmp_path / "bad", batches=batches, scale=broken)
    assert error.value.frame == 13 and "lr" in error.value.fix
    skipped = [line["step"] for line in JsonLog(tmp_path / "bad" / "log.jsonl").read() if line.get("skipped")]
    assert skipped == [11, 12, 13, 14]
    tensors, state = load_tensors(tmp_path / "bad" / CHECKPOINT_NAME)
    cut(tmp_path / "good", at=10, checkpoint_every=10)
    good, at = load_tensors(tmp_path / "good" / CHECKPOINT_NAME)
    assert state["step"] == at["step"] == 10 and all(torch.equal(tensors[k], good[k]) for k in good)


def test_out_of_memory_is_a_resource_error_and_the_run_goes_on_with_less(tmp_path):
    """FAULTS row 47: the allocator really refuses."""
    whole = toy_net()
    toy_train(whole, tmp_path / "whole")

    calls = []

    def greedy():
        calls.append(len(calls))
        return 1.0 if len(calls) <= 6 else torch.empty(1 << 48).sum()

    with pytest.raises(ResourceError) as error:
        toy_train(toy_net(), tmp_path / "cut", scale=greedy)
    assert error.value.frame == 6 and "batch_size" in error.value.fix and error.value.exit_code == EXIT_RESOURCE
    resumed = toy_net()
    toy_train(resumed, tmp_path / "cut")
    assert equal(whole, resumed)


def test_other_bugs_are_not_taken_for_a_lack_of_memory(tmp_path):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        toy_train(toy_net(), tmp_path, scale=lambda: (torch.ones(2, 3) @ torch.ones(2, 3)).sum())


def test_a_strange_checkpoint_is_refused_and_nothing_is_loaded(tmp_path):
    """FAULTS row 39: weights that are no checkpoint, a checkpoint without averages, one cut short, whole numbers."""
    net, path = toy_net(), tmp_path / CHECKPOINT_NAME
    before = toy_net()
    toy_train(toy_net(), tmp_path / "whole")
    tensors, state = load_tensors(tmp_path / "whole" / CHECKPOINT_NAME)
    strange = {
        "no checkpoint of this training": (net.state_dict(), {}),
        "ema_decay": ({k: v for k, v in tensors.items() if not k.startswith("average.")}, state),
        "missing: leave.bias": ({k: v for k, v in tensors.items() if k != "module.leave.bias"}, state),
        "leave.bias torch.int64 not torch.float32": (tensors | {"module.leave.bias": torch.ones(1).long()}, state),
    }
    for words, (values, header) in strange.items():
        save_tensors(path, values, state=header)
        with pytest.raises(CheckpointError) as error:
            toy_train(net, tmp_path)
        assert words in str(error.value) and str(path) in str(error.value)
        assert equal(net, before)
    path.write_bytes((tmp_path / "whole" / CHECKPOINT_NAME).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        toy_train(net, tmp_path)
    with pytest.raises(CheckpointError, match="truncated"):
        load_weights(net, path, prefix="module.")
    assert equal(net, before)


def test_a_header_with_any_byte_wrong_is_read_or_refused_never_a_crash(tmp_path):
    """FAULTS row 39: bits that fell over in the header, one at a time."""
    path = tmp_path / "w.safetensors"
    save_tensors(path, {"a": torch.arange(4.0), "b": torch.ones(2, 3)}, state={"step": 3})
    whole = path.read_bytes()
    header, refused = 8 + int.from_bytes(whole[:8], "little"), 0
    for place in range(header):
        for bit in (0, 4, 6):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
            try:
                load_tensors(path)
            except Scene4DError as error:
                refused += 1
                assert str(path) in str(error)
    assert refused > header


def test_weights_of_a_later_version_and_unknown_settings_are_named(tmp_path):
    """FAULTS row 41."""
    path = tmp_path / "w.safetensors"
    configs = {"vae": {"widht": 32}, "dynamics": {}}
    save_tensors(path, {}, state={"configs": configs})
    with pytest.raises(ConfigError) as error:
        load_models(path)
    assert error.value.field == "vae.widht" and "'width'" in error.value.fix and error.value.file == str(path)
    for version, kind in (("2", VersionError), ("two", CheckpointError), ("²", CheckpointError)):
        save_file({"a": torch.zeros(1)}, path, metadata={"version": version, "state": "{}"})
        with pytest.raises(kind) as error:
            load_tensors(path)
        assert version in str(error.value)
    save_file({"a": torch.zeros(1)}, path, metadata={"version": "1", "state": "[1]"})
    with pytest.raises(CheckpointError, match="broken header"):
        load_tensors(path)

"""Training is repeatable, resumes bit for bit, and survives bad numbers and signals."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from scene4d.errors import CheckpointError, NumericsError, SecurityError, VersionError
from scene4d.train.checkpoint import load_tensors, load_weights, save_tensors
from scene4d.train.log import JsonLog
from scene4d.train.loop import CHECKPOINT_NAME, LoopConfig, train
from scene4d.train.optim import MovingAverage, OptimConfig, adamw, learning_rate

CONFIG = LoopConfig(steps=12, log_every=3, checkpoint_every=4, optim=OptimConfig(lr=1e-2, warmup_steps=2))


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 1))


def batch_at(step):
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(step))


def run(net, folder, *, config=CONFIG, batches=batch_at, loss=None):
    def fit(x):
        error = (net(x).squeeze(-1) - x.sum(-1) + 0.01 * torch.randn(len(x))).square().mean()
        return error, {"error": error.detach()}

    return train(net, loss or fit, batches=batches, config=config, folder=folder)


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.mark.parametrize("stop_at", [4, 7, 9])
def test_resume_is_bit_equal(tmp_path, stop_at):
    whole = model()
    run(whole, tmp_path / "whole")

    def breaking(step):
        if step == stop_at:
            raise RuntimeError("power cut")
        return batch_at(step)

    with pytest.raises(RuntimeError):
        run(model(), tmp_path / "cut", batches=breaking)
    resumed = model()
    with torch.no_grad():
        resumed[0].weight.fill_(7.0)  # what it held before must not count
    run(resumed, tmp_path / "cut")
    assert torch.equal(weights(whole), weights(resumed))
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_one_process_in_float32_is_the_plain_loop(tmp_path):
    """Bit for bit what the few lines below do, whatever else the loop can."""
    plain, ours = model(), model()
    optimizer, average = adamw(plain, CONFIG.optim), MovingAverage(plain, decay=CONFIG.optim.ema_decay)
    for step in range(CONFIG.steps):
        x = batch_at(step)
        torch.manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, CONFIG.optim, num_steps=CONFIG.steps)
        optimizer.zero_grad()
        (plain(x).squeeze(-1) - x.sum(-1) + 0.01 * torch.randn(len(x))).square().mean().backward()
        nn.utils.clip_grad_norm_(plain.parameters(), CONFIG.optim.max_grad_norm)
        optimizer.step()
        average.update(plain, step=step)
    run(ours, tmp_path)
    average.copy_to(plain)
    assert torch.equal(weights(plain), weights(ours))


def test_bfloat16_learns_as_well_with_weights_in_float32(tmp_path):
    losses, nets = {}, {}
    for precision in ("float32", "bfloat16"):
        config = replace(CONFIG, steps=200, checkpoint_every=50, precision=precision)
        net, seen = model(), []

        def fit(x, net=net, seen=seen):
            predicted = net(x)
            seen.append(predicted.dtype)
            error = (predicted.squeeze(-1) - x.sum(-1)).square().mean()
            return error, {"error": error.detach()}

        losses[precision] = run(net, tmp_path / precision, config=config, loss=fit)["loss"]
        nets[precision] = net
        assert set(seen) == {getattr(torch, precision)} and {p.dtype for p in net.parameters()} == {torch.float32}
        tensors, _ = load_tensors(tmp_path / precision / CHECKPOINT_NAME)
        assert {v.dtype for v in tensors.values()} == {torch.float32}
    start = run(model(), tmp_path / "one", config=replace(CONFIG, steps=1))["loss"]
    assert losses["float32"] < 0.3 * start and losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert not torch.equal(weights(nets["float32"]), weights(nets["bfloat16"]))


def test_bfloat16_resumes_bit_equal(tmp_path):
    config = replace(CONFIG, precision="bfloat16")
    whole, resumed = model(), model()
    run(whole, tmp_path / "whole", config=config)
    with pytest.raises(TypeError):
        run(model(), tmp_path / "cut", config=config, batches=lambda step: batch_at(step) if step != 7 else None)
    run(resumed, tmp_path / "cut", config=config)
    assert torch.equal(weights(whole), weights(resumed))


def test_it_learns_and_a_finished_run_is_not_repeated(tmp_path):
    config = LoopConfig(steps=300, checkpoint_every=300, optim=OptimConfig(lr=3e-2, ema_decay=0.95))
    net = nn.Linear(4, 1)
    fit = lambda x: ((net(x).squeeze(-1) - x.sum(-1)).square().mean(), {})
    assert run(net, tmp_path, config=config, loss=fit)["loss"] < 2e-3
    before = weights(net)
    called = []
    run(net, tmp_path, config=config, batches=called.append)
    assert not called and torch.equal(before, weights(net))


def test_global_randomness_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    net, state = model(), None
    torch.manual_seed(5)
    run(net, tmp_path)
    assert state is None and torch.equal(torch.rand(3), expected)


def test_what_a_part_kept_from_a_training_before_changes_nothing(tmp_path):
    """It is frozen, but its last gradient would count in the norm: a run that was resumed has no such gradient."""
    made = []
    for name in ("resumed", "at once"):
        net = model()
        net[0].requires_grad_(False)
        if name == "at once":
            net[0].weight.grad = torch.full_like(net[0].weight, 1000.0)
        run(net, tmp_path / name)
        made.append((weights(net), JsonLog(tmp_path / name / "log.jsonl").read()))
    assert torch.equal(made[0][0], made[1][0]) and made[0][1] == made[1][1]


def test_bad_numbers_are_skipped_then_stop_with_the_last_good_weights(tmp_path):
    net = model()
    bad_from = {"step": 5, "until": 7}

    def loss_of(step):
        def loss(x):
            value = net(x).square().mean()
            return (value * float("nan") if bad_from["step"] <= step[0] < bad_from["until"] else value), {}

        return loss

    step = [0]

    def batches(s):
        step[0] = s
        return batch_at(s)

    result = run(net, tmp_path / "a", batches=batches, loss=loss_of(step))
    assert result["skipped"] == 2 and torch.isfinite(weights(net)).all()
    bad_from["until"] = 100
    net = model()
    with pytest.raises(NumericsError):
        run(net, tmp_path / "b", batches=batches, loss=loss_of(step))
    tensors, state = load_tensors(tmp_path / "b" / CHECKPOINT_NAME)
    assert state["step"] == 5 and all(torch.isfinite(v).all() for v in tensors.values())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_the_last_whole_step(tmp_path, number, code):
    whole, net = model(), model()
    run(whole, tmp_path / "whole")

    def batches(step):
        if step == 5:
            os.kill(os.getpid(), number)
        return batch_at(step)

    with pytest.raises(SystemExit) as stop:
        run(net, tmp_path / "cut", batches=batches)
    assert stop.value.code == code and load_tensors(tmp_path / "cut" / CHECKPOINT_NAME)[1]["step"] == 6
    run(net, tmp_path / "cut")
    assert torch.equal(weights(whole), weights(net))


def test_learning_rate_rises_then_falls():
    config = OptimConfig(lr=1.0, min_lr=0.1, warmup_steps=10)
    rates = [learning_rate(s, config, num_steps=100) for s in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True) and rates[-1] == pytest.approx(0.1, abs=1e-2)


def test_wrong_weights_are_listed_and_nothing_is_loaded(tmp_path):
    path = tmp_path / "w.safetensors"
    net = model()
    tensors = {f"net.{k}": v for k, v in net.state_dict().items()}
    save_tensors(path, tensors, state={"a": [1]})
    assert load_weights(model(), path, prefix="net.") == {"a": [1]}
    half = {k: v.half() for k, v in tensors.items()}
    save_tensors(path, half, state={})
    load_weights(other := model(), path, prefix="net.")
    assert torch.allclose(weights(other), weights(net), atol=1e-3) and other[0].weight.dtype == torch.float32
    del half["net.0.bias"]
    half["net.3.weight"] = torch.zeros(1, 9)
    half["net.9.weight"] = torch.zeros(1)
    save_tensors(path, half, state={})
    before = weights(net)
    with pytest.raises(CheckpointError) as error:
        load_weights(net, path, prefix="net.")
    assert all(
        word in str(error.value) for word in ("missing: 0.bias", "extra: 9.weight", "3.weight [1, 9] not [1, 8]")
    )
    assert torch.equal(before, weights(net))


def test_unreadable_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    save_tensors(path, {"a": torch.zeros(100)}, state={})
    whole = path.read_bytes()
    for size in (0, 4, 50, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            load_tensors(path)
    with pytest.raises(CheckpointError):
        load_tensors(tmp_path / "absent.safetensors")
    for name in ("w.pt", "disguised.safetensors"):
        torch.save({"a": torch.zeros(3)}, tmp_path / name)
        with pytest.raises(SecurityError):
            load_tensors(tmp_path / name)
    import safetensors.torch

    for length in range(600, 700):  # among them headers whose length looks like a pickle's first bytes
        save_tensors(path, {"a": torch.zeros(1)}, state={"pad": "x" * length})
        load_tensors(path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata={"version": "99"})
    with pytest.raises(VersionError):
        load_tensors(path)


def test_log_passes_over_a_torn_line(tmp_path):
    log = JsonLog(tmp_path / "log.jsonl")
    log.write(step=1, loss=2.0)
    log.write(step=2, loss=1.0)
    with log.path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert [line["step"] for line in log.read()] == [1, 2]
    log.keep_until(1)
    assert json.loads(log.path.read_text()) == {"step": 1, "loss": 2.0}

"""The device of a training: what cannot be used is named, batches follow their module, a GPU learns what a CPU does."""

from __future__ import annotations

import pytest
import torch
from toy_training import CONFIG, Rows, batch_at, toy_net

from scene4d.errors import ConfigError
from scene4d.train.device import at_device, moved, training_device
from scene4d.train.loop import train

GPU = torch.cuda.is_available()


def test_the_cpu_is_always_there_and_a_missing_gpu_is_named():
    assert training_device("cpu").type == "cpu"
    if not GPU:
        assert training_device("auto").type == "cpu"
        with pytest.raises(ConfigError, match="no GPU"):
            training_device("cuda")


def test_batches_are_moved_whole():
    batch = moved(batch_at(0), torch.device("meta"))
    assert isinstance(batch["rows"], Rows) and batch["rows"].x.is_meta and batch["rows"].y.is_meta
    assert batch["pair"][0].is_meta and batch["pair"][1] is None


@pytest.mark.cuda
def test_a_gpu_learns_what_a_cpu_does(tmp_path):
    def trained(device):
        net = toy_net()
        with at_device(net, device):
            assert next(net.parameters()).device.type == device
            loss = lambda batch: ((net.say(batch["rows"].x) - batch["rows"].y).square().mean(), {})
            train(net, loss, batches=batch_at, config=CONFIG, folder=tmp_path / device)
        return net

    cpu, gpu = trained("cpu"), trained("cuda")
    for name, value in gpu.state_dict().items():
        torch.testing.assert_close(value, cpu.state_dict()[name], atol=1e-4, rtol=1e-3)

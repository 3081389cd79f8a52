"""Fault 62: no CUDA, a GPU that the build holds no code for, an old torch: the CPU, one notice, nothing compiled."""

import subprocess
import sys
import warnings

import pytest
import torch

from scene4d.errors import ConfigError
from scene4d.native import cuda, ops
from scene4d.train import device as devices


class Build:
    """A native module as another build has it."""

    def __init__(self, usable=None):
        if usable is not None:
            self.cuda_prepare = None
            self.cuda_device_usable = lambda index: usable


@pytest.fixture
def build(monkeypatch):
    def take(**kinds):
        monkeypatch.setattr(cuda, "_usable", {})
        monkeypatch.setattr(cuda, "_warned", set())
        monkeypatch.setattr(ops, "native_module", lambda: Build(**kinds))

    return take


REASONS = {"no CUDA": ({}, "built without CUDA"), "another architecture": ({"usable": False}, "holds no code for cuda")}


@pytest.mark.parametrize("kind", REASONS)
def test_62_the_reason_is_said_once(build, kind):
    kinds, words = REASONS[kind]
    build(**kinds)
    reason = cuda.why_not(torch.device("cuda", 0))
    assert words in reason
    calls = []

    def kernel(*args):
        calls.append(args)
        return (args[0] + 1,)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        for _ in range(3):
            (result,) = cuda.on_cpu(kernel, (torch.ones(2),), reason=reason)
            assert result.tolist() == [2, 2]
    assert len(calls) == 3 and [str(w.message) for w in shown] == [f"{reason}: Gaussians are drawn on the CPU"]


def test_62_the_op_of_a_gpu_falls_back(build, monkeypatch):
    build(usable=False)
    done = []
    monkeypatch.setattr(ops, "_rasterize_cpu", lambda *args: done.append(len(args)) or (args[0],))
    with pytest.warns(UserWarning, match="holds no code") as shown:
        cuda.rasterize_cuda(torch.zeros(1), 2)
        cuda.rasterize_cuda(torch.zeros(1), 2)
    assert done == [2, 2] and len(shown) == 1


@pytest.mark.parametrize("kind", REASONS)
def test_62_training_goes_to_the_cpu(build, kind, monkeypatch):
    kinds, words = REASONS[kind]
    build(**kinds)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert devices.training_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError) as caught:
        devices.training_device("cuda")
    assert caught.value.exit_code == 2 and caught.value.field == "device" and words in caught.value.fix


def test_62_no_gpu_at_all(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.training_device("auto") == devices.training_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="device") as caught:
        devices.training_device("cuda")
    assert caught.value.fix == "torch sees no GPU"


def test_62_nothing_is_compiled_at_run_time():
    """In a process of its own, with the compilers of torch taken away."""
    code = (
        "import torch\n"
        "import scene4d.render.render, scene4d.native.cuda, scene4d.train.device\n"
        "import sys\n"
        "assert 'torch.utils.cpp_extension' not in sys.modules, 'torch could compile'\n"
        "assert scene4d.train.device.training_device('auto').type in ('cpu', 'cuda')\n"
        "print('done')\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert out.stdout.strip() == "done", out.stderr[-2000:]

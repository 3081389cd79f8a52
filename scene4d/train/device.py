"""Where training runs: modules brought to a device and back, batches brought to their module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from scene4d.errors import ConfigError
from scene4d.native.cuda import why_not
from scene4d.train.distributed import mapped

Device = Literal["auto", "cpu", "cuda"]


def training_device(wanted: Device) -> torch.device:
    """The device to train on; "auto": a GPU that torch and our kernels can use, if there is one.

    Raises:
        ConfigError: "cuda" cannot be used; the message gives the reason.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    reason = "torch sees no GPU"
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        reason = why_not(device)
        if reason is None:
            return device
    if wanted == "cuda":
        raise ConfigError("cannot be used", field="device", found=wanted, expected="auto or cpu", fix=reason)
    return torch.device("cpu")


@contextlib.contextmanager
def at_device(module: nn.Module, wanted: Device) -> Iterator[None]:
    """Has the module on the device that `training_device` names, and on the CPU again at the end."""
    device = training_device(wanted)
    if device.type == "cpu":
        yield
        return
    module.to(device)
    try:
        yield
    finally:
        module.cpu()


def moved(batch: Any, device: torch.device) -> Any:
    """Tensors, nouns, or tuples and dictionaries of them, on a device."""
    return mapped(batch, lambda x: x.to(device))

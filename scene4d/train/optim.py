"""AdamW with warm-up and cosine decay, and an exponential moving average of the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class OptimConfig:
    """How weights are updated."""

    lr: float = 1e-3
    """Highest learning rate."""
    min_lr: float = 0.02
    """Learning rate at the end, as a share of `lr`."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    weight_decay: float = 0.01
    """Decoupled decay of matrices (vectors are not decayed)."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of the two moments."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    ema_decay: float = 0.995
    """Decay of the averaged weights a step; 0 = no averaging."""


def adamw(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; vectors, norms and biases are not decayed."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=1e-8)


def learning_rate(step: int, config: OptimConfig, *, num_steps: int) -> float:
    """Learning rate of step 0, 1, ... num_steps - 1: linear warm-up, then a cosine down to lr * min_lr."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    return config.lr * (config.min_lr + (1 - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class MovingAverage:
    """Exponential moving average of a module's parameters; short at first, so that early steps are forgotten."""

    def __init__(self, module: nn.Module, *, decay: float):
        self.decay = decay
        self.values = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module, *, step: int) -> None:
        """Move towards the weights after step `step` (0 = the first)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(module.get_parameter(name).detach(), 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Put the averaged weights into the module."""
        for name, value in self.values.items():
            module.get_parameter(name).copy_(value)

"""A small training that several processes can do: run as a script it trains slowly, so that it can be killed."""

import sys
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.train.loop import LoopConfig, train
from scene4d.train.optim import OptimConfig

CONFIG = LoopConfig(steps=20, log_every=5, checkpoint_every=4, optim=OptimConfig(lr=1e-2, warmup_steps=3))
SLOW_STEPS = 100


@dataclass(frozen=True)
class Rows(TensorStruct):
    """x [b 4] and what to say of it [b]."""

    x: Tensor
    y: Tensor

    SHAPES = shapes(y="*b")


class ToyNet(nn.Module):
    """Has no forward, as the real models have none that a loss calls; its blocks are of odd width and one is frozen."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(4, 15)
        block = lambda: nn.Sequential(nn.LayerNorm(15), nn.Linear(15, 21), nn.GELU(), nn.Linear(21, 15))
        self.blocks = nn.ModuleList([block() for _ in range(3)])
        self.blocks[1].requires_grad_(False)
        self.leave = nn.Linear(15, 1)
        self.unused = nn.Linear(2, 2)

    def say(self, x):
        x = self.enter(x)
        for block in self.blocks:
            x = x + block(x)
        return self.leave(x).squeeze(-1)


def toy_net(seed=1):
    torch.manual_seed(seed)
    return ToyNet()


def batch_at(step, rows=8):
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(step))
    return {"rows": Rows(x=x, y=x.sum(-1).sin()), "pair": (x[:, 0], None)}


def toy_train(net, folder, *, batches=batch_at, scale=lambda: 1.0, **changes):
    """Train; `scale` multiplies the loss."""

    def fit(batch):
        rows = batch["rows"]
        assert torch.equal(batch["pair"][0], rows.x[:, 0])
        loss = (net.say(rows.x) - rows.y).square().mean() * scale()
        return loss, {"far": (net.say(rows.x) - rows.y).abs().mean().detach()}

    return train(net, fit, batches=batches, config=replace(CONFIG, **changes), folder=folder)


if __name__ == "__main__":
    torch.set_num_threads(1)

    def slowly(step):
        time.sleep(0.02)
        return batch_at(step)

    toy_train(toy_net(), sys.argv[1], batches=slowly, steps=SLOW_STEPS, log_every=1)

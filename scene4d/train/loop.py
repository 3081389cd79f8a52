"""The training loop: knows only loss(batch) -> scalar, metrics; deterministic, resumable bit for bit."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scene4d.errors import ConfigError, NumericsError
from scene4d.train.checkpoint import assign_weights, load_tensors, save_tensors
from scene4d.train.log import JsonLog, Progress
from scene4d.train.optim import MovingAverage, OptimConfig, adamw, learning_rate

CHECKPOINT_NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class LoopConfig:
    """How long and how often. The budget is counted in steps, never in time, so that a run can be repeated."""

    steps: int = 1000
    """Updates in all."""
    seed: int = 0
    """Seed of batches and of the randomness inside the loss; step s uses (seed, s) alone."""
    log_every: int = 20
    """Steps between lines of the log."""
    checkpoint_every: int = 200
    """Steps between checkpoints; the last step always has one."""
    max_bad_steps: int = 3
    """Steps in a row with a loss or gradient that is not finite which are skipped before the run stops."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """How weights are updated."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError("must be at least 1", field=name, found=getattr(self, name))


def train(
    module: nn.Module,
    loss_fn: Callable[[Any], tuple[Tensor, Mapping[str, Tensor | float]]],
    *,
    batches: Callable[[int], Any],
    config: LoopConfig,
    folder: str | Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a module in place; at the end it holds the averaged weights.

    The batch of step s is `batches(s)`, which must depend on s alone; before `loss_fn` runs, torch's generator is
    seeded from (config.seed, s). So a run that was stopped anywhere continues bit-equal (at a fixed number of threads).

    Args:
        module: what is trained; only its parameters with requires_grad change.
        loss_fn: batch -> (scalar, metrics).
        batches: step -> batch.
        folder: where checkpoint.safetensors and log.jsonl live; a checkpoint there is resumed.
        progress: called after every step.
    Returns:
        steps, seconds (of this call), skipped steps, and the metrics averaged over the last `log_every` steps.
    Raises:
        NumericsError: loss or gradient not finite in more than `max_bad_steps` steps in a row; the last good weights
            are in the checkpoint.
        CheckpointError: the checkpoint in the folder is of another model.
        SystemExit: SIGINT (130) or SIGTERM (143) came; the checkpoint holds the last whole step.
    """
    run = _Run(module, config=config, folder=Path(folder))
    start = time.monotonic()
    with torch.random.fork_rng(devices=_devices(module)), _stop_signals() as stopped:
        module.train()
        for step in range(run.step, config.steps):
            metrics = run.update(step, loss_fn=loss_fn, batch=batches(step))
            if progress is not None:
                progress(step + 1, config.steps, metrics)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps or stopped:
                run.save()
            if stopped and step + 1 < config.steps:
                raise SystemExit(128 + stopped[0])
    if run.average is not None:
        run.average.copy_to(module)
    module.eval()
    return {"steps": config.steps, "seconds": round(time.monotonic() - start, 2), "skipped": run.skipped, **run.means()}


class _Run:
    """Module, optimiser and average at one step, on disk and in memory."""

    def __init__(self, module: nn.Module, *, config: LoopConfig, folder: Path):
        self.module, self.config, self.path = module, config, folder / CHECKPOINT_NAME
        self.step, self.bad, self.skipped = 0, 0, 0
        self.optimizer = adamw(module, config.optim)
        self.names = {id(p): n for n, p in module.named_parameters()}
        self.average = MovingAverage(module, decay=config.optim.ema_decay) if config.optim.ema_decay > 0 else None
        self.recent: list[dict[str, float]] = []
        self.log = JsonLog(folder / "log.jsonl")
        if self.path.exists():
            self._load()
        self.log.keep_until(self.step)

    def update(self, step: int, *, loss_fn: Callable, batch: Any) -> dict[str, float]:
        """One step of the optimiser, or none if the loss or gradient is not finite."""
        torch.manual_seed(self.config.seed * 1_000_003 + step)
        rate = learning_rate(step, self.config.optim, num_steps=self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss, metrics = loss_fn(batch)
        norm = float("nan")
        if math.isfinite(value := float(loss.detach())):
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), self.config.optim.max_grad_norm))
        if not math.isfinite(norm):
            self._skip(step, loss=value)
        else:
            self.optimizer.step()
            self.bad = 0
            if self.average is not None:
                self.average.update(self.module, step=step)
        self.step = step + 1
        line = {"loss": value, **{k: float(v) for k, v in metrics.items()}, "grad_norm": norm}
        self.recent = [*self.recent[1 - self.config.log_every :], line] if self.config.log_every > 1 else [line]
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            self.log.write(step=self.step, lr=rate, **self.means())
        return line

    def means(self) -> dict[str, float]:
        """Metrics averaged over the last steps, those that are finite."""
        keys = self.recent[-1].keys() if self.recent else ()
        finite = {k: [line[k] for line in self.recent if math.isfinite(line.get(k, float("nan")))] for k in keys}
        return {k: sum(v) / len(v) for k, v in finite.items() if v}

    def save(self) -> None:
        """Write the checkpoint."""
        tensors = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        for parameter, state in self.optimizer.state.items():
            for key, value in state.items():
                tensors[f"optim.{key}.{self.names[id(parameter)]}"] = torch.as_tensor(value)
        if self.average is not None:
            tensors |= {f"average.{k}": v for k, v in self.average.values.items()}
        state = {"step": self.step, "skipped": self.skipped, "bad": self.bad, "recent": self.recent}
        save_tensors(self.path, tensors, state=state)

    def _load(self) -> None:
        tensors, state = load_tensors(self.path)
        part = lambda name: {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}
        assign_weights(self.module, part("module."), source=self.path)
        moments = part("optim.")
        for name, parameter in self.module.named_parameters():
            own = {k.split(".", 1)[0]: v for k, v in moments.items() if k.split(".", 1)[1] == name}
            if own:
                self.optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in own.items()}
        if self.average is not None:
            self.average.values = {k: v.to(self.average.values[k]) for k, v in part("average.").items()}
        self.step, self.skipped = state["step"], state["skipped"]
        self.bad, self.recent = state["bad"], state["recent"]

    def _skip(self, step: int, *, loss: float) -> None:
        self.bad, self.skipped = self.bad + 1, self.skipped + 1
        self.log.write(step=step + 1, skipped=True, loss=str(loss))
        if self.bad > self.config.max_bad_steps:
            # No weight was touched since the last finite step, so what is saved here is good.
            self.step, self.bad = step + 1 - self.bad, 0
            self.save()
            raise NumericsError(
                "loss or gradient is not finite",
                file=self.path.parent,
                frame=step,
                found=loss,
                fix="lower optim.lr; the checkpoint holds the last good weights",
            )


def _devices(module: nn.Module) -> list[torch.device]:
    return sorted({p.device for p in module.parameters() if p.device.type == "cuda"}, key=str)


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that fills when SIGINT or SIGTERM comes, so that a step is never cut in half; a second one interrupts."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def handle(number: int, _frame: Any) -> None:
        if caught:
            raise SystemExit(128 + number)
        caught.append(number)

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

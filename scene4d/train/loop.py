"""The training loop: knows only loss(batch) -> scalar, metrics; deterministic, resumable bit for bit, on any ranks."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scene4d.errors import CheckpointError, ConfigError, NumericsError, ResourceError
from scene4d.train import distributed
from scene4d.train.checkpoint import assign_weights, load_tensors, save_tensors
from scene4d.train.device import moved
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
    precision: Literal["float32", "bfloat16"] = "float32"
    """Numbers inside the loss; with bfloat16, what torch's autocast deems safe. Weights and moments stay float32."""
    shard: bool = False
    """With several ranks, split the weights of repeated blocks over them (FSDP2) instead of a copy on each."""
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

    Inside `distributed.torchrun_group()` every rank calls this with the same arguments. Each rank's `loss_fn` gets its
    share of the batch (`distributed.share_of`) and randomness of its own; gradients are averaged, so that a loss that
    is a mean over rows leads to the same weights on any number of ranks. Rank 0 writes; all ranks must see `folder`.

    Args:
        module: what is trained; only its parameters with requires_grad change.
        loss_fn: batch -> (scalar, metrics), the same metrics every time.
        batches: step -> batch, on any device; it is brought to the module's.
        folder: where checkpoint.safetensors and log.jsonl live; a checkpoint there is resumed.
        progress: called after every step, by rank 0.
    Returns:
        steps, seconds (of this call), skipped steps, and the metrics averaged over the last `log_every` steps.
    Raises:
        NumericsError: loss or gradient not finite in more than `max_bad_steps` steps in a row; the last good weights
            are in the checkpoint.
        CheckpointError: the checkpoint in the folder is of another model, or is none.
        ResourceError: memory or disk is full, or another rank died; the last checkpoint is whole.
        SystemExit: SIGINT (130) or SIGTERM (143) came; the checkpoint holds the last whole step.
    """
    run = _Run(module, config=config, folder=Path(folder))
    start, device = time.monotonic(), next(module.parameters()).device
    with torch.random.fork_rng(devices=_devices(module)), _stop_signals() as stopped:
        module.train()
        for step in range(run.step, config.steps):
            with _enough_memory(step, folder=run.path.parent):
                metrics = run.update(step, loss_fn=loss_fn, batch=moved(batches(step), device))
            if progress is not None and distributed.rank() == 0:
                progress(step + 1, config.steps, metrics)
            # A signal to one rank stops all of them, after the same step.
            stop = int(distributed.highest([stopped[0] if stopped else 0])[0])
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps or stop:
                run.save()
            if stop and step + 1 < config.steps:
                raise SystemExit(128 + stop)
    if run.average is not None:
        run.average.copy_to(module)
    module.eval()
    return {"steps": config.steps, "seconds": round(time.monotonic() - start, 2), "skipped": run.skipped, **run.means()}


class _Run:
    """Module, optimiser and average at one step, on disk and in memory."""

    def __init__(self, module: nn.Module, *, config: LoopConfig, folder: Path):
        self.module, self.config, self.path = module, config, folder / CHECKPOINT_NAME
        self.step, self.bad, self.skipped = 0, 0, 0
        # What a part kept from its own training before would count in the norm that gradients are clipped by.
        module.zero_grad(set_to_none=True)
        distributed.copy_from_rank_zero(module)
        if config.shard:
            distributed.shard(module)
        self.optimizer = adamw(module, config.optim)
        self.names = {id(p): n for n, p in module.named_parameters()}
        self.average = MovingAverage(module, decay=config.optim.ema_decay) if config.optim.ema_decay > 0 else None
        self.recent: list[dict[str, float]] = []
        self.log = JsonLog(folder / "log.jsonl")
        if self.path.exists():
            self._load()
        first, last = distributed.highest([-self.step, self.step])
        if -first != last:
            fix = "name a folder on a disk that all ranks share"
            raise ResourceError("is not the same for all ranks", file=self.path, found=f"step {self.step}", fix=fix)
        if distributed.rank() == 0:
            self.log.keep_until(self.step)

    def update(self, step: int, *, loss_fn: Callable, batch: Any) -> dict[str, float]:
        """One step of the optimiser, or none if the loss or gradient is not finite."""
        torch.manual_seed(self.config.seed * 1_000_003 + step + (distributed.rank() << 40))
        rate = learning_rate(step, self.config.optim, num_steps=self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        share, weight = distributed.share_of(batch)
        with self._precision():
            loss, metrics = loss_fn(share)
        loss = loss.float() if loss.dtype == torch.bfloat16 else loss
        # Ranks must skip a step together, so they look at the mean loss before any goes back through it.
        value, *others = distributed.means([float(v) for v in (loss.detach(), *metrics.values())], weight=weight)
        norm = float("nan")
        if math.isfinite(value):
            (loss if weight == 1 else loss * weight).backward()
            distributed.average_gradients(self.module)
            norm = distributed.clip_gradients(self.module, self.config.optim.max_grad_norm)
        if not math.isfinite(norm):
            self._skip(step, loss=value)
        else:
            self.optimizer.step()
            self.bad = 0
            if self.average is not None:
                self.average.update(self.module, step=step)
        self.step = step + 1
        line = {"loss": value, **dict(zip(metrics, others, strict=True)), "grad_norm": norm}
        self.recent = [*self.recent[1 - self.config.log_every :], line] if self.config.log_every > 1 else [line]
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            self._write(step=self.step, lr=rate, **self.means())
        return line

    def means(self) -> dict[str, float]:
        """Metrics averaged over the last steps, those that are finite."""
        keys = self.recent[-1].keys() if self.recent else ()
        finite = {k: [line[k] for line in self.recent if math.isfinite(line.get(k, float("nan")))] for k in keys}
        return {k: sum(v) / len(v) for k, v in finite.items() if v}

    def save(self) -> None:
        """Write the checkpoint; every rank comes back when it is there."""
        tensors = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        for parameter, state in self.optimizer.state.items():
            for key, value in state.items():
                tensors[f"optim.{key}.{self.names[id(parameter)]}"] = torch.as_tensor(value)
        if self.average is not None:
            tensors |= {f"average.{k}": v for k, v in self.average.values.items()}
        state = {"step": self.step, "skipped": self.skipped, "bad": self.bad, "recent": self.recent}
        tensors = {k: distributed.whole(v.detach()) for k, v in tensors.items()}
        if distributed.rank() == 0:
            save_tensors(self.path, tensors, state=state)
        distributed.wait_for_all()

    def _load(self) -> None:
        tensors, state = load_tensors(self.path)
        part = lambda name: {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}
        average = part("average.")
        averaged = self.average.values.keys() if self.average else set()
        if not {"step", "skipped", "bad", "recent"} <= state.keys() or average.keys() != averaged:
            fix = "remove it, or train on with the model and ema_decay that it was made with"
            raise CheckpointError("is no checkpoint of this training", file=self.path, fix=fix)
        assign_weights(self.module, part("module."), source=self.path)
        moments = part("optim.")
        for name, parameter in self.module.named_parameters():
            own = {k.split(".", 1)[0]: v for k, v in moments.items() if k.split(".", 1)[1] == name}
            if own:
                # AdamW counts its steps on the CPU: read from a GPU, each count would make the CPU wait.
                laid_out = {k: v if k == "step" else distributed.laid_out_as(v, parameter) for k, v in own.items()}
                self.optimizer.state[parameter] = laid_out
        if self.average is not None:
            now = self.average.values
            self.average.values = {k: distributed.laid_out_as(v, now[k]).to(now[k].dtype) for k, v in average.items()}
        self.step, self.skipped, self.bad, self.recent = (state[k] for k in ("step", "skipped", "bad", "recent"))

    def _write(self, **values: Any) -> None:
        if distributed.rank() == 0:
            self.log.write(**values)

    def _precision(self) -> contextlib.AbstractContextManager:
        if self.config.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(next(self.module.parameters()).device.type, dtype=torch.bfloat16)

    def _skip(self, step: int, *, loss: float) -> None:
        self.bad, self.skipped = self.bad + 1, self.skipped + 1
        self._write(step=step + 1, skipped=True, loss=str(loss))
        if self.bad > self.config.max_bad_steps:
            # No weight was touched since the last finite step, so what is saved here is good.
            self.step, self.bad = step + 1 - self.bad, 0
            self.save()
            fix = "lower optim.lr; the checkpoint holds the last good weights"
            raise NumericsError(
                "loss or gradient is not finite", file=self.path.parent, frame=step, found=loss, fix=fix
            )


def _devices(module: nn.Module) -> list[torch.device]:
    return sorted({p.device for p in module.parameters() if p.device.type == "cuda"}, key=str)


@contextlib.contextmanager
def _enough_memory(step: int, *, folder: Path) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # The allocator of CPUs has no error type of its own.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        found = str(error).split("\n")[0]
        fix = "use a smaller batch_size, or precision = 'bfloat16'; the last checkpoint is whole"
        raise ResourceError("out of memory", file=folder, frame=step, found=found, fix=fix) from error


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

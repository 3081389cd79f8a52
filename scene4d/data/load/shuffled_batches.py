"""Batches for training in an order that (seed, step) alone decide, read here or ahead by worker processes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scene4d.errors import ConfigError, ResourceError, Scene4DError
from scene4d.types import TensorStruct

T = TypeVar("T")
AHEAD = 2  # batches that each worker reads ahead


class ShuffledBatches(Generic[T]):
    """`batches(step)`: the batch of a training step.

    An epoch has every number once, in a new order each time. A run that was stopped goes on with the very batches that
    it would have had, whatever the number of workers.
    """

    def __init__(
        self,
        read: Callable[[Tensor], T],
        numbers: Sequence[int],
        *,
        batch_size: int,
        seed: int = 0,
        workers: int = 0,
        timeout: float = 45.0,
        max_gigabytes: float = 4.0,
    ):
        """Nothing is read yet.

        Args:
            read: window numbers [b] int64 -> batch.
            numbers: those to draw from.
            workers: processes that read ahead; 0 reads in this process.
            timeout: s after which a worker that gives nothing is taken to be stuck.
            max_gigabytes: most memory of the batches read ahead.
        Raises:
            ConfigError: there is nothing to draw from, or a number that cannot be.
        """
        counts = (("numbers", len(numbers), 1), ("batch_size", batch_size, 1), ("workers", workers, 0))
        for name, value, least in counts:
            if value < least:
                raise ConfigError("is out of range", field=name, found=value, expected=f">= {least}")
        self.read, self.numbers = read, torch.as_tensor(numbers, dtype=torch.int64)
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.timeout, self.max_gigabytes = timeout, max_gigabytes
        self._ahead: Iterator[Any] | None = None
        self._next = 0

    def __call__(self, step: int) -> T:
        """The batch of a step; steps in a row are what workers are fast at.

        Raises:
            ResourceError: batches ahead take too much memory, or a worker died or is stuck. What `read` raises.
        """
        if self.workers and self._ahead is not None and step == self._next:
            batch = self._taken()
        else:
            batch = self.read(self.numbers_of(step))
            if self.workers:
                self._start(step + 1, batch)
        self._next = step + 1
        return batch

    def numbers_of(self, step: int) -> Tensor:
        """The window numbers [b] of a step."""
        drawn = draw_numbers(len(self.numbers), num=self.batch_size, step=step, seed=self.seed)
        return self.numbers[drawn]

    def close(self) -> None:
        """Stop the workers."""
        self._ahead = None

    def _start(self, step: int, batch: T) -> None:
        """Let the workers read from `step` on; `batch` shows how large one is."""
        size = self.workers * AHEAD * _num_bytes(batch) / 1e9
        if size > self.max_gigabytes:
            problem, expected = "batches read ahead would take too much memory", f"<= {self.max_gigabytes:g}"
            fix = "lower batch_size, workers, or the windows' size, context or horizon"
            raise ResourceError(problem, field="max_gigabytes", found=f"{size:.3g} GB", expected=expected, fix=fix)
        loader = DataLoader(
            _Steps(self),
            batch_size=None,
            sampler=itertools.count(step),  # pyright: ignore[reportArgumentType] any iterable serves; it needs no length
            num_workers=self.workers,
            prefetch_factor=AHEAD,
            collate_fn=_unchanged,
            timeout=self.timeout,
            # A forked child cannot use CUDA once its parent has.
            multiprocessing_context="spawn" if torch.cuda.is_initialized() else "fork",
        )
        self._ahead = iter(loader)

    def _taken(self) -> T:
        assert self._ahead is not None
        try:
            found = next(self._ahead)
        except RuntimeError as error:  # which is how torch reports a worker that died or is stuck
            self.close()
            fix = "free memory (lower batch_size or workers), or set workers = 0 to see it here"
            numbers = self.numbers_of(self._next).tolist()
            found = f"{str(error).splitlines()[0][:160]}, waiting for the windows {numbers}"
            raise ResourceError("a worker process failed", field="workers", found=found, fix=fix) from error
        if isinstance(found, Scene4DError):
            self.close()
            raise found
        return found


@functools.lru_cache(maxsize=4)
def _order(count: int, *, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def draw_numbers(count: int, *, num: int, step: int, seed: int) -> Tensor:
    """`num` of the numbers 0..count-1 for a training step: a new order every epoch; (seed, step) alone decide."""
    places = [divmod(place, count) for place in range(step * num, (step + 1) * num)]
    return torch.stack([_order(count, seed=seed * 100_003 + epoch)[index] for epoch, index in places])


class _Steps(Dataset):
    """What runs in a worker: the batch of a step, or the error that reading it raised."""

    def __init__(self, batches: ShuffledBatches):
        self.read, self.numbers_of = batches.read, batches.numbers_of

    def __getitem__(self, step: int) -> Any:
        try:
            return self.read(self.numbers_of(step))
        except Scene4DError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch


def _num_bytes(batch: Any) -> int:
    if isinstance(batch, tuple | list):
        return sum(_num_bytes(part) for part in batch)
    tensors = batch.tensors() if isinstance(batch, TensorStruct) else [batch]
    return sum(x.nbytes for x in tensors if isinstance(x, Tensor))

"""Batches for training: in an order that only seed and epoch decide, read ahead by workers, resumed to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scene4d.data.load.clip import Clip
from scene4d.data.load.shards import epoch_order, num_batches, share_of
from scene4d.data.load.window_set import WindowSet
from scene4d.data.load.workers import WorkerPool
from scene4d.errors import CheckpointError, ConfigError, ResourceError


@dataclass(frozen=True)
class LoaderConfig:
    """How windows become batches."""

    batch_size: int = 8
    """Windows in a batch, on each rank."""
    seed: int = 0
    """Seed of the order."""
    shuffle: bool = True
    """A new order every epoch, or always the windows' own."""
    drop_last: bool = False
    """Leave out the last windows of an epoch, so that every rank has equally many whole batches."""
    workers: int = 0
    """Processes that read ahead; 0 reads here. The batches are the same."""
    prefetch: int = 2
    """Batches that each worker reads ahead."""
    start_method: Literal["auto", "fork", "spawn", "forkserver"] = "auto"
    """How workers start; auto forks, unless CUDA is in use. Spawned ones need `if __name__ == "__main__":`."""
    timeout: float = 45.0
    """Seconds without a batch after which workers are said to hang."""
    max_gigabytes: float = 4.0
    """Most memory that the pictures of all batches read ahead may take."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("workers", 0), ("prefetch", 1)):
            if getattr(self, name) < least:
                raise ConfigError("is out of range", field=name, found=getattr(self, name), expected=f">= {least}")
        for name in ("timeout", "max_gigabytes"):
            if not getattr(self, name) > 0:
                raise ConfigError("is out of range", field=name, found=getattr(self, name), expected="> 0")
        known = ("auto", "fork", "spawn", "forkserver")
        if self.start_method not in known:
            raise ConfigError(
                "is none of the choices", field="start_method", found=self.start_method, expected=list(known)
            )


class WindowLoader:
    """Batches `Clip` [b] of a `WindowSet`, for one of several ranks.

    Iterating gives the rest of the current epoch; the next iteration the next epoch. `loader(step)` gives the batch of
    a training step, whatever was asked before, so it is what `scene4d.train.loop.train` takes as `batches`. Both read
    ahead. The ranks together see every window once an epoch.
    """

    def __init__(self, windows: WindowSet, config: LoaderConfig = LoaderConfig(), *, rank: int = 0, world: int = 1):
        """Check that it fits; nothing is read.

        Raises:
            ConfigError: actions would go in unscaled though `scaling` says how; ranks or sizes that cannot be.
            ResourceError: what is read ahead would not fit in `max_gigabytes`.
        """
        if not 0 <= rank < world:
            raise ConfigError("is no rank", field="rank", found=rank, expected=f"0..{world - 1}")
        if windows.normaliser is None and windows.config.scaling != "none":
            fix = 'call windows.normalised("statistics.json"), or set scaling = "none"'
            raise ConfigError("actions would go in unscaled", field="scaling", found=windows.config.scaling, fix=fix)
        self.windows, self.config, self.rank, self.world = windows, config, rank, world
        batches = config.workers * config.prefetch + 1
        gigabytes = batches * config.batch_size * windows.clip_bytes / 1e9
        if gigabytes > config.max_gigabytes:
            raise ResourceError(
                f"{batches} batches read ahead would take too much memory",
                field="max_gigabytes",
                found=f"{gigabytes:.2f} GB",
                expected=f"<= {config.max_gigabytes:g}",
                fix="lower batch_size, size, context + horizon, workers or prefetch, or set future_pictures = false",
            )
        self._count = len(windows)
        if not len(self):
            found = f"{self._count} windows for {world} ranks of {config.batch_size}"
            raise ConfigError("an epoch has no batch", field="batch_size", found=found, fix="lower batch_size or world")
        self._epoch, self._place = 0, 0
        self._pool: WorkerPool | None = None
        self._ahead = (-1, -1)

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank."""
        config, ranks = self.config, {"rank": self.rank, "world": self.world}
        return num_batches(self._count, num=config.batch_size, drop_last=config.drop_last, **ranks)

    def __iter__(self) -> Iterator[Clip]:
        epoch = self._epoch
        while self._epoch == epoch and self._take():
            yield self._next()

    def __call__(self, step: int) -> Clip:
        """The batch of a training step: `len(self)` steps make an epoch.

        Raises:
            What the readers raise; DataFormatError and ResourceError for workers that fail, see `WorkerPool`.
        """
        self._epoch, batch = divmod(step, len(self))
        self._place = batch * self.config.batch_size * self.world
        return self._next()

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, JSON-ready: the batches given so far are done."""
        config = self.config
        return {
            "epoch": self._epoch,
            "place": self._place,
            "seed": config.seed,
            "shuffle": config.shuffle,
            "windows": self.windows.fingerprint(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; the batches to come are those that would have come, to the bit.

        With another batch size or number of ranks every window of the epoch is still seen once.

        Raises:
            CheckpointError: the state is of other windows, or of another order.
        """
        mine = self.state_dict()
        wrong = [key for key in ("windows", "seed", "shuffle") if state.get(key) != mine[key]]
        whole = all(isinstance(state.get(key), int) and state[key] >= 0 for key in ("epoch", "place"))
        if wrong or not whole:
            raise CheckpointError(
                "the state is of another loader",
                field=", ".join(wrong) or "epoch, place",
                found={key: state.get(key) for key in wrong or ("epoch", "place")},
                expected={key: mine[key] for key in wrong} or "whole numbers",
                fix="load the same recordings with the same configuration and seed, or start the epoch again",
            )
        self._epoch, self._place = state["epoch"], state["place"]
        if not self._take():
            self._epoch, self._place = self._epoch + 1, 0

    def close(self) -> None:
        """Stop the workers; they start again when a batch is asked for."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _next(self) -> Clip:
        if self.config.workers == 0:
            batch = self.windows.batch(self._take(), epoch=self._epoch)
        else:
            if self._pool is None or self._ahead != (self._epoch, self._place):
                self.close()
                self._pool = WorkerPool(
                    self.windows,
                    self._jobs(self._epoch, self._place),
                    workers=self.config.workers,
                    prefetch=self.config.prefetch,
                    start_method=self.config.start_method,
                    timeout=self.config.timeout,
                )
            try:
                batch = self._pool.take()
            except BaseException:
                self.close()
                raise
        self._epoch, self._place = self._after(self._epoch, self._place)
        self._ahead = (self._epoch, self._place)
        return batch

    def _take(self) -> list[int]:
        return self._share(self._epoch, self._place)

    def _share(self, epoch: int, place: int) -> list[int]:
        """This rank's windows of the batch at a place of an epoch; none at its end."""
        config = self.config
        if config.drop_last and place + config.batch_size * self.world > self._count:
            return []
        order = epoch_order(self._count, seed=config.seed, epoch=epoch, shuffle=config.shuffle)
        return share_of(order, place=place, num=config.batch_size, rank=self.rank, world=self.world)

    def _after(self, epoch: int, place: int) -> tuple[int, int]:
        place += self.config.batch_size * self.world
        return (epoch, place) if self._share(epoch, place) else (epoch + 1, 0)

    def _jobs(self, epoch: int, place: int) -> Iterator[tuple[int, list[int]]]:
        """(epoch, windows) of every batch from here on, without end."""
        while True:
            yield epoch, self._share(epoch, place)
            epoch, place = self._after(epoch, place)

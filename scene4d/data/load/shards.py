"""Which samples, in which order, on which rank: functions of (seed, epoch, place) alone."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.types import Recording


def mixed_seed(*numbers: int | str) -> int:
    """A 63-bit seed of some numbers, unrelated for neighbouring ones."""
    digest = hashlib.blake2b("|".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@functools.lru_cache(maxsize=4)
def epoch_order(count: int, *, seed: int, epoch: int, shuffle: bool = True) -> Tensor:
    """The samples of an epoch [count] int64, each once."""
    if not shuffle:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(mixed_seed("order", seed, epoch)))


def share_of(order: Tensor, *, place: int, num: int, rank: int, world: int) -> list[int]:
    """What rank `rank` of `world` takes of the `num * world` samples from `place` on; together they take each once."""
    return order[place : place + num * world][rank::world].tolist()


def num_batches(count: int, *, num: int, rank: int, world: int, drop_last: bool) -> int:
    """Batches of an epoch of `count` samples on one rank; with `drop_last` whole ones, equally many on every rank."""
    whole, rest = divmod(count, num * world)
    return whole if drop_last else whole + (rest > rank)


def names_of(recordings: Sequence[Recording]) -> list[str]:
    """A name for each recording that does not change when its folder moves: the path's last part and a number."""
    seen: dict[str, int] = {}
    names = []
    for recording in recordings:
        path = str(recording.path).rstrip("/")
        seen[path] = seen.get(path, -1) + 1
        episode = recording.info.get("episode_index", seen[path])
        names.append(f"{path.rsplit('/', 1)[-1]}#{episode}")
    return names


def split_recordings(
    recordings: Sequence[Recording], *, held_out: float, seed: int = 0
) -> tuple[list[Recording], list[Recording]]:
    """Recordings to train on and to hold out; each is drawn by its name, so adding some moves none to the other side.

    Args:
        held_out: share that is held out, about; at least one recording where it is above 0, never all of them.
    Raises:
        ConfigError: the share is impossible, or there are fewer than two recordings to split.
    """
    if not 0 <= held_out < 1 or (held_out and len(recordings) < 2):
        found = f"{held_out} of {len(recordings)} recordings"
        raise ConfigError(
            "cannot be held out", field="held_out", found=found, expected="0 <= held_out < 1, 2 recordings"
        )
    draws = [mixed_seed("split", seed, name) / 2**63 for name in names_of(recordings)]
    out = {k for k, draw in enumerate(draws) if draw < held_out}
    if held_out and not out:
        out = {min(range(len(draws)), key=draws.__getitem__)}
    if len(out) == len(recordings):
        out.remove(max(range(len(draws)), key=draws.__getitem__))
    return [r for k, r in enumerate(recordings) if k not in out], [recordings[k] for k in sorted(out)]

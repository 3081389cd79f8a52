"""The loader: every window once, in an order that seed and epoch decide, resumed to the bit, with any workers."""

from collections import Counter

import pytest
import torch
from loader_recordings import recording
from torch import nn

from scene4d.data.load.augment import AugmentConfig
from scene4d.data.load.clip import equal_clips
from scene4d.data.load.loader import LoaderConfig, WindowLoader
from scene4d.data.load.window_config import WindowConfig
from scene4d.data.load.window_set import WindowSet
from scene4d.errors import CheckpointError, ConfigError, ResourceError
from scene4d.train.loop import LoopConfig, train

AUGMENT = AugmentConfig(brightness=0.2, shift=0.1)


@pytest.fixture(scope="module")
def windows():
    sets = [recording(f"r{k}", num=6 + k, cameras=("left",)) for k in range(4)]
    return WindowSet(sets, WindowConfig(horizon=2, size=(12, 8), scaling="none", augment=AUGMENT))  # 22 windows


def loader(windows, *, rank=0, world=1, **settings):
    return WindowLoader(windows, LoaderConfig(**{"batch_size": 4, "seed": 3, **settings}), rank=rank, world=world)


def names(clips):
    return [(int(r), int(s)) for clip in clips for r, s in zip(clip.recording, clip.step, strict=True)]


def equal(one, other):
    return len(one) == len(other) and all(equal_clips(a, b) for a, b in zip(one, other, strict=True))


def test_an_epoch_has_every_window_once_and_the_next_another_order(windows):
    mine = loader(windows)
    first, second = list(mine), list(mine)
    assert len(first) == len(mine) == 6 and len(first[-1].task) == 2
    assert sorted(names(first)) == sorted(names(second)) and len(set(names(first))) == len(windows) == 22
    assert names(first) != names(second) and names(first) != sorted(names(first))
    assert names(list(loader(windows, seed=4))) != names(first)
    assert names(list(loader(windows, shuffle=False))) == sorted(names(first))


@pytest.mark.parametrize("world, batch_size", [(2, 4), (3, 2), (5, 3), (4, 1)])
def test_ranks_share_an_epoch(windows, world, batch_size):
    settings = {"world": world, "batch_size": batch_size}
    parts = [loader(windows, rank=r, **settings) for r in range(world)]
    clips = [list(part) for part in parts]
    assert Counter(n for c in clips for n in names(c)) == Counter(set(names(list(loader(windows)))))
    assert [len(c) for c in clips] == [len(part) for part in parts]
    whole = [loader(windows, rank=r, drop_last=True, **settings) for r in range(world)]
    dropped = [names(list(part)) for part in whole]
    assert len({len(d) for d in dropped}) == 1 and max(Counter(n for d in dropped for n in d).values()) == 1
    assert all(len(part) == 22 // (world * batch_size) for part in whole)


def test_workers_change_nothing_and_each_window_comes_once(windows):
    here = loader(windows)
    expected = list(here) + list(here)
    for workers, prefetch in ((1, 1), (2, 3)):
        mine = loader(windows, workers=workers, prefetch=prefetch, start_method="fork")
        assert equal(list(mine) + list(mine), expected)
        mine.close()
    assert len(set(names(expected[:6]))) == 22


def test_spawned_workers_change_nothing(windows):
    """FAULTS row 64: the other start method."""
    mine = loader(windows, workers=1, start_method="spawn")
    found = [mine(step) for step in range(3)]
    mine.close()
    assert equal(found, [loader(windows)(step) for step in range(3)])


@pytest.mark.parametrize("before, after", [(0, 0), (2, 0), (0, 2)])
def test_resuming_in_the_middle_of_an_epoch_is_as_if_it_had_not_stopped(windows, before, after):
    whole = loader(windows)
    expected = list(whole) + list(whole)
    first = loader(windows, workers=before)
    steps = iter(first)
    done = [next(steps) for _ in range(4)]
    state = first.state_dict()
    first.close()
    second = loader(windows, workers=after)
    second.load_state_dict(state)
    rest = list(second) + list(second)
    second.close()
    assert equal(done + rest, expected)


@pytest.mark.parametrize("stop", range(7))
def test_resuming_with_other_ranks_still_sees_every_window_once(windows, stop):
    first = [loader(windows, rank=r, world=2, batch_size=2) for r in range(2)]
    done = []
    for mine in first:
        steps = iter(mine)
        done += [clip for clip in (next(steps, None) for _ in range(stop)) if clip is not None]
    state = first[0].state_dict()
    rest = []
    for r in range(3):
        other = loader(windows, rank=r, world=3, batch_size=1)
        other.load_state_dict(state)
        # A rank for which nothing is left of this epoch stands at the next.
        rest += list(other) if other.state_dict()["epoch"] == 0 else []
    assert Counter(names(done + rest)) == Counter(set(names(list(loader(windows)))))


def test_steps_are_random_access(windows):
    mine = loader(windows)
    epochs = list(mine) + list(mine)
    other = loader(windows)
    assert all(equal_clips(other(step), epochs[step]) for step in (7, 2, 3, 11, 0))


def test_a_state_of_other_windows_or_another_order_is_refused(windows):
    mine = loader(windows)
    state = mine.state_dict()
    for wrong in ({"seed": 9}, {"windows": "0"}, {"place": -1}, {"epoch": "0"}, {"shuffle": False}):
        with pytest.raises(CheckpointError, match="another loader") as caught:
            mine.load_state_dict(state | wrong)
        assert next(iter(wrong)) in caught.value.field
    fewer = WindowSet(windows.recordings[:3], windows.config)
    with pytest.raises(CheckpointError, match="windows"):
        loader(fewer).load_state_dict(state)
    renamed = WindowSet([recording(f"r{k}", num=6 + k, cameras=("left",)) for k in range(4)], windows.config)
    loader(renamed).load_state_dict(state)


def test_what_cannot_be_is_refused(windows):
    for settings, field in (
        ({"batch_size": 0}, "batch_size"),
        ({"timeout": 0}, "timeout"),
        ({"prefetch": 0}, "prefetch"),
    ):
        with pytest.raises(ConfigError) as caught:
            loader(windows, **settings)
        assert caught.value.field == field
    with pytest.raises(ConfigError, match="rank"):
        loader(windows, rank=2, world=2)
    with pytest.raises(ConfigError, match="no batch"):
        loader(windows, batch_size=50, drop_last=True)
    with pytest.raises(ResourceError, match="too much memory") as caught:
        loader(windows, max_gigabytes=1e-4, workers=2)
    assert caught.value.exit_code == 4 and "batch_size" in caught.value.fix


class Predictor(nn.Module):
    """The change of the state from the pictures."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12 * 8 * 3, 3)

    def loss(self, clip):
        now = clip.frames.rgb[:, 0, 0].flatten(1)
        loss = (self.layer(now) - clip.actions[:, 0]).square().mean()
        return loss, {}


def test_training_that_was_stopped_goes_on_to_the_same_weights(windows, tmp_path):
    def run(folder, steps):
        torch.manual_seed(1)
        model = Predictor()
        config = LoopConfig(steps=steps, log_every=3, checkpoint_every=4)
        train(model, model.loss, batches=loader(windows), config=config, folder=tmp_path / folder)
        return model.layer.weight.detach()

    whole = run("whole", 9)
    torch.manual_seed(1)
    model = Predictor()
    batches = loader(windows)

    def killed(step):
        if step == 6:
            raise KeyboardInterrupt
        return batches(step)

    config = LoopConfig(steps=9, log_every=3, checkpoint_every=4)
    with pytest.raises(KeyboardInterrupt):
        train(model, model.loss, batches=killed, config=config, folder=tmp_path / "cut")
    assert torch.equal(run("cut", 9), whole) and not torch.equal(run("other", 8), whole)

"""Batches: every number once an epoch, an order that seed and step decide, the same with workers and after a stop."""

import pytest
import torch
from loader_recordings import recording
from torch import nn

from scene4d.data.load.shuffled_batches import ShuffledBatches, draw_numbers
from scene4d.data.load.window_set import WindowConfig, WindowSet
from scene4d.errors import ConfigError, ResourceError
from scene4d.train.loop import LoopConfig, train


@pytest.fixture(scope="module")
def windows():
    sets = [recording(f"r{k}", num=6 + k, cameras=("left",)) for k in range(3)]
    return WindowSet(sets, WindowConfig(horizon=2, size=(12, 8)))


def batches(windows, **settings):
    return ShuffledBatches(windows.batch, range(len(windows)), **{"batch_size": 4, "seed": 3, **settings})


def test_every_number_is_drawn_once_an_epoch():
    drawn = torch.cat([draw_numbers(10, num=4, step=s, seed=3) for s in range(5)])
    assert sorted(drawn[:10].tolist()) == sorted(drawn[10:].tolist()) == list(range(10))
    assert torch.equal(draw_numbers(10, num=4, step=3, seed=3), drawn[12:16])
    assert not torch.equal(drawn[:10], drawn[10:])
    assert not torch.equal(draw_numbers(10, num=10, step=0, seed=4), drawn[:10])
    mine = ShuffledBatches(lambda numbers: numbers, [30, 50, 70], batch_size=3, seed=1)
    assert sorted(mine(0).tolist()) == [30, 50, 70]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(windows, workers):
    here, ahead = batches(windows), batches(windows, workers=workers)
    for step in (0, 1, 2, 3, 8, 9, 2):  # steps in a row, ahead and back
        one, two = here(step), ahead(step)
        assert torch.equal(one.frames.rgb, two.frames.rgb) and torch.equal(one.actions, two.actions)
        assert torch.equal(one.recording, two.recording)
    ahead.close()


def test_spawned_workers_change_nothing(windows, monkeypatch):
    """FAULTS row 64: a parent that uses CUDA must not be forked."""
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    here, ahead = batches(windows), batches(windows, workers=1)
    assert all(torch.equal(here(step).frames.rgb, ahead(step).frames.rgb) for step in range(3))
    ahead.close()


def test_what_cannot_be_is_refused(windows):
    for settings, field in (({"batch_size": 0}, "batch_size"), ({"workers": -1}, "workers")):
        with pytest.raises(ConfigError) as caught:
            batches(windows, **settings)
        assert caught.value.field == field
    with pytest.raises(ConfigError, match="numbers"):
        ShuffledBatches(windows.batch, [], batch_size=1)
    with pytest.raises(ResourceError, match="too much memory") as caught:
        batches(windows, workers=2, max_gigabytes=1e-6)(0)
    assert caught.value.exit_code == 4 and "batch_size" in caught.value.fix


class Predictor(nn.Module):
    """The next action from the picture."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12 * 8 * 3, 3)

    def loss(self, window):
        return (self.layer(window.frames.rgb[:, 0, 0].flatten(1)) - window.actions[:, 0]).square().mean(), {}


def test_training_that_was_stopped_goes_on_to_the_same_weights(windows, tmp_path):
    def run(folder, batches, *, steps=9):
        torch.manual_seed(1)
        model = Predictor()
        config = LoopConfig(steps=steps, log_every=3, checkpoint_every=4)
        train(model, model.loss, batches=batches, config=config, folder=tmp_path / folder)
        return model.layer.weight.detach()

    whole, mine = run("whole", batches(windows)), batches(windows)

    def killed(step):
        if step == 6:
            raise KeyboardInterrupt
        return mine(step)

    with pytest.raises(KeyboardInterrupt):
        run("cut", killed)
    ahead = batches(windows, workers=1)
    assert torch.equal(run("cut", ahead), whole) and not torch.equal(run("other", mine, steps=8), whole)
    ahead.close()

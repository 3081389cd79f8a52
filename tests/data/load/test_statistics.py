"""Statistics are those of the recorded numbers, bring them to one scale and back, and come back from their file."""

import numpy as np
import pytest
import torch
from loader_recordings import path_of, recording

from scene4d.data.load.statistics import load_statistics, save_statistics, window_statistics
from scene4d.data.load.window_set import WindowConfig, WindowSet
from scene4d.errors import ConfigError, DataFormatError


def windows(*recordings, **settings):
    return WindowSet(recordings, WindowConfig(horizon=2, **settings))


def test_they_are_those_of_the_training_recordings_alone():
    one, two, three = recording("one", num=20), recording("two", num=30, shift=1.0), recording("three", shift=50.0)
    mine = windows(one, two, three)
    stats = window_statistics(mine, [n for group in mine.groups()[:2] for n in group])["proprio"]
    truth = np.concatenate([path_of(np.arange(20) / 10), path_of(np.arange(30) / 10) + 1.0])
    for name, expected in (
        ("mean", truth.mean(0)),
        ("std", truth.std(0)),
        ("min", truth.min(0)),
        ("max", truth.max(0)),
    ):
        assert np.allclose(getattr(stats, name), expected, atol=1e-6), name
    assert np.allclose(stats.q99, np.quantile(truth, 0.99, axis=0), atol=1e-6)
    scaled = stats.normalised(torch.from_numpy(truth).float())
    assert scaled.mean(0).abs().max() < 1e-5 and (scaled.std(0, correction=0) - 1).abs().max() < 1e-5
    assert np.allclose(stats.restored(scaled), truth, atol=1e-5)


def test_a_column_that_stands_still_is_only_shifted():
    """FAULTS row 49: noise must not be blown up."""
    given = recording(num=20)
    given.table(()).proprio[:, 1] = 7.0
    stats = window_statistics(windows(given), [0])["proprio"]
    assert stats.scale[1] == 1 and torch.equal(stats.normalised(torch.tensor([0.0, 7.0, 0.0]))[1], torch.tensor(0.0))


def test_columns_of_several_robots_each_have_their_own(tmp_path):
    mine = windows(recording("one"), recording("two", kind="speeds"), union=True)
    stats = window_statistics(mine, range(len(mine)))
    assert [c.name for c in stats["actions"].columns] == ["dx", "dy", "dz", "speed_x", "speed_y", "speed_z"]
    assert stats["actions"].std.isfinite().all()
    save_statistics(tmp_path / "s.json", stats)
    again = load_statistics(tmp_path / "s.json")
    for name in ("actions", "proprio"):
        assert again[name].columns == stats[name].columns and torch.equal(again[name].q01, stats[name].q01)


def test_what_holds_no_statistics_is_refused(tmp_path):
    (tmp_path / "s.json").write_text('{"actions": [{"name": "x"}]}')
    with pytest.raises(DataFormatError, match="no statistics"):
        load_statistics(tmp_path / "s.json")
    with pytest.raises(DataFormatError, match="missing"):
        load_statistics(tmp_path / "t.json")
    given = recording()
    given.table(()).proprio[:, 2] = np.nan
    with pytest.raises(ConfigError, match="no finite number"):
        window_statistics(windows(given), [0])

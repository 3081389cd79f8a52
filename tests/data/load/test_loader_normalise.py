"""Normalisation: statistics of the training recordings alone, applied once, undone exactly, refused where unfit."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loader_recordings import recording

from scene4d.data.load.loader import WindowLoader
from scene4d.data.load.normalise import MOMENTS, Normaliser, column_stats, load_statistics
from scene4d.data.load.window_config import WindowConfig
from scene4d.data.load.window_set import WindowSet
from scene4d.errors import ConfigError, DataFormatError, VersionError
from scene4d.robot.columns import Column

XYZ = tuple(Column(axis, "m", "world") for axis in "xyz")
CONFIG = {"size": (8, 6), "context": 1, "horizon": 3}


def windows(*recordings, **changes):
    return WindowSet(list(recordings), WindowConfig(**{**CONFIG, **changes}))


@pytest.fixture
def training():
    return [recording(f"train{k}", num=40, cameras=("left",), depth=False, shift=0.01 * k) for k in range(3)]


def as_parts(values, cuts):
    bounds = [0, *sorted(cuts), len(values)]
    parts = [values[a:b] for a, b in itertools.pairwise(bounds)]
    return [(p, np.ones(p.shape, bool)) for p in parts]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.lists(st.integers(0, 60), max_size=6), st.integers(0, 2**32 - 1))
def test_statistics_of_parts_are_those_of_the_whole(rows, cuts, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, 3)) * [1e-3, 1, 1e4] + [5, 0, 1e6]
    stats = column_stats(as_parts(values, [c % (rows + 1) for c in cuts]), XYZ)
    expected = [values.mean(0), values.std(0), values.min(0), values.max(0)]
    for name, wanted in zip(MOMENTS, expected, strict=False):
        assert np.allclose(getattr(stats, name), wanted, rtol=1e-7, atol=1e-12), name
    assert np.allclose([stats.q01, stats.q99], np.quantile(values, [0.01, 0.99], axis=0), rtol=1e-5, atol=1e-6)
    assert (stats.count == rows).all()


def test_what_is_not_valid_does_not_count():
    values = np.array([[1.0, 2, 3], [3, 4, 5], [99, 99, np.nan]])
    valid = np.array([[1, 1, 1], [1, 1, 1], [0, 0, 0]], bool)
    stats = column_stats([(values, valid)], XYZ)
    assert stats.mean.tolist() == [2, 3, 4] and stats.max.tolist() == [3, 4, 5] and stats.count.tolist() == [2, 2, 2]
    with pytest.raises(ConfigError, match="not finite"):
        column_stats([(values, np.ones_like(valid))], XYZ)
    with pytest.raises(ConfigError, match="fewer than two"):
        column_stats([(values[:1], valid[:1])], XYZ)


@pytest.mark.parametrize("scaling", ["gauss", "range", "quantile"])
def test_normalised_windows_are_to_scale_and_come_back_exactly(training, tmp_path, scaling):
    plain = windows(*training, stride=4)
    ws = windows(*training, stride=4, scaling=scaling).normalised(tmp_path / "statistics.json")
    rows = []
    for i in range(len(ws)):
        clip, raw = ws[i], plain[i]
        assert clip.scaled and not raw.scaled
        back = ws.normaliser.recorded(clip)
        assert torch.allclose(back.actions, raw.actions, atol=1e-6)
        assert torch.allclose(back.proprio, raw.proprio, atol=1e-6)
        assert torch.allclose(ws.normaliser.recorded_actions(clip.actions), raw.actions, atol=1e-6)
        rows.append(clip.proprio)
    values = torch.cat(rows)
    if scaling == "gauss":
        assert values.mean(0).abs().max() < 0.1 and (values.std(0) - 1).abs().max() < 0.1
    else:
        assert values.abs().max() < (1.0001 if scaling == "range" else 1.1) and values.abs().max() > 0.9


def test_padding_stays_zero(training, tmp_path):
    ws = windows(*training, context=3, edges="over").normalised(tmp_path / "statistics.json")
    clip = ws[0]
    assert not clip.valid[:2].any() and not clip.proprio[:2].any() and not clip.actions[:2].any()


def test_statistics_are_made_once_of_the_training_recordings_and_read_after(training, tmp_path):
    file = tmp_path / "run/statistics.json"
    held_out = [recording("held", num=40, cameras=("left",), depth=False, shift=0.05)]
    ws = windows(*training).normalised(file)
    text = file.read_text()
    kept = windows(*held_out).normalised(file)
    assert file.read_text() == text and "held" not in text
    assert kept.statistics.recordings == ("train0#0", "train1#0", "train2#0")
    assert np.array_equal(kept.statistics.proprio.mean, ws.statistics.proprio.mean), "JSON keeps every digit"
    value = json.loads(text)
    assert value["actions"][0]["name"] == "dx" and value["actions"][0]["unit"] == "m" and value["rate"] == 10.0
    assert value["proprio"][2]["frame"] == "world" and len(list(file.parent.iterdir())) == 1


def test_statistics_are_of_the_actions_at_the_rate_they_are_used_at(training, tmp_path):
    """A third of the rate makes deltas three times as long."""
    fast, slow = (windows(*training, rate=r).compute_statistics().actions for r in (10.0, 10 / 3))
    assert np.allclose(slow.mean[2], 3 * fast.mean[2], rtol=5e-3)
    file = tmp_path / "statistics.json"
    windows(*training).normalised(file)
    with pytest.raises(ConfigError, match="another rate") as caught:
        windows(*training, rate=5.0).normalised(file)
    assert caught.value.file == str(file) and caught.value.field == "rate"


def test_a_column_that_stands_still_is_refused_until_it_is_named(training, tmp_path):
    """FAULTS row 49: inert."""
    for r in training:
        r.load.kept.proprio[:, 1] = 0.25
    file = tmp_path / "statistics.json"
    with pytest.raises(ConfigError, match="do not move") as caught:
        windows(*training).normalised(file)
    assert caught.value.field == "proprio" and caught.value.found == "y" and 'inert = ["y"]' in caught.value.fix
    assert not file.exists(), "nothing is saved that cannot be used"
    clip = windows(*training, inert=("[xy]",)).normalised(file)[0]
    assert clip.proprio[:, 1].abs().max() < 1e-6 and clip.proprio[:, 0].abs().max() > 0.1
    with pytest.raises(ConfigError, match="do not move"):
        windows(*training).normalised(file)


def test_other_columns_are_refused_with_the_difference(training, tmp_path):
    """FAULTS row 49: dimension mismatch."""
    file = tmp_path / "statistics.json"
    windows(*training).normalised(file)
    with pytest.raises(ConfigError, match=r"without statistics: speed_x.*not in the recordings: dx") as caught:
        windows(recording("other", num=40, kind="speeds")).normalised(file)
    assert (caught.value.file, caught.value.field, caught.value.exit_code) == (str(file), "actions", 2)
    with pytest.raises(ConfigError, match=r"expected 0 columns"):
        windows(recording("none", num=40, kind="nothing")).normalised(file)


def normalise_in_place(recordings):
    """What a user does who does not know that the loader normalises."""
    rows = np.concatenate([r.load.kept.proprio for r in recordings])
    moves = np.concatenate([r.load.kept.actions for r in recordings])
    for r in recordings:
        r.load.kept.proprio[:] = (r.load.kept.proprio - rows.mean(0)) / rows.std(0)
        r.load.kept.actions[:] = (r.load.kept.actions - moves.mean(0)) / moves.std(0)


def test_data_that_are_normalised_already_are_refused(training, tmp_path):
    """FAULTS row 49: applied twice, when the statistics are made and when they are used."""
    file = tmp_path / "statistics.json"
    windows(*training).normalised(file)
    normalise_in_place(training)
    with pytest.raises(ConfigError, match="second time") as caught:
        windows(*training).normalised(file)
    assert caught.value.file == str(file) and caught.value.field == "actions"
    with pytest.raises(ConfigError, match=r"look normalised already.*values in m"):
        windows(*training).normalised(tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()


def test_a_clip_is_normalised_once(training, tmp_path):
    ws = windows(*training).normalised(tmp_path / "statistics.json")
    with pytest.raises(ConfigError, match="normalised twice"):
        ws.normaliser.normalised(ws[0])
    with pytest.raises(ConfigError, match="never normalised"):
        ws.normaliser.recorded(ws.normaliser.recorded(ws[0]))


def test_data_of_another_unit_are_refused(training, tmp_path):
    file = tmp_path / "statistics.json"
    windows(*training).normalised(file)
    for r in training:
        r.load.kept.proprio[:] *= 1000
    with pytest.raises(ConfigError, match="another unit") as caught:
        windows(*training).normalised(file)
    assert caught.value.field.startswith("proprio: ") and "[m]" in caught.value.field


def test_a_loader_without_a_normaliser_is_refused_unless_it_is_meant(training):
    """FAULTS row 49: absent."""
    with pytest.raises(ConfigError, match="unscaled") as caught:
        WindowLoader(windows(*training))
    assert "normalised(" in caught.value.fix
    assert len(WindowLoader(windows(*training, scaling="none"))) > 0


@pytest.mark.parametrize(
    "damage, kind",
    [
        (lambda v: v["actions"][0].update(std=-1.0), DataFormatError),
        (lambda v: v["actions"][0].update(std="1"), DataFormatError),
        (lambda v: v["proprio"][1].pop("mean"), DataFormatError),
        (lambda v: v["proprio"][1].update(q01=9.0), DataFormatError),
        (lambda v: v.update(actions=None), DataFormatError),
        (lambda v: v.update(rate=0), DataFormatError),
        (lambda v: v.update(version=9), VersionError),
    ],
)
def test_a_damaged_file_is_refused_and_kept(training, tmp_path, damage, kind):
    file = tmp_path / "statistics.json"
    windows(*training).normalised(file)
    value = json.loads(file.read_text())
    damage(value)
    file.write_text(json.dumps(value))
    before = file.read_bytes()
    with pytest.raises(kind) as caught:
        windows(*training).normalised(file)
    assert caught.value.file == str(file) and file.read_bytes() == before


def test_a_cut_file_is_refused(training, tmp_path):
    file = tmp_path / "statistics.json"
    statistics = windows(*training).normalised(file).statistics
    assert Normaliser.of(load_statistics(file)).action_scale.equal(Normaliser.of(statistics).action_scale)
    file.write_text(file.read_text()[:200])
    with pytest.raises(DataFormatError, match="not JSON"):
        load_statistics(file)

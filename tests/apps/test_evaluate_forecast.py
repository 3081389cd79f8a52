"""What `eval forecast` is asked for, and what it refuses before anything is computed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from scene4d.apps.compose.models import make_models, save_models
from scene4d.apps.verbs import evaluate_forecast
from scene4d.apps.verbs.evaluate_forecast import EvalForecastOptions, forecast_config, forecasters_of, read_recorded
from scene4d.errors import ConfigError
from scene4d.eval.forecast.forecasters.past_stream import PastStream
from scene4d.models.pixel_transformer.network import PixelsConfig


def test_windows_spread_over_the_episode():
    starts = lambda num: forecast_config(EvalForecastOptions(windows=num)).starts
    assert starts(4) == (8, 16, 24, 32) and starts(1) == (8,) and starts(2) == (8, 32) and len(starts(3)) == 3
    config = forecast_config(EvalForecastOptions(horizons=(8, 1, 8), seeds=(2000, 2002), size=128))
    assert config.horizons == (1, 8) and config.seeds == (2000, 2001, 2002) and config.size == 128


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": ("left", "top")}, "never seen"),
        ({"windows": 0}, "at least 1"),
        ({"horizons": ()}, "at least 1"),
        ({"horizons": (0, 4)}, "at least 1"),
        ({"seeds": (2001, 2000)}, "empty range"),
        ({"deep": True, "episodes": ("x",)}, "--episodes"),
    ],
)
def test_slips_are_named(change, words):
    with pytest.raises(ConfigError) as error:
        forecast_config(EvalForecastOptions(**change))
    assert words in error.value.line()


def test_a_recording_too_short_is_named():
    short = SimpleNamespace(path="kitchen", num_frames=20)
    with pytest.raises(ConfigError, match="too short"):
        read_recorded([short], "recorded", seed=0, num_frames=45, size=(64, 64), cameras=("left",))


def test_recordings_are_named_and_get_no_seeds(monkeypatch, tmp_path):
    """The JSON says what was forecast: seeds of episodes that were simulated, paths of those that were read."""
    monkeypatch.setattr(evaluate_forecast, "load_models", lambda path: SimpleNamespace(world=None))
    monkeypatch.setattr(evaluate_forecast, "evaluate_forecast", lambda *_, **options: {"horizon": {}, "windows": 1})
    monkeypatch.setattr(evaluate_forecast, "open_recordings", lambda path: [path])
    monkeypatch.setattr(evaluate_forecast, "printed_table", lambda *_, **options: "")
    read = evaluate_forecast.run_eval_forecast(EvalForecastOptions(episodes=(tmp_path / "a", tmp_path / "b")))
    assert "seeds" not in read and read["episodes"] == [str(tmp_path / "a"), str(tmp_path / "b")]
    simulated = evaluate_forecast.run_eval_forecast(EvalForecastOptions(seeds=(2000, 2001)))
    assert simulated["seeds"] == [2000, 2001] and "episodes" not in simulated


def test_a_baseline_of_other_cameras_is_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    info = {"cameras": ["left", "gripper"]}
    models = make_models({"pixels": PixelsConfig(size=8)}, family="pixel_transformer", info=info)
    save_models(path, models, info=info)
    with pytest.raises(ConfigError, match="left gripper"):
        forecasters_of(None, PastStream(), options=EvalForecastOptions(pixels_weights=path))
    stream = PastStream(("left", "gripper"))
    rows = forecasters_of(None, stream, options=EvalForecastOptions(pixels_weights=path, inputs=stream.inputs))
    assert [row.name for row in rows] == ["ours", "copy_last", "constant_velocity", "pixels_2d"]

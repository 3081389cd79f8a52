"""What `eval forecast` is asked for, and what it refuses before anything is computed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from scene4d.apps.cli import main
from scene4d.apps.compose.models import make_models, save_models
from scene4d.apps.verbs import evaluate_forecast
from scene4d.apps.verbs.evaluate_forecast import EvalForecastOptions, forecast_config, forecasters_of, read_recorded
from scene4d.errors import ConfigError
from scene4d.eval.forecast.forecasters.past_stream import PastStream
from scene4d.models.pixel_transformer.network import PixelsConfig


def test_windows_spread_over_the_episode():
    starts = lambda num: forecast_config(EvalForecastOptions(windows=num), fps=40.0).starts
    assert starts(4) == (8, 16, 24, 32) and starts(1) == (8,) and starts(2) == (8, 32) and len(starts(3)) == 3
    config = forecast_config(EvalForecastOptions(horizons=(8, 1, 8), seeds=(2000, 2002), size=128), fps=40.0)
    assert config.horizons == (1, 8) and config.seeds == (2000, 2001, 2002) and config.size == 128


def test_seconds_become_frames_of_the_recording():
    options = EvalForecastOptions(seconds=(3.0, 0.1, 0.25))
    assert forecast_config(options, fps=40.0).horizons == (4, 10, 120)
    assert forecast_config(options, fps=5.0).horizons == (1, 15)  # 0.1 s is half a frame: the first one is asked for


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": ("left", "top")}, "never seen"),
        ({"windows": 0}, "at least 1"),
        ({"horizons": ()}, "at least 1"),
        ({"horizons": (0, 4)}, "at least 1"),
        ({"seconds": (0.0, 1.0)}, "ahead"),
        ({"seeds": (2001, 2000)}, "empty range"),
        ({"deep": True, "episodes": ("x",)}, "--episodes"),
    ],
)
def test_slips_are_named(change, words):
    with pytest.raises(ConfigError) as error:
        forecast_config(EvalForecastOptions(**change), fps=40.0)
    assert words in error.value.line()


def test_a_recording_too_short_is_named():
    short = SimpleNamespace(path="kitchen", num_frames=20)
    with pytest.raises(ConfigError, match="too short"):
        read_recorded([short], "recorded", seed=0, num_frames=45, size=(64, 64), cameras=("left",))


def test_recordings_are_named_and_get_no_seeds(monkeypatch, tmp_path):
    """The JSON says what was forecast: seeds of episodes that were simulated, paths of those that were read."""
    monkeypatch.setattr(evaluate_forecast, "load_models", lambda path: make_models({}))
    monkeypatch.setattr(evaluate_forecast, "evaluate_forecast", lambda *_, **options: {"horizon": {}, "windows": 1})
    monkeypatch.setattr(evaluate_forecast, "open_recordings", lambda path: [SimpleNamespace(path=path, fps=5.0)])
    monkeypatch.setattr(evaluate_forecast, "printed_table", lambda *_, **options: "")
    read = evaluate_forecast.run_eval_forecast(EvalForecastOptions(episodes=(tmp_path / "a", tmp_path / "b")))
    assert "seeds" not in read and read["episodes"] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert read["seconds"] == {"1": 0.2, "4": 0.8, "8": 1.6, "12": 2.4}
    simulated = evaluate_forecast.run_eval_forecast(EvalForecastOptions(seeds=(2000, 2001)))
    assert simulated["seeds"] == [2000, 2001] and "episodes" not in simulated


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "forecast"),
        ("eval", "plan"),
        ("act", "scene.s4d", "--task", "push"),
        ("forecast", "scene.s4d", "--output", "future.s4d"),
        ("demo", "--output", "demo"),
        ("serve",),
    ],
)
def test_weights_that_predict_images_alone_are_refused(tmp_path, monkeypatch, capsys, words):
    """In one line, by whatever asks for scenes."""
    monkeypatch.chdir(tmp_path)
    info = {"cameras": ["left", "right"]}
    models = make_models({"pixels": PixelsConfig(size=8)}, family="pixel_transformer", info=info)
    save_models(tmp_path / "p.safetensors", models, info=info)
    code = main([*words, "--weights", "p.safetensors"])
    lines = capsys.readouterr().err.strip().splitlines()
    (error,) = [line for line in lines if not line.endswith(" s)")]  # steps that are done
    assert code in (2, 3) and ("PixelTransformer" in error or "action head" in error)


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

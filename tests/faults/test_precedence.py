"""Fault 54: which of two settings counts, where a file, the command line and the environment say different words."""

import tomllib

import pytest

from scene4d.apps.cli import main
from scene4d.apps.verbs import run_train as verb
from scene4d.apps.verbs.options.training import TrainOptions
from scene4d.apps.verbs.run_train import run_train


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Settings of a run whose stages are left out, and what was printed of them."""
    monkeypatch.setattr(verb, "_do_stages", lambda run, options: {})

    def train(text="", **options):
        (tmp_path / "run.toml").write_text(text)
        run_train(TrainOptions(tmp_path / "run.toml", out=tmp_path / "run", **options))
        return tomllib.loads((tmp_path / "run" / "config.toml").read_text()), capsys.readouterr().err

    return train


FILE = "threads = 3\n[vae.train]\nsteps = 40\n"


def test_54_each_beats_those_before_it(run):
    assert run()[0]["threads"] == 2 and run()[0]["vae"]["train"]["steps"] == 1000, "what stands where nobody says it"
    assert run(FILE)[0]["threads"] == 3 and run(FILE)[0]["vae"]["train"]["steps"] == 40
    settings, _ = run(FILE, set=("threads=5", "vae.train.steps=50"))
    assert settings["threads"] == 5 and settings["vae"]["train"]["steps"] == 50
    settings, _ = run(FILE, set=("vae.train.steps=50",), steps=60)
    assert settings["threads"] == 3 and settings["vae"]["train"]["steps"] == 60


def test_54_the_last_of_two_equal_ones_counts(run):
    assert run(FILE, set=("threads=5", "threads=7"))[0]["threads"] == 7


def test_54_it_is_printed(run):
    _, shown = run(FILE, set=("threads=5",), steps=60)
    line = next(line for line in shown.splitlines() if line.startswith("settings:"))
    places = [line.index(word) for word in ("defaults", "run.toml", "--set threads", "--steps 60", "config.toml")]
    assert places == sorted(places), line


@pytest.mark.parametrize("name", ["SCENE4D_THREADS", "THREADS", "OMP_NUM_THREADS", "SCENE4D_VAE_TRAIN_STEPS"])
def test_54_the_environment_sets_nothing(run, monkeypatch, name):
    monkeypatch.setenv(name, "9")
    settings, _ = run(FILE)
    assert settings["threads"] == 3 and settings["vae"]["train"]["steps"] == 40


def test_54_it_is_documented(capsys, request):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--steps beats --set, --set beats the file" in shown
    guide = (request.config.rootpath / "docs/guide.md").read_text()
    assert "--steps` beats `--set" in guide and "environment" in guide

"""Faults 69 and 83: numbers and texts out of range, in any option and any setting, refused before anything runs."""

import dataclasses
import importlib
import json
import os
import pkgutil
import typing
from pathlib import Path
from types import UnionType

import pytest
from data_fixtures import assert_refused

import scene4d
from scene4d.apps.cli import EVAL_VERBS, VERBS, main
from scene4d.apps.terminal.arguments import POSITIONAL
from scene4d.apps.training.run_config import RunConfig
from scene4d.config import config_from_dict, load_config
from scene4d.data.files.json_files import read_json
from scene4d.errors import EXIT_USAGE, ConfigError, DataFormatError

ALL_VERBS = [verb for verb in (*VERBS.values(), *EVAL_VERBS.values()) if verb.name != "eval"]
STATES = {"goal", "proprio"}  # data, which the agent refuses as such
SIGNED = {"start", "time", "seed", "seeds", "turned", "turned_deg", "level_mean", "first_seed"}
ABSURD = {
    int: [10**11, -(10**11), 10**30],
    float: [float("nan"), float("inf"), float("-inf"), 1e300, -1e300],
    str: ["x" * 5000, "a\0b"],
}


def kinds_of(hint):
    """Number and text types that a field takes, and whether it takes several."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return [kind for member in typing.get_args(hint) for kind in kinds_of(member)]
    if typing.get_origin(hint) is tuple:
        members = typing.get_args(hint)
        return [(members[0], 1 if members[-1] is Ellipsis else len(members))]
    return [(hint, 0)] if hint in (int, float, str, Path) else []


def absurd_values(hint, name):
    """What no setting of that name and type may have."""
    if name in STATES:
        return
    for kind, count in kinds_of(hint):
        values = [*ABSURD.get(kind, ()), *([-1] if kind is int and name not in SIGNED else [])]
        for value in values if kind in ABSURD else []:
            yield [value] * count if count else value


def may_be_large(name, value):
    """Seeds are any whole numbers that a computer holds."""
    values = value if isinstance(value, list) else [value]
    return name in SIGNED and all(type(each) is int and abs(each) < 2**62 for each in values)


def every_config():
    """Every class of settings in the package."""
    found = {}
    for module in pkgutil.walk_packages(scene4d.__path__, "scene4d."):
        if "plugins" in module.name or module.name.endswith(("hdf5_server", "__main__")):
            continue
        for name, kind in vars(importlib.import_module(module.name)).items():
            mine = isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.name
            if mine and name.endswith("Config"):
                found[name] = kind
    return found


CONFIGS = every_config()


def test_all_classes_of_settings_are_here():
    assert len(CONFIGS) > 50 and {"RunConfig", "LoopConfig", "OptimConfig", "AgentConfig", "VAEConfig"} <= set(CONFIGS)


@pytest.mark.parametrize("kind", CONFIGS.values(), ids=CONFIGS)
def test_83_every_setting(kind):
    hints, tried = typing.get_type_hints(kind), 0
    for field in dataclasses.fields(kind):
        if not field.init or typing.get_origin(hints[field.name]) is typing.Literal:
            continue
        for value in absurd_values(hints[field.name], field.name):
            if may_be_large(field.name, value):
                continue
            with pytest.raises(ConfigError) as caught:
                config_from_dict({field.name: value}, kind, file="a.toml")
            error = caught.value
            assert error.exit_code == EXIT_USAGE and error.file == "a.toml", (field.name, value)
            assert str(error.field).startswith(field.name) and len(error.line()) < 600, (field.name, value)
            tried += 1
    numbers = [f for f in dataclasses.fields(kind) if kinds_of(hints[f.name])]
    assert tried >= len(numbers)


def typed(value):
    values = value if isinstance(value, list) else [value]
    return [str(each) for each in values]


@pytest.mark.parametrize("verb", ALL_VERBS, ids=[verb.name for verb in ALL_VERBS])
def test_83_every_option(verb, tmp_path, monkeypatch, capsys):
    """Each option of each verb, its others as they are; no verb is reached, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scene4d.apps.cli.Verb.runner", lambda self: pytest.fail(f"{self.name} ran"))
    options = verb.options_class()
    hints = typing.get_type_hints(options, include_extras=True)
    positional = [f.name for f in dataclasses.fields(options) if POSITIONAL in typing.get_args(hints[f.name])]
    required = [f for f in dataclasses.fields(options) if f.default is dataclasses.MISSING and f.name not in positional]
    for field in dataclasses.fields(options):
        for value in absurd_values(hints[field.name], field.name):
            words = typed(value)
            if any("\0" in word for word in words) or may_be_large(field.name, value):
                continue
            given = [w for f in required if f is not field for w in (f"--{f.name.replace('_', '-')}", "x.ply")]
            first = ["x.ply" for name in positional if name != field.name]
            if field.name in positional:
                arguments = [*words, *first, *given]
            else:
                arguments = [*first, *given, f"--{field.name.replace('_', '-')}", *words]
            if any(word.startswith("-i") or word.startswith("-1e+300") for word in words):
                continue  # read as an option of its own: refused too, by another name
            if verb.name == "train" and field.name == "set":
                continue  # its values are settings: see above
            code = main(["--json-errors", *verb.name.split(), *arguments])
            error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
            assert (code, error["code"]) == (2, "ConfigError"), (arguments, error)
            assert field.name.replace("_", "-") in f"{error['field']} {error['problem']}".replace("_", "-"), error
            assert len(json.dumps(error)) < 1500
    assert not os.listdir(tmp_path)


PATH_OPTIONS = [
    (verb, name)
    for verb in ALL_VERBS
    for name, hint in typing.get_type_hints(verb.options_class(), include_extras=True).items()
    if (Path, 0) in kinds_of(hint)
]


@pytest.mark.parametrize(("verb", "name"), PATH_OPTIONS, ids=[f"{verb.name} {name}" for verb, name in PATH_OPTIONS])
def test_83_paths_that_no_disk_holds(verb, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = verb.options_class()
    hints = typing.get_type_hints(options, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(options)}
    words = []
    for other, field in fields.items():
        positional = POSITIONAL in typing.get_args(hints[other])
        if other == name or field.default is dataclasses.MISSING:
            value = "x" * 5000 + ".ply" if other == name else "x.ply"
            words += [value] if positional else [f"--{other.replace('_', '-')}", value]
    code = main(["--json-errors", *verb.name.split(), *words])
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert (code, error["code"], error["field"]) == (2, "ConfigError", f"--{name.replace('_', '-')}")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ("threads=-1", "threads"),
        ("threads=0", "threads"),
        ("threads=100000000000", "threads"),
        ("processes=0", "processes"),
        ("vae.train.optim.lr=nan", "vae.train.optim.lr"),
        ("vae.train.optim.lr=-0.1", "vae.train.optim.lr"),
        ("dynamics.train.steps=-5", "dynamics.train.steps"),
        ("policy.batch_size=0", "policy.batch_size"),
        ("record.size=1e300", "record.size"),
        ("record.noise=[0.1, inf]", "record.noise"),
        ('name="../x"', "name"),
        ('name="/tmp/x"', "name"),
        ('name=".."', "name"),
        ('name="a\\nb"', "name"),
        (f'name="{"x" * 5000}"', "name"),
        ("x=" + "[" * 10_000, "x"),
        ("x=" + "{a=" * 10_000, "x"),
        ("x=" + "9" * 5000, "x"),
        ("threads=0x" + "f" * 5000, "threads"),
        ("name=0x" + "f" * 5000, "name"),
        ("a" + ".a" * 10_000 + "=1", "a.a"),
        ("name.a.a.a=1", "name"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_83_settings_of_a_run(tmp_path, monkeypatch, capsys, request, setting, field):
    config = request.config.rootpath / "configs/smoke.toml"
    before = config.read_bytes()
    monkeypatch.chdir(tmp_path)
    code = main(["--json-errors", "train", str(config), "--set", setting])
    lines = capsys.readouterr().err.splitlines()
    error = json.loads(lines[-1])["error"]
    assert (code, error["code"], len(lines)) == (2, "ConfigError", 1) and error["field"].startswith(field), error
    assert len(lines[0]) < 2000 and not os.listdir(tmp_path) and config.read_bytes() == before


FILES = {
    "lists 10,000 deep": b"x = " + b"[" * 10_000 + b"]" * 10_000,
    "tables 10,000 deep": b"x = " + b"{a = " * 10_000 + b"1" + b"}" * 10_000,
    "names 10,000 deep": b"x" + b".x" * 10_000 + b" = 1",
    "names under a text": b"name" + b".x" * 10_000 + b" = 1",
    "a header 10,000 deep": b"[settings" + b".x" * 10_000 + b"]\na = 1",
    "5,000 digits": b"threads = " + b"9" * 5000,
    "5,000 hexadecimal digits": b"threads = 0x" + b"f" * 5000,
    "5,000 digits of a float": b"vae.train.optim.lr = 0x" + b"f" * 5000,
    "an exponent": b"vae.train.optim.lr = 1e999999",
    "Latin-1": b'name = "\xe9"',
    "zeros": b"\0" * 1000,
    "a large file": b"#" * (1 << 21),
    "a name twice": b"threads = 1\nthreads = 2",
}


@pytest.mark.parametrize("kind", FILES)
def test_69_toml_that_is_hostile(tmp_path, monkeypatch, capsys, kind):
    (tmp_path / "set").mkdir()
    file = tmp_path / "set" / "run.toml"
    file.write_bytes(FILES[kind])
    act = lambda: load_config(file, RunConfig)
    error = assert_refused(tmp_path / "set", act, kind=ConfigError, file="run.toml", code=EXIT_USAGE)
    assert len(error.line()) < 600
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(file)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10_000 + "]" * 10_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        '{"a": %s}' % ("9" * 5000),
        '{"a": 1e}',
        "{",
        "",
    ],
    ids=["lists", "tables", "digits", "exponent", "cut", "empty"],
)
def test_69_json_that_is_hostile(tmp_path, text):
    (tmp_path / "info.json").write_text(text)
    act = lambda: read_json(tmp_path / "info.json", fix="copy it again")
    assert_refused(tmp_path, act, kind=DataFormatError, file="info.json")

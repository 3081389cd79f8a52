"""Arguments to a dataclass of options: every kind of field, help from docstrings, errors in one line."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args, get_type_hints

import pytest

from scene4d.apps.cli import EVAL_VERBS, VERBS
from scene4d.apps.terminal.arguments import FILE, OUTPUT, POSITIONAL, docstrings_of, parse_options
from scene4d.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """One field of each kind."""

    source: Annotated[Path, POSITIONAL]
    """Where it is read from."""
    output: Annotated[Path, OUTPUT]
    """Where it goes,
    100 % of it."""
    steps: int | None = None
    turned: float = 1.5
    """A rate."""
    name: str = ""
    fit: bool = False
    show: bool = True
    what: Literal["colour", "depth"] = "colour"
    size: tuple[int, int] = (4, 3)
    goal: tuple[float, float, float] | None = None
    tasks: tuple[str, ...] = ("reach",)
    max_frames: Annotated[Path | None, FILE] = None


def parsed(*arguments: str) -> Options:
    return parse_options(Options, arguments, prog="scene4d verb", description="what it does")


def test_defaults_stand_where_nothing_is_given():
    assert parsed("in", "-o", "out") == Options(Path("in"), Path("out"))


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        ("--steps 3", "steps", 3),
        ("--turned=-1e-3", "turned", -1e-3),
        ("--turned -1e-3", "turned", -1e-3),
        ("--name -.5", "name", "-.5"),
        ("--fit", "fit", True),
        ("--no-show", "show", False),
        ("--what depth", "what", "depth"),
        ("--size 8 6", "size", (8, 6)),
        ("--goal -1 -.5 2e-1", "goal", (-1.0, -0.5, 0.2)),
        ("--tasks", "tasks", ()),
        ("--tasks a b", "tasks", ("a", "b")),
        ("--max-frames f.json", "max_frames", Path("f.json")),
        ("--max_frames=a_b", "max_frames", Path("a_b")),
        ("--output there", "output", Path("there")),
    ],
)
def test_a_field_is_read_as_its_type(arguments, field, value):
    given = getattr(parsed("in", "-o", "out", *arguments.split()), field)
    assert given == value and type(given) is type(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-o out", "verb: the following arguments are required: SOURCE"),
        ("in", "required: --output/-o"),
        ("in -o out --steps 1.5", "--steps: invalid int value: '1.5'"),
        ("in -o out --size 1", "--size: expected 2 arguments"),
        ("in -o out --what flow", "invalid choice: 'flow'"),
        ("in -o out --max 3", "unknown option (found --max); perhaps --max-frames was meant"),
        ("in -o out --stpes 3", "perhaps --steps"),
        ("in -o out --zzz 3", "unknown option (found --zzz); see:"),
        ("in -o out -x", "unknown option (found -x); see:"),
        ("in there -o out", "one argument too many (found there)"),
    ],
)
def test_usage_errors_are_one_line(arguments, message):
    with pytest.raises(ConfigError) as caught:
        parsed(*arguments.split())
    assert message in caught.value.line() and "scene4d verb --help" in caught.value.line()


def test_help_shows_docstrings_and_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        parsed("--help")
    out = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0 and out.startswith("usage: scene4d verb [-h]")
    for text in ("what it does", "Where it is read from. (required)", "Where it goes, 100 % of it.", "(default: 4 3)"):
        assert text in out
    assert "--turned FLOAT A rate. (default: 1.5)" in out and "--max-frames FILE" in out and "None" not in out


@pytest.mark.parametrize("verb", [v for v in [*VERBS.values(), *EVAL_VERBS.values()] if v.options], ids=lambda v: v.run)
def test_every_option_of_every_verb_is_explained(verb):
    kind = verb.options_class()
    assert {field.name for field in dataclasses.fields(kind)} == set(docstrings_of(kind))


NAMES = [*[verb for verb in VERBS.values() if verb.name != "eval"], *EVAL_VERBS.values()]


@pytest.mark.parametrize("verb", NAMES, ids=lambda verb: verb.name)
def test_every_example_of_a_help_is_a_right_command(verb):
    kind = verb.options_class()
    assert kind.EXAMPLES
    for example in kind.EXAMPLES:
        words = shlex.split(example)
        assert " ".join(words[: 1 + len(verb.name.split())]) == f"scene4d {verb.name}"
        parse_options(kind, words[1 + len(verb.name.split()) :], prog=f"scene4d {verb.name}", description="")


@pytest.mark.parametrize("verb", NAMES, ids=lambda verb: verb.name)
def test_long_helps_group_every_option_once_and_name_no_machine(verb, capsys):
    kind = verb.options_class()
    fields = dataclasses.fields(kind)
    hints = get_type_hints(kind, include_extras=True)
    flags = {f.name for f in fields if POSITIONAL not in get_args(hints[f.name])}
    grouped = [name for names in getattr(kind, "GROUPS", {}).values() for name in names]
    assert (sorted(grouped) == sorted(flags)) if len(fields) > 6 else set(grouped) <= flags
    with pytest.raises(SystemExit):
        parse_options(kind, ["--help"], prog=f"scene4d {verb.name}", description="")
    shown = capsys.readouterr().out
    assert kind.EXAMPLES[0] in shown and all(f"{title}:" in shown for title in getattr(kind, "GROUPS", {}))
    assert str(Path(__file__).parents[2]) not in shown and str(Path.home()) not in shown

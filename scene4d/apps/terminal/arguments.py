"""Arguments of the command line to a dataclass of options: one flag a field, the field's docstring as its help.

A class may have EXAMPLES, commands that its help shows, and GROUPS, {what they decide: fields}, under which its help
lists them. Standard library only, so that help and usage errors come at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Never, TypeVar, Union, get_args, get_origin, get_type_hints

from scene4d.apps.terminal.option_checks import flag
from scene4d.data.files.paths import refuse_protocol
from scene4d.errors import ConfigError
from scene4d.setting_ranges import out_of_range

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")
HELP = ("-h", "--help")
MAX_MESSAGE = 300


@dataclass(frozen=True)
class Argument:
    """How a field is given where `--name VALUE` does not describe it: Annotated[Path, Argument(...)]."""

    positional: bool = False
    short: str | None = None
    """Another flag, such as -o."""
    metavar: str | None = None
    """What the help calls the value."""


POSITIONAL, OUTPUT, FILE = Argument(positional=True), Argument(short="-o"), Argument(metavar="FILE")


class _Parser(argparse.ArgumentParser):
    """argparse, with errors that are raised."""

    def __init__(self, *, prog: str, description: str, examples: Sequence[str]) -> None:
        epilog = "\n".join(["examples:", *(f"  {example}" for example in examples)]) if examples else None
        style = argparse.RawDescriptionHelpFormatter  # it keeps the lines of the examples
        super().__init__(prog=prog, description=description, epilog=epilog, formatter_class=style, allow_abbrev=False)
        # Any negative number is a value, also -1e-3, which argparse takes for a flag.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    @property
    def verb(self) -> str:
        """What the options belong to."""
        return self.prog.removeprefix("scene4d ")

    def error(self, message: str) -> Never:
        message = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}..."
        raise ConfigError(message, field=self.verb, fix=f"see: {self.prog} --help")


def parse_options(kind: type[Options], arguments: Sequence[str], *, prog: str, description: str) -> Options:
    """The options that the arguments give; prints the help and exits where that is asked for.

    Fields are bool (`--name` and `--no-name`), int, float, str, Path, Literal of str, tuples of one of these, or one
    of these or None. `--some_name` and `--some-name` are the same.

    Raises:
        ConfigError: an option is unknown, missing or has a wrong value. SecurityError: what is read is no file of this
            machine. SystemExit: the help was asked for.
    """
    parser = _Parser(prog=prog, description=description, examples=getattr(kind, "EXAMPLES", ()))
    groups = {
        name: group
        for title, names in getattr(kind, "GROUPS", {}).items()
        for group in [parser.add_argument_group(title)]
        for name in names
    }
    texts = docstrings_of(kind) if set(HELP) & set(arguments) else {}
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        place = groups.get(field.name, parser)
        _add_argument(place, field, hint=hints[field.name], text=texts.get(field.name, ""))
    values, unknown = parser.parse_known_args([_hyphenated(a) for a in arguments])
    if unknown:
        names = [field.name for field in dataclasses.fields(kind)]
        flags = [flag(name) for name in names if POSITIONAL not in get_args(hints[name])]
        _refuse(parser, unknown, flags=flags)
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in vars(values).items()}
    for name, value in given.items():
        _check_range(name, value, default=defaults[name])
        if OUTPUT not in get_args(hints[name]):
            _refuse_addresses(name, value)
    return kind(**given)


def _check_range(name: str, value: Any, *, default: Any) -> None:
    for each in value if isinstance(value, tuple) else (value,):
        wrong = out_of_range(name, each, default=default)
        if wrong is not None:
            raise ConfigError("is out of range", field=flag(name), found=wrong[0], expected=wrong[1])


def _refuse_addresses(name: str, value: Any) -> None:
    """Raise where a path that is read is an address of another machine, or a protocol of another program."""
    for path in value if isinstance(value, tuple) else (value,):
        if isinstance(path, Path):
            refuse_protocol(str(path), path=path, file=path, field=flag(name))


def _add_argument(parser: argparse._ActionsContainer, field: dataclasses.Field, *, hint: Any, text: str) -> None:
    hint, how = (get_args(hint)[0], get_args(hint)[1]) if get_origin(hint) is Annotated else (hint, Argument())
    if get_origin(hint) in (Union, UnionType):
        hint = next(member for member in get_args(hint) if member is not type(None))
    required = field.default is dataclasses.MISSING
    settings: dict[str, Any] = {"default": None if required else field.default}
    members = get_args(hint)
    if get_origin(hint) is tuple:
        settings |= {"type": members[0], "nargs": "*" if members[-1] is Ellipsis else len(members)}
    elif get_origin(hint) is Literal:
        settings["choices"] = members
    elif hint is bool:
        settings["action"] = argparse.BooleanOptionalAction
    else:
        settings["type"] = hint
        settings |= {"nargs": "?"} if how.positional and not required else {}
    settings["help"] = f"{' '.join(text.split())}{_suffix(field)}".replace("%", "%%")
    if hint is not bool and get_origin(hint) is not Literal:
        kinds = members[:-1] if members[-1:] == (Ellipsis,) else members or (hint,)
        metavar = how.metavar or tuple(k.__name__.upper() for k in kinds)
        settings["metavar"] = metavar[0] if isinstance(metavar, tuple) and len(metavar) == 1 else metavar
    if how.positional:
        parser.add_argument(field.name, **{**settings, "metavar": field.name.upper()})
    else:
        names = (flag(field.name), *([how.short] if how.short else []))
        parser.add_argument(*names, dest=field.name, required=required, **settings)


def _hyphenated(argument: str) -> str:
    """--some_name=VALUE as --some-name=VALUE."""
    name, equals, value = argument.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if name.startswith("--") else argument


def _suffix(field: dataclasses.Field) -> str:
    """What the help adds to a field's text."""
    if field.default is dataclasses.MISSING:
        return " (required)"
    default = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    return "" if default in (None, "") else f" (default: {default})"


def _refuse(parser: _Parser, unknown: Sequence[str], *, flags: Sequence[str]) -> Never:
    """Raise for options that there are not, with those that were perhaps meant."""
    asked = next((word.partition("=")[0] for word in unknown if word.startswith("-")), unknown[0])
    meant: Sequence[str] = ()
    if asked.startswith("--"):
        # What is typed short begins a word of a name: --ste of --sampler-steps too.
        begun = [name for name in flags if f"-{asked.lstrip('-')}" in name]
        meant = begun or difflib.get_close_matches(asked, flags, n=2)
    fix = f"see: {parser.prog} --help"
    fix = f"perhaps {' or '.join(meant)} was meant; {fix}" if meant else fix
    problem = "unknown option" if asked.startswith("-") else "one argument too many"
    raise ConfigError(problem, field=parser.verb, found=asked, fix=fix)


def docstrings_of(kind: type) -> dict[str, str]:
    """The string below each field of a class."""
    import ast  # only for the help
    import inspect

    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = text
    return texts

"""TOML -> nested frozen dataclasses and back, with exact types and helpful errors.

A configuration is a frozen dataclass in the file of what it builds. A TOML holds the differences from its
defaults; `toml_from_config` writes the whole, which runs again.

A class whose fields or choices were renamed says so, and files that hold the former ones still load:

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"former name": "name"}
    FORMER_VALUES: ClassVar[Mapping[str, Mapping[str, str]]] = {"name": {"former value": "value"}}
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import stat
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scene4d.errors import ConfigError
from scene4d.setting_ranges import MAX_NESTING, out_of_range, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
MAX_BYTES = 1 << 20


def load_config(path: str | Path, kind: type[T], *, overrides: Sequence[str] = ()) -> T:
    """Read a TOML file into a configuration dataclass, then apply overrides such as "vae.steps=100".

    Raises:
        ConfigError: no such file, not TOML, an unknown key (names the nearest), or a value of the wrong type or out of
            range.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a FIFO would be waited for without end
            raise ConfigError("is no file", file=path, fix="name a TOML file")
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError("is too large", file=path, found=path.stat().st_size, expected=f"<= {MAX_BYTES} bytes")
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("cannot be read", file=path, found=error.strerror, fix="name a TOML file") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, tables in tables
        raise ConfigError(f"is not TOML: {str(error)[:200]}", file=path) from error
    for text in overrides:
        _override(data, text)
    return config_from_dict(data, kind, file=path)


def config_from_dict(
    data: Mapping[str, Any], kind: type[T], *, file: str | Path | None = None, where: str = "", default: T | None = None
) -> T:
    """Build a configuration dataclass from plain values; missing keys take the values of `default`, or of `kind`.

    A table that is given in part keeps the rest of what the field above it has by default, not of its type.

    Raises:
        ConfigError: an unknown key, a wrong type, a missing key without default, or what the dataclass itself rejects.
    """
    if not isinstance(data, Mapping):
        raise ConfigError("must be a table", file=file, field=where, found=type(data).__name__)
    data = _renamed(data, kind, file=file, where=where)
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    for key in data:
        if key not in fields:
            nearest = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)
            fix = f"did you mean '{nearest[0]}'?" if nearest else "remove it"
            raise ConfigError("unknown setting", file=file, field=_join(where, key), fix=fix)
    above = {name: getattr(default, name) if default else _default_of(field) for name, field in fields.items()}
    values = {k: _value(v, hints[k], file=file, where=_join(where, k), default=above[k]) for k, v in data.items()}
    for key, value in values.items():
        wrong = out_of_range(key, value, default=above[key])
        if wrong is not None:
            found, expected = wrong
            raise ConfigError("is out of range", file=file, field=_join(where, key), found=found, expected=expected)
    try:
        return dataclasses.replace(default, **values) if default else kind(**values)
    except TypeError as error:
        raise ConfigError(str(error), file=file, field=where or None) from error
    except ConfigError as error:  # what the class itself refuses knows of no file
        error.file = error.file or (None if file is None else str(file))
        raise


def _renamed(data: Mapping[str, Any], kind: type, *, file: Any, where: str) -> dict[str, Any]:
    """Plain values under the names, and with the choices, that a class has today.

    Raises:
        ConfigError: a setting is given under its former name and under its own.
    """
    names, values = getattr(kind, "FORMER_NAMES", {}), getattr(kind, "FORMER_VALUES", {})
    out: dict[str, Any] = {}
    for key, value in data.items():
        name = names.get(key, key)
        if name in out or (name != key and name in data):
            former = next(old for old, new in names.items() if new == name and old in data)
            fix = f"leave out {former}, its former name"
            raise ConfigError("is given twice", file=file, field=_join(where, name), fix=fix)
        choices = values.get(name, {})
        out[name] = choices.get(value, value) if isinstance(value, str) else value
    return out


def dict_from_config(config: Any, *, former: bool = False) -> dict[str, Any]:
    """Every field as plain JSON- and TOML-ready values (None is left out, a path becomes text).

    Args:
        former: under the names and with the choices that the class had at first (see the top of this file).
    """
    out = {f.name: _plain(v, former) for f in dataclasses.fields(config) if (v := getattr(config, f.name)) is not None}
    if former:
        for name, choices in getattr(config, "FORMER_VALUES", {}).items():
            oldest = {new: old for old, new in choices.items()}
            out |= {name: oldest.get(out[name], out[name])} if isinstance(out.get(name), str) else {}
        names = {new: old for old, new in getattr(config, "FORMER_NAMES", {}).items()}
        out = {names.get(name, name): value for name, value in out.items()}
    return out


def toml_from_config(config: Any) -> str:
    """The whole configuration as TOML, defaults included."""
    return "\n".join(_table(dict_from_config(config), ())).strip() + "\n"


def config_hash(*configs: Any) -> str:
    """12 hexadecimal digits that change when any value does, but not when a field or a choice is renamed."""
    plain = [dict_from_config(c, former=True) if dataclasses.is_dataclass(c) else c for c in configs]
    text = json.dumps(plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _value(value: Any, hint: Any, *, file: Any, where: str, default: Any = None) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    wrong = ConfigError("has the wrong type", file=file, field=where, found=shown(value), expected=_spell(hint))
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        for option in args:
            try:
                return _value(value, option, file=file, where=where, default=default)
            except ConfigError as error:
                if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
                    raise error
        raise wrong
    if origin is typing.Literal:
        if not any(value == a and type(value) is type(a) for a in args):
            found = shown(value)
            raise ConfigError("is not one of the choices", file=file, field=where, found=found, expected=list(args))
        return value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        given = default if isinstance(default, hint) else None
        return config_from_dict(value, hint, file=file, where=where, default=given)
    if origin in (tuple, list):
        return _sequence(value, hint, file=file, where=where)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if not isinstance(value, Mapping):
            raise wrong
        return {k: _value(v, args[1], file=file, where=_join(where, k)) for k, v in value.items()}
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int and value.bit_length() <= 64:
        return float(value)
    if hint is type(None) or type(value) is not hint:
        raise wrong
    return value


def _sequence(value: Any, hint: Any, *, file: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if not isinstance(value, list | tuple):
        raise ConfigError("has the wrong type", file=file, field=where, found=shown(value), expected=_spell(hint))
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        if len(value) != len(args):
            raise ConfigError("has the wrong length", file=file, field=where, found=len(value), expected=len(args))
        kinds: Sequence[Any] = args
    else:
        kinds = [args[0]] * len(value)
    items = [_value(v, k, file=file, where=f"{where}[{i}]") for i, (v, k) in enumerate(zip(value, kinds, strict=True))]
    return origin(items)


def _override(data: dict[str, Any], text: str) -> None:
    key, found, value = text.partition("=")
    if not found or not key.strip():
        raise ConfigError("is not KEY=VALUE", field="set", found=text, fix="write for example vae.train.steps=100")
    try:
        parsed = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists
        raise ConfigError("is no value", field=key.strip()[:80], found=str(error)[:80]) from error
    *tables, last = key.strip().split(".")
    if len(tables) > MAX_NESTING:
        raise ConfigError("is no setting", field=key.strip()[:80], found=f"{len(tables)} dots")
    for name in tables:
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            raise ConfigError("is not a table", field=key.strip(), found=name)
    data[last] = parsed


def _plain(value: Any, former: bool) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dict_from_config(value, former=former)
    if isinstance(value, Mapping):
        return {str(k): _plain(v, former) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v, former) for v in value]
    return str(value) if isinstance(value, Path) else value


def _table(data: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    plain = {k: v for k, v in data.items() if not isinstance(v, Mapping)}
    lines = [f"[{'.'.join(path)}]"] if path and (plain or not data) else []
    lines += [f"{_key(k)} = {_toml(v)}" for k, v in plain.items()]
    for key, value in data.items():
        if isinstance(value, Mapping):
            lines += ["", *_table(value, (*path, _key(key)))]
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if value == value and abs(value) != float("inf") else str(value)
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("-", "_").isidentifier() else json.dumps(name, ensure_ascii=False)


def _spell(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)

"""A configuration survives being written as TOML and read, and a slip is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from scene4d.config import config_from_dict, config_hash, load_config, toml_from_config
from scene4d.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    width: int = 8
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    name: str = 'a "quoted" \\ name\n'
    pair: tuple[float, float] = (0.5, 1.0)
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None
    path: Path | None = None
    flag: bool = False
    mode: Literal["a", "b"] = "a"
    table: dict[str, float] = field(default_factory=lambda: {"x y": 1.0})


@pytest.mark.parametrize(
    "config",
    [
        Outer(),
        Outer(other=Inner(width=3, rate=1e-20), path=Path("a/b"), flag=True, mode="b", table={}),
        Outer(inner=Inner(sizes=(), rate=1e11), pair=(-0.0, 3.0)),
    ],
)
def test_round_trip(config, tmp_path):
    (tmp_path / "x.toml").write_text(toml_from_config(config))
    assert load_config(tmp_path / "x.toml", Outer) == config


def test_missing_keys_take_defaults_and_integers_serve_as_floats():
    config = config_from_dict({"inner": {"rate": 2}}, Outer)
    assert config == Outer(inner=Inner(rate=2.0)) and type(config.inner.rate) is float


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"inner": {"widht": 3}}, ["inner.widht", "width"]),
        ({"inner": {"width": 3.0}}, ["inner.width", "int"]),
        ({"inner": {"width": True}}, ["inner.width", "int"]),
        ({"inner": {"rate": "fast"}}, ["inner.rate", "float"]),
        ({"inner": 3}, ["inner", "table"]),
        ({"pair": [1.0]}, ["pair", "length"]),
        ({"inner": {"sizes": [1, "2"]}}, ["inner.sizes[1]"]),
        ({"mode": "c"}, ["mode", "choices"]),
        ({"other": {"withd": 1}}, ["other.withd", "width"]),
    ],
)
def test_slips_are_named(data, words):
    with pytest.raises(ConfigError) as error:
        config_from_dict(data, Outer, file="x.toml")
    assert all(word in str(error.value) for word in ["x.toml", *words])


def test_a_table_given_in_part_keeps_what_the_field_above_has():
    @dataclass(frozen=True)
    class Over:
        inner: Inner = field(default_factory=lambda: Inner(width=3, rate=0.7))

    assert config_from_dict({"inner": {"rate": 0.2}}, Over).inner == Inner(width=3, rate=0.2)
    assert config_from_dict({}, Over).inner == Inner(width=3, rate=0.7)


def test_overrides_and_unreadable_files(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("flag = true")
    config = load_config(path, Outer, overrides=["inner.width=3", "mode=b", "pair=[1, 2]"])
    assert config == Outer(flag=True, inner=Inner(width=3), mode="b", pair=(1.0, 2.0))
    path.write_text("flag = = 3")
    for bad in (path, tmp_path / "absent.toml"):
        with pytest.raises(ConfigError):
            load_config(bad, Outer)


def test_hash_changes_with_any_value():
    assert config_hash(Outer()) == config_hash(Outer()) != config_hash(Outer(inner=Inner(sizes=(1, 3))))


@dataclass(frozen=True)
class Renamed:
    modality: Literal["images", "points"] = "points"
    radius: float = 1.0

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"eyes": "modality", "reach": "radius"}
    FORMER_VALUES: ClassVar[Mapping[str, Mapping[str, str]]] = {"modality": {"pictures": "images"}}


@dataclass(frozen=True)
class Former:
    eyes: Literal["pictures", "points"] = "points"
    reach: float = 1.0


@dataclass(frozen=True)
class Holder:
    model: Renamed = field(default_factory=Renamed)


@dataclass(frozen=True)
class FormerHolder:
    model: Former = field(default_factory=Former)


def test_former_names_and_values_of_fields_are_read_from_files_and_from_overrides(tmp_path):
    (tmp_path / "x.toml").write_text('[model]\neyes = "pictures"\n')
    wanted = Holder(Renamed(modality="images", radius=2.0))
    assert load_config(tmp_path / "x.toml", Holder, overrides=["model.reach=2"]) == wanted
    assert config_from_dict({"model": {"modality": "pictures", "radius": 2}}, Holder) == wanted
    assert "eyes" not in toml_from_config(wanted) and 'modality = "images"' in toml_from_config(wanted)


@pytest.mark.parametrize("model", [{"eyes": "points", "modality": "points"}, {"modality": "points", "eyes": "points"}])
def test_a_setting_under_both_of_its_names_is_refused(model):
    with pytest.raises(ConfigError, match=r"model\.modality.*twice") as caught:
        config_from_dict({"model": model}, Holder)
    assert "leave out eyes" in str(caught.value)


def test_a_hash_outlives_the_renaming_of_fields_and_values():
    now = [Holder(), Holder(Renamed(modality="images", radius=2.0))]
    before = [FormerHolder(), FormerHolder(Former(eyes="pictures", reach=2.0))]
    assert [config_hash(c) for c in now] == [config_hash(c) for c in before]
    assert config_hash(now[0]) != config_hash(now[1])

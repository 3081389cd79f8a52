"""What a user says of a file in a cameras.json: its calibration, and its fields.

"fields" of cameras.json describes a whole layout (a field map: episodes, actions, proprio, rewards, success), or only
corrects a known one: fps, task, upside_down, and color_order: "rgb", "bgr", or either for each camera by its name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scene4d.data.cameras.sidecar import CameraEntry, Supplied, find_cameras
from scene4d.data.files.json_files import number_in, read_json
from scene4d.errors import DataFormatError

LAYOUT_KEYS = ("episodes", "actions", "proprio", "rewards", "success")
CORRECTIONS = ("fps", "task", "upside_down", "color_order")
ORDERS = ("rgb", "bgr")


@dataclass(frozen=True)
class Stated:
    """What the user says of a file in a cameras.json."""

    places: Sequence[Path]
    """Where cameras.json may lie, first the one to name when there is none."""
    supplied: Supplied
    file: Path | None = None
    """The one there is."""
    fields: Mapping[str, Any] | None = None
    pictures: frozenset[str] = frozenset()
    """Names of arrays of colour pictures in it."""
    has_cameras: bool = False

    @property
    def is_map(self) -> bool:
        """Whether it describes a layout."""
        return any(key in (self.fields or {}) for key in LAYOUT_KEYS)

    @property
    def calibrates(self) -> bool:
        """Whether a calibration comes from the user."""
        return self.has_cameras or any(p.is_file() for p in self._other_places())

    def cameras(
        self, sizes: Mapping[str, tuple[int, int]], *, columns: Collection[str], what: str
    ) -> tuple[dict[str, CameraEntry], dict[str, Any]]:
        """Cameras by name and notes on them, as `find_cameras` gives them."""
        places, supplied = self.places, self.supplied
        if not self.has_cameras:  # the file, if there is one, speaks of other fields only
            places, supplied = self._other_places(), replace(supplied, cameras=None)
        return find_cameras(places, sizes=sizes, columns=columns, supplied=supplied, what=what)

    def _other_places(self) -> list[Path]:
        return [place for place in self.places if place != self.file]

    def number(self, key: str, *, default: float | None = None) -> float:
        """A number of the fields."""
        return number_in(self.fields or {}, key, file=self.file or self.places[0], default=default)

    def flag(self, key: str, *, default: bool) -> bool:
        """A yes or no of the fields."""
        value = (self.fields or {}).get(key, default)
        if not isinstance(value, bool):
            raise self.fault(key, value, expected="true or false")
        return value

    def bgr(self, cameras: Collection[str]) -> tuple[str, ...]:
        """The cameras whose pictures have blue where red belongs."""
        order = (self.fields or {}).get("color_order", "rgb")
        orders = order if isinstance(order, dict) else dict.fromkeys(cameras, order)
        unknown = [name for name, value in orders.items() if name not in cameras or value not in ORDERS]
        if unknown:
            raise self.fault("color_order", order, expected=f"rgb or bgr, or one of them for each of {list(cameras)}")
        return tuple(name for name, value in orders.items() if value == "bgr")

    def fault(self, key: str, found: Any, *, expected: Any) -> DataFormatError:
        """The error of a field."""
        where = {"file": self.file, "field": f"fields.{key}"}
        return DataFormatError("is not what this field can be", **where, found=found, expected=expected)


def stated_beside(path: Path, supplied: Supplied, *, more: Sequence[Path] = ()) -> Stated:
    """What is stated of a file, beside it, in `more` places, or in what the caller supplies.

    Raises:
        DataFormatError: it is no JSON, or has fields that nobody reads.
    """
    places = (path.with_name(f"{path.stem}.cameras.json"), path.with_name("cameras.json"), *more)
    file = supplied.cameras or next((p for p in places if p.is_file()), None)
    if file is None:
        return Stated(places, supplied)
    table = read_json(file, fix="write it as JSON")
    fields, cameras = table.get("fields"), table.get("cameras")
    if fields is not None and not isinstance(fields, dict):
        raise DataFormatError("is no field map", file=file, field="fields", found=type(fields).__name__)
    unknown = sorted(set(fields or {}) - {*LAYOUT_KEYS, *CORRECTIONS})
    if unknown:
        expected = [*LAYOUT_KEYS, *CORRECTIONS]
        raise DataFormatError(
            "are no fields of a field map", file=file, field="fields", found=unknown, expected=expected
        )
    entries = cameras.values() if isinstance(cameras, dict) else ()
    named = (entry.get("rgb") for entry in entries if isinstance(entry, dict))
    pictures = frozenset(name for name in named if isinstance(name, str))
    return Stated(places, supplied, file, fields, pictures=pictures, has_cameras="cameras" in table or fields is None)

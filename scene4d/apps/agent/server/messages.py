"""What the policy server and its clients send: safetensors bodies and JSON answers (docs/serve.md).

An observation is one safetensors blob: a length, a JSON header that names each array, its type and its place, then the
numbers. Nothing in it can be run, and its sizes are known before anything is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy

from scene4d.errors import DataFormatError, VersionError

VERSION = "1"
MEDIA_TYPE = "application/x-safetensors"
MAX_HEADER, MAX_SIDE, MAX_VIEWS = 1 << 16, 4096, 16
KINDS = {"rgb": ("U8", 3), "depth": ("F32", 2), "viewmat": ("F32", 2), "K": ("F32", 2)}
TYPES = {"U8": np.dtype("<u1"), "F32": np.dtype("<f4")}


@dataclass(frozen=True)
class View:
    """One camera at one instant: rgb [h w 3] uint8; depth [h w] float32, z-depth in m, 0 = not measured; viewmat [4 4]
    float32 camera-from-world (OpenCV axes, m); K [3 3] float32 px, pixel centres at +0.5."""

    rgb: np.ndarray
    depth: np.ndarray
    viewmat: np.ndarray
    K: np.ndarray


@dataclass(frozen=True)
class ObservationMessage:
    """What a robot sees and feels at one instant: views {camera name: View}, proprio [p] float32, actions [n a] that
    were carried out since the one before (None = the one that was answered), goal [3] m (None = not given)."""

    views: Mapping[str, View]
    proprio: np.ndarray
    actions: np.ndarray | None = None
    goal: np.ndarray | None = None


def pack(observation: ObservationMessage) -> bytes:
    """The body of a request."""
    numbers = {"proprio": observation.proprio, "actions": observation.actions, "goal": observation.goal}
    arrays = {name: np.asarray(values, np.float32) for name, values in numbers.items() if values is not None}
    for name, view in observation.views.items():
        for kind, (dtype, _) in KINDS.items():
            arrays[f"{kind}/{name}"] = np.ascontiguousarray(getattr(view, kind), dtype=TYPES[dtype])
    return safetensors.numpy.save(arrays, metadata={"version": VERSION})


def unpack(body: bytes) -> ObservationMessage:
    """The observation in the body of a request; copies nothing.

    Raises:
        DataFormatError: not safetensors, or its arrays are not those of an observation; VersionError: another version.
    """
    header, start = _header(body)
    metadata = header.pop("__metadata__", {})
    version = metadata.get("version") if isinstance(metadata, dict) else None
    if version != VERSION:
        raise VersionError("is another version", field="body.version", found=str(version)[:40], expected=VERSION)
    arrays = {str(name): _array(body, start, name=str(name), entry=entry) for name, entry in header.items()}
    _check_places(header, size=len(body) - start)
    proprio, actions, goal = (arrays.pop(name, None) for name in ("proprio", "actions", "goal"))
    if proprio is None or proprio.dtype != TYPES["F32"] or proprio.ndim != 1:
        raise DataFormatError("is no robot's state", field="proprio", expected="[p] F32")
    if actions is not None and (actions.dtype != TYPES["F32"] or actions.ndim != 2 or not len(actions)):
        raise DataFormatError("are no actions", field="actions", found=list(actions.shape), expected="[n >= 1, a] F32")
    if goal is not None and (goal.dtype != TYPES["F32"] or goal.shape != (3,)):
        raise DataFormatError("is no place", field="goal", found=list(goal.shape), expected="[3] F32")
    return ObservationMessage(views=_views(arrays), proprio=proprio, actions=actions, goal=goal)


def _header(body: bytes) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(body[:8], "little")
    if len(body) < 8 or not 2 <= length <= min(MAX_HEADER, len(body) - 8):
        expected = f"8 bytes, a header of 2 to {MAX_HEADER} bytes, arrays"
        raise DataFormatError("is no safetensors", field="body", found=f"{len(body)} bytes", expected=expected)
    try:
        header = json.loads(body[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise DataFormatError("header is no JSON", field="body", found=str(error)[:80]) from error
    if not isinstance(header, dict) or len(header) > 3 + 4 * MAX_VIEWS + 1:
        raise DataFormatError("header is no list of arrays", field="body", expected=f"at most {MAX_VIEWS} cameras")
    return header, 8 + length


def _array(body: bytes, start: int, *, name: str, entry: Any) -> np.ndarray:
    """One array of the body, looked at where it lies."""
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, place = TYPES.get(str(entry.get("dtype"))), entry.get("shape"), entry.get("data_offsets")
    field = name[:60]
    if dtype is None or not _whole(shape, most=3) or not _whole(place, most=2) or len(place) != 2:
        found = f"{entry.get('dtype')} {str(shape)[:40]} at {str(place)[:40]}"
        raise DataFormatError("is no array", field=field, found=found, expected="U8 or F32, shape, data_offsets")
    first, last = place
    count = math.prod(shape)
    if not (last <= len(body) - start and last - first == count * dtype.itemsize):
        raise DataFormatError("does not fit the body", field=field, found=f"{shape} at {place}")
    return np.frombuffer(body, dtype, count=count, offset=start + first).reshape(shape)


def _check_places(header: Mapping[str, Any], *, size: int) -> None:
    """Refuse arrays that lie over one another, or between which are bytes that belong to none."""
    end, name = 0, "body"
    for (first, last), name in sorted((entry["data_offsets"], name) for name, entry in header.items()):
        if first != end:
            problem = "overlaps another array" if first < end else "leaves a gap before it"
            raise DataFormatError(problem, field=name[:60], found=first, expected=end)
        end = last
    if end != size:
        problem, expected = "bytes lie behind the last array", f"{end} bytes"
        raise DataFormatError(problem, field=name[:60], found=size, expected=expected)


def _whole(values: Any, *, most: int) -> bool:
    """Whether these are at most `most` whole numbers of a sensible size."""
    return isinstance(values, list) and len(values) <= most and all(type(i) is int and 0 <= i < 1 << 40 for i in values)


def _views(arrays: Mapping[str, np.ndarray]) -> dict[str, View]:
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        kind, _, camera = name.partition("/")
        dtype, dims = KINDS.get(kind, ("", 0))
        if not camera or array.dtype != TYPES.get(dtype) or array.ndim != dims:
            expected = "proprio, actions, goal, rgb/CAMERA [h w 3] U8, depth/CAMERA [h w], viewmat/CAMERA, K/CAMERA F32"
            found = f"{array.dtype} {list(array.shape)}"
            raise DataFormatError("is no part of an observation", field=name[:60], found=found, expected=expected)
        parts.setdefault(camera, {})[kind] = array
    return {camera: _view(camera, part) for camera, part in parts.items()}


def _view(camera: str, part: Mapping[str, np.ndarray]) -> View:
    missing = [kind for kind in KINDS if kind not in part]
    if missing:
        raise DataFormatError("is missing", field=f"{missing[0]}/{camera[:40]}", fix="send rgb, depth, viewmat and K")
    shape = part["rgb"].shape
    if shape[2] != 3 or min(shape[:2]) < 2 or max(shape[:2]) > MAX_SIDE:
        expected = f"[h w 3], sides 2 to {MAX_SIDE}"
        raise DataFormatError("is no picture", field=f"rgb/{camera[:40]}", found=list(shape), expected=expected)
    for kind, wanted in (("depth", shape[:2]), ("viewmat", (4, 4)), ("K", (3, 3))):
        if part[kind].shape != wanted:
            field, found = f"{kind}/{camera[:40]}", list(part[kind].shape)
            raise DataFormatError("has the wrong shape", field=field, found=found, expected=list(wanted))
    return View(rgb=part["rgb"], depth=part["depth"], viewmat=part["viewmat"], K=part["K"])

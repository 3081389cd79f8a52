"""What numbers and texts any setting may have: one table by name, for options, files and the headers of weights.

It holds what no use could mean (a negative width, a rate that is no number). What a single verb or class needs beyond
that it checks itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

LARGEST, MOST = 1e12, 2**31 - 1
MAX_TEXT, MAX_NAME, MAX_PATH = 1000, 255, 4096
MAX_NESTING = 32
_SIGNED = {"level_mean", "turned", "turned_deg", "time", "start", "shift_range", "seeds"}
_STATES = {"goal", "proprio"}  # data, which the agent refuses as such
_LONG_TEXTS = {"set"}
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("threads", "processes", "workers"), (0, 1024)),
    **dict.fromkeys(("lr", "learning_rates", "min_lr", "weight_decay"), (0, 1e3)),
    **dict.fromkeys(("betas", "ema_decay", "task_dropout"), (0, 1)),
    **dict.fromkeys(("fps",), (0, 1e6)),
    **dict.fromkeys(("seed", "seeds", "first_seed"), (-(2**62), 2**62)),
    **dict.fromkeys(("size", "image_size", "view_size", "polish_width", "sweep_width"), (0, 32768)),
    **dict.fromkeys(("width", "hidden", "condition", "channels", "cell_width", "feature_dim"), (0, 16384)),
    **dict.fromkeys(("cell_size", "num_anchors", "num_places", "per_place", "per_anchor", "kind"), (0, 65536)),
    **dict.fromkeys(("gaussians_per_token", "cell_queries", "stem", "num_candidates"), (0, 65536)),
    **dict.fromkeys(("action_dim", "proprio_dim", "num_actions", "num_proprio", "num_tasks"), (0, 65536)),
    **dict.fromkeys(("depth", "encoder_depth", "decoder_depth", "heads", "num_heads", "latent"), (0, 1024)),
    **dict.fromkeys(("horizon", "chunk", "num_past", "num_past_actions", "num_views", "num_inputs"), (0, 4096)),
    **dict.fromkeys(("batch_size", "completion_batch_size", "intent_batch_size", "proprio_batch_size"), (0, 2**20)),
}
_NOT_ZERO = {
    *("threads", "processes", "workers", "batch_size", "completion_batch_size", "intent_batch_size"),
    *("proprio_batch_size", "width", "hidden", "condition", "channels", "cell_width", "cell_size", "heads"),
    *("num_heads", "num_anchors", "horizon", "chunk", "latent", "log_every", "checkpoint_every", "window_stride"),
    *("stride", "size", "image_size", "view_size", "replan_every", "num_tasks", "action_dim", "patch", "every"),
    "num_views",
}


def out_of_range(name: str, value: Any, *, default: Any = None) -> tuple[str, str] | None:
    """(what is found, what would do) where a setting of that name cannot be meant; None where it can.

    Args:
        name: of the setting, without the sections above it.
        default: what it is where nobody sets it; that much is always allowed.
    """
    if isinstance(value, tuple | list):
        found = (out_of_range(name, each, default=default) for each in value)
        return next((wrong for wrong in found if wrong is not None), None)
    if isinstance(value, str | Path):
        return _wrong_path(value) if isinstance(value, Path) else _wrong_text(name, value)
    if name in _STATES or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    least, most = _range(name, value)
    whole = isinstance(value, int) and name in _NOT_ZERO and 0 not in _numbers(default)
    if (whole and value == 0) or not least <= value <= most:  # which "no number" is not either
        return shown(value), f"{1 if whole else least:g} to {most:g}"
    return None


def is_folder_name(text: str) -> bool:
    """Whether a folder of that name can be made in another one, and nowhere else."""
    plain = not any(c in "/\\" or ord(c) < 32 for c in text) and text not in ("", ".", "..")
    return plain and len(text.encode(errors="replace")) <= MAX_NAME - 55  # names of files beside it are longer


def settings_out_of_range(table: Any, *, where: str = "") -> Iterator[tuple[str, str, str]]:
    """(setting, what is found, what would do) of nested plain values that cannot be meant."""
    if where.count(".") > MAX_NESTING:
        yield where[:80], "tables in tables", f"at most {MAX_NESTING} deep"
    elif isinstance(table, Mapping):
        for key, value in table.items():
            yield from settings_out_of_range(value, where=f"{where}.{key}" if where else str(key))
    else:
        items = table if isinstance(table, Sequence) and not isinstance(table, str) else (table,)
        for item in items:
            wrong = out_of_range(where.rpartition(".")[2], item)
            if wrong is not None:
                yield where, *wrong


def _range(name: str, number: float) -> tuple[float, float]:
    if name in _RANGES:
        return _RANGES[name]
    most = MOST if isinstance(number, int) else LARGEST
    return (-most if name in _SIGNED else 0), most


def _numbers(value: Any) -> list[int | float]:
    values = value if isinstance(value, tuple | list) else (value,)
    return [number for number in values if isinstance(number, int | float) and not isinstance(number, bool)]


def shown(value: Any) -> str:
    """A value on part of a line, however large or deep it is."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {int(value.bit_length() * math.log10(2)) + 1} digits"
    if isinstance(value, dict | list | tuple):
        try:
            text = repr(value)
        except (RecursionError, ValueError):
            return f"{type(value).__name__} of {len(value)}"
    else:
        text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def _wrong_text(name: str, text: str) -> tuple[str, str] | None:
    if name not in _LONG_TEXTS and (len(text) > MAX_TEXT or "\0" in text):
        return f"{len(text)} characters", f"at most {MAX_TEXT}, none of them 0"
    return None


def _wrong_path(path: Path) -> tuple[str, str] | None:
    parts, whole = [os.fsencode(part) for part in path.parts], os.fsencode(path)
    if len(whole) > MAX_PATH or any(len(part) > MAX_NAME for part in parts) or b"\0" in whole:
        return f"{len(whole)} bytes", f"at most {MAX_NAME} bytes between slashes, {MAX_PATH} in all"
    return None

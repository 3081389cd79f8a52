"""Tasks of a LeRobot episode: those it is listed with, and which of them each frame has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from scene4d.data.formats.lerobot.lerobot_tables import numbers_of
from scene4d.ledger import LeftOut, with_left_out

SEGMENTS = "task_segments"
"""Key in `info` of an episode with several tasks: [{"task", "start", "stop"}], frames of the whole recording."""


def joined_tasks(texts: Sequence[str]) -> str:
    """Several tasks as one text, each once."""
    return "; ".join(dict.fromkeys(texts))


def task_notes(table: pa.Table, tasks: Mapping[int, str], *, listed: Sequence[str], file: Path) -> dict[str, Any]:
    """What the frames of an episode say of its tasks: "task" and `SEGMENTS`, where they have several."""
    if "task_index" not in table.column_names:
        return {}
    numbers = numbers_of(table, "task_index", shape=[1], file=file)
    unknown = tuple(str(k) for k in np.unique(numbers).tolist() if k not in tasks)
    reason = f"tasks of frames in {file.name} that meta/ has no text for"
    notes = with_left_out({}, LeftOut("tasks", "task", unknown if tasks else (), reason, "copy meta/ again"))
    starts = np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]])) if len(numbers) else []
    texts = [tasks.get(int(numbers[i]), "") for i in starts]
    if len(set(texts)) < 2 and (listed or not texts):
        return notes
    notes["task"] = joined_tasks([text for text in [*listed, *texts] if text])
    if len(set(texts)) > 1:
        stops = [*starts[1:], len(numbers)]
        parts = zip(texts, starts, stops, strict=True)
        notes[SEGMENTS] = [{"task": text, "start": int(a), "stop": int(b)} for text, a, b in parts]
    return notes


def tasks_of_frames(info: Mapping[str, Any], length: int) -> list[str]:
    """The task of each frame of a whole episode; all have its one task where `SEGMENTS` do not cover it exactly."""
    parts = info.get(SEGMENTS) or []
    texts = [str(part["task"]) for part in parts for _ in range(part["stop"] - part["start"])]
    return texts if texts and len(texts) == length else [str(info.get("task", ""))] * length

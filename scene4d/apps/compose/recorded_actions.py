"""The past and the next actions that a .s4d file or a file of actions holds, for a forecast."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scene4d.errors import ConfigError, DataFormatError
from scene4d.files import require_regular
from scene4d.gaussians.s4d.s4d import S4DFile
from scene4d.robot.bounds import action_bounds
from scene4d.scene import Scene4D
from scene4d.unreadable import NPY_ERRORS
from scene4d.world.observation import Observation, actions_of_s4d, robot_of_s4d


def observation_and_actions(
    file: S4DFile, *, actions: str, start: int | None, num_steps: int, scene: Scene4D | None = None
) -> tuple[Observation, Tensor]:
    """What a .s4d holds of the past up to frame `start`, and the actions [h a] from there on.

    Args:
        actions: "recorded", or a file of actions. scene: that of the file, where it was read before.
    Raises:
        DataFormatError: the file lacks actions or proprio, or there are no actions after `start`.
        ConfigError: there is no such frame, or its specs are no specs.
    """
    scene, stored = file.scene() if scene is None else scene, actions_of_s4d(file)
    last = scene.times.shape[-1] - 1
    given = None if actions == "recorded" else _read_actions(Path(actions), width=stored.shape[-1])
    if given is not None:
        _check_actions(given, file=file, path=Path(actions))
    if start is None:
        start = last if given is not None or len(stored) > last + 1 else max(0, last - num_steps)
    if not 0 <= start <= last:
        raise ConfigError("no such frame in the scene", field="start", found=start, expected=f"0..{last}")
    future = (stored[start:] if given is None else given)[:num_steps]
    if given is None and len(stored) == last + 1:
        future = future[: last - start]  # the last stored action leads out of the recording
    if len(future) == 0:
        fix = "lower --start" if start > 0 else "name a file of actions: --actions FILE"
        raise DataFormatError("no recorded action after this frame", file=file.path, frame=start, fix=fix)
    return Observation.from_s4d(file, scene=scene, start=start), future.float()


def _read_actions(path: Path, *, width: int) -> Tensor:
    """Actions [h a] from .json (a list of rows, or {"actions": rows}), .npy, or .csv (one row a line, # comments)."""
    try:
        require_regular(path)
        match path.suffix.lower():
            case ".json":
                found = json.loads(path.read_text(encoding="utf-8"))
                rows = np.asarray(found["actions"] if isinstance(found, dict) else found, np.float32)
            case ".npy":
                rows = np.load(path, allow_pickle=False).astype(np.float32)
            case ".csv":
                rows = np.loadtxt(path, delimiter=",", dtype=np.float32, ndmin=2)
            case other:
                raise DataFormatError("of no known kind", file=path, found=other, expected=".json, .npy or .csv")
    except (*NPY_ERRORS, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DataFormatError("cannot be read as actions", file=path, found=str(error)[:100]) from error
    if rows.ndim != 2 or rows.shape[1] != width or len(rows) == 0:
        raise DataFormatError("are no actions", file=path, found=list(rows.shape), expected=f"[h {width}]")
    return torch.from_numpy(rows)


def _check_actions(rows: Tensor, *, file: S4DFile, path: Path) -> None:
    """Refuse actions [h a] from `path` that are not finite, or beyond what the spec of `file` says of its robot."""
    # What was recorded is no bound: a forecast may ask what something else would do.
    low, high = action_bounds(robot_of_s4d(file))
    wrong = ~(rows.isfinite() & (rows >= low - 1e-5) & (rows <= high + 1e-5))
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        raise DataFormatError(
            "is not finite or out of range", file=path, field=f"actions[{column}]", frame=row,
            found=float(rows[row, column]), expected=f"{float(low[column]):g} to {float(high[column]):g}",
        )  # fmt: skip

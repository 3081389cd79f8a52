"""What an export of a phone comes down to: pictures, LiDAR depth and its confidence, K and a pose for each frame.

Phones track in a world whose y is up: it is turned so that z is. Depth is smaller than colour and sees the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import checked_intrinsics, checked_poses, inverse_poses
from scene4d.data.files.paths import listed_files
from scene4d.data.timeline.frame_table import FrameTable, Pictures, TableRecording, View, recording_of
from scene4d.data.video.depth_files import depth_size
from scene4d.data.video.pictures import DepthFiles
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.geometry.rotation import matrices_from_xyzw
from scene4d.ledger import (
    LeftOut,
    lost_poses,
    low_confidence,
    missing_depth,
    resized_depth,
    unused_files,
    with_left_out,
)

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
Z_UP_FROM_Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True)
class PhoneFrames:
    """Files and numbers of the frames of one phone."""

    names: Sequence[str]
    """Name of each frame."""
    color: Pictures
    """Colour, one picture a frame."""
    size: tuple[int, int]
    """(width, height) px of colour."""
    depths: Sequence[Path | None]
    """Depth file of each frame."""
    confidences: Sequence[Path | None]
    """Confidence of depth, 0 = lowest, of each frame."""
    Ks: np.ndarray
    """[t 3 3] px."""
    world_from_cam: np.ndarray
    """[t 4 4] OpenCV axes, metres, in a world whose y is up; a pose that is not finite drops its frame."""
    times: np.ndarray
    """[t] s."""


def phone_recording(
    folder: Path, frames: PhoneFrames, *, K_file: Path, info: Mapping[str, Any], entries: Sequence[LeftOut] = ()
) -> TableRecording:
    """The recording of a phone; frames without a finite pose are left out and named in `info`.

    Raises:
        CalibrationError: impossible K or poses. DepthError, DataFormatError: the first depth cannot be read.
    """
    poses, usable = checked_poses(Z_UP_FROM_Y_UP @ frames.world_from_cam, names=frames.names, file=K_file)
    kept = np.flatnonzero(usable).tolist()
    names = [frames.names[i] for i in kept]
    width, height = frames.size
    for name, K in zip(names, frames.Ks[kept], strict=True):
        checked_intrinsics(K, width=width, height=height, file=K_file, camera=name)
    depths, levels = [frames.depths[i] for i in kept], [frames.confidences[i] for i in kept]
    first = next((d for d in depths if d is not None), None)
    facts = [lost_poses([frames.names[i] for i in np.flatnonzero(~usable).tolist()])]
    if first is not None:
        facts += [missing_depth([n for n, d in zip(names, depths, strict=True) if d is None])]
        facts += [resized_depth(depth_size(first), frames.size), low_confidence(sum(c is not None for c in levels))]
    still = (frames.Ks[kept] == frames.Ks[kept[0]]).all()
    view = View(
        size=frames.size,
        Ks=frames.Ks[kept[0]] if still else frames.Ks[kept],
        viewmats=inverse_poses(poses[kept]),
        color=Chosen(frames.color, tuple(kept)),
        depth=None if first is None else DepthFiles(depths, size=frames.size, confidences=levels),
    )
    times = frames.times[kept] - frames.times[kept[0]]
    table = FrameTable(views={"camera": view}, times=times, names=tuple(names))
    return recording_of(table, path=folder, info=with_left_out({"units": "m", **info}, *facts, *entries))


@dataclass(frozen=True)
class Chosen:
    """Some of the pictures, in order."""

    pictures: Pictures
    places: tuple[int, ...]

    def __call__(self, frames: Sequence[int], /):
        """The pictures of these frames."""
        return self.pictures([self.places[i] for i in frames])


def files_by_stem(folder: Path, *, root: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The regular files of a folder by their names without ending, in natural order; none where there is no folder."""
    return {path.stem: path for path in listed_files(folder, root=root, suffixes=suffixes)[0]}


def rigid_matrices(quaternions: np.ndarray, positions: np.ndarray, *, file: Path) -> np.ndarray:
    """Matrices [t 4 4] of quaternions x y z w [t 4] and positions [t 3]; not finite where either is not.

    Raises:
        CalibrationError: a quaternion is zero.
    """
    finite = np.isfinite(np.concatenate([quaternions, positions], 1)).all(1)
    length = np.linalg.norm(quaternions, axis=1)
    if (finite & ~(length > 1e-6)).any():
        frame = int((finite & ~(length > 1e-6)).argmax())
        raise CalibrationError("a quaternion is zero", file=file, field="quaternion", frame=frame)
    matrices = np.tile(np.eye(4), (len(positions), 1, 1))
    matrices[~finite] = np.nan
    matrices[finite, :3, :3] = matrices_from_xyzw(quaternions[finite])
    matrices[finite, :3, 3] = positions[finite]
    return matrices


def clock_or_count(seconds: np.ndarray, *, fps: float) -> tuple[np.ndarray, str]:
    """Times [t] s and a note on them: those of a clock where they increase, else the count of frames at a rate."""
    if np.isfinite(seconds).all() and all(a < b for a, b in itertools.pairwise(seconds.tolist())):
        return seconds, "of the phone's clock"
    return np.arange(len(seconds)) / fps, f"nominal: {fps:g} frames a second"


def others_in(folder: Path, known: Sequence[str]) -> LeftOut:
    """What lies in the folder of an export and is not read."""
    try:
        names = sorted(p.name for p in folder.iterdir() if p.name not in known and not p.name.startswith("."))
    except OSError as error:
        raise DataFormatError("cannot be listed", file=folder, found=error.strerror, fix="check permissions") from error
    return unused_files(names)

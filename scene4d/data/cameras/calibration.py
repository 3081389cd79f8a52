"""Intrinsics and poses from files: parsed, checked against what a camera can be, and made exactly rigid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scene4d.data.files.text_files import text_lines
from scene4d.errors import CalibrationError, DataFormatError

MAX_RESIDUAL = 1e-3
MAX_BAD_POSES = 0.2
MAX_PIXELS = 1e7
CV_FROM_GL = np.array([1.0, -1.0, -1.0, 1.0])  # a column each: y and z of the camera turn round
PIXEL_CENTRE = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # added to a K that counts pixels by their index


def read_numbers(path: Path, *, what: str) -> np.ndarray:
    """The numbers of a text file [rows columns] float64.

    Raises:
        DataFormatError: unreadable, no numbers, too long, or lines of different lengths.
    """
    fix = f"write plain numbers, {what}"
    try:
        lines = (line.replace(",", " ").split() for line in text_lines(path))
        rows = [[_number(word) for word in line] for line in lines if line and not line[0].startswith("#")]
    except (OSError, ValueError) as error:
        raise DataFormatError("cannot be read as numbers", file=path, found=str(error)[:80], fix=fix) from error
    if not rows or len({len(row) for row in rows}) != 1:
        raise DataFormatError("is empty or ragged", file=path, found=f"{len(rows)} lines", expected=what, fix=fix)
    return np.asarray(rows, np.float64)


def _number(word: str) -> float:
    return float("nan") if "#" in word else float(word)  # old Windows runtimes print -1.#IND for NaN


def checked_intrinsics(K: np.ndarray, *, width: int, height: int, file: Path, camera: str = "camera") -> np.ndarray:
    """K [3 3] px if it can belong to an image of this size.

    Raises:
        CalibrationError: not finite, negative focal lengths, skewed, transposed, or made for another image size.
    """
    where = {"file": file, "field": f"K of {camera}"}
    if K.shape != (3, 3) or not (np.abs(K) < MAX_PIXELS).all():
        fix = "give fx 0 cx / 0 fy cy / 0 0 1"
        raise CalibrationError("is not 3x3 finite numbers", **where, found=K.tolist(), fix=fix)
    if abs(K[0, 2]) < 1e-9 and abs(K[1, 2]) < 1e-9 and (abs(K[2, 0]) > 1 or abs(K[2, 1]) > 1):
        raise CalibrationError("is transposed (column-major)", **where, found=K.tolist(), fix="write it row by row")
    if not np.allclose(K[2], [0, 0, 1]) or abs(K[1, 0]) > 1e-6:
        found = K.tolist()
        raise CalibrationError("is no pinhole matrix", **where, found=found, expected="last row 0 0 1, K[1][0] = 0")
    if not (K[0, 0] > 1e-3 and K[1, 1] > 1e-3):
        fix = "turn the camera half a turn about z (both negative), or check the file"
        raise CalibrationError("focal lengths must be positive", **where, found=[K[0, 0], K[1, 1]], fix=fix)
    if abs(K[0, 1]) > 1e-3 * K[0, 0]:
        raise CalibrationError("is skewed", **where, found=K[0, 1], expected=0, fix="rectify the images")
    fov = 2 * np.degrees(np.arctan(0.5 * width / K[0, 0]))
    x, y = K[0, 2] / width, K[1, 2] / height
    outside = not (0 < x < 1 and 0 < y < 1)
    scaled = abs(x - y) < 0.05 and not 0.35 < x < 0.75
    if outside or scaled or not 3 < fov < 170:
        problem = f"does not fit {width}x{height} images (implies {fov:.0f} deg, centre {K[0, 2]:.0f} {K[1, 2]:.0f})"
        found, fix = f"a K for about {2 * K[0, 2]:.0f}x{2 * K[1, 2]:.0f}", "scale K to the size of the images"
        raise CalibrationError(problem, **where, found=found, expected=f"{width}x{height}", fix=fix)
    return K


def checked_poses(matrices: np.ndarray, *, names: Sequence[str], file: Path) -> tuple[np.ndarray, np.ndarray]:
    """World-from-camera matrices [t 4 4] made exactly rigid, and which of them are usable [t].

    Rounding up to 1e-3 is removed (nearest rotation); poses that are not finite (tracking lost) are marked.

    Raises:
        CalibrationError: a matrix is no rigid motion, or more than a fifth are not finite.
    """
    usable = np.asarray(np.isfinite(matrices).all((1, 2)))
    if (~usable).sum() > MAX_BAD_POSES * len(usable):
        problem = f"{(~usable).sum()} of {len(usable)} poses are not finite"
        fix = "leave out the frames where tracking was lost"
        raise CalibrationError(problem, file=file, field="pose", frame=_ranges(~usable, names), fix=fix)
    good = np.where(usable[:, None, None], matrices, np.eye(4))
    rotation = good[:, :3, :3]
    with np.errstate(over="ignore", invalid="ignore"):  # numbers that absurd fail the comparisons below
        det = np.linalg.det(rotation)
        residual = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    last_row = np.abs(good[:, 3] - [0, 0, 0, 1]).max(1)
    bad = ~(residual <= 2 * MAX_RESIDUAL) | ~(det > 0) | ~(last_row <= 1e-6)
    if bad.any():
        k = int(bad.argmax())
        where = {"file": file, "field": "pose", "frame": names[k]}
        found = f"det {det[k]:.4f}, residual {residual[k]:.2g}, last row {good[k, 3].tolist()}"
        expected = "det 1, residual < 0.002, last row 0 0 0 1"
        fix = "give camera-to-world matrices row by row, OpenCV axes, metres (det -1: an axis is mirrored)"
        raise CalibrationError("the pose is no rigid motion", **where, found=found, expected=expected, fix=fix)
    u, _, vt = np.linalg.svd(rotation)
    rigid = good.copy()
    rigid[:, :3, :3] = u @ vt
    return rigid, usable


def inverse_poses(matrices: np.ndarray) -> np.ndarray:
    """b_from_a of rigid a_from_b [... 4 4], float64."""
    inverse = np.zeros_like(matrices, np.float64)
    inverse[..., :3, :3] = np.swapaxes(matrices[..., :3, :3], -1, -2)
    inverse[..., :3, 3] = -(inverse[..., :3, :3] @ matrices[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse


def _ranges(mask: np.ndarray, names: Sequence[str]) -> str:
    """Names of the marked frames as "a..b, c", at most five stretches."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]]))).tolist()
    spans = [(names[a], names[b - 1]) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    text = [a if a == b else f"{a}..{b}" for a, b in spans[:5]]
    return ", ".join(text) + (" ..." if len(spans) > 5 else "")

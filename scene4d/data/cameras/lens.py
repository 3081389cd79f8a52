"""Lens distortion (OpenCV's two models) removed from recorded pictures, so that cameras inside are pinholes."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scene4d.errors import CalibrationError

MODELS = ("opencv", "fisheye")
_NAMES = {"opencv": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"), "fisheye": ("k1", "k2", "k3", "k4")}


@dataclass(frozen=True)
class Lens:
    """Distortion of one camera.

    coefficients: "opencv" k1 k2 p1 p2 [k3 k4 k5 k6]; "fisheye" k1 k2 k3 k4 (equidistant); [d], or [t d] a frame.
    """

    model: str
    coefficients: np.ndarray

    def at(self, frame: int) -> Lens:
        """The lens of one frame."""
        return self if self.coefficients.ndim == 1 else Lens(self.model, self.coefficients[frame])


def lens_from_names(values: Mapping[str, Any], *, fisheye: bool = False) -> Lens | None:
    """The lens of a table with entries k1, k2, ... (absent = 0); None where all are 0."""
    names = _NAMES["fisheye" if fisheye else "opencv"]
    coefficients = np.array([float(values.get(name) or 0) for name in names])
    return Lens("fisheye", coefficients) if fisheye else lens_or_none(coefficients)


def lens_or_none(coefficients: Sequence[float] | np.ndarray) -> Lens | None:
    """The OpenCV lens of 4 to 8 coefficients (k1 k2 p1 p2 k3 ...), None where all are 0."""
    coefficients = np.asarray(coefficients, np.float64)
    return Lens("opencv", np.pad(coefficients, (0, 8 - len(coefficients)))) if coefficients.any() else None


def stacked_lenses(lenses: Sequence[Lens | None], *, file: Path) -> Lens | None:
    """One lens of [t d] coefficients from a lens a frame; None where no frame has one.

    Raises:
        CalibrationError: frames of one camera have lenses of different models.
    """
    models = {lens.model for lens in lenses if lens is not None}
    if not models:
        return None
    if len(models) > 1:
        found = sorted(models)
        raise CalibrationError("frames of one camera have different lenses", file=file, field="distortion", found=found)
    model = models.pop()
    plain = np.zeros(len(_NAMES[model]))
    if model == "fisheye" and None in lenses:
        raise CalibrationError("some frames have a fisheye's lens and others none", file=file, field="distortion")
    return Lens(model, np.stack([plain if lens is None else lens.coefficients for lens in lenses]))


def checked_lens(lens: Lens | None, K: np.ndarray, *, size: tuple[int, int], file: Path, camera: str) -> Lens | None:
    """The lens, if it bends the image of this K and size without folding it.

    Raises:
        CalibrationError: not finite, or two points of the scene would fall on one pixel.
    """
    if lens is None:
        return None
    where = {"file": file, "field": f"distortion of {camera}"}
    if lens.model not in MODELS or not np.isfinite(lens.coefficients).all():
        found = f"{lens.model} {lens.coefficients.tolist()}"
        raise CalibrationError("is no known distortion", **where, found=found, expected=list(MODELS))
    corners = np.array([[0, 0], [size[0], 0], [0, size[1]], list(size)], np.float64)
    max_radius = np.linalg.norm((corners - K[:2, 2]) / [K[0, 0], K[1, 1]], axis=1).max()
    radius = np.linspace(0, max_radius, 257)[:, None] * [1.0, 0.0]
    for row in np.atleast_2d(lens.coefficients):
        bent = _distort(radius, Lens(lens.model, row))
        if not (np.diff(bent[:, 0]) > 0).all() or not np.abs(bent[:, 0] - radius[:, 0]).max() < max_radius:
            problem = "folds the image: it has no inverse inside the picture"
            expected = "coefficients that were fitted over the whole picture"
            fix = "calibrate again, or give the undistorted pictures with zero distortion"
            raise CalibrationError(problem, **where, found=row.tolist(), expected=expected, fix=fix)
    return lens


def undistort_picture(picture: np.ndarray, lens: Lens, *, K: np.ndarray) -> np.ndarray:
    """A picture [h w 3 or 4] uint8 as a pinhole of the same K sees it, [h w 4]: alpha 0 where nothing was seen."""
    source = torch.from_numpy(np.array(picture)).movedim(-1, 0)[None].float()  # [1 c h w]
    grid = _grid(lens.model, lens.coefficients.tobytes(), K=np.asarray(K, np.float64).tobytes(), size=picture.shape[:2])
    sampled = torch.nn.functional.grid_sample(source, grid[None], padding_mode="border", align_corners=False)[0]
    inside = (grid.abs() <= 1).all(-1)
    alpha = sampled[3] * inside if picture.shape[2] == 4 else inside * 255.0
    whole = torch.cat([sampled[:3], alpha[None]]).movedim(0, -1)
    return whole.round().clamp(0, 255).to(torch.uint8).numpy()


def undistort_depth(values: np.ndarray, lens: Lens, *, K: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Depth or labels as a pinhole sees them whose pictures have `size` (width, height) and K: the nearest pixel's.

    Values [h w] may be of another scale than `size`; 0 where nothing was seen.
    """
    height, width = values.shape
    K_bytes = np.asarray(K, np.float64).tobytes()
    grid = _grid(lens.model, lens.coefficients.tobytes(), K=K_bytes, size=size[::-1]).numpy()
    columns = np.floor((grid[..., 0] + 1) * 0.5 * width).astype(int)
    rows = np.floor((grid[..., 1] + 1) * 0.5 * height).astype(int)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    taken = values[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    return np.where(inside, taken, np.zeros((), values.dtype))


@functools.lru_cache(maxsize=8)
def _grid(model: str, coefficients: bytes, *, K: bytes, size: tuple[int, int]) -> torch.Tensor:
    """Where each undistorted pixel centre lies in the recorded picture, [h w 2] in -1..1 over the picture's area."""
    matrix, lens = np.frombuffer(K).reshape(3, 3), Lens(model, np.frombuffer(coefficients))
    height, width = size
    centres = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
    focal, middle = matrix[[0, 1], [0, 1]], matrix[:2, 2]
    bent = _distort((centres - middle) / focal, lens) * focal + middle
    return torch.from_numpy(bent / [width, height] * 2 - 1).float()


def _distort(points: np.ndarray, lens: Lens) -> np.ndarray:
    """Recorded image-plane points [... 2] (z = 1) of undistorted ones.

    Source: OpenCV, camera calibration: the rational model with tangential terms, and the fisheye model.
    """
    x, y = points[..., 0], points[..., 1]
    square = x * x + y * y
    if lens.model == "fisheye":
        radius = np.sqrt(square)
        angle = np.arctan(radius)
        k1, k2, k3, k4 = lens.coefficients[:4]
        a2 = angle * angle
        bent = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))
        factor = np.where(radius > 1e-9, bent / np.where(radius > 1e-9, radius, 1), 1.0)
        return points * factor[..., None]
    k1, k2, p1, p2, k3, k4, k5, k6 = lens.coefficients
    radial = (1 + square * (k1 + square * (k2 + square * k3))) / (1 + square * (k4 + square * (k5 + square * k6)))
    dx = 2 * p1 * x * y + p2 * (square + 2 * x * x)
    dy = p1 * (square + 2 * y * y) + 2 * p2 * x * y
    return np.stack([x * radial + dx, y * radial + dy], -1)

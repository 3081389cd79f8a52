"""How new frames see the rows in memory: as measured, hidden, or the camera looked right through them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from scene4d.geometry.connected import connected_regions
from scene4d.geometry.frame_images import depth_of
from scene4d.geometry.sh import rgb_from_sh
from scene4d.lift.rgbd.unproject import LiftConfig, lift_frames, valid_pixels
from scene4d.lift.stream.point_search import nearest_in
from scene4d.lift.stream.row_store import RowStore
from scene4d.types import Frames, Gaussians

UNKNOWN, AGREES, VIOLATED, HIDDEN, RECOLOURED = 0, 1, 2, 3, 4
"""Status: out of view or not measured; as measured; in front of the measured surface (free space); behind it; at the
measured depth but of another colour."""


@dataclass(frozen=True)
class FrameObservation:
    """One instant as arrays: images [v h w], and the lifted points [p] with the pixel (flat in [v h w]) of each."""

    frames: Frames
    rgb: np.ndarray
    depth: np.ndarray
    viewmats: np.ndarray
    Ks: np.ndarray
    lifted: Gaussians
    points: np.ndarray
    normals: np.ndarray
    colours: np.ndarray
    pixel: np.ndarray
    spacing: np.ndarray
    z: np.ndarray

    @property
    def num_views(self) -> int:
        """Cameras."""
        return self.depth.shape[0]

    @property
    def num_pixels(self) -> int:
        """Pixels a view."""
        return self.depth.shape[1] * self.depth.shape[2]

    @property
    def typical_spacing(self) -> float:
        """Distance in m between pixels on a typical surface."""
        return float(np.median(self.spacing)) if len(self.spacing) else 0.01


@dataclass(frozen=True)
class Tolerances:
    """How far a measurement may be off: depth `absolute` + `relative` z, in m; `colour` a channel (a number or [n])."""

    absolute: float
    relative: float
    colour: float | np.ndarray

    def depth(self, z: np.ndarray) -> np.ndarray:
        """Tolerance in m at depth z."""
        return self.absolute + self.relative * z


@dataclass(frozen=True)
class Visibility:
    """[v n] each: status, pixel the row falls into (flat in [h w], -1 = none), gap in m (> 0 = behind the surface),
    colour mismatch beyond the neighbouring pixels' range, distance from the pixel centre in pixels."""

    status: np.ndarray
    pixel: np.ndarray
    gap: np.ndarray
    mismatch: np.ndarray
    off_centre: np.ndarray

    def any(self, *statuses: int) -> np.ndarray:
        """[n] whether the row has one of these in some view."""
        return np.asarray(np.isin(self.status, statuses).any(axis=0))

    def pick(self, index: np.ndarray) -> Visibility:
        """Those of some rows."""
        return Visibility(*(column[:, index] for column in vars(self).values()))

    def patched(self, index: np.ndarray, other: Visibility) -> Visibility:
        """The same with the rows `index` as in `other`."""
        columns = [column.copy() for column in vars(self).values()]
        for mine, new in zip(columns, vars(other).values(), strict=True):
            mine[:, index] = new
        return Visibility(*columns)

    def followed_by(self, other: Visibility) -> Visibility:
        """Those of more rows, after these."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Visibility(*(np.concatenate(pair, 1) for pair in pairs))

    @property
    def agrees(self) -> np.ndarray:
        """[n] seen where it should be, by some view."""
        return self.any(AGREES)

    @property
    def violated(self) -> np.ndarray:
        """[n] some camera looked through it and none saw it."""
        return self.any(VIOLATED) & ~self.any(AGREES, RECOLOURED)


def observe_frames(frames: Frames, *, config: LiftConfig, sky_depth: float) -> FrameObservation:
    """Lift frames [v] and lay everything out as arrays; sky lies `sky_depth` m away with confidence 0 (0 = unknown)."""
    sky = sky_mask(frames) if sky_depth > 0 else torch.zeros_like(depth_of(frames), dtype=torch.bool)
    frames = frames.replace(depth=torch.where(sky, torch.full_like(depth_of(frames), sky_depth), depth_of(frames)))
    lifted = lift_frames(frames, config=config)
    pixel = lifted.extras["pixel"][:, 0].numpy()
    extras = {k: v for k, v in lifted.extras.items() if k != "pixel"}
    extras["confidence"] = extras["confidence"] * ~sky.reshape(-1)[torch.from_numpy(pixel)][:, None]
    lifted = lifted.replace(extras=extras)
    depth = torch.where(valid_pixels(frames), depth_of(frames), torch.zeros_like(depth_of(frames)))
    focal = (frames.cameras.Ks[:, 0, 0] * frames.cameras.Ks[:, 1, 1]).abs().sqrt().double().numpy()
    flat = depth.double().numpy().reshape(-1)
    view = pixel // (frames.cameras.width * frames.cameras.height)
    return FrameObservation(
        frames=frames,
        rgb=frames.rgb.float().numpy(),
        depth=depth.double().numpy(),
        viewmats=frames.cameras.viewmats.double().numpy(),
        Ks=frames.cameras.Ks.double().numpy(),
        lifted=lifted,
        points=lifted.means.double().numpy(),
        normals=lifted.extras["normals"].double().numpy(),
        colours=rgb_from_sh(lifted.sh).double().numpy(),
        pixel=pixel,
        spacing=flat[pixel] / focal[view],
        z=flat[pixel],
    )


def sky_mask(frames: Frames, *, min_share: float = 0.005, max_spread: float = 0.03) -> torch.Tensor:
    """[v h w] pixels without depth because nothing is near, not because the sensor failed.

    Where the frames have segments, that is segment -1. Elsewhere it is a hole that reaches the border of the image,
    is no speck (`min_share` of the image) and has one colour (standard deviation below `max_spread`).
    """
    hole = (depth_of(frames) <= 0) | ~torch.isfinite(depth_of(frames))
    if frames.alpha is not None:
        # A pixel whose colour is not usable either was cut off by the reader: nothing is known of what is there.
        hole &= frames.alpha > 0.5
    if "segments" in frames.extras:
        return hole & (frames.extras["segments"][..., 0] == -1)
    sky = torch.zeros_like(hole)
    for view in range(len(hole)):
        labels = connected_regions(hole[view].numpy())
        border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
        for part in border[border > 0]:
            inside = torch.from_numpy(labels == part)
            spread = frames.rgb[view][inside].std(0).max() if inside.sum() > 1 else 1.0
            if inside.float().mean() >= min_share and spread < max_spread:
                sky[view] |= inside
    return sky


def visibility_of(
    points: np.ndarray, observation: FrameObservation, *, colours: np.ndarray, tolerances: Tolerances
) -> Visibility:
    """Hold points [n 3] of colours [n 3] against what every view measured.

    A point between pixel centres is held against the range its (up to four) neighbours span, so slopes and edges need
    no margin of their own; a point on a pixel centre is held against that pixel alone.
    """
    parts = [
        _visibility_in_view(points, observation, view=view, colours=colours, tolerances=tolerances)
        for view in range(observation.num_views)
    ]
    return Visibility(*(np.stack(columns) for columns in zip(*parts, strict=True)))


def _visibility_in_view(
    points: np.ndarray, observation: FrameObservation, *, view: int, colours: np.ndarray, tolerances: Tolerances
) -> tuple[np.ndarray, ...]:
    height, width = observation.depth.shape[1:]
    viewmat, K = observation.viewmats[view], observation.Ks[view]
    cam = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    z = cam[:, 2]
    safe = np.where(z > 1e-6, z, 1.0)
    x = (cam[:, 0] * K[0, 0] + cam[:, 1] * K[0, 1]) / safe + K[0, 2]
    y = cam[:, 1] * K[1, 1] / safe + K[1, 2]
    inside = (z > 1e-3) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = np.where(inside, x, 0.5), np.where(inside, y, 0.5)
    column, row = x.astype(np.int64), y.astype(np.int64)
    own = row * width + column
    off_x, off_y = x - column - 0.5, y - row - 0.5
    step_x = np.where(np.abs(off_x) < 0.1, 0, np.sign(off_x)).astype(np.int64)
    step_y = np.where(np.abs(off_y) < 0.1, 0, np.sign(off_y)).astype(np.int64)
    beside = np.clip(column + step_x, 0, width - 1)
    above = np.clip(row + step_y, 0, height - 1)
    near = np.stack([own, row * width + beside, above * width + column, above * width + beside])  # [4 n]

    depth = observation.depth[view].reshape(-1)[near]  # [4 n]
    measured = depth > 0
    low = np.where(measured, depth, np.inf).min(0)
    high = np.where(measured, depth, 0.0).max(0)
    known = inside & measured.any(0)
    low = np.where(known, low, z)
    behind, in_front = z - np.where(known, high, z), low - z
    tolerance = tolerances.depth(z)
    colour = observation.rgb[view].reshape(-1, 3)[near]  # [4 n 3]
    mismatch = np.maximum(colours - colour.max(0), colour.min(0) - colours).max(-1).clip(0.0)

    status = np.full(len(points), AGREES, dtype=np.int8)
    status[mismatch > tolerances.colour] = RECOLOURED
    status[behind > tolerance] = HIDDEN
    status[in_front > tolerance] = VIOLATED
    status[~known] = UNKNOWN
    gap = np.where(behind > 0, behind, np.where(in_front > 0, -in_front, 0.0))
    return status, np.where(inside, own, -1), gap, mismatch, np.hypot(off_x, off_y)


def unexplained_points(
    observation: FrameObservation, memory: RowStore, *, visibility: Visibility, tolerances: Tolerances
) -> np.ndarray:
    """[p] whether no agreeing row is in a lifted point's pixel, or next to it on the same surface."""
    points, normals, colours = memory.x, memory.normal, memory.colour
    explained = np.zeros(observation.num_views * observation.num_pixels, dtype=bool)
    view, row = np.nonzero(visibility.status == AGREES)
    explained[view * observation.num_pixels + visibility.pixel[view, row]] = True
    open_points = np.nonzero(~explained[observation.pixel])[0]
    left = np.zeros(len(observation.pixel), dtype=bool)
    agrees = np.nonzero(visibility.agrees)[0]
    if len(open_points) == 0 or len(agrees) == 0:
        left[open_points] = True
        return left
    reach = 0.75 * observation.spacing[open_points]
    _, index = nearest_in(points[agrees], observation.points[open_points], limit=float(reach.max()))
    found = index < len(agrees)
    mate = agrees[np.where(found, index, 0)]
    offset = observation.points[open_points] - points[mate]
    height = np.abs((offset * normals[mate]).sum(-1))
    same = found & (np.linalg.norm(offset, axis=-1) < reach) & (height < tolerances.depth(observation.z[open_points]))
    same &= np.abs(observation.colours[open_points] - colours[mate]).max(-1) < tolerances.colour
    left[open_points[~same]] = True
    return left


def sensor_noise(memory: RowStore, visibility: Visibility, *, limit: Tolerances) -> Tolerances:
    """The sensor's own noise, from static rows in the view that saw them last; `limit` where those are too few."""
    column = np.arange(len(memory))
    good = ~memory.moving & (visibility.status[memory.home, column] == AGREES)
    if good.sum() < 50:
        return limit
    gap = np.abs(visibility.gap[memory.home, column][good])
    mismatch = visibility.mismatch[memory.home, column][good]
    absolute = np.clip(3 * np.quantile(gap, 0.8), 0.0005, limit.absolute + limit.relative)
    return Tolerances(float(absolute), 0.0, float(np.clip(3 * np.quantile(mismatch, 0.8), 0.02, limit.colour)))

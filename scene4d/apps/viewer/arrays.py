"""What the viewer draws, as arrays: splats in colour or by uncertainty, flow as arrows, cameras as frusta."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scene4d.geometry.camera import invert_rigid
from scene4d.geometry.rotation import matrix_from_quat, normalize_quat, quat_from_matrix
from scene4d.geometry.sh import rgb_from_sh
from scene4d.scene import Scene4D
from scene4d.types import Cameras, Gaussians

FAINT = 1 / 255
CALM, WILD = 1e-3, 0.1
"""Standard deviations in m that are drawn in the first and the last colour of the uncertainty scale."""
UNSURE_COLOURS = ((0.23, 0.30, 0.75), (0.87, 0.87, 0.87), (0.90, 0.55, 0.20), (0.70, 0.02, 0.15))
STILL = 5e-4
"""Flow in m below which nothing is drawn."""


@dataclass(frozen=True)
class Instant:
    """One stop of the time slider: `scene` at `time` s, which is number `index` of its times."""

    scene: Scene4D
    index: int
    time: float
    observed: bool

    def gaussians(self) -> Gaussians:
        """The Gaussians [n] at this instant."""
        return self.scene.at(self.time)


def instants_of(scene: Scene4D, *, past: Sequence[Instant] = ()) -> list[Instant]:
    """The instants of a scene, behind those of `past`; one that is no later than the last of `past` is left out."""
    last = past[-1].time + 1e-6 if past else -math.inf
    times, observed = scene.times.tolist(), scene.observed.tolist()
    new = [Instant(scene, i, t, bool(o)) for i, (t, o) in enumerate(zip(times, observed, strict=True)) if t > last]
    return [*past, *new]


@dataclass(frozen=True)
class Splats:
    """centers [n 3] m, covariances [n 3 3] m^2, rgbs [n 3] and opacities [n 1] in [0, 1]: float32 arrays."""

    centers: np.ndarray
    covariances: np.ndarray
    rgbs: np.ndarray
    opacities: np.ndarray


def splats_of(gaussians: Gaussians, *, rgbs: Tensor | None = None, most: int = 1 << 40) -> Splats:
    """What can be seen of Gaussians [n]: neither empty nor faint, and finite.

    Args:
        rgbs: colours [n 3] instead of their own (which are drawn as from afar: degree 0 only).
        most: of more, an even share is drawn, each splat the larger for those that are left out.
    """
    rgbs = rgb_from_sh(gaussians.sh) if rgbs is None else rgbs
    fine = gaussians.means.isfinite().all(-1) & gaussians.scales.isfinite().all(-1) & gaussians.quats.isfinite().all(-1)
    rows = (fine & (gaussians.ids >= 0) & (gaussians.opacities > FAINT)).nonzero().squeeze(-1)
    grow = 1.0
    if len(rows) > most:
        grow = math.sqrt(len(rows) / most)  # what lies on surfaces covers them again
        # By id and not by row, so that the same Gaussians are drawn at every instant.
        rows = rows[(gaussians.ids[rows] * 2_654_435_761 % (1 << 32)).argsort()[:most].sort().values]
    turned = (
        matrix_from_quat(normalize_quat(gaussians.quats[rows])) * (grow * gaussians.scales[rows])[:, None]
    )  # [n 3 3]
    return Splats(
        centers=_array(gaussians.means[rows]),
        covariances=_array(turned @ turned.mT),
        rgbs=_array(rgbs[rows].clamp(0, 1)),
        opacities=_array(gaussians.opacities[rows, None].clamp(0, 1)),
    )


def uncertainty_of(instant: Instant) -> Tensor:
    """How far a Gaussian may be from where it is drawn, [n] standard deviations in m; 0 where nothing was predicted."""
    motion = instant.scene.motion
    if motion.log_var is None or motion.anchors.shape[0] == 0:
        return torch.zeros(instant.scene.base.num_gaussians)
    shift = motion.log_var[instant.index, :, 3:].exp().sum(-1).sqrt()  # [m]: the last three are the place
    return (shift[motion.skin_index] * motion.skin_weights).sum(-1)


def uncertainty_colours(deviations: Tensor) -> Tensor:
    """Colours [n 3] of deviations [n] m: blue up to 1 mm, red from 100 mm, by orders of magnitude."""
    share = (deviations.clamp_min(1e-9) / CALM).log() / math.log(WILD / CALM)
    place = share.nan_to_num(nan=1.0).clamp(0, 1) * (len(UNSURE_COLOURS) - 1)
    table = deviations.new_tensor(UNSURE_COLOURS)
    low = place.floor().long().clamp(0, len(UNSURE_COLOURS) - 2)
    return torch.lerp(table[low], table[low + 1], (place - low)[:, None])


@dataclass(frozen=True)
class Arrows:
    """starts and ends [k 3] m; rgbs [k 3] in [0, 1]."""

    starts: np.ndarray
    ends: np.ndarray
    rgbs: np.ndarray


def arrows_between(now: Instant, then: Instant, *, stretch: float = 1.0, most: int = 400) -> Arrows:
    """Where the Gaussians of `now` go by `then`, `stretch` times as long as it is, for `most` of what moves, evenly.

    Where the two are of different scenes, `then`'s own memory of now is drawn, for its rows are the ones that move.
    """
    scene = then.scene
    start = now.time if now.scene is scene else float(scene.times[0])
    flow, valid = scene.flow(start, then.time)
    at = scene.at(start)
    shown = valid & (at.opacities > FAINT) & flow.isfinite().all(-1) & (flow.norm(dim=-1) > STILL)
    rows = shown.nonzero().squeeze(-1)
    rows = rows[torch.linspace(0, len(rows) - 1, min(most, len(rows))).round().long()]
    starts, flow = at.means[rows], flow[rows]
    heading = 0.5 + 0.5 * flow / flow.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return Arrows(starts=_array(starts), ends=_array(starts + stretch * flow), rgbs=_array(heading))


@dataclass(frozen=True)
class Frustum:
    """A camera as a viewer draws it: wxyz and position are world-from-camera; fov radians from top to bottom."""

    wxyz: np.ndarray
    position: np.ndarray
    fov: float
    aspect: float


def frusta_of(cameras: Mapping[str, Cameras], *, index: int) -> dict[str, Frustum]:
    """Each camera at instant `index` (moving ones hold their last pose after their end)."""
    return {name: _frustum(camera, index) for name, camera in cameras.items()}


def _frustum(camera: Cameras, index: int) -> Frustum:
    if camera.batch_shape:
        camera = camera[min(index, camera.batch_shape[0] - 1)]
    world_from_cam = invert_rigid(camera.viewmats.double())
    return Frustum(
        wxyz=quat_from_matrix(world_from_cam[:3, :3]).numpy(),
        position=world_from_cam[:3, 3].numpy(),
        fov=2 * math.atan(0.5 * camera.height / float(camera.Ks[1, 1].abs())),
        aspect=camera.width / camera.height,
    )


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().contiguous().numpy()

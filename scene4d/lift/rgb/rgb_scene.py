"""Several calibrated RGB cameras without depth to a Scene4D: the first instant fitted, then tracked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scene4d.errors import DataFormatError, ShapeError
from scene4d.geometry.rotation import invert_quat, multiply_quat, rotate
from scene4d.lift.refine.adam_loop import Progress, ProgressReporter
from scene4d.lift.rgb.photometric_track import PhotometricTrackConfig, track_step
from scene4d.lift.rgb.sparse_view_fit import SparseViewFitConfig, fit_sparse_views
from scene4d.scene import Motion, Scene4D
from scene4d.types import Episode, Frames, Gaussians


@dataclass(frozen=True)
class RgbConfig:
    """How pictures of several cameras become a scene that moves."""

    fit: SparseViewFitConfig = field(default_factory=SparseViewFitConfig)
    """The first instant."""
    track: PhotometricTrackConfig = field(default_factory=PhotometricTrackConfig)
    """Every later one."""


def reconstruct_rgb_episode(
    episode: Episode,
    *,
    cameras: Sequence[str] | None = None,
    config: RgbConfig | None = None,
    progress: Progress | None = None,
) -> Scene4D:
    """The 4D scene of an episode [t] from the pictures of several calibrated cameras; depth is not looked at.

    The first instant is fitted by rendering. From then on Gaussians keep their ids and follow the pictures; those on
    pixels that never change are static.

    Args:
        cameras: views to use, of one size; by default all.
        progress: called with (done, total): instants.
    Returns:
        Scene4D [n] at the valid times: an anchor for every Gaussian that moves, residual sh where colours changed;
        info["steps"] of the first instant.
    Raises:
        DataFormatError: no such camera, or no valid frame. CalibrationError: fewer than three cameras, or all in one
            place. ShapeError: batched, or sizes differ. NumericsError.
    """
    config = config or RgbConfig()
    if len(episode.batch_shape) != 1:
        raise ShapeError("is batched", field="episode", found=episode.batch_shape, expected="[t]")
    views, times = valid_frames(episode, cameras)
    views = views.replace(depth=None, extras={})
    reporter = ProgressReporter()
    now = fit_sparse_views(views[0], config=config.fit, progress=reporter)
    states, shift = [now], torch.zeros_like(now.means)
    for t in range(1, len(times)):
        now, shift = track_step(now, views[t], before=views[t - 1], shift=shift, config=config.track)
        states.append(now)
        if progress is not None:
            progress(t + 1, len(times))
    scene = scene_of_states(states, times)
    return scene.replace(info={**scene.info, "steps": reporter.done})


def valid_frames(episode: Episode, cameras: Sequence[str] | None) -> tuple[Frames, Tensor]:
    """The views of an episode [t] as Frames [t v] at its valid times, and these times [t] s.

    Raises:
        DataFormatError: no such camera, or no valid frame. ShapeError: the views differ in size.
    """
    frames, instants = episode.stacked(cameras), episode.valid.nonzero()[:, 0]
    if len(instants) == 0:
        raise DataFormatError("has no valid frame", field="valid", fix="choose another episode")
    return frames.map(lambda x: x[instants]), episode.times[instants].to(torch.float64)


def is_fixed_rig(episode: Episode, cameras: Sequence[str]) -> bool:
    """Whether an episode [t] has three of the named cameras or more, one of which at least stands still over time."""
    poses = [episode.views[n].cameras.viewmats for n in cameras if n in episode.views]
    stands = [bool((p - p[:1]).abs().max() < 1e-4) for p in poses]
    return len(episode.times) > 1 and len(stands) >= 3 and any(stands)


def scene_of_states(states: Sequence[Gaussians], times: Tensor) -> Scene4D:
    """The same rows at several times as one Scene4D: what moves has an anchor of its own, what does not is static."""
    base, count = states[0], len(states)
    means, quats = torch.stack([s.means for s in states]), torch.stack([s.quats for s in states])  # [t n ...]
    moves = ((means != means[:1]).any(-1) | (quats != quats[:1]).any(-1)).any(0)
    rows = moves.nonzero()[:, 0]
    rows = rows if len(rows) else rows.new_zeros(1)  # an anchor without rows
    turn = multiply_quat(quats[:, rows], invert_quat(quats[:1, rows]).expand(count, -1, -1))
    shift = means[:, rows] - rotate(turn, means[:1, rows].expand(count, -1, -1))
    index = torch.zeros(len(moves), 1, dtype=torch.int64)
    index[rows, 0] = torch.arange(len(rows))
    sh = torch.stack([s.sh for s in states]) - base.sh
    return Scene4D(
        base=base.replace(extras={"confidence": torch.ones_like(base.means[:, :1])}),
        motion=Motion(
            anchors=base.means[rows],
            world_from_rest=torch.cat([turn, shift], -1),
            skin_index=index,
            skin_weights=moves[:, None].to(base.means),
        ),
        alive=times.new_tensor([-torch.inf, torch.inf]).repeat(len(moves), 1),
        times=times,
        observed=torch.ones(count, dtype=torch.bool),
        residual={"sh": sh.flatten(2)} if bool((sh != 0).any()) else None,
        info={"model": "pictures, moving"},
    )

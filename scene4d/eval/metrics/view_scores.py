"""All figures of one rendered view against what was recorded there, and the masks they are taken on.

No mask depends on the method that is judged: the sensor's own coverage, what the other cameras ever saw, what moves.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scene4d.eval.forecast.ground_truth import measured_depth_at, moving_pixels
from scene4d.eval.metrics.image_metrics import psnr
from scene4d.eval.metrics.perceptual import Perceptual
from scene4d.eval.reconstruct.score_reconstruction import HoldoutCase, view_report
from scene4d.geometry.camera import invert_rigid, unproject
from scene4d.lift.rgbd.unproject import surface_from_depth, valid_pixels
from scene4d.types import Episode, Frames

KEYS = (
    "psnr", "psnr_sensor", "psnr_sensor_gain", "psnr_covered", "psnr_moving", "ssim", "lpips", "depth_absrel",
    "depth_absrel_covered", "depth_share", "normal_deg",
)  # fmt: skip
Scores = dict[str, float | None]


def view_scores(
    rendered: Frames,
    target: Frames,
    *,
    covered: Tensor | None = None,
    moving: Tensor | None = None,
    perceptual: Perceptual | None = None,
) -> Scores:
    """The figures `KEYS` of a rendered view [] against the recorded one []; None where there is nothing to measure.

    PSNR in dB of the full frame, where the target's sensor measured (also after a gain a channel), on `covered` [h w]
    and on `moving` [h w] pixels that are covered. depth_absrel where both have depth, as in the held-out report; a
    method chooses where it has, so depth_absrel_covered is on covered pixels with a missing depth counted as 1, and
    depth_share says on how many sensor pixels there is any. normal_deg is on covered pixels.
    """
    scores: Scores = {**dict.fromkeys(KEYS), **view_report(rendered, target)}
    scores["psnr_covered"] = _psnr_on(rendered, target, mask=covered)
    if moving is not None:
        scores["psnr_moving"] = _psnr_on(rendered, target, mask=moving if covered is None else moving & covered)
    if perceptual is not None:
        scores["lpips"] = perceptual(rendered.rgb, target.rgb)
    if target.depth is not None and rendered.depth is not None:
        sensor = valid_pixels(target)
        if bool(sensor.any()):
            scores["depth_share"] = float((rendered.depth[sensor] > 0).float().mean())
            scores["depth_absrel_covered"] = _absrel_on(rendered, target, mask=sensor if covered is None else covered)
            scores["normal_deg"] = normal_error(rendered, target, mask=covered)
    return scores


def _psnr_on(rendered: Frames, target: Frames, *, mask: Tensor | None) -> float | None:
    if mask is None or int(mask.sum()) < 10:
        return None
    return float(psnr(rendered.rgb, target.rgb, mask=mask))


def _absrel_on(rendered: Frames, target: Frames, *, mask: Tensor) -> float | None:
    if not bool(mask.any()):
        return None
    found, truth = rendered.known_depth[mask], target.known_depth[mask]
    return float(torch.where(found > 0, (found - truth).abs() / truth, 1.0).mean())


def normal_error(rendered: Frames, target: Frames, *, mask: Tensor | None = None) -> float | None:
    """Mean angle in degrees between the normals of two depth images [], where both have depth and no edge is near.

    `mask` [h w] bool: only there.
    """
    plain = lambda f: Frames(rgb=f.rgb, depth=f.depth, alpha=None, cameras=f.cameras).map(lambda x: x[None])
    found, truth = surface_from_depth(plain(rendered)), surface_from_depth(plain(target))
    both = found.valid & truth.valid & ~truth.edge & ~truth.flying & ~found.flying
    both = both if mask is None else both & mask
    if not bool(both.any()):
        return None
    sine = torch.linalg.cross(found.normals[both], truth.normals[both]).norm(dim=-1)
    cosine = (found.normals[both] * truth.normals[both]).sum(-1)
    return math.degrees(float(torch.atan2(sine, cosine).mean()))


def covered_pixels(target: Frames, views: Frames, *, tolerance: float = 0.01) -> Tensor:
    """[h w] pixels of a recorded view [] whose surface one of the other views [m] measures too, at any time.

    Surfaces are the same to `tolerance` of their depth plus as many metres. Where the sensor measured nothing that
    is unknown, and the pixel does not count.
    """
    depth = target.known_depth
    points = unproject(depth, target.cameras.viewmats, Ks=target.cameras.Ks).reshape(-1, 3)
    seen = torch.zeros(len(points), dtype=torch.bool)
    for i in range(views.batch_shape[0]):
        measured, z = measured_depth_at(points, views[i])
        seen |= (measured > 0) & ((measured - z).abs() < tolerance * (1 + z))
    return seen.view(depth.shape) & valid_pixels(target)


def moved_since_start(
    episode: Episode, camera: str, *, index: int, moving_m: float = 0.005, changed_m: float = 0.02
) -> Tensor | None:
    """[h w] pixels of a fixed camera at frame `index` that show another surface, or one elsewhere, than at frame 0.

    By exact motion where the episode has it, else where depth changed by more than `changed_m` m or colour by more
    than a tenth. None for a camera that moves, and for frame 0.
    """
    views = episode.views[camera]
    centres = invert_rigid(views.cameras.viewmats)[:, :3]
    if index == 0 or float((centres - centres[:1]).abs().max()) > 1e-3:
        return None
    if episode.segment_poses is not None and "segments" in views.extras:
        return moving_pixels(episode, camera, start=0, stop=index, threshold=moving_m)
    changed = (views.rgb[index] - views.rgb[0]).abs().amax(-1) > 0.1
    if views.depth is not None:
        both = (views.depth[index] > 0) & (views.depth[0] > 0)
        changed = changed | (both & ((views.depth[index] - views.depth[0]).abs() > changed_m))
    return changed


def frame_of_case(episode: Episode, case: HoldoutCase) -> tuple[str, int]:
    """(camera, frame index) of a held-out view."""
    camera, _, _ = case.name.rpartition("/")
    return camera, int((episode.times - case.time).abs().argmin())

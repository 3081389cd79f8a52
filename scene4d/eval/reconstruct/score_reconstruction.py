"""How well a reconstruction shows what it was not given: held-out frames or a held-out camera, beside two baselines."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.eval.metrics.image_metrics import depth_absrel, image_report
from scene4d.eval.metrics.paired import mean_scores
from scene4d.eval.surface_render import render_surface_depth
from scene4d.geometry.camera import invert_rigid, unproject
from scene4d.lift.rgbd.depth_images import (
    close_gaps,
    complete_depth,
    fill_nearest,
    nearest_point_map,
    pixels_of_points,
    sample_image,
)
from scene4d.lift.rgbd.unproject import LiftConfig, lift_frames, valid_pixels
from scene4d.render.render import render
from scene4d.scene import Scene4D
from scene4d.types import Cameras, Episode, Frames, Gaussians

NUM_NEAREST = 3
BASELINE_LIFT = LiftConfig(footprint=1.0, opacity=0.12, drop_flying=False)
KEYS = ("psnr", "psnr_sensor", "psnr_sensor_gain", "ssim", "depth_absrel")


def split_frames(num_frames: int, *, every: int) -> tuple[list[int], list[int]]:
    """(training, held-out) frame indices with every `every`-th frame held out, the first one being `every` - 1.

    Raises:
        ConfigError: fewer than two frames would be left, or none held out.
    """
    held_out = list(range(every - 1, num_frames, every)) if every > 1 else []
    training = [i for i in range(num_frames) if i not in set(held_out)]
    if not held_out or len(training) < 2:
        expected = f"2..{num_frames} for {num_frames} frames"
        raise ConfigError("cannot hold out", field="holdout", found=every, expected=expected)
    return training, held_out


def nearest_views(cameras: Cameras, camera: Cameras, *, num: int = NUM_NEAREST) -> Tensor:
    """Index [num] of the cameras [m] nearest to a camera []: by distance of centres in m plus angle of axes in rad."""
    poses, pose = invert_rigid(cameras.viewmats), invert_rigid(camera.viewmats)
    distance = (poses[:, :3, 3] - pose[:3, 3]).norm(dim=-1)
    cosine = (poses[:, :3, 2] * pose[:3, 2]).sum(-1).clamp(-1.0, 1.0)
    return (distance + cosine.arccos()).argsort(stable=True)[:num]


def three_nearest(frames: Frames, camera: Cameras) -> Frames:
    """The three nearest of the training views [m], re-projected by their depth and sampled backwards, as Frames [].

    Their measured points, z-buffered, give the depth of the held-out view; each of its pixels is looked up bilinearly
    in those views that see it (their own depth there agrees to 3 %) and averaged. Pixels that nothing reaches take the
    colour of the nearest pixel that something does.
    """
    views = frames[nearest_views(frames.cameras, camera)]
    cameras = views.cameras
    points = unproject(views.known_depth, cameras.viewmats, Ks=cameras.Ks)[valid_pixels(views)]
    depth, _ = nearest_point_map(points, camera, grow=1)
    seen = depth > 0
    surface = unproject(depth, camera.viewmats, Ks=camera.Ks)[seen]
    total, weight = torch.zeros_like(surface), torch.zeros_like(surface[:, :1])
    own_depth = complete_depth(views.known_depth)
    for i in range(views.batch_shape[0]):
        pixels, z, inside = pixels_of_points(surface, cameras[i])
        own = sample_image(own_depth[i, ..., None], pixels)[:, 0]
        # A view that the surface is hidden from is still better than nothing: it counts a thousandth.
        share = (torch.where((own - z).abs() < 0.03 * z, 1.0, 1e-3) * inside)[:, None]
        total += share * sample_image(views.rgb[i], pixels)
        weight += share
    rgb, filled = camera.Ks.new_zeros(camera.height, camera.width, 3), seen.clone()
    rgb[seen] = total / weight.clamp_min(1e-9)
    filled[seen] = weight[:, 0] > 0
    return Frames(rgb=fill_nearest(rgb, filled), depth=depth, alpha=filled.to(rgb), cameras=camera)


def lift_nearest(frames: Frames, camera: Cameras) -> Frames:
    """One Gaussian a pixel from the three nearest training views [m] with completed depth, rendered: Frames [].

    Nearly transparent round splats, normalised by coverage: the layers of the three views average instead of hiding
    one another, which is worth 3 dB to this baseline. Pixels without coverage take the nearest colour that has it.
    """
    views = frames[nearest_views(frames.cameras, camera)]
    depth = complete_depth(close_gaps(views.known_depth))
    lifted = lift_frames(views.replace(depth=depth, extras={}), config=BASELINE_LIFT)
    width = lifted.scales[:, 1:2].expand_as(lifted.scales).contiguous()
    rendered = render(lifted.replace(scales=width, extras={}), camera)
    covered = rendered.known_alpha > 0.2
    rgb = rendered.rgb / rendered.known_alpha.clamp_min(0.05)[..., None]
    return rendered.replace(rgb=fill_nearest(rgb, covered))


def nearest_image(frames: Frames, camera: Cameras) -> Frames:
    """The image of the nearest training view [m] as it is, Frames []: what can be shown without any geometry."""
    return frames[int(nearest_views(frames.cameras, camera, num=1))].replace(cameras=camera)


@dataclass(frozen=True)
class HoldoutCase:
    """One view that was kept back: its name, second, target Frames [] and the Frames [m] that were not kept back."""

    name: str
    time: float
    target: Frames
    training: Frames


def holdout_cases(episode: Episode, *, holdout: int | str) -> list[HoldoutCase]:
    """The views of an unbatched episode that `holdout` keeps back: every n-th instant, or one whole camera.

    For a held-out camera, and for several cameras, the training frames of a case are those of its own instant or of
    the training instants next to it, because the scene may move; a single camera's are all its other frames.
    """
    names = [n for n, f in episode.views.items() if f.depth is not None] or list(episode.views)
    count = episode.batch_shape[0]
    if isinstance(holdout, str):
        if holdout not in episode.views or not [n for n in names if n != holdout]:
            expected = f"one of {list(episode.views)}"
            raise ConfigError("cannot hold out", field="holdout", found=holdout, expected=expected)
        others = episode.stacked([n for n in names if n != holdout])
        target = episode.views[holdout]
        return [HoldoutCase(f"{holdout}/{i:06d}", float(episode.times[i]), target[i], others[i]) for i in range(count)]
    training, held_out = split_frames(count, every=holdout)
    stacked = episode.stacked(names)  # [t v]
    cases = []
    for i in held_out:
        near = training if len(names) == 1 else sorted(training, key=lambda k: (abs(k - i), k))[:2]
        frames, time = stacked[torch.tensor(near)].map(lambda x: x.flatten(0, 1)), float(episode.times[i])
        cases += [HoldoutCase(f"{n}/{i:06d}", time, stacked[i, v], frames) for v, n in enumerate(names)]
    return cases


def holdout_report(
    scene: Scene4D | Callable[[float], Gaussians],
    episode: Episode,
    *,
    holdout: int | str,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """What `reconstruct --holdout` prints: the scene and both baselines against the views that were kept back.

    Args:
        scene: made without those views; or a function from seconds to the Gaussians of that instant.
        episode: the whole recording, the kept-back views included.
        holdout: every how many-th instant, or which camera, was kept back.
        progress: called with (done, total) views.
    Returns:
        {holdout: {psnr, psnr_sensor, psnr_sensor_gain, ssim, depth_absrel, views: {name: the same}},
        baseline: {three_nearest: the same, lift: the same}}, JSON-ready; null where the held-out view has no depth.
        Without any depth the baseline is {nearest: the same}.
    """
    at = scene.at if isinstance(scene, Scene4D) else scene
    cases = holdout_cases(episode, holdout=holdout)
    measured = any(frames.depth is not None for frames in episode.views.values())
    peers = {"three_nearest": three_nearest, "lift": lift_nearest} if measured else {"nearest": nearest_image}
    rows: dict[str, dict[str, dict]] = {name: {} for name in ("holdout", *peers)}
    with torch.no_grad():
        for done, case in enumerate(cases):
            camera = case.target.cameras
            rendered = {name: draw(case.training, camera) for name, draw in peers.items()}
            rendered["holdout"] = render_surface_depth(at(case.time), camera)
            for method, frames in rendered.items():
                rows[method][case.name] = view_report(frames, case.target)
            if progress is not None:
                progress(done + 1, len(cases))
    tables = {method: {**mean_scores(views, keys=KEYS), "views": views} for method, views in rows.items()}
    return {"holdout": tables["holdout"], "baseline": {name: tables[name] for name in peers}}


def view_report(frames: Frames, target: Frames) -> dict[str, float | None]:
    """The five figures of one rendered view [] against what the camera recorded there."""
    sensor = None if target.depth is None else valid_pixels(target)
    if sensor is not None and not sensor.any():
        sensor = None
    report: dict[str, float | None] = {**dict.fromkeys(KEYS), **image_report(frames.rgb, target.rgb, sensor=sensor)}
    if sensor is not None:
        error = float(depth_absrel(frames.known_depth, target.known_depth, mask=sensor))
        report["depth_absrel"] = error if math.isfinite(error) else None
    return report

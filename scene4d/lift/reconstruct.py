"""Episode in, Scene4D out: the static path for one moving camera, the stream for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from scene4d.errors import DataFormatError, DepthError, ShapeError
from scene4d.geometry.camera import invert_rigid
from scene4d.geometry.frame_images import alpha_of
from scene4d.geometry.rotation import identity_pose
from scene4d.geometry.sh import rgb_from_sh
from scene4d.lift.moving_camera.layered_views import LayeredViewsConfig, fuse_layered_views
from scene4d.lift.moving_camera.layered_views_fit import LayeredViewsFitConfig
from scene4d.lift.refine.adam_loop import Progress, ProgressReporter
from scene4d.lift.refine.fit import FitConfig, fit_gaussians
from scene4d.lift.refine.refine_config import RefineSceneConfig
from scene4d.lift.refine.refine_scene import refine_scene
from scene4d.lift.rgb.rgb_scene import valid_frames
from scene4d.lift.rgb.splat_trainer import SplatConfig, splats_from_images
from scene4d.lift.rgbd.fuse import FuseConfig, fuse_static
from scene4d.lift.rgbd.sky_shell import sky_shell
from scene4d.lift.stream.stream import SceneStream, StreamConfig
from scene4d.lift.stream.visibility import VIOLATED, observe_frames, visibility_of
from scene4d.render.render import render
from scene4d.scene import Motion, Scene4D
from scene4d.types import Episode, Frames, Gaussians


@dataclass(frozen=True)
class ReconstructConfig:
    """How a recording becomes a scene."""

    stream: StreamConfig = field(default_factory=StreamConfig)
    """The path for fixed or several cameras and moving objects."""
    between: LayeredViewsConfig = field(default_factory=LayeredViewsConfig)
    """The path for one moving camera in a scene that is taken to be static."""
    fused: FuseConfig | None = None
    """Fuse such a scene to one set of Gaussians for all instants instead: less sharp, ten times smaller."""
    camera_travel: float = 0.03
    """Distance in m that a camera must travel to count as moving."""
    polish: RefineSceneConfig = field(default_factory=RefineSceneConfig)
    """How the moving part of a streamed scene is refined, once all its instants are known."""
    look_back: bool = True
    """Let static rows that are seen late exist before that too, as far as no camera looked through them."""
    num_backdrop: int = 2000
    """Gaussians of a far shell behind streamed scenes, so that holes show a likely colour; 0 = none."""
    fit: FitConfig | None = None
    """Refine the static part by rendering (minutes); None = do not. info["steps"] of a scene counts the steps.

    For one moving camera that is not `fused` only max_seconds counts: rates and rounds are those of `between.fit`."""
    splats: SplatConfig = field(default_factory=SplatConfig)
    """The path for posed pictures without depth."""


def reconstruct(
    episode: Episode,
    *,
    cameras: Sequence[str] | None = None,
    config: ReconstructConfig | None = None,
    progress: Progress | None = None,
) -> Scene4D:
    """The 4D scene of an episode [t] from its RGB-D views.

    One moving camera shows little of what moves by itself, so each instant is the mean of the frames round it. Fixed
    cameras, and several, are streamed in time: static rows stay, moving ones follow tracked anchors. Looking back, and
    closing the gaps between instants, happens only here: the stream itself is causal.

    Args:
        cameras: views to use; by default all that have depth. They must have one size.
        progress: called with (frames done, frames), then, where something is refined, with (steps done, steps).
    Returns:
        Scene4D [n] at the valid times of the episode; observed all True.
    Raises:
        DepthError: no view has depth. DataFormatError: no such camera, or no valid frame. ShapeError: batched, or sizes
            differ.
    """
    config = config or ReconstructConfig()
    if len(episode.batch_shape) != 1:
        raise ShapeError("is batched", field="episode", found=episode.batch_shape, expected="[t]")
    names = depth_cameras(episode, cameras)
    frames, times = valid_frames(episode, names)  # [t v]
    centres = invert_rigid(frames.cameras.viewmats)[..., :3, 3]
    if len(names) == 1 and float((centres - centres[:1]).norm(dim=-1).max()) > config.camera_travel:
        static = _layered if config.fused is None else _fused
        return static(frames[:, 0], times, config=config, progress=progress)
    scene = _streamed(frames, times, config=config, progress=progress)
    flat = frames.map(lambda x: x.flatten(0, 1))
    if config.num_backdrop:
        scene = _with_sky_shell(scene, flat, num=config.num_backdrop)
    return scene if config.fit is None else _fitted(scene, flat, config=config.fit, progress=progress)


def reconstruct_pictures(
    episode: Episode,
    *,
    cameras: Sequence[str] | None = None,
    config: ReconstructConfig | None = None,
    progress: Progress | None = None,
) -> Scene4D:
    """The scene of an episode [t] from posed pictures alone, taken to be static; depth is not looked at. Minutes.

    Args, Returns: as `reconstruct`; the cameras must have one size.
    Raises:
        DataFormatError: no such camera, or no valid frame. CalibrationError: too few places. NumericsError.
    """
    config = config or ReconstructConfig()
    frames, times = valid_frames(episode, cameras or None)
    frames = frames.map(lambda x: x.flatten(0, 1)).replace(depth=None, extras={})  # [m]
    reporter = ProgressReporter(progress)
    splats = splats_from_images(frames, config=config.splats, progress=reporter)
    return static_scene(splats, times).replace(info={"model": "pictures", "steps": reporter.done})


def depth_cameras(episode: Episode, cameras: Sequence[str] | None = None) -> list[str]:
    """The views named, or all that have depth.

    Raises:
        DataFormatError: no such view. DepthError: one named, or all, have no depth.
    """
    missing = [n for n in cameras or () if n not in episode.views]
    if missing:
        raise DataFormatError("no such camera", field="cameras", found=missing, expected=list(episode.views))
    names = [n for n in cameras or episode.views if episode.views[n].depth is not None]
    if not names or (cameras and len(names) < len(cameras)):
        without = [n for n, f in episode.views.items() if f.depth is None]
        fix = "choose RGB-D cameras with --cameras, add depth images, or use --from-pictures (still scenes)"
        raise DepthError("has no depth", field="cameras", found=without, fix=fix)
    return names


def static_scene(gaussians: Gaussians, times: Tensor) -> Scene4D:
    """A Scene4D in which nothing moves and everything always exists."""
    num = gaussians.num_gaussians
    motion = Motion(
        anchors=gaussians.means.new_zeros(1, 3),
        world_from_rest=identity_pose(len(times), 1, like=gaussians.means).clone(),
        skin_index=torch.zeros(num, 1, dtype=torch.int64),
        skin_weights=gaussians.means.new_zeros(num, 1),
    )
    alive = torch.tensor([-torch.inf, torch.inf], dtype=torch.float64).expand(num, 2).clone()
    observed = torch.ones(len(times), dtype=torch.bool)
    return Scene4D(base=gaussians, motion=motion, alive=alive, times=times, observed=observed, info={"model": "static"})


def _layered(frames: Frames, times: Tensor, *, config: ReconstructConfig, progress: Progress | None) -> Scene4D:
    """A still scene whose Gaussians stand for the intervals between frames [m]."""
    between = config.between
    if config.fit is not None:
        fit = replace(between.fit or LayeredViewsFitConfig(), max_seconds=config.fit.max_seconds)
        between = replace(between, fit=fit)
    reporter = ProgressReporter(progress)
    gaussians, alive = fuse_layered_views(frames, times, config=between, progress=reporter)
    # The fit comes last and counts from 0.
    steps = {} if between.fit is None or len(times) < 2 else {"steps": reporter.done}
    return static_scene(gaussians, times).replace(alive=alive, info={"model": "between", **steps})


def _fused(frames: Frames, times: Tensor, *, config: ReconstructConfig, progress: Progress | None) -> Scene4D:
    """A still scene as one set of Gaussians from frames [m]."""
    scene = static_scene(fuse_static(frames, config=config.fused, progress=progress), times)
    return scene if config.fit is None else _fitted(scene, frames, config=config.fit, progress=progress)


def _streamed(frames: Frames, times: Tensor, *, config: ReconstructConfig, progress: Progress | None) -> Scene4D:
    # All instants are gone through again below, so none may leave memory.
    stream = SceneStream(replace(config.stream, keep_instants=0))
    count = len(times)
    for t in range(count):
        stream.update(frames[t], time=float(times[t]))
        if progress is not None:
            progress(t + 1, count)
    scene = refine_scene(stream.scene(), frames, config=config.polish, progress=progress)
    if config.look_back:
        scene = _looked_back(scene, frames, config=config.stream)
    return scene.replace(alive=_without_gaps(scene.alive, times), info={"model": "stream"})


def _looked_back(scene: Scene4D, frames: Frames, *, config: StreamConfig) -> Scene4D:
    """Static rows exist from just after the last earlier instant at which a camera looked through them."""
    times = scene.times
    born = scene.alive[:, 0].clone()
    static = (scene.motion.skin_weights == 0).all(-1)
    open_rows = np.nonzero((static & (born > times[0])).numpy())[0]
    points = scene.base.means.double().numpy()
    colours = rgb_from_sh(scene.base.sh).double().numpy()
    stream = SceneStream(config)
    for t in range(len(times) - 1, -1, -1):
        earlier = open_rows[(born[open_rows] > times[t]).numpy()]
        if len(earlier) == 0:
            continue
        observation = observe_frames(frames[t], config=stream.lift_config, sky_depth=config.backdrop)
        visibility = visibility_of(points[earlier], observation, colours=colours[earlier], tolerances=stream.tolerances)
        through = (visibility.status == VIOLATED).any(0)
        born[torch.from_numpy(earlier[~through])] = times[t]
        open_rows = np.setdiff1d(open_rows, earlier[through])
    return scene.replace(alive=torch.stack([born, scene.alive[:, 1]], -1))


def _without_gaps(alive: Tensor, times: Tensor) -> Tensor:
    """Lifetimes extended to the middle between instants, so that something is always there."""
    if len(times) < 2:
        return alive
    middle = (times[1:] + times[:-1]) / 2
    early = torch.cat([times[:1], middle])  # [t]
    late = torch.cat([middle - 1e-9, times[-1:]])
    first, last = torch.searchsorted(times, alive.clamp(times[0], times[-1])).unbind(-1)
    died = torch.where(torch.isfinite(alive[:, 1]), late[last], alive[:, 1])
    return torch.stack([early[first], died], -1)


def _with_sky_shell(scene: Scene4D, frames: Frames, *, num: int) -> Scene4D:
    """The scene with a far shell behind everything, static and always there, so that holes show a likely colour."""
    centre = invert_rigid(frames.cameras.viewmats)[:, :3, 3].mean(0)
    distance = (scene.base.means - centre).norm(dim=-1)
    shell = sky_shell(frames, reach=1.1 * float(distance.max()) + 0.1, num=num)
    first = int(scene.base.ids.max()) + 1
    like = scene.base.extras
    extras = {k: shell.extras.get(k, v.new_full((num, v.shape[-1]), -1)).to(v.dtype) for k, v in like.items()}
    shell = shell.replace(ids=torch.arange(first, first + num), extras=extras).to(scene.base.means.dtype)
    motion, unbound = scene.motion, partial(torch.nn.functional.pad, pad=(0, 0, 0, num))
    always = scene.alive.new_tensor([-torch.inf, torch.inf]).expand(num, 2)
    return scene.replace(
        base=Gaussians.cat([scene.base, shell]),
        motion=motion.replace(skin_index=unbound(motion.skin_index), skin_weights=unbound(motion.skin_weights)),
        alive=torch.cat([scene.alive, always]),
    )


def _fitted(scene: Scene4D, frames: Frames, *, config: FitConfig, progress: Progress | None) -> Scene4D:
    """The scene with what is static and lasts refined on frames [m], pixels of moving rows left out."""
    static = (scene.motion.skin_weights == 0).all(-1)
    chosen = static & torch.isinf(scene.alive[:, 1])
    if not bool(static.all()):
        frames = frames.replace(alpha=_static_pixels(scene, frames, static=static))
        config = replace(config, degree=0)  # moving rows have one colour, and all rows one degree
    reporter = ProgressReporter(progress)
    fitted = fit_gaussians(scene.base.pick(chosen), frames, config=config, progress=reporter)
    scene = scene.replace(info={**scene.info, "steps": reporter.done})
    if bool(chosen.all()):
        return scene.replace(base=fitted)
    fields = ("means", "quats", "scales", "opacities", "sh")
    rows = chosen.nonzero()[:, 0]
    changed = {k: getattr(scene.base, k).index_copy(0, rows, getattr(fitted, k)) for k in fields}
    return scene.replace(base=scene.base.replace(**changed))


def _static_pixels(scene: Scene4D, frames: Frames, *, static: Tensor) -> Tensor:
    """[m h w] 1 where a recorded colour is usable and no moving row covers it; m = times x views."""
    views = frames.batch_shape[0] // len(scene.times)
    usable = torch.ones_like(frames.rgb[..., 0]) if frames.alpha is None else frames.alpha.clone()
    with torch.no_grad():
        for t, time in enumerate(scene.times.tolist()):
            now = scene.at(time).pick(~static).replace(extras={})
            rows = slice(t * views, (t + 1) * views)
            usable[rows] *= alpha_of(render(now, frames.cameras[rows])) < 0.05
    return usable

"""`scene4d reconstruct`: a recorded RGB-D video to a 4D scene (.s4d), with a held-out report."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from scene4d.apps.terminal.option_checks import check_output
from scene4d.apps.terminal.progress import counter_shown
from scene4d.apps.verbs.options.scenes import ReconstructOptions
from scene4d.data.detect import open_recordings
from scene4d.errors import ConfigError, Scene4DError
from scene4d.eval.reconstruct.score_reconstruction import holdout_report, split_frames
from scene4d.files import sole_writer
from scene4d.gaussians.s4d.s4d import write_s4d
from scene4d.lift.depth.estimate import DepthEstimator, episode_with_depth
from scene4d.lift.reconstruct import ReconstructConfig, depth_cameras, reconstruct, reconstruct_pictures
from scene4d.lift.refine.fit import FitConfig
from scene4d.lift.rgb.rgb_scene import RgbConfig, is_fixed_rig, reconstruct_rgb_episode
from scene4d.lift.rgb.sparse_view_fit import SparseViewFitConfig
from scene4d.lift.rgb.splat_trainer import SplatConfig
from scene4d.lift.rgbd.fuse import FuseConfig
from scene4d.scene import Scene4D
from scene4d.types import Episode, Recording

# Seconds after which refinement stops, so that nobody waits much longer on a slow machine; info["steps"] has where.
FIT_SECONDS = 240.0
PICTURES_SECONDS = 840.0
RGB_SECONDS = 150.0


@sole_writer
def run_reconstruct(options: ReconstructOptions) -> dict[str, Any]:
    """Read, reconstruct, report, write.

    Returns {output, source, episode, task, num_frames, cameras, num_gaussians, num_moving, num_anchors, seconds,
    ms_per_frame, bytes}; with `holdout` also {holdout: {psnr, psnr_sensor, psnr_sensor_gain, ssim, depth_absrel,
    views}, baseline: {three_nearest: ..., lift: ...}}, the baseline being {nearest: ...} from pictures.

    Raises:
        ConfigError: an option does not fit the recording. What the readers raise.
    """
    check_output(options.output, suffixes=(".s4d",), fix="for other formats: scene4d export SCENE.s4d -o FILE")
    recording = _chosen_recording(options)
    kept_camera, every = _holdout(options.holdout, recording.cameras)
    episode = _read_chosen(recording, options, kept=kept_camera)
    if options.depth_weights is not None:
        episode = episode_with_depth(episode, DepthEstimator(str(options.depth_weights)))
    if options.from_pictures:
        usable = list(options.cameras or episode.views)
    else:
        usable = cameras_with_depth(recording, episode, names=options.cameras)
    training = episode
    if every:
        index = torch.tensor(split_frames(len(episode.times), every=every)[0])
        training = episode.map(lambda x: x[index])
    names = [n for n in usable if n != kept_camera]
    if not names:
        raise ConfigError("leaves no camera", field="holdout", found=options.holdout, expected=list(recording.cameras))
    start = time.monotonic()
    with counter_shown("reconstructing") as count:
        config = ReconstructConfig(
            fit=FitConfig(max_seconds=FIT_SECONDS) if options.fit else None,
            fused=FuseConfig() if options.fused else None,
            splats=SplatConfig(max_seconds=PICTURES_SECONDS),
        )
        make = functools.partial(reconstruct_pictures if options.from_pictures else reconstruct, config=config)
        if options.from_pictures and is_fixed_rig(training, names):
            first = SparseViewFitConfig(max_seconds=RGB_SECONDS)
            make = functools.partial(reconstruct_rgb_episode, config=RgbConfig(fit=first))
        scene = make(training, cameras=names, progress=count)
    seconds = time.monotonic() - start
    report: dict[str, Any] = {}
    if options.holdout:
        with counter_shown("held-out views") as count:
            seen = {n: f for n, f in episode.views.items() if n in names or n == kept_camera}
            if options.from_pictures:  # the baseline may not look at depth either
                seen = {n: f.replace(depth=None) for n, f in seen.items()}
            report = holdout_report(scene, episode.replace(views=seen), holdout=kept_camera or every, progress=count)
    _write(options.output, scene, episode=training, inputs=names, recording=recording, whole=not every)
    moving = (scene.motion.skin_weights != 0).any(-1)
    return {
        "output": str(options.output),
        "source": str(recording.path),
        "episode": options.episode,
        "task": str(episode.info.get("task", "")),
        "num_frames": len(training.times),
        "cameras": names,
        "num_gaussians": scene.base.num_gaussians,
        "num_moving": int(moving.sum()),
        "num_anchors": scene.motion.anchors.shape[-2],
        "seconds": round(seconds, 2),
        "ms_per_frame": round(1e3 * seconds / len(training.times), 1),
        "bytes": options.output.stat().st_size,
        **report,
    }


def cameras_with_depth(recording: Recording, episode: Episode, *, names: Sequence[str] = ()) -> list[str]:
    """`depth_cameras` of an episode, whose errors then name the recording."""
    try:
        return depth_cameras(episode, names or None)
    except Scene4DError as error:
        error.file = error.file or str(recording.path)
        raise


def _chosen_recording(options: ReconstructOptions) -> Recording:
    """The recording that the options name; ConfigError: there are not that many."""
    recordings = open_recordings(options.source)
    if not 0 <= options.episode < len(recordings):
        found, expected = options.episode, f"0..{len(recordings) - 1}"
        raise ConfigError("no such episode", file=options.source, field="episode", found=found, expected=expected)
    return recordings[options.episode]


def _read_chosen(recording: Recording, options: ReconstructOptions, *, kept: str) -> Episode:
    """The frames and cameras that the options ask for, and the held-out camera `kept`; ConfigError: no such camera."""
    names: Sequence[str] | None = None
    if options.cameras:
        unknown = [n for n in options.cameras if n not in recording.cameras]
        if unknown:
            raise ConfigError("no such camera", field="cameras", found=unknown, expected=list(recording.cameras))
        names = [*options.cameras, *([kept] if kept and kept not in options.cameras else [])]
    return read_part(recording, names, width=options.size, max_frames=options.max_frames, stride=options.stride)


def read_part(
    recording: Recording, cameras: Sequence[str] | None = None, *, width: int, max_frames: int, stride: int
) -> Episode:
    """Every `stride`-th frame, at most `max_frames` (0 = all), `width` px wide in proportion (0 = as recorded)."""
    stop = min(recording.num_frames, max_frames * stride) if max_frames else recording.num_frames
    size = None
    if width:
        first = next(iter(recording.read(0, 1, cameras=cameras).views.values())).cameras
        size = (width, max(1, round(width * first.height / first.width)))
    return recording.read(0, stop, stride=stride, cameras=cameras, size=size)


def _holdout(text: str, cameras: Sequence[str]) -> tuple[str, int]:
    """(camera, every) of which one is set, or neither."""
    if not text:
        return "", 0
    if text in cameras:
        return text, 0
    if text.isascii() and text.isdigit() and int(text) >= 2:
        return "", int(text)
    expected = f"a number from 2 or one of {list(cameras)}"
    raise ConfigError("cannot hold out", field="holdout", found=text, expected=expected)


def _write(
    path: Path, scene: Scene4D, *, episode: Episode, inputs: Sequence[str], recording: Recording, whole: bool
) -> None:
    """The scene with the recording's cameras and, where no frame was left out, its actions and robot states."""
    valid, held, actions, action_spec = episode.valid, episode.info, None, []
    states = [dict(s) for s in held.get("proprio_spec") or []]
    info = {"source": str(recording.path), "task": str(held.get("task", "")), "input_cameras": list(inputs)}
    info |= {"proprio_spec": states, **{key: held.get(key) for key in ("action_meaning", "robot", "seed")}}
    if whole and episode.actions.shape[-1] > 0:
        actions, action_spec = episode.actions[valid], [dict(s) for s in held.get("action_spec") or []]
    if whole and episode.proprio.shape[-1] > 0:
        info["proprio"] = episode.proprio[valid].tolist()
    cameras = {name: frames.cameras.map(lambda x: x[valid]) for name, frames in episode.views.items()}
    write_s4d(path, scene, cameras=cameras, actions=actions, action_spec=action_spec, info=info)

"""`scene4d render`: colour, depth or flow of a scene from any camera, as a video, PNG files or one picture."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.apps.compose.scene_files import open_scene
from scene4d.apps.terminal.progress import counter_shown
from scene4d.apps.terminal.scene_pictures import choose_cameras, pictures_of, render_over_time, write_pictures
from scene4d.apps.verbs.options.scenes import RenderOptions
from scene4d.errors import ConfigError
from scene4d.files import sole_writer
from scene4d.scene import Scene4D


@sole_writer
def run_render(options: RenderOptions) -> dict:
    """Render and write; returns {output, what, camera, num_frames, width, height}, of splats {mended, left_out} too.

    Raises:
        ConfigError: the output has another suffix, or the time lies outside the scene. What `choose_cameras` raises.
    """
    opened = open_scene(options.scene)
    scene = opened.scene
    times = _times(scene, options)
    cameras = choose_cameras(
        scene, opened.cameras, camera=options.camera, times=times, size=options.size, scale=options.scale
    )
    step = float(scene.times[1] - scene.times[0]) if len(scene.times) > 1 else 0.0
    with counter_shown("rendering") as count:
        frames = render_over_time(scene, cameras, times=times, flow_step=step, progress=count)
    write_pictures(options.output, pictures_of(frames, options.what), fps=options.fps)
    shown = {"output": str(options.output), "what": options.what, "camera": options.camera}
    return {**shown, "num_frames": len(times), "width": cameras.width, "height": cameras.height, **opened.facts()}


def _times(scene: Scene4D, options: RenderOptions) -> Tensor:
    """Seconds [f] that are shown: the whole scene, or of a single picture one instant."""
    first, last = float(scene.times[0]), float(scene.times[-1])
    if options.output.suffix.lower() != ".png":
        num_frames = options.num_frames or max(len(scene.times), 48 if options.camera == "orbit" else 1)
        return torch.linspace(first, last, num_frames, dtype=torch.float64)
    time = first if options.time is None else options.time
    if not first - 1e-9 <= time <= last + 1e-9:
        found, expected = f"{time:g} s", f"{first:g} to {last:g} s"
        raise ConfigError("lies outside the scene", file=options.scene, field="--time", found=found, expected=expected)
    return torch.tensor([time], dtype=torch.float64)

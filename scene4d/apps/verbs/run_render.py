"""`scene4d render`: colour, depth or flow of a .s4d scene from any camera, as a video or a sequence of PNG files."""

from __future__ import annotations

import torch

from scene4d.apps.terminal.scene_pictures import choose_cameras, pictures_of, render_over_time, write_pictures
from scene4d.apps.verbs.options.scenes import RenderOptions
from scene4d.files import sole_writer
from scene4d.gaussians.s4d.s4d import open_s4d


@sole_writer
def run_render(options: RenderOptions) -> dict:
    """Render and write; returns {output, what, camera, num_frames, width, height}."""
    file = open_s4d(options.scene)
    scene = file.scene()
    num_frames = options.num_frames or max(len(scene.times), 48 if options.camera == "orbit" else 1)
    times = torch.linspace(float(scene.times[0]), float(scene.times[-1]), num_frames, dtype=torch.float64)
    cameras = choose_cameras(
        scene, file.cameras, camera=options.camera, times=times, size=options.size, scale=options.scale
    )
    step = float(scene.times[1] - scene.times[0]) if len(scene.times) > 1 else 0.0
    frames = render_over_time(scene, cameras, times=times, flow_step=step)
    write_pictures(options.output, pictures_of(frames, options.what), fps=options.fps)
    shown = {"output": str(options.output), "what": options.what, "camera": options.camera}
    return {**shown, "num_frames": num_frames, "width": cameras.width, "height": cameras.height}

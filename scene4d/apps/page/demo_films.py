"""What the demo made, and its films: recorded | predicted | novel view; an orbit; depth and flow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scene4d.apps.terminal.picture_strips import colour_picture, depth_picture, depth_range, flow_picture, panels
from scene4d.apps.terminal.scene_pictures import render_over_time
from scene4d.gaussians.formats.points import robust_bounds
from scene4d.geometry.camera import orbit
from scene4d.render.render import render
from scene4d.scene import Scene4D
from scene4d.types import Cameras, Episode, Gaussians
from scene4d.world.observation import Observation

NUM_BEFORE = 6  # observed frames that lead in
PIXELS = 256
INPUT = "left"


@dataclass(frozen=True)
class DemoResult:
    """What the demo made: the past as a scene, the future as a scene, and the recording to compare them with.

    known: the past as `scene4d forecast` reads it from scene.s4d.
    """

    episode: Episode
    now: int
    known: Observation
    future: Scene4D
    background: Tensor

    @property
    def past(self) -> Scene4D:
        """The reconstructed past."""
        return self.known.known_scene

    @property
    def cameras(self) -> dict[str, Cameras]:
        """Cameras [t] of every recorded view."""
        return {name: frames.cameras for name, frames in self.episode.views.items()}


def film_forecast(result: DemoResult, *, novel: str) -> list[np.ndarray]:
    """Recorded | scene4d | a camera that was never an input, over the last observed and all predicted instants."""
    pictures = []
    for offset in range(-NUM_BEFORE, len(result.future.times)):
        index = result.now + offset
        if not 0 <= index < len(result.episode.times):
            continue
        observed = offset <= 0
        scene = result.past if observed else result.future
        gaussians = scene.at(float(result.episode.times[index]))
        recorded = colour_picture(result.episode.views[INPUT].rgb[index])
        cameras = [result.cameras[name][index] for name in (INPUT, novel)]
        known, new = (_picture(gaussians, camera, background=result.background) for camera in cameras)
        label, note = ("reconstructed", "observed") if observed else ("predicted", f"+{offset} steps")
        shown = {"recorded": recorded, label: known, f"{label}, novel view": new}
        pictures.append(panels(shown, height=PIXELS, note=note))
    return pictures


def film_orbit(result: DemoResult, *, turn: float = 0.9) -> list[np.ndarray]:
    """The predicted future, to its end and back, while the camera swings round it."""
    count = len(result.future.times)
    there_and_back = [*range(count), *range(count - 1, -1, -1)]
    share = torch.linspace(0, 2 * math.pi, len(there_and_back))
    center, _ = robust_bounds(result.future.at(float(result.future.times[0])))
    angles = -math.pi / 2 + turn * share.sin()
    cameras = orbit(center, radius=1.3, elevation=0.6, num_views=len(angles), width=384, height=288, azimuths=angles)
    sets = [result.future.at(float(t)) for t in result.future.times]
    return [_picture(sets[i], cameras[k], background=result.background) for k, i in enumerate(there_and_back)]


def film_depth_and_flow(result: DemoResult) -> list[np.ndarray]:
    """Predicted depth and scene flow, seen by the input camera."""
    cameras = result.cameras[INPUT][result.now : result.now + len(result.future.times)].resized(PIXELS, PIXELS)
    times = result.future.times
    frames = render_over_time(result.future, cameras, times=times, flow_step=float(times[1] - times[0]))
    near, far = depth_range(frames)
    flow = frames.extras["flow"]
    longest = float(flow.norm(dim=-1).flatten().quantile(0.999)) if flow.numel() < 1 << 24 else float(flow.abs().max())
    pictures = []
    for i in range(len(times)):
        depth = depth_picture(frames.known_depth[i], near=near, far=far)
        motion = flow_picture(flow[i], cameras.viewmats[i], longest=max(longest, 0.002))
        pictures.append(panels({"depth": depth, "scene flow": motion}, height=PIXELS, note=f"+{i} steps"))
    return pictures


def _picture(gaussians: Gaussians, camera: Cameras, *, background: Tensor) -> np.ndarray:
    """The set as this camera sees it, at least PIXELS high, over the recording's background.

    The Gaussians are as fine as the recording's pixels; the low-pass grows with the enlargement, so no gaps show.
    """
    scale = max(1.0, PIXELS / camera.height)
    camera = camera.resized(round(camera.width * scale), round(camera.height * scale))
    with torch.no_grad():
        frames = render(gaussians, camera, background=background, eps2d=0.3 * scale**2)
    return colour_picture(frames.rgb)

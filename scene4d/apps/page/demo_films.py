"""The demo's films, as lists of pictures: recorded | predicted | novel view; an orbit; depth and flow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from scene4d.apps.terminal.picture_strips import colour_picture, depth_picture, depth_range, flow_picture, panels
from scene4d.apps.verbs.run_render import render_over_time
from scene4d.gaussians.formats.points import robust_bounds
from scene4d.geometry.camera import orbit
from scene4d.render.render import render
from scene4d.types import Cameras, Gaussians

if TYPE_CHECKING:
    from scene4d.apps.verbs.run_demo import Story

NUM_BEFORE = 6  # observed frames that lead in
PIXELS = 256
INPUT = "left"


def film_forecast(story: Story, *, novel: str) -> list[np.ndarray]:
    """Recorded | scene4d | a camera that was never an input, over the last observed and all predicted instants."""
    pictures = []
    for offset in range(-NUM_BEFORE, len(story.future.times)):
        index = story.now + offset
        if not 0 <= index < len(story.episode.times):
            continue
        observed = offset <= 0
        scene = story.past if observed else story.future
        gaussians = scene.at(float(story.episode.times[index]))
        images = [_drawn(story, gaussians, story.cameras[name][index]) for name in (INPUT, novel)]
        label = "reconstructed" if observed else "predicted"
        pictures.append(
            panels(
                {
                    "recorded": colour_picture(story.episode.views[INPUT].rgb[index]),
                    label: images[0],
                    f"{label}, novel view": images[1],
                },
                height=PIXELS,
                note="observed" if observed else f"+{offset} steps",
            )
        )
    return pictures


def film_orbit(story: Story, *, turn: float = 0.9) -> list[np.ndarray]:
    """The predicted future, to its end and back, while the camera swings round it."""
    count = len(story.future.times)
    there_and_back = [*range(count), *range(count - 1, -1, -1)]
    share = torch.linspace(0, 2 * math.pi, len(there_and_back))
    center, _ = robust_bounds(story.future.at(float(story.future.times[0])))
    azimuths = -math.pi / 2 + turn * share.sin()
    cameras = orbit(
        center, radius=1.3, elevation=0.6, num_views=len(azimuths), width=384, height=288, azimuths=azimuths
    )
    sets = [story.future.at(float(t)) for t in story.future.times]
    return [_drawn(story, sets[i], cameras[k]) for k, i in enumerate(there_and_back)]


def film_depth_and_flow(story: Story) -> list[np.ndarray]:
    """Predicted depth and scene flow, seen by the input camera."""
    cameras = story.cameras[INPUT][story.now : story.now + len(story.future.times)].resized(PIXELS, PIXELS)
    times = story.future.times
    frames = render_over_time(story.future, cameras, times, flow_step=float(times[1] - times[0]))
    near, far = depth_range(frames)
    flow = frames.extras["flow"]
    longest = float(flow.norm(dim=-1).flatten().quantile(0.999)) if flow.numel() < 1 << 24 else float(flow.abs().max())
    return [
        panels(
            {
                "depth": depth_picture(frames.depth[i], near=near, far=far),
                "scene flow": flow_picture(flow[i], cameras.viewmats[i], longest=max(longest, 0.002)),
            },
            height=PIXELS,
            note=f"+{i} steps",
        )
        for i in range(len(times))
    ]


def _drawn(story: Story, gaussians: Gaussians, camera: Cameras) -> np.ndarray:
    """The set as this camera sees it, at least PIXELS high, over the recording's background.

    The Gaussians are as fine as the recording's pixels; the low-pass grows with the enlargement, so no gaps show.
    """
    scale = max(1.0, PIXELS / camera.height)
    camera = camera.resized(round(camera.width * scale), round(camera.height * scale))
    with torch.no_grad():
        frames = render(gaussians, camera, background=story.background, eps2d=0.3 * scale**2)
    return colour_picture(frames.rgb)

"""Pictures of a scene over its own time: cameras to look from, frames, colour, depth or flow, and files of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scene4d.apps.terminal.orbits import orbit_of
from scene4d.apps.terminal.picture_strips import colour_picture, depth_picture, depth_range, flow_picture
from scene4d.data.video.video import write_video
from scene4d.errors import CalibrationError, ConfigError
from scene4d.files import atomic_file, atomic_folder, open_regular
from scene4d.render.render import render
from scene4d.scene import Scene4D
from scene4d.types import Cameras, Frames


def choose_cameras(
    scene: Scene4D, stored: dict[str, Cameras], *, camera: str, times: Tensor, size: tuple[int, int], scale: float = 1.0
) -> Cameras:
    """Cameras [f], one for each of `times` [f].

    Raises:
        CalibrationError: `camera` is neither a stored name, "orbit" nor a readable camera file.
    """
    if camera == "orbit":
        return orbit_of(scene, stored, num_views=len(times), size=size)
    if camera in stored:
        chosen = stored[camera]
        nearest = (times[:, None] - scene.times[None]).abs().argmin(-1)
        chosen = chosen if chosen.batch_shape == () else chosen[nearest.clamp_max(chosen.batch_shape[0] - 1)]
    elif Path(camera).suffix == ".json":
        chosen = read_cameras(Path(camera))
    else:
        expected, fix = [*stored, "orbit", "FILE.json"], "name one of these"
        raise CalibrationError("no such camera", field="camera", found=camera, expected=expected, fix=fix)
    if chosen.batch_shape not in ((), (len(times),)):
        problem, fix = "camera file has another number of frames", f"use --num-frames {chosen.batch_shape[0]}"
        raise CalibrationError(problem, file=camera, found=chosen.batch_shape, expected=len(times), fix=fix)
    chosen = chosen.resized(round(chosen.width * scale), round(chosen.height * scale))
    return chosen if chosen.batch_shape else chosen.map(lambda x: x.expand(len(times), *x.shape))


def read_cameras(path: Path) -> Cameras:
    """Cameras from JSON {viewmats: [4 4] or [f 4 4], Ks: [3 3] or [f 3 3], width, height} (camera-from-world)."""
    try:
        with open_regular(path, kind=CalibrationError) as file:
            fields = json.loads(file.read().decode("utf-8"))
        viewmats, Ks = (torch.tensor(fields[key], dtype=torch.float32) for key in ("viewmats", "Ks"))
        if viewmats.dim() == 3 and Ks.dim() == 2:
            Ks = Ks.expand(viewmats.shape[0], 3, 3)
        return Cameras(viewmats=viewmats, Ks=Ks, width=int(fields["width"]), height=int(fields["height"]))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        expected = "JSON with viewmats, Ks, width, height"
        raise CalibrationError("is not a camera file", file=path, found=str(error)[:80], expected=expected) from error


def render_over_time(
    scene: Scene4D,
    cameras: Cameras,
    *,
    times: Tensor,
    flow_step: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Frames:
    """Frames [f] of the scene at `times` [f]; extras["flow"] = motion in m over the following `flow_step` s."""
    last = float(scene.times[-1])
    frames = []
    with torch.no_grad():
        for index, time in enumerate(times.tolist()):
            gaussians = scene.at(time)
            start = min(time, last - flow_step) if last > flow_step else time
            flow, valid = scene.flow(start, min(start + flow_step, last))
            flow = torch.where(valid[..., None], flow, torch.zeros_like(flow)).float()
            frames.append(render(gaussians.replace(extras={"flow": flow}), cameras[index], extras=("flow",)))
            progress(index + 1, len(times))
    return Frames.stack(frames)


def pictures_of(frames: Frames, what: str) -> list[np.ndarray]:
    """uint8 pictures of Frames [f]: colour, depth or flow, with one scale for the whole sequence."""
    indices = range(frames.batch_shape[0])
    if what == "colour":
        return [colour_picture(frames.rgb[i]) for i in indices]
    if what == "depth":
        near, far = depth_range(frames)
        return [depth_picture(frames.known_depth[i], near=near, far=far) for i in indices]
    if what == "flow":
        flow = frames.extras["flow"]
        longest = float(flow.norm(dim=-1).max())
        return [flow_picture(flow[i], frames.cameras.viewmats[i], longest=longest) for i in indices]
    raise ConfigError("no such picture", field="what", found=what, expected="colour, depth or flow")


def write_pictures(path: Path, pictures: list[np.ndarray], *, fps: float) -> None:
    """An .mp4 file, one .png, or a folder of NNNN.png, written whole or not at all."""
    if path.suffix == ".mp4":
        write_video(path, pictures, fps=fps)
        return
    if path.suffix.lower() == ".png" and len(pictures) == 1:
        with atomic_file(path) as temporary:
            Image.fromarray(pictures[0]).save(temporary, format="PNG")
        return
    if path.suffix:
        expected = ".mp4, .png, or a folder name for PNG files"
        raise ConfigError("cannot be written", field="output", found=path.suffix, expected=expected)
    with atomic_folder(path) as folder:
        for index, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / f"{index:04d}.png")

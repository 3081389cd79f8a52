"""Recordings whose every number and pixel is known: a robot that walks a known path over the painted floor."""

import functools
import os
import signal
import time
from dataclasses import dataclass

import numpy as np
from floor_scene import K, photograph, pose

from scene4d.data.timeline.frame_table import FrameTable, View, recording_of

STATE = [{"name": axis, "unit": "m", "frame": "world"} for axis in "xyz"]
DELTAS = [{"name": f"d{axis}", "unit": "m", "frame": "world"} for axis in "xyz"]
SPEEDS = [{"name": f"speed_{axis}", "unit": "m/s", "frame": "world"} for axis in "xyz"]
SIZE = (40, 30)


def matrix_of(size):
    return K * np.array([[size[0] / SIZE[0]], [size[1] / SIZE[1]], [1]])


@functools.cache
def photographed(index, size):
    return photograph(index, matrix=matrix_of(size), size=size)


@dataclass(frozen=True)
class Floor:
    """Photographs of the floor taken when asked for."""

    poses: tuple[int, ...]
    size: tuple[int, int] = SIZE
    depth: bool = False

    def __call__(self, frames, /):
        for i in frames:
            yield photographed(self.poses[i], self.size)[int(self.depth)].copy()


@dataclass(frozen=True)
class Trouble:
    """A floor that does something bad at one frame."""

    inner: Floor
    at: int
    what: str

    def __call__(self, frames, /):
        for i in frames:
            if i == self.at:
                cause(self.what)
            yield from self.inner([i])


def cause(what):
    """Die, hang or fail."""
    match what:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(3600)
        case "bug":
            raise ZeroDivisionError("a bug in a reader")


def view(poses, *, size=SIZE, depth=True, trouble=None):
    color = Floor(poses, size)
    return View(
        size=size,
        Ks=matrix_of(size),
        viewmats=np.stack([np.linalg.inv(pose(i)) for i in poses]),
        color=color if trouble is None else Trouble(color, *trouble),
        depth=Floor(poses, size, depth=True) if depth else None,
    )


def path_of(times):
    """Where the robot is at some times, [t 3] m."""
    return np.stack([0.3 * np.sin(times), 0.2 * np.cos(1.7 * times) + 0.4, 0.05 * times + 0.01 * np.sin(2 * times)], 1)


def recording(
    name="floor", *, num=12, fps=10.0, times=None, kind="deltas", cameras=("left", "right"), sizes=(), depth=True,
    trouble=None, shift=0.0, robot="walker",
):  # fmt: skip
    """A recording of `num` frames at `fps`, or at given times; actions are deltas, speeds, targets or nothing."""
    times = np.arange(num) / fps if times is None else np.asarray(times, float)
    after = np.append(times[1:], 2 * times[-1] - times[-2] if len(times) > 1 else 1 / fps)
    state, to_come = path_of(times) + shift, path_of(after) + shift
    actions = {
        "deltas": to_come - state,
        "speeds": (to_come - state) / (after - times)[:, None],
        "targets": to_come,
        "nothing": None,
    }[kind]
    spec = {"deltas": DELTAS, "speeds": SPEEDS, "targets": STATE, "nothing": []}[kind]
    sizes = dict(sizes)
    views = {
        camera: view(
            tuple((np.round(2 * times).astype(int) + 3 * k).tolist()),
            size=sizes.get(camera, SIZE),
            depth=depth,
            trouble=trouble if k == 0 else None,
        )
        for k, camera in enumerate(cameras)
    }
    table = FrameTable(
        views=views,
        times=times,
        actions=actions,
        proprio=state,
        rewards=np.ones(len(times)),
        success=np.arange(len(times)) == len(times) - 1,
    )
    info = {"task": f"task of {name}", "action_spec": spec, "proprio_spec": STATE, "robot": robot}
    return recording_of(table, path=f"/recordings/{name}", info=info, fps=fps)

"""A handful of small pictures of a recording: enough to see what it holds and whether its calibration fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from scene4d.data.diagnose.calibration.reprojection import Views, local_shade
from scene4d.data.diagnose.repair.mend import Mend, apply_mend
from scene4d.data.timeline.stretches import full_sizes
from scene4d.ledger import LeftOut, left_out
from scene4d.types import Episode, Recording

WIDTH = 160
PICTURES = 96
PIXELS = 60_000_000  # decoded for a sample, at most: fewer of large pictures
WINDOWS = 4
MAX_LAG = 2
SHADE = "local_shade"  # among the extras of a sample's frames
MOVED = 1e-4  # a camera that stands still may be written with rounding


@dataclass(frozen=True)
class Sample:
    """Stretches of consecutive frames, all cameras at one small size."""

    recording: Recording
    starts: tuple[int, ...]  # first frame of each stretch
    windows: tuple[Episode, ...]  # the stretches [t]

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera names."""
        return tuple(self.windows[0].views)

    @property
    def depth_cameras(self) -> tuple[str, ...]:
        """Cameras with depth."""
        return tuple(n for n, f in self.windows[0].views.items() if f.depth is not None)

    def left_out(self) -> tuple[LeftOut, ...]:
        """What the reader did not use, of the recording and of the stretches."""
        return tuple(dict.fromkeys(entry for window in self.windows for entry in left_out(window.info)))

    def moving(self) -> tuple[str, ...]:
        """Cameras whose pose changes."""
        viewmats = {n: torch.cat([w.views[n].cameras.viewmats for w in self.windows]) for n in self.cameras}
        return tuple(n for n, v in viewmats.items() if float((v - v[:1]).abs().max()) > MOVED)

    def mended(self, mends: Sequence[Mend]) -> Sample:
        """The sample as mends make it; a lag rolls the poses of each stretch (its ends are not used, see `Rows`)."""
        windows = self.windows
        for mend in mends:
            windows = tuple(_lagged(w, mend) if mend.name == "lag" else apply_mend(mend, w) for w in windows)
        return Sample(self.recording, self.starts, windows)


@dataclass(frozen=True)
class Rows:
    """Where the rows of `views_of` come from: camera [n] (index among the depth cameras), frame [n], inner [n]."""

    cameras: tuple[str, ...]
    camera: torch.Tensor
    frame: torch.Tensor
    inner: torch.Tensor  # False within `MAX_LAG` frames of a stretch's end, where a lag cannot be tried


def read_sample(recording: Recording) -> Sample:
    """Read about `PICTURES` small pictures: all of a short recording, else stretches spread over a long one.

    Raises:
        What the recording raises.
    """
    largest = max(w * h for w, h in full_sizes(recording).values())
    each = max(8, min(PICTURES, PIXELS // largest) // len(recording.cameras))
    if recording.num_frames <= each:
        spans = [(0, recording.num_frames)]
    else:
        length = max(2 * MAX_LAG + 4, each // WINDOWS)
        count = max(1, min(WINDOWS, recording.num_frames // length))
        firsts = torch.linspace(0, recording.num_frames - length, count).round().long().tolist()
        spans = [(a, a + length) for a in firsts]
    size = small_size(recording)
    windows = tuple(_shaded(recording.read(a, b, size=size)) for a, b in spans)
    return Sample(recording, tuple(a for a, _ in spans), windows)


def _shaded(window: Episode) -> Episode:
    """The window with the local shade of every picture beside it, so that mends turn both alike."""
    shade = lambda f: {**f.extras, SHADE: local_shade(f.rgb)[..., None]}
    return window.replace(views={n: f.replace(extras=shade(f)) for n, f in window.views.items()})


def small_size(recording: Recording) -> tuple[int, int]:
    """(width, height) of the sample's pictures, in the proportions of the first camera's."""
    width, height = full_sizes(recording)[recording.cameras[0]]
    small = min(WIDTH, width)
    return small, max(8, round(small * height / width))


def rows_of(sample: Sample) -> Rows:
    """Camera and frame of every picture with depth, stretch by stretch, camera by camera."""
    names, camera, frame, inner = sample.depth_cameras, [], [], []
    for start, window in zip(sample.starts, sample.windows, strict=True):
        length = len(window.times)
        margin = MAX_LAG if length >= 2 * MAX_LAG + 2 else 0
        index = torch.arange(length)
        for k in range(len(names)):
            camera.append(torch.full((length,), k))
            frame.append(start + index)
            inner.append((index >= margin) & (index < length - margin) & window.valid)
    return Rows(names, torch.cat(camera), torch.cat(frame), torch.cat(inner))


def views_of(sample: Sample) -> Views:
    """Every picture with depth, in the order of `rows_of`."""
    frames = [w.views[n] for w in sample.windows for n in sample.depth_cameras]
    return Views(
        viewmats=torch.cat([f.cameras.viewmats for f in frames]),
        Ks=torch.cat([f.cameras.Ks for f in frames]),
        depth=torch.cat([f.depth for f in frames if f.depth is not None]),
        shade=torch.cat([f.extras[SHADE][..., 0] for f in frames]),
    )


def _lagged(window: Episode, mend: Mend) -> Episode:
    views = dict(window.views)
    for name in mend.cameras or tuple(views):
        cameras = views[name].cameras
        rolled = cameras.viewmats.roll(-int(mend.value[0]), 0)
        views[name] = views[name].replace(cameras=cameras.replace(viewmats=rolled))
    return window.replace(views=views)

"""Does a stream stay small? `python scripts/bench_streaming.py [--frames 200] [--size 128] [--cap 34000]`: a JSON line.

A box slides to and fro behind another one; frames come one by one at a fixed cap of Gaussians, and old instants
go into a growing .s4d. Reported: resident memory a frame (least squares after the first 50), milliseconds a frame, the
size of the file and what can be read back from it.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from bench import commit, resident_mb

from scene4d.gaussians.s4d.s4d import open_s4d
from scene4d.gaussians.s4d.s4d_growing import GrowingS4D
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.lift.stream.stream import SceneStream, StreamConfig
from scene4d.types import Cameras, Frames

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from box_scene import Box, cast_boxes

SETTLED = 50  # frames after which memory should not grow
LOOK_EVERY = 10  # frames between two looks at the scene and at the memory
EYES = torch.tensor([[-0.7, -0.7, 0.6], [0.7, -0.7, 0.6]])


@dataclass(frozen=True)
class StreamCase:
    """How long, how large, and what stays in memory."""

    frames: int = 200
    size: int = 128
    cap: int = 34_000
    keep: int = 8
    polish: int = 1


def box_frames(case: StreamCase) -> Iterator[Frames]:
    """Frames [v] of a box that slides to and fro behind one that stands."""
    cameras = Cameras(
        viewmats=look_at(EYES, torch.tensor([0.0, 0.0, 0.05]).expand(2, 3)),
        Ks=intrinsics_from_fov(0.7, width=case.size, height=case.size).expand(2, 3, 3),
        width=case.size,
        height=case.size,
    )
    still = Box((0.12, -0.2, 0.0), (0.24, -0.08, 0.2))
    for t in range(case.frames):
        x = -0.1 + 0.12 * math.sin(t / 12)
        yield cast_boxes(cameras, boxes=(still, Box((x, -0.05, 0.0), (x + 0.12, 0.07, 0.12))))


def stream_once(case: StreamCase, path: Path) -> dict[str, float]:
    """Stream the case into `path`; the figures of it."""
    config = StreamConfig(
        max_gaussians=case.cap, max_past=case.cap, keep_instants=case.keep, polish_first=case.polish, polish=case.polish
    )
    memory, rows, seconds = [], [], []
    with GrowingS4D(path, info={"task": "stream"}) as history:
        stream = SceneStream(config, history=history)
        for t, frames in enumerate(box_frames(case)):
            start = time.perf_counter()
            stream.update(frames, time=0.1 * t)
            seconds.append(time.perf_counter() - start)
            if t % LOOK_EVERY == LOOK_EVERY - 1:
                rows.append(stream.scene().base.num_gaussians)
                gc.collect()
                memory.append(resident_mb())
        history.save(stream.scene())
    settled = SETTLED // LOOK_EVERY - 1
    late = torch.tensor(memory[settled:], dtype=torch.float64)
    step = LOOK_EVERY * torch.arange(len(late), dtype=torch.float64)
    slope = float(((step - step.mean()) * (late - late.mean())).sum() / ((step - step.mean()) ** 2).sum())
    file = open_s4d(path)
    return {
        "mb_a_frame": slope,
        "mb_at_50": memory[settled],
        "mb_at_end": memory[-1],
        "ms_a_frame": 1e3 * sorted(seconds)[len(seconds) // 2],
        "rows_in_memory": max(rows),
        "rows_in_file": file.base().num_gaussians,
        "frames_in_file": file.num_frames,
        "anchors": int(file.manifest["num_anchors"]),
        "file_mb": path.stat().st_size / 1e6,
    }


def main() -> None:
    """Run one case and print its line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in vars(StreamCase()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    case = StreamCase(**vars(options))
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        figures = stream_once(case, Path(folder) / "stream.s4d")
    rounded = {k: round(v, 4) for k, v in figures.items()}
    print(json.dumps({"case": "streaming", **vars(case), **rounded, "commit": commit()}))


if __name__ == "__main__":
    main()

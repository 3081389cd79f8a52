"""Times of the hot paths, one JSON line a case: `python scripts/bench.py raster [--case NAME] [--threads 1 2]`.

A case is a name, a set-up and a call. Each is warmed up, then repeated; reported are the fastest and the median time
with the 10th and 90th percentile, the peak resident memory, and the machine. One-thread and two-thread rows of one case
compute the same bits.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from scene4d.geometry.camera import intrinsics_from_fov
from scene4d.native.ops import INSTRUCTION_SETS, force_instruction_set, native_module
from scene4d.render.render import render
from scene4d.types import Cameras, Gaussians

Call = Callable[[], object]


def surface_gaussians(num: int, *, degree: int, batch: tuple[int, ...] = (), seed: int = 0) -> Gaussians:
    """Splats on a floor, two walls and some balls in front of the camera, sized to the spacing of the surface."""
    random = torch.Generator().manual_seed(seed)
    shape = (*batch, num)

    def uniform(low: float, high: float, *size: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, *size, generator=random)

    part = torch.rand(shape, generator=random)[..., None]
    floor = torch.cat([uniform(-6, 6, 1), torch.full((*shape, 1), 1.2), uniform(1.5, 14, 1)], -1)
    wall = torch.cat([uniform(-6, 6, 1), uniform(-3, 1.2, 1), torch.full((*shape, 1), 12.0)], -1)
    direction = torch.nn.functional.normalize(torch.randn(*shape, 3, generator=random), dim=-1)
    center = torch.randint(0, 12, shape, generator=random)[..., None].float()
    ball = (
        torch.cat([(center * 2.3).sin() * 3, (center * 1.7).cos(), 6 + 3 * (center * 0.9).sin()], -1) + 0.7 * direction
    )
    means = torch.where(part < 0.4, floor, torch.where(part < 0.7, wall, ball))
    spacing = (300 / num) ** 0.5
    scales = spacing * 0.6 * torch.exp(0.55 * torch.randn(*shape, 3, generator=random))
    return Gaussians(
        means=means,
        quats=torch.randn(*shape, 4, generator=random),
        scales=scales * torch.tensor([1.0, 1.0, 0.15]),
        opacities=torch.sigmoid(2.2 * torch.randn(shape, generator=random) - 0.4),
        sh=torch.randn(*shape, (degree + 1) ** 2, 3, generator=random) * 0.1,
    )


def forward_camera(width: int, height: int, *batch: int) -> Cameras:
    """A camera at the origin looking along z."""
    K = intrinsics_from_fov(1.0, width, height)
    return Cameras(viewmats=torch.eye(4).expand(*batch, 4, 4), Ks=K.expand(*batch, 3, 3), width=width, height=height)


def raster_case(num: int, width: int, height: int, *, degree: int, batch: tuple[int, ...] = ()) -> tuple[Call, Call]:
    """(forward, forward + backward) of `batch` scenes, each with its own Gaussians and one view."""
    gaussians = surface_gaussians(num, degree=degree, batch=batch)
    cameras = forward_camera(width, height, *batch)
    leaves = [getattr(gaussians, name) for name in ("means", "quats", "scales", "opacities", "sh")]
    v_rgb = torch.randn(*batch, height, width, 3) / (width * height)

    def forward() -> None:
        with torch.no_grad():
            render(gaussians, cameras)

    def both() -> None:
        for x in leaves:
            x.requires_grad_(True)
            x.grad = None
        render(gaussians, cameras).rgb.backward(v_rgb)

    return forward, both


RASTER_CASES = {
    "10k_128x128_sh3": lambda: raster_case(10_000, 128, 128, degree=3),
    "100k_256x256_sh3": lambda: raster_case(100_000, 256, 256, degree=3),
    "100k_640x480_sh3": lambda: raster_case(100_000, 640, 480, degree=3),
    "300k_640x480_sh3": lambda: raster_case(300_000, 640, 480, degree=3),
    "300k_1280x720_sh3": lambda: raster_case(300_000, 1280, 720, degree=3),
    "16x2k_64x64_sh0": lambda: raster_case(2_000, 64, 64, degree=0, batch=(16,)),
    "16x8k_64x64_sh0": lambda: raster_case(8_000, 64, 64, degree=0, batch=(16,)),
}


def measure(call: Call, *, seconds: float) -> dict[str, float]:
    """Fastest, median, 10th and 90th percentile in ms over about `seconds` s."""
    for _ in range(2):
        call()
    times, stop = [], time.perf_counter() + seconds
    while len(times) < 5 or (time.perf_counter() < stop and len(times) < 200):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    tenths = statistics.quantiles(times, n=10)
    values = dict(min=min(times), median=statistics.median(times), p10=tenths[0], p90=tenths[-1])
    return {**{f"{name}_ms": round(value, 3) for name, value in values.items()}, "repeats": len(times)}


def commit() -> str:
    """The commit that was measured, or "unknown"."""
    call = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(call, capture_output=True, text=True).stdout.strip() or "unknown"


def raster_rows(*, cases: list[str], threads: list[int], seconds: float) -> Iterator[dict]:
    """Rows for the rasterizer: every case, thread count and direction."""
    for name in cases:
        for num_threads in threads:
            torch.set_num_threads(num_threads)
            for direction, call in zip(("forward", "forward_backward"), RASTER_CASES[name](), strict=True):
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
                row = dict(bench="raster", case=name, direction=direction, threads=num_threads)
                yield {**row, **measure(call, seconds=seconds), "process_peak_mb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", choices=["raster"])
    parser.add_argument("--case", nargs="*", default=list(RASTER_CASES), choices=list(RASTER_CASES))
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each row")
    parser.add_argument("--instruction-set", choices=INSTRUCTION_SETS, default=None)
    options = parser.parse_args()
    force_instruction_set(options.instruction_set)
    chosen = options.instruction_set or INSTRUCTION_SETS[native_module().best_instruction_set()]
    machine = dict(commit=commit(), machine=platform.machine(), instruction_set=chosen, torch=torch.__version__)
    for row in raster_rows(cases=options.case, threads=options.threads, seconds=options.seconds):
        print(json.dumps({**row, **machine}), flush=True)


if __name__ == "__main__":
    main()

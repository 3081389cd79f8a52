"""Times of the hot paths, one JSON line a case: `python scripts/bench.py raster [--case NAME ...] [--threads 1 2]`.

A case is a name, a set-up and a call. Each is warmed up, then repeated; reported are the fastest and the median time
with the 10th and 90th percentile, the rise of resident memory, the machine, and the roofline of the same minute.
One-thread and two-thread rows of one case compute the same bits.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from scene4d.geometry.camera import intrinsics_from_fov
from scene4d.native.ops import INSTRUCTION_SETS, RasterSettings, force_instruction_set, native_module
from scene4d.render.batch_views import FIELDS
from scene4d.render.reference import blended_counts
from scene4d.render.render import render
from scene4d.types import Cameras, Gaussians

Call = Callable[[], object]


def surface_gaussians(num: int, *, degree: int, batch: tuple[int, ...] = (), seed: int = 0) -> Gaussians:
    """Ground, three walls, twelve balls and a far shell before the camera, in flat log-normal splats.

    Splats are as large as the spacing of their surface asks for, so that a pixel blends about as many whatever `num`
    is; opacities are bimodal: many faint ones, some solid.
    """
    random = torch.Generator().manual_seed(seed)
    shape = (*batch, num)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(shape, generator=random)

    def unit() -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, 3, generator=random), dim=-1)

    zero = torch.zeros(shape)
    ground = torch.stack([uniform(-6, 6), zero + 1.2, uniform(1.5, 14)], -1)
    side, along, up = torch.randint(0, 3, shape, generator=random) - 1, uniform(-6, 6), uniform(-3, 1.2)
    back = side == 0
    wall = torch.stack([torch.where(back, along, 6.0 * side), up, torch.where(back, 12.0, along + 8)], -1)
    k = torch.randint(0, 12, shape, generator=random).float()
    center = torch.stack([3 * (2.3 * k).sin(), (1.7 * k).cos(), 6 + 3 * (0.9 * k).sin()], -1)
    ball = center + (0.7 + 0.4 * (1.3 * k).sin())[..., None] * unit()
    away = unit()
    away = torch.nn.functional.normalize(torch.cat([away[..., :2], away[..., 2:].abs() + 0.3], -1), dim=-1)
    part = torch.multinomial(torch.tensor([0.3, 0.25, 0.3, 0.15]), zero.numel(), replacement=True, generator=random)
    part = part.reshape(shape)
    surfaces = torch.stack([ground, wall, ball, away * uniform(15, 30)[..., None]])
    means = surfaces.gather(0, part[None, ..., None].expand(1, *shape, 3))[0]
    areas = torch.tensor([150.0, 150.0, 75.0, 2500.0]) / (num * torch.tensor([0.3, 0.25, 0.3, 0.15]))
    scales = areas.sqrt()[part][..., None] * torch.exp(0.55 * torch.randn(*shape, 3, generator=random)) * 0.6
    return Gaussians(
        means=means,
        quats=torch.randn(*shape, 4, generator=random),
        scales=scales * torch.tensor([1.0, 1.0, 0.15]),
        opacities=torch.sigmoid(2.2 * torch.randn(shape, generator=random) - 0.4),
        sh=torch.randn(*shape, (degree + 1) ** 2, 3, generator=random) * 0.1,
    )


def forward_camera(width: int, height: int, *batch: int) -> Cameras:
    """A camera at the origin looking along z."""
    K = intrinsics_from_fov(
        2 * math.atan(0.5 * height / (0.8 * width)), width=width, height=height
    )  # focal length 0.8 width
    return Cameras(viewmats=torch.eye(4).expand(*batch, 4, 4), Ks=K.expand(*batch, 3, 3), width=width, height=height)


@dataclass(frozen=True)
class RasterCase:
    """`batch` scenes of `num` Gaussians, each with its own, seen by `views` cameras."""

    num: int
    width: int
    height: int
    degree: int
    batch: tuple[int, ...] = ()
    views: tuple[int, ...] = ()

    def calls(self, device: str) -> tuple[Call, Call]:
        """(forward, forward + backward)."""
        gaussians = surface_gaussians(self.num, degree=self.degree, batch=self.batch).to(device)
        cameras = forward_camera(self.width, self.height, *self.batch, *self.views).to(device)
        leaves = [getattr(gaussians, name) for name in FIELDS]
        size = (*self.batch, *self.views, self.height, self.width, 3)
        v_rgb = torch.randn(size, device=device) / (self.width * self.height)

        def forward() -> None:
            with torch.no_grad():
                render(gaussians, cameras)

        def both() -> None:
            for x in leaves:
                x.requires_grad_(True)
                x.grad = None
            render(gaussians, cameras).rgb.backward(v_rgb)

        return forward, both

    def blended(self) -> int:
        """Pairs of (Gaussian, pixel) that are blended, over all scenes and views."""
        gaussians = surface_gaussians(self.num, degree=self.degree)
        camera = forward_camera(self.width, self.height)
        tensors = {name: getattr(gaussians, name) for name in FIELDS} | {"ids": gaussians.ids}
        view = {"viewmats": camera.viewmats, "Ks": camera.Ks, "background": None}
        counts = blended_counts(tensors, view, settings=RasterSettings(self.width, self.height))
        return int(counts.sum()) * math.prod((*self.batch, *self.views))


RASTER_CASES = {
    "10k_128x128_sh3": RasterCase(10_000, 128, 128, 3),
    "10k_128x128_sh0": RasterCase(10_000, 128, 128, 0),
    "100k_256x256_sh3": RasterCase(100_000, 256, 256, 3),
    "100k_640x480_sh3": RasterCase(100_000, 640, 480, 3),
    "100k_640x480_sh0": RasterCase(100_000, 640, 480, 0),
    "300k_640x480_sh3": RasterCase(300_000, 640, 480, 3),
    "300k_1280x720_sh3": RasterCase(300_000, 1280, 720, 3),
    "1M_1280x720_sh3": RasterCase(1_000_000, 1280, 720, 3),
    "16x2x8k_128x128_sh0": RasterCase(8_000, 128, 128, 0, batch=(16,), views=(2,)),
}


def roofline() -> dict[str, float]:
    """Lanes a second of one core where every lane is useful and all data is in cache: one tile, 2,000 faint layers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    num = 2_000
    layers = Gaussians(
        means=torch.stack([torch.zeros(num), torch.zeros(num), torch.linspace(1, 2, num)], -1),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(num, 4), scales=torch.full((num, 3), 50.0),
        opacities=torch.full((num,), 0.0041), sh=torch.zeros(num, 1, 3),
    )  # fmt: skip
    camera, leaf = forward_camera(16, 16), layers.means.requires_grad_()
    rates = {"forward": 0.0, "backward": 0.0}
    for _ in range(40):
        rgb = render(layers.replace(means=leaf), camera).rgb
        rates["forward"] = max(rates["forward"], num * 256 / native_module().last_stage_seconds()["raster"])
        rgb.sum().backward()
        rates["backward"] = max(rates["backward"], num * 256 / native_module().last_stage_seconds()["raster"])
    torch.set_num_threads(threads)
    return rates


def measure(call: Call, *, seconds: float, device: str = "cpu") -> dict[str, float]:
    """Fastest, median, 10th and 90th percentile in ms over about `seconds` s, and what memory rises by, in MB."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def run() -> None:
        call()
        wait()

    run()
    before = resident_mb()
    reset_peak()
    run()
    rise = peak_mb() - before
    times, stop = [], time.perf_counter() + seconds
    while len(times) < 20 or (time.perf_counter() < stop and len(times) < 200):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    tenths = statistics.quantiles(times, n=10)
    values = dict(min=min(times), median=statistics.median(times), p10=tenths[0], p90=tenths[-1])
    return {
        **{f"{name}_ms": round(value, 3) for name, value in values.items()},
        "repeats": len(times),
        "rise_mb": round(rise, 1),
    }


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(key))


def resident_mb() -> float:
    """Memory of this process that is in RAM now, in MB (Linux)."""
    return _status_mb("VmRSS")


def peak_mb() -> float:
    """Its peak since `reset_peak`."""
    return _status_mb("VmHWM")


def reset_peak() -> None:
    """Forgets the peak."""
    Path("/proc/self/clear_refs").write_text("5")


def commit() -> str:
    """The commit that was measured, or "unknown"."""
    call = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(call, capture_output=True, text=True).stdout.strip() or "unknown"


def median_stages(call: Call, repeats: int = 9) -> dict[str, float]:
    """Median ms of each native stage of the last call that `call` makes (backward, where it has one)."""
    rows = []
    for _ in range(repeats):
        call()
        rows.append(native_module().last_stage_seconds())
    return {name: round(1e3 * statistics.median(row[name] for row in rows), 3) for name in rows[0]}


def raster_rows(*, cases: list[str], threads: list[int], seconds: float, device: str) -> Iterator[dict]:
    """Rows for the rasterizer: every case, thread count and direction, beside the roofline of the same minute.

    `roofline_ms` is what blending the pairs of the picture alone would take at that rate on all threads.
    """
    for name in cases:
        case = RASTER_CASES[name]
        pairs = case.blended()
        pixels = case.width * case.height * math.prod((*case.batch, *case.views))
        for num_threads in threads:
            torch.set_num_threads(num_threads)
            for direction, call in zip(("forward", "forward_backward"), case.calls(device), strict=True):
                row = dict(bench="raster", case=name, direction=direction, threads=num_threads, device=device)
                times = measure(call, seconds=seconds, device=device)
                row |= {**times, "blended_per_pixel": round(pairs / pixels, 1)}
                if device == "cpu":
                    rates = roofline()
                    needed = 1 / rates["forward"] + (direction == "forward_backward") / rates["backward"]
                    roof = 1e3 * pairs * needed / num_threads
                    row |= {"roofline_ms": round(roof, 3), "times_roofline": round(times["min_ms"] / roof, 2)}
                    row |= {"stages_ms": median_stages(call)}
                yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", choices=["raster"])
    parser.add_argument("--case", nargs="*", default=list(RASTER_CASES), choices=list(RASTER_CASES))
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each row")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--instruction-set", choices=INSTRUCTION_SETS, default=None)
    options = parser.parse_args()
    force_instruction_set(options.instruction_set)
    chosen = options.instruction_set or INSTRUCTION_SETS[native_module().best_instruction_set()]
    machine = dict(commit=commit(), machine=platform.machine(), instruction_set=chosen, torch=torch.__version__)
    for row in raster_rows(cases=options.case, threads=options.threads, seconds=options.seconds, device=options.device):
        print(json.dumps({**row, **machine}), flush=True)


if __name__ == "__main__":
    main()

"""Long runs: what training, the simulator, the server and the viewer hold stays what it is: memory, files, threads."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import toy_world
from memory_use import num_descriptors, num_threads, resident_mb
from result_tables import Table, written
from small_verbs import in_child
from tiny_agent import PROPRIO, box_views
from tiny_server import serving
from torch import Tensor, nn

from scene4d.apps.agent.server.client import PolicyClient
from scene4d.apps.compose.assets import DEMO_EPISODE
from scene4d.apps.verbs.options.scenes import ReconstructOptions, ViewOptions
from scene4d.apps.verbs.run_reconstruct import run_reconstruct
from scene4d.apps.verbs.run_view import open_view
from scene4d.env.batched_sim import WorldConfig
from scene4d.env.vector_env import WorldVectorEnv
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.render.render import render
from scene4d.train.loop import LoopConfig, train
from scene4d.types import Cameras, Gaussians

MOST_SLOPE = 1.0
"""MB of memory in a thousand steps, requests or visits by which it may rise: beyond that it does not stay."""
MOST_WARM = 20.0
"""MB by which it may rise in a run too short for a slope."""
SAMPLES = 20
VIEWERS = 20
Sample = tuple[float, int, int]


def main() -> int:
    """Run it; 1 where something grew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=20_000, help="steps of training; the others are shares of it")
    parser.add_argument("--only", nargs="*", help="training simulator server viewer")
    parser.add_argument("--write", action="store_true", help="put the table into docs/results/reliability.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shares = {"training": (train_toy, 1), "simulator": (step_toy, 4), "server": (serve_tiny, 10), "viewer": (show, 4)}
    rows, grew = [], 0
    for name in options.only or shares:
        act, share = shares[name]
        count = max(SAMPLES, options.size // share)
        start = time.monotonic()
        samples = [tuple(each) for each in in_child(partial(act, count))]
        row, flat = _judged(samples, count=count)
        grew += not flat
        rows.append([name, count, *row, "yes" if flat else "NO", round(time.monotonic() - start)])
        print(*rows[-1], sep=" | ", flush=True)
    columns = ("what", "times", "MB at first", "MB at last", "MB per 1000", "descriptors", "threads", "flat", "seconds")
    text = f"One time of the viewer is a browser that comes, looks and goes; {VIEWERS} are there at once."
    command = f"scripts/soak.sh long --size {options.size}"
    written(Table("long", columns, rows), text=text, write=options.write, command=command)
    return int(grew > 0)


def _judged(samples: list[Sample], *, count: int) -> tuple[list[object], bool]:
    """A row of figures, and whether they stay: the first quarter is a warm-up."""
    later = samples[len(samples) // 4 :]
    step = count / len(samples) / 1000
    memory = torch.tensor([each[0] for each in later], dtype=torch.float64)
    at = torch.arange(len(later), dtype=torch.float64) * step
    slope = float(((at - at.mean()) * (memory - memory.mean())).sum() / (at - at.mean()).square().sum())
    half = len(later) // 2
    counts = [[max(each[k] for each in part) for part in (later[:half], later[half:])] for k in (1, 2)]
    steady = all(last <= first for first, last in counts)
    few = count <= 2000 and float(memory[-1] - memory[0]) < MOST_WARM  # a slope over a few steps says nothing
    shown = [f"{first} to {last}" for first, last in counts]
    figures = [round(samples[0][0]), round(samples[-1][0]), round(slope, 2), *shown]
    return figures, steady and (slope < MOST_SLOPE or few)


def _sampler(count: int, samples: list[Sample]) -> Callable[[int], None]:
    """Called with what is done, it notes what the process holds `SAMPLES` times."""
    every = max(1, count // SAMPLES)

    def note(done: int) -> None:
        if done % every == 0:
            samples.append((resident_mb(), num_descriptors(), num_threads()))

    return note


class ToyScene(nn.Module):
    """Splats that learn a picture."""

    def __init__(self, num: int = 60):
        super().__init__()
        self.means = nn.Parameter(0.3 * torch.randn(num, 3, generator=torch.Generator().manual_seed(0)))
        self.colour = nn.Parameter(torch.zeros(num, 1, 3))

    def picture(self, camera: Cameras) -> Tensor:
        num = len(self.means)
        gaussians = Gaussians(
            means=self.means,
            quats=torch.tensor([1.0, 0, 0, 0]).expand(num, 4),
            scales=torch.full((num, 3), 0.05),
            opacities=torch.full((num,), 0.8),
            sh=self.colour,
        )
        return render(gaussians, camera).rgb


def train_toy(count: int) -> list[Sample]:
    """So many steps of the training loop, with checkpoints and a log."""
    K, eye = intrinsics_from_fov(0.8, width=24, height=24), torch.tensor([0.0, -1.5, 0.3])
    camera = Cameras(viewmats=look_at(eye, torch.zeros(3)), Ks=K, width=24, height=24)
    target = torch.linspace(0, 1, 24).expand(24, 24)[..., None].expand(24, 24, 3)
    scene, samples = ToyScene(), []
    note = _sampler(count, samples)
    loss = lambda batch: ((scene.picture(camera) - batch["target"]).square().mean(), {})
    with tempfile.TemporaryDirectory() as folder:
        train(
            scene, loss, batches=lambda step: {"target": target}, folder=folder,
            config=LoopConfig(steps=count, checkpoint_every=max(1, count // 100)), progress=lambda done, *_: note(done),
        )  # fmt: skip
    return samples


def step_toy(count: int) -> list[Sample]:
    """So many steps of the learned simulator, two environments at once, over many episodes."""
    samples: list[Sample] = []
    note, config = _sampler(count, samples), WorldConfig(size=16, max_steps=30)
    starts = [toy_world.toy_start(), toy_world.toy_start(hand=(-0.1, 0.0, 0.05), num_floor=90)]
    env = WorldVectorEnv(toy_world.ToyWorld(), starts, num_envs=2, cameras=toy_world.cameras(), config=config)
    env.reset(seed=0)
    env.action_space.seed(0)
    for step in range(count):
        env.step(env.action_space.sample())
        note(step + 1)
    return samples


def serve_tiny(count: int) -> list[Sample]:
    """So many requests: episodes of ten observations, each from a connection of its own."""
    samples: list[Sample] = []
    note, done = _sampler(count, samples), 0
    with serving() as server:
        while done < count:
            with PolicyClient(server.url) as client:
                for step in range(min(10, count - done)):
                    client.step(box_views(step), proprio=PROPRIO, task="open the door")
                    done += 1
                    note(done)
    return samples


def show(count: int) -> list[Sample]:
    """So many visits of browsers' connections to the viewer, a crowd at a time; each reads what it is sent."""
    samples: list[Sample] = []
    note, done = _sampler(count // VIEWERS, samples), 0
    with tempfile.TemporaryDirectory() as folder:
        little = {"max_frames": 3, "size": 32, "cameras": ("left",)}
        scene = Path(folder) / "scene.s4d"
        run_reconstruct(replace(ReconstructOptions(DEMO_EPISODE, scene), **little))
        with open_view(ViewOptions(scene, port=0)) as opened, ThreadPoolExecutor(VIEWERS) as pool:
            for crowd in range(count // VIEWERS):
                visits = [pool.submit(_visit, opened.server.get_port()) for _ in range(VIEWERS)]
                opened.panel.slider.value = crowd % 3
                for each in visits:
                    each.result()  # a visitor who was refused ends the run
                done += 1
                _until_alone(opened.server)
                note(done)
    return samples


def _visit(port: int) -> None:
    import viser
    from websockets.sync.client import connect

    protocol = f"viser-v{viser.__version__}"
    options = {"subprotocols": [protocol], "max_size": None, "origin": f"http://127.0.0.1:{port}"}
    with connect(f"ws://127.0.0.1:{port}", **options) as visitor, contextlib.suppress(TimeoutError):
        while True:
            visitor.recv(timeout=0.3)


def _until_alone(server: object, *, seconds: float = 20.0) -> None:
    """Wait until the viewer noticed that all have gone."""
    deadline = time.monotonic() + seconds
    while server.get_clients() and time.monotonic() < deadline:
        time.sleep(0.05)


if __name__ == "__main__":
    raise SystemExit(main())

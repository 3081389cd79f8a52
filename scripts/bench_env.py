"""Speed and memory of the learned simulator on the shipped weights: `python scripts/bench_env.py [--steps 5000]`.

One JSON line a case: steps a second with rendering (two cameras, 64 px) and without gradients, and the growth of
resident memory in MB per 1,000 steps, fitted over the run after a warm-up. Starts are frames of the built-in episode.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench import commit, resident_mb

from scene4d.apps.compose.assets import DEMO_EPISODE
from scene4d.apps.compose.models import Models, load_models
from scene4d.apps.compose.recorded_starts import make_world_env
from scene4d.apps.verbs.run_reconstruct import ReconstructOptions, run_reconstruct
from scene4d.env.batched_sim import WorldConfig


def run_case(models: Models, scene: Path, *, num_envs: int, steps: int, threads: int) -> dict:
    """Random actions for `steps` steps of the vector env (or of the single one)."""
    torch.set_num_threads(threads)
    config = WorldConfig(max_steps=50)
    env = make_world_env(models, [scene], num_envs=num_envs if num_envs > 1 else None, config=config)
    env.reset(seed=0)
    env.action_space.seed(0)
    warm = max(20, steps // 10)
    rows, start, busy, spent = [], 0.0, 0.0, []
    for step in range(steps + warm):
        if step == warm:
            start, busy = time.perf_counter(), time.process_time()
        before = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        spent.append(time.perf_counter() - before)
        if num_envs == 1 and (terminated or truncated):
            env.reset()
        if step >= warm and step % 25 == 0:
            gc.collect()
            rows.append((step - warm, resident_mb()))
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    x, y = np.array(rows).T
    slope = float(np.polyfit(x, y, 1)[0]) * 1000 if len(rows) > 2 else 0.0
    return {
        "case": f"world_env_{num_envs}x2x64px",
        "threads": threads,
        "steps": steps,
        "steps_per_second": round(num_envs * steps / seconds, 2),
        "step_ms_median": round(1e3 * float(np.median(spent[warm:])), 1),
        "cpu_ms_per_step": round(1e3 * busy / steps, 1),
        "growth_mb_per_1000_steps": round(slope, 3),
        "resident_mb": round(float(y[-1]), 1),
        "gaussians": env.sim.state.gaussians.num_gaussians,
        "machine": platform.processor() or platform.machine(),
        "commit": commit(),
    }


def main() -> None:
    """Run the cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help="steps of a case; 5000 for the growth that counts")
    parser.add_argument("--envs", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--size", type=int, default=64, help="width in px that the recording is reconstructed at")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    models = load_models()
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene.s4d"
        source = ReconstructOptions(DEMO_EPISODE, output=scene, cameras=("left", "right"), size=options.size)
        run_reconstruct(source)
        for num in options.envs:
            print(json.dumps(run_case(models, scene, num_envs=num, steps=options.steps, threads=options.threads)))


if __name__ == "__main__":
    main()

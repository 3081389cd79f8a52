"""How many actions a second the agent makes, one JSON line: `python scripts/bench_agent.py [--threads 2] [--forecast]`.

An episode of Meta-World is driven by the agent itself from the shipped weights; only the agent's own time is counted,
from pictures to action, its memory included. The first steps warm up and are left out. Reported are actions a second
over the whole of the rest (what a robot gets), the median and the slowest tenth of a step, the processor time of one
(all threads; what is left of it when others share the machine), and where the time went.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from typing import Any

import torch
from bench import commit

from scene4d.apps.agent.agent import AgentConfig, SceneAgent, agent_maker
from scene4d.apps.compose.models import load_models
from scene4d.sim.metaworld import MetaWorldSim
from scene4d.types import Frames

WARM_UP = 4


def shares(agent: SceneAgent) -> dict[str, float]:
    """Seconds spent in the parts of a step from now on; the dictionary fills as the agent works."""
    spent = {"memory": 0.0, "views": 0.0, "head": 0.0}

    def timed(name, call):
        def run(*args, **options):
            start = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                spent[name] += time.perf_counter() - start

        return run

    builder: Any = agent.observation_builder  # its methods are measured in place
    builder.observe = timed("memory", builder.observe)
    builder.views = timed("views", builder.views)
    agent.head.act = timed("head", agent.head.act)
    return spent


def main() -> None:
    """Drive and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="door-open-v3")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--replan-every", type=int, default=AgentConfig().replan_every)
    parser.add_argument("--forecast", action="store_true", help="show the head the predicted future too")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = AgentConfig(replan_every=given.replan_every, size=(given.size, given.size))
    agent = agent_maker(load_models(given.weights), forecast=given.forecast, config=config)(given.task)
    builder: Any = agent.observation_builder
    seconds, spent, processor = [], {}, 0.0
    size = (given.size, given.size)
    with MetaWorldSim(given.task, seed=given.seed, size=size, cameras=("left", "right"), segments=False) as sim:
        for step in range(given.steps + WARM_UP):
            if step == WARM_UP:
                spent = shares(agent)
            frames: dict[str, Frames] = sim.observe()
            proprio = sim.proprio()
            start, used = time.perf_counter(), time.process_time()
            action = agent.step(frames, proprio=proprio, task=given.task)
            seconds.append(time.perf_counter() - start)
            processor += (time.process_time() - used) * (step >= WARM_UP)
            sim.step(action)
    seconds = seconds[WARM_UP:]
    line = {
        "case": "agent" + ("_forecast" if given.forecast else ""),
        "hz": round(len(seconds) / sum(seconds), 2),
        "median_ms": round(1e3 * statistics.median(seconds), 1),
        "p90_ms": round(1e3 * statistics.quantiles(seconds, n=10)[-1], 1),
        "processor_ms": round(1e3 * processor / given.steps, 1),
        "share_ms": {name: round(1e3 * value / len(seconds), 1) for name, value in spent.items()},
        "steps": len(seconds),
        "size": given.size,
        "replan_every": given.replan_every,
        "threads": given.threads,
        "gaussians": builder.stream.gaussians().num_gaussians,
        "machine": platform.processor() or platform.machine(),
        "commit": commit(),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

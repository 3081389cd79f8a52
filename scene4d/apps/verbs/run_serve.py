"""`scene4d serve`: the agent behind HTTP on this machine (docs/serve.md), no pickle, nothing trusted."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scene4d.apps.agent.agent import AgentConfig
from scene4d.apps.agent.server.access import open_door
from scene4d.apps.agent.server.http_server import PolicyServer
from scene4d.apps.agent.server.policy_host import PolicyHost
from scene4d.apps.compose.models import load_models
from scene4d.apps.terminal.options import check_at_least, check_positive, check_within
from scene4d.errors import ConfigError


@dataclass(frozen=True)
class ServeOptions:
    """Answer observations with actions, for robots and simulators in other processes."""

    weights: Path | None = None
    """A weights file, or the name of shipped ones (small, tiny); by default the best of those."""
    host: str = "127.0.0.1"
    """Address to listen at."""
    port: int = 8790
    """Port; 0 = any free one."""
    cameras: tuple[str, ...] | None = None
    """Names of the cameras that the memory looks through; every observation must hold them. By default those that the
    weights learned with (left right for shipped ones)."""
    size: tuple[int, int] | None = None
    """Width and height in px that pictures are brought to first; by default what the weights learned at (64 64)."""
    forecast: bool = True
    """Show the head the predicted future too (slower)."""
    replan_every: int = 2
    """Actions carried out of each chunk before the next is planned."""
    fps: float | None = None
    """Observations a second of robot time; by default as the weights learned (40)."""
    threads: int = 1
    """Threads to compute with; at 64 px there is too little work to share, and one is the fastest."""
    episodes: int = 4
    """Episodes kept at a time; the one not asked for longest is forgotten when another begins."""
    allow_remote: bool = False
    """Let other machines in at a --host that they reach; they need the token that is printed."""


def run_serve(options: ServeOptions) -> dict[str, Any]:
    """Serve until interrupted; returns {url, requests, refused, steps, episodes, seconds}.

    Raises:
        SecurityError: --host is reached from other machines without --allow-remote. ResourceError: the port is taken.
        CheckpointError: the weights hold no action head. ConfigError: an option is not positive, or names no camera.
    """
    _check(options)
    door = open_door(options.host, allow_remote=options.allow_remote)
    config = AgentConfig(
        input_cameras=options.cameras,
        replan_every=options.replan_every,
        seconds_per_frame=None if options.fps is None else 1 / options.fps,
        size=options.size,
    )
    host = PolicyHost(
        load_models(options.weights), config=config, forecast=options.forecast, max_episodes=options.episodes
    )
    start, threads = time.monotonic(), torch.get_num_threads()
    torch.set_num_threads(options.threads)
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        server = stack.enter_context(PolicyServer(host, door=door, port=options.port))
        print(f"scene4d: serving at {server.url} (Ctrl-C stops)", flush=True)
        if door.token is not None:
            print(f"scene4d: other machines send the header  Authorization: Bearer {door.token}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # how a server is meant to end
            server.serve_forever()
        counts = {"requests": server.num_requests, "refused": server.num_refused, "steps": host.num_steps}
        seconds = round(time.monotonic() - start, 1)
        return {"url": server.url, **counts, "episodes": host.num_episodes, "seconds": seconds}


def _check(options: ServeOptions) -> None:
    check_at_least(1, episodes=options.episodes, replan_every=options.replan_every, threads=options.threads)
    check_at_least(8, size=None if options.size is None else min(options.size))
    check_positive(fps=options.fps)
    check_within(0, 65535, port=options.port)
    if options.cameras is not None and not options.cameras:
        raise ConfigError("names none", field="cameras", fix="leave it out, or name the cameras of the observations")

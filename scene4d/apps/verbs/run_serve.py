"""`scene4d serve`: the agent behind HTTP on this machine (docs/serve.md), no pickle, every request checked."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import torch

from scene4d.apps.agent.agent import AgentConfig
from scene4d.apps.agent.server.access import access_to
from scene4d.apps.agent.server.http_server import PolicyServer
from scene4d.apps.agent.server.policy_host import PolicyHost
from scene4d.apps.compose.models import load_models
from scene4d.apps.verbs.options.agents import ServeOptions


def run_serve(options: ServeOptions) -> dict[str, Any]:
    """Serve until interrupted; returns {url, requests, refused, steps, episodes, seconds}.

    Raises:
        SecurityError: --host is reached from other machines without --allow-remote. ResourceError: the port is taken.
        CheckpointError: the weights hold no action head. ConfigError: an option is not positive, or names no camera.
    """
    access = access_to(options.host, allow_remote=options.allow_remote)
    step, size = None if options.fps is None else 1 / options.fps, options.size
    config = AgentConfig(options.cameras, replan_every=options.replan_every, seconds_per_frame=step, size=size)
    models = load_models(options.weights)
    host = PolicyHost(models, config=config, forecast=options.forecast, max_episodes=options.episodes)
    start, threads = time.monotonic(), torch.get_num_threads()
    torch.set_num_threads(options.threads)
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        server = stack.enter_context(PolicyServer(host, access=access, port=options.port))
        print(f"scene4d: serving at {server.url} (Ctrl-C stops)", flush=True)
        if access.token is not None:
            print(f"scene4d: other machines send the header  Authorization: Bearer {access.token}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # how a server is meant to end
            server.serve_forever()
        counts = {"requests": server.num_requests, "refused": server.num_refused, "steps": host.num_steps}
        seconds = round(time.monotonic() - start, 1)
        return {"url": server.url, **counts, "episodes": host.num_episodes, "seconds": seconds}

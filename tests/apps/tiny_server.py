"""A server of the tiny agent on a free port of this machine, for as long as a block lasts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tiny_agent import tiny_models

from scene4d.apps.agent.agent import AgentConfig
from scene4d.apps.agent.server.access import access_to
from scene4d.apps.agent.server.http_server import PolicyServer
from scene4d.apps.agent.server.policy_host import PolicyHost


@contextmanager
def serving(models=None, *, access=None, max_episodes=4, patience=30.0, **limits) -> Iterator[PolicyServer]:
    """The server; `limits` are those of `PolicyServer`."""
    models = tiny_models() if models is None else models
    host = PolicyHost(models, config=AgentConfig(), forecast=False, max_episodes=max_episodes, patience=patience)
    with PolicyServer(host, access=access or access_to("127.0.0.1"), **limits) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

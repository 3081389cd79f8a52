"""viser behind our access rules: Host, Origin and path of every request are checked, callers and messages are counted.

viser itself lets every origin in: a page of another site could open a websocket to it and watch, or drive the scene.
It has no hook for that, but it starts its server through `websockets`, which has one; so that call is caught while
viser starts, and if it was not caught, nothing is served.
"""

from __future__ import annotations

import contextlib
import http
import http.cookies
import io
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from scene4d.apps.agent.server.access import COOKIE, Access, is_plain_path
from scene4d.errors import EnvError
from scene4d.extras import optional

MAX_CLIENTS = 24
MAX_MESSAGE = 1 << 20
CLOSE_SECONDS = 1.0
"""Of a goodbye: who floods us does not hear it."""
MESSAGES_A_SECOND, MESSAGES_AT_ONCE = 400, 1000
"""A dragged slider or camera sends some 60 a second, to all of whom the server listens."""

_starting = threading.Lock()


def start_viser(access: Access, *, port: int, label: str) -> Any:
    """A viser server at the address of `access`, at `port` or the next free one.

    Raises:
        EnvError: viser is not installed, or starts its server where we cannot guard it.
    """
    viser = optional("viser", extra="view", what="the viewer")
    guard = Guard(access)
    # viser prints where it is, with a name that other machines would use.
    with _starting, _caught(guard), contextlib.redirect_stdout(io.StringIO()):
        server = viser.ViserServer(host=access.host, port=port, label=label, verbose=False)
    if not guard.installed:
        server.stop()
        found, fix = getattr(viser, "__version__", "?"), 'pip install "scene4d[view]"'
        raise EnvError("cannot be guarded", field="viser", found=found, expected=">= 1.1, < 2", fix=fix)
    return server


def stop_viser(server: Any) -> None:
    """Stop a server and wait for its thread, whose last word would otherwise come after ours."""
    with contextlib.redirect_stdout(io.StringIO()):
        server.stop()
        thread = getattr(server._websock_server, "_server_thread", None)
        if thread is not None:
            thread.join(timeout=2.0)


class Guard:
    """What stands between websockets' server and viser's handlers."""

    def __init__(self, access: Access) -> None:
        self.access, self.installed = access, False
        self.num_clients, self.num_refused = 0, 0

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments of websockets' `serve`, with ours in place of viser's."""
        from websockets.asyncio.server import ServerConnection

        guard, files = self, options.get("process_request")

        class Counted(ServerConnection):
            """A connection that is closed when it sends more than a person can cause."""

            budget, filled = float(MESSAGES_AT_ONCE), 0.0

            async def recv(self, decode: bool | None = None) -> Any:
                message = await super().recv(decode)
                now = time.monotonic()
                self.budget = min(MESSAGES_AT_ONCE, self.budget + (now - self.filled) * MESSAGES_A_SECOND) - 1
                self.filled = now
                if self.budget < 0:
                    guard.num_refused += 1
                    await self.close(1008, "too many messages")
                return message

        def process_request(connection: ServerConnection, request: Any) -> Any:
            return guard.answer(connection, request, files=files)

        self.installed = True
        ours = {"process_request": process_request, "create_connection": Counted, "max_size": MAX_MESSAGE}
        return {**options, **ours, "close_timeout": CLOSE_SECONDS}

    def handler(self, handle: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        """viser's handler for as many clients as we take."""

        async def counted(connection: Any) -> None:
            if self.num_clients >= MAX_CLIENTS:
                self.num_refused += 1
                await connection.close(1013, "too many viewers")
                return
            self.num_clients += 1
            try:
                await handle(connection)
            finally:
                self.num_clients -= 1

        return counted

    def answer(self, connection: Any, request: Any, *, files: Callable[[Any, Any], Any] | None) -> Any:
        """403 for who may not come in, else what viser answers (None = go on to the websocket)."""
        headers = request.headers
        upgrade = "websocket" in headers.get("Upgrade", "").lower()
        (shown, fresh), port = self._token(request), connection.local_address[1]
        hosts, origins = headers.get_all("Host"), headers.get_all("Origin")
        refusal = self.access.refusal(port=port, hosts=hosts, origins=origins, token=shown, needs_origin=upgrade)
        if refusal is not None:
            self.num_refused += 1
            return connection.respond(http.HTTPStatus.FORBIDDEN, f"{refusal}\n")
        if not is_plain_path(request.path):
            self.num_refused += 1
            return connection.respond(http.HTTPStatus.NOT_FOUND, "no such file\n")
        if fresh:  # from now on the browser shows it by itself, and it is out of the address bar
            response = connection.respond(http.HTTPStatus.SEE_OTHER, "")
            response.headers["Location"] = "/"
            response.headers["Set-Cookie"] = f"{COOKIE}={shown}; HttpOnly; SameSite=Strict; Path=/"
            return response
        return None if upgrade or files is None else files(connection, request)

    def _token(self, request: Any) -> tuple[str | None, bool]:
        """(token shown, whether in the address), from ?token=... or from the cookie that we gave for it."""
        if self.access.token is None:
            return None, False
        asked = parse_qs(urlsplit(request.path).query).get("token")
        if asked:
            return asked[0], True
        try:
            cookie = http.cookies.SimpleCookie("; ".join(request.headers.get_all("Cookie"))).get(COOKIE)
        except http.cookies.CookieError:
            return None, False
        return (cookie.value if cookie else None), False


@contextmanager
def _caught(guard: Guard) -> Iterator[None]:
    """While open, a server that websockets starts is a guarded one."""
    optional("websockets.asyncio.server", extra="view", what="the viewer")
    module = sys.modules["websockets.asyncio.server"]
    plain = module.serve

    def serve(handler: Any, *args: Any, **options: Any) -> Any:
        return plain(guard.handler(handler), *args, **guard.options(options))

    vars(module)["serve"] = serve
    try:
        yield
    finally:
        vars(module)["serve"] = plain

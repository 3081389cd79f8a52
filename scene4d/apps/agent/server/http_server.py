"""HTTP for `PolicyHost`: the standard library's server with an end to everything - sizes, times, callers, threads."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from scene4d.apps.agent.server.access import Access
from scene4d.apps.agent.server.connections import Connections
from scene4d.apps.agent.server.messages import MAX_SIDE, MEDIA_TYPE, unpack
from scene4d.apps.agent.server.policy_host import PolicyHost
from scene4d.errors import ConfigError, DataFormatError, NumericsError, ResourceError, Scene4DError, SecurityError

MAX_BODY = 1 << 26
MAX_JSON = 1 << 14
REQUEST_SECONDS = 10.0
"""From the first byte of a request to its last; of a connection's first, from when it came."""
IDLE_SECONDS = 60.0
"""Between two requests of one connection."""
MAX_CONNECTIONS = 16
"""That may come in; as many more wait to show that they may."""
METHODS = {"info": "GET", "episodes": "POST", "step": "POST", "chunk": "POST", "end": "DELETE"}


class PolicyServer(ThreadingHTTPServer):
    """Answers requests; `serve_forever` until `shutdown`. Use in a with-block."""

    daemon_threads = True
    request_queue_size = 2 * MAX_CONNECTIONS

    def __init__(
        self,
        host: PolicyHost,
        *,
        access: Access,
        port: int = 0,
        request_seconds: float = REQUEST_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """
        Raises:
            ResourceError: the port is taken, or the address is not this machine's.
        """
        self.host, self.access = host, access
        self.request_seconds, self.idle_seconds = request_seconds, idle_seconds
        self.num_requests, self.num_refused = 0, 0
        self.address_family = socket.AF_INET6 if ":" in access.host else socket.AF_INET
        self.connections = Connections(places=MAX_CONNECTIONS, waiting=MAX_CONNECTIONS)
        try:
            super().__init__((access.host, port), Handler)
        except OSError as error:
            reason, fix = str(error.strerror), "name another --port, or 0 for any free one"
            raise ResourceError("cannot listen there", field="port", found=f"{port}: {reason}", fix=fix) from error

    def server_bind(self) -> None:
        """Bind without asking a name server who we are."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.access.host, self.server_address[1]

    @property
    def url(self) -> str:
        """Where clients find it."""
        return self.access.url(self.server_port)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread; it waits there until it has shown that it may come in."""
        self.connections.come(request)
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started, so none will take it off the list
            self.connections.gone(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """A connection's thread gives its place back however it ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.gone(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is no news; anything else is shown and the server goes on."""
        if not isinstance(sys.exc_info()[1], OSError):
            traceback.print_exc()


class Handler(BaseHTTPRequestHandler):
    """One connection; every answer is JSON."""

    protocol_version = "HTTP/1.1"
    _unread = False
    server_version, sys_version = "scene4d", ""
    disable_nagle_algorithm = True

    @property
    def policy_server(self) -> PolicyServer:
        """The server that this connection came to."""
        assert isinstance(self.server, PolicyServer)
        return self.server

    def setup(self) -> None:
        """Read through a clock, so that a caller who sends a byte a second is not waited for."""
        super().setup()
        server = self.policy_server
        self._clock = _Clock(self.connection, idle=server.idle_seconds, whole=server.request_seconds)
        self.rfile = io.BufferedReader(self._clock)

    def handle_one_request(self) -> None:
        """One request within its time."""
        super().handle_one_request()
        self.policy_server.connections.rest(self.connection)
        self._clock.restart()

    def log_message(self, format: str, *args: Any) -> None:
        """No line a request: hundreds come a minute."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses (a malformed request line, a method nobody has) as JSON too."""
        self._refuse(code, DataFormatError(message or "is no request", field="request"))

    def _handle(self) -> None:
        self.policy_server.num_requests += 1
        # A body that is not read would be taken for the next request: then the connection has to end.
        self._unread = self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers
        try:
            verb, key = _route(self.path)
            if (why := self._refusal()) is not None:
                self._refuse(403, SecurityError(why, field="request"))
            elif not self.policy_server.connections.begin(self.connection):
                fix = f"ask on fewer connections at a time than {MAX_CONNECTIONS}"
                self._refuse(503, ResourceError("is busy with others", field="server", fix=fix))
            elif verb is None:
                self._refuse(404, DataFormatError("no such place", field="path", found=self.path[:80]))
            elif METHODS[verb] != self.command:
                self._refuse(405, DataFormatError("needs another method", field=self.path[:80], expected=METHODS[verb]))
            else:
                self._send(200, self._answer(verb, key))
        except _TooBig as error:
            self._refuse(413, error.args[0])
        except TimeoutError:
            self._refuse(408, ResourceError("came too slowly", field="request"))
        except Scene4DError as error:
            self._send(_status(error), {"error": error.as_dict()})
        except OSError:
            self.close_connection = True
        except Exception as error:
            traceback.print_exc()
            self._refuse(500, Scene4DError(f"internal error ({type(error).__name__})", fix="see the server's output"))

    do_GET = do_POST = do_DELETE = _handle

    def _refusal(self) -> str | None:
        headers, server = self.headers, self.policy_server
        hosts, origins = headers.get_all("Host") or [], headers.get_all("Origin") or []
        shown = (headers.get("Authorization") or "").removeprefix("Bearer ")
        return server.access.refusal(port=server.server_port, hosts=hosts, origins=origins, token=shown)

    def _answer(self, verb: str, key: str) -> dict[str, Any]:
        host = self.policy_server.host
        match verb:
            case "info":
                return host.info()
            case "episodes":
                task, seed = _task_and_seed(self._body(MAX_JSON))
                return host.begin(task=task, seed=seed)
            case "end":
                return host.end(key)
        kind = self.headers.get_content_type()
        if kind != MEDIA_TYPE:
            raise DataFormatError("is of another kind", field="Content-Type", found=kind[:80], expected=MEDIA_TYPE)
        observation = unpack(self._body(MAX_BODY))
        return host.step(key, observation) if verb == "step" else host.chunk(key, observation)

    def _body(self, most: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not (length.isascii() and length.isdigit() and len(length) < 20):
            raise DataFormatError("is missing", field="Content-Length", expected="the body's length in bytes")
        if int(length) > most:
            fix = f"send pictures of at most {MAX_SIDE} px a side, and fewer cameras"
            raise _TooBig(ResourceError("is too big", field="body", found=int(length), expected=f"<= {most}", fix=fix))
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise DataFormatError("ended early", field="body", found=len(body), expected=int(length))
        self._unread = False
        return body

    def _refuse(self, status: int, error: Scene4DError) -> None:
        """Answer and close the connection: what is left of such a request is not read."""
        self.policy_server.num_refused += 1
        self.close_connection = True
        with contextlib.suppress(OSError):  # it may have gone away by itself
            self._send(status, {"error": error.as_dict()})

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.close_connection |= self._unread
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


class _TooBig(Exception):
    """A body that is refused unread, with the error that says so."""


class _Clock(io.RawIOBase):
    """A socket's bytes: `whole` seconds from now to the first request's last byte; then, for each, `idle` to its first
    byte and `whole` from there to its last."""

    def __init__(self, connection: socket.socket, *, idle: float, whole: float) -> None:
        self.connection, self.idle, self.whole = connection, idle, whole
        self.until: float | None = time.monotonic() + whole

    def restart(self) -> None:
        """Another request may come."""
        self.until = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As a file's; TimeoutError: time is up."""
        left = self.idle if self.until is None else self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("time is up")
        self.connection.settimeout(left)
        count = self.connection.recv_into(buffer)
        if self.until is None:
            self.until = time.monotonic() + self.whole
        self.connection.settimeout(self.whole)  # for what is sent
        return count


def _route(path: str) -> tuple[str | None, str]:
    """(verb, episode) of /v1/info, /v1/episodes, /v1/episodes/ID, /v1/episodes/ID/step and .../chunk."""
    match path.partition("?")[0].split("/"):
        case ["", "v1", "info" | "episodes" as verb]:
            return verb, ""
        case ["", "v1", "episodes", key] if key:
            return "end", key
        case ["", "v1", "episodes", key, "step" | "chunk" as verb] if key:
            return verb, key
    return None, ""


def _task_and_seed(body: bytes) -> tuple[str, int]:
    """Task and seed of the JSON that begins an episode."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataFormatError("is no JSON", field="body", found=str(error)[:80], expected='{"task": TEXT}') from error
    known = {"task": str, "seed": int}
    if not isinstance(given, dict) or not set(given) <= set(known):
        raise DataFormatError("is not what begins an episode", field="body", expected='{"task": TEXT, "seed": NUMBER}')
    for name, value in given.items():
        if type(value) is not known[name] or (name == "seed" and not 0 <= value < 1 << 62) or len(str(value)) > 1000:
            raise DataFormatError("is not right", field=name, found=str(value)[:80], expected=known[name].__name__)
    if not given.get("task"):
        raise DataFormatError("is missing", field="task", expected="what is to be done")
    return given["task"], given.get("seed", 0)


def _status(error: Scene4DError) -> int:
    """The HTTP status of a failure."""
    if isinstance(error, DataFormatError) and error.field == "episode":
        return 404
    return {ConfigError: 422, ResourceError: 503, NumericsError: 500}.get(type(error), 400)

"""The other end of `scene4d serve`: an `Agent` whose memory and head live in the server's process."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from scene4d import errors
from scene4d.apps.agent.agent_checks import Pictures, check_colours
from scene4d.apps.agent.server.messages import MEDIA_TYPE, ObservationMessage, View, pack
from scene4d.errors import ConfigError, DataFormatError, DepthError, ResourceError, Scene4DError
from scene4d.types import Frames

MAX_ANSWER = 1 << 22


class PolicyClient:
    """`reset` and `step` as `SceneAgent` has them, answered by a server; one episode at a time.

    The server's refusals come back as the errors that they were there. Use in a with-block, or call `close`.
    """

    def __init__(self, url: str, *, seed: int = 0, token: str | None = None, seconds: float = 60.0) -> None:
        """
        Args:
            url: as `scene4d serve` prints it. seed: of the sampled chunks.
            token: as it prints it, where it is not on this machine. seconds: longest wait for an answer.
        Raises:
            ConfigError: the address is none of HTTP.
        """
        self.seed, self._token = seed, token
        self._connection = _connection_to(url, seconds=seconds)
        self._episode: str | None = None
        self._task = ""

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def info(self) -> dict[str, Any]:
        """What the server wants and gives: cameras, size, tasks, names and units of action and proprio (docs/serve.md).

        Raises:
            ResourceError: nobody answers there.
        """
        return self._ask("GET", "/v1/info")

    def reset(self) -> None:
        """Forget everything; the next step begins another episode."""
        if self._episode is not None:
            self._ask("DELETE", f"/v1/episodes/{self._episode}")
        self._episode = None

    def step(self, frames: Pictures, *, proprio: Tensor, task: str, goal: Tensor | None = None) -> Tensor:
        """The next action [a] from the newest frames {camera name: Frames []}.

        Args:
            proprio: [p]. task: what is to be done, the same all through an episode. goal: [3] m, where it is to be.
        Raises:
            as `SceneAgent.step`; ConfigError: nothing was trained for the task, or it changed.
            ResourceError: nobody answers, the server is busy, or the answer was lost: no step is asked for
                twice, since the server may have taken it.
        """
        answer = self._ask("POST", f"{self._place(task)}/step", body=_packed(frames, proprio, goal=goal))
        return torch.tensor(answer["action"])

    def step_chunk(
        self, frames: Pictures, *, proprio: Tensor, task: str, done: Tensor | None = None, goal: Tensor | None = None
    ) -> Tensor:
        """A fresh chunk of actions [h a]; `done` [n a] = what was carried out since the last call (None: its first).

        Raises:
            as `step`.
        """
        answer = self._ask("POST", f"{self._place(task)}/chunk", body=_packed(frames, proprio, done=done, goal=goal))
        return torch.tensor(answer["actions"])

    def close(self) -> None:
        """End the episode, if the server still answers, and close the connection."""
        try:
            self.reset()
        except Scene4DError:
            self._episode = None  # a server that is gone has forgotten it too
        self._connection.close()

    def _place(self, task: str) -> str:
        if self._episode is None:
            began = self._ask("POST", "/v1/episodes", body=json.dumps({"task": task, "seed": self.seed}).encode())
            self._episode, self._task = began["episode"], task
        if task != self._task:
            raise ConfigError("changed within an episode", field="task", found=task, expected=self._task, fix="reset()")
        return f"/v1/episodes/{self._episode}"

    def _ask(self, method: str, path: str, *, body: bytes | None = None) -> dict[str, Any]:
        kind = "application/json" if path == "/v1/episodes" else MEDIA_TYPE
        headers = {} if body is None else {"Content-Type": kind}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        status, text = self._exchange(method, path, body=body, headers=headers)
        try:
            answer = json.loads(text or b"{}")
        except ValueError as error:
            raise DataFormatError("is no JSON", field="answer", found=repr(text[:80])) from error
        if status != 200:
            raise _failure(status, answer)
        return answer

    def _exchange(self, method: str, path: str, *, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        """Status and body of the answer. A connection that rested may be over: then the request goes out on a new one.

        What went out whole and got no answer may have been done, and goes out again only if that changes nothing.
        """
        connection = self._connection
        if connection.sock is not None and _is_over(connection.sock):
            connection.close()
        rested, sent = connection.sock is not None, False
        try:
            connection.request(method, path, body, headers)
            sent = True
            response = connection.getresponse()
            return response.status, response.read(MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            in_doubt = sent and method == "POST"
            if rested and isinstance(error, ConnectionError) and not in_doubt:
                return self._exchange(method, path, body=body, headers=headers)  # once: the connection is a new one now
            raise self._silence(error, in_doubt=in_doubt) from error

    def _silence(self, error: Exception, *, in_doubt: bool) -> ResourceError:
        where, found = f"http://{self._connection.host}:{self._connection.port}", repr(error)[:120]
        if in_doubt:
            fix = "it may have been carried out there: begin again with reset()"
            return ResourceError("gave no answer to a request", field=where, found=found, fix=fix)
        return ResourceError("does not answer", field=where, found=found, fix="start it: scene4d serve")


def _connection_to(url: str, *, seconds: float) -> http.client.HTTPConnection:
    """A connection, not opened yet."""
    try:
        parts = urlsplit(url)
        port = 80 if parts.port is None else parts.port
        if parts.scheme == "http" and parts.hostname and parts.path in ("", "/") and port:
            return http.client.HTTPConnection(parts.hostname, port, timeout=seconds)
    except (ValueError, http.client.InvalidURL):  # a port beyond 65535, half a bracket, a blank
        pass
    raise ConfigError("is no server's address", field="url", found=url, expected="http://127.0.0.1:8790")


def _is_over(resting: socket.socket) -> bool:
    """Whether the other end has closed a connection that rests. One that speaks unasked is as good as over."""
    seconds = resting.gettimeout()
    resting.setblocking(False)
    try:
        resting.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        resting.settimeout(seconds)
    return True


def _packed(frames: Pictures, proprio: Tensor, *, done: Tensor | None = None, goal: Tensor | None = None) -> bytes:
    array = lambda values: None if values is None else values.detach().cpu().numpy()
    views, state = {name: view_of(f, name=name) for name, f in frames.items()}, proprio.detach().cpu().numpy()
    return pack(ObservationMessage(views, state, actions=array(done), goal=array(goal)))


def view_of(frames: Frames, *, name: str = "view") -> View:
    """Frames [] as they go over the wire: colour in 8 bits; where the colour is not usable there is no depth either.

    Raises:
        DepthError: there is no depth. DataFormatError: colours are not in [0, 1].
    """
    if frames.depth is None:
        raise DepthError("is missing", field=f"{name}.depth", fix="give z-depth in m, 0 where it was not measured")
    check_colours(frames.rgb, field=f"{name}.rgb")
    frames = frames.detach().to("cpu")
    depth = frames.known_depth
    depth = depth if frames.alpha is None else torch.where(frames.alpha > 0.5, depth, 0.0)
    return View(
        rgb=(frames.rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy(),
        depth=np.nan_to_num(depth.float().numpy(), nan=0.0, posinf=0.0, neginf=0.0),
        viewmat=frames.cameras.viewmats.float().numpy(),
        K=frames.cameras.Ks.float().numpy(),
    )


def _failure(status: int, answer: Any) -> Scene4DError:
    """The error that the server met, as the kind it was."""
    problem = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(problem, dict):
        return ResourceError("refused", field="server", found=f"HTTP {status}", fix="ask fewer at a time")
    kind = getattr(errors, str(problem.get("code")), Scene4DError)
    kind = kind if isinstance(kind, type) and issubclass(kind, Scene4DError) else Scene4DError
    file, field, frame, found, expected, fix = (
        problem.get(key) for key in ("file", "field", "frame", "found", "expected", "fix")
    )
    text = str(problem.get("problem"))
    return kind(text, file=file, field=field, frame=frame, found=found, expected=expected, fix=fix)

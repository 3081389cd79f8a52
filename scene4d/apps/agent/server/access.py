"""Who may talk to a server of ours: one rule for the viewer and the policy server.

A page of another site that a browser of this machine has open can reach loopback too. It cannot forge the Host that
the browser names, nor the Origin: both must be ours. Beyond loopback there is a token besides.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from scene4d.errors import SecurityError

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
COOKIE = "scene4d_token"


@dataclass(frozen=True)
class Access:
    """What a request must show to be answered."""

    host: str
    """Address that the server listens at."""
    token: str | None = None
    """What a caller must know, beyond loopback; None = loopback, where Host is enough."""

    def url(self, port: int) -> str:
        """Where callers find a server that listens at `port`."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{port}"

    def refusal(
        self, *, port: int, hosts: Sequence[str], origins: Sequence[str], token: str | None = None, needs_origin=False
    ) -> str | None:
        """Why a request is refused, or None where it may come in.

        Args:
            port: that the request came in at. hosts, origins: every Host and Origin header of it.
            token: what it showed.
            needs_origin: a request that only browsers make, which always say where they come from (websockets).
        """
        if len(hosts) != 1 or len(origins) > 1:
            return "one Host header is needed, and at most one Origin"
        named = split_host(hosts[0])
        if named is None:
            return "Host is malformed"
        if self.token is None and (named[0] not in (*LOOPBACK_NAMES, self.host) or named[1] != port):
            return f"Host {hosts[0][:80]!r} is not this server"
        if needs_origin and not origins:
            return "Origin is missing"
        if origins and origins[0].lower() not in (f"http://{hosts[0].lower()}", f"https://{hosts[0].lower()}"):
            return f"Origin {origins[0][:80]!r} is another site"
        # A header may hold what is no text.
        shown = (token or "").encode(errors="replace")
        if self.token is not None and not hmac.compare_digest(shown, self.token.encode()):
            return "the token is missing or wrong"
        return None


def access_to(host: str, *, allow_remote: bool = False) -> Access:
    """Who may talk to a server at address `host`; beyond loopback only callers that know a fresh token.

    Raises:
        SecurityError: `host` is reached from other machines and that was not asked for.
    """
    if is_loopback(host):
        return Access(host=host)
    if not allow_remote:
        raise SecurityError(
            "other machines could reach it", field="host", found=host, expected=" or ".join(LOOPBACK_NAMES),
            fix="leave --host out, or add --allow-remote: whoever has the printed token can then come in",
        )  # fmt: skip
    return Access(host=host, token=secrets.token_urlsafe(24))


def is_loopback(host: str) -> bool:
    """Whether an address stays on this machine; a name counts only if it is localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def split_host(header: str) -> tuple[str, int] | None:
    """(name, port) that a Host header gives, lower case and without brackets; None where it is malformed."""
    try:
        parts = urlsplit(f"//{header}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return None
    clean = parts.netloc == header and not (parts.path or parts.query or parts.fragment or "@" in header)
    return (name, 80 if port is None else port) if name and clean else None


def is_plain_path(path: str) -> bool:
    """Whether a request's path stays below its root however it is read: no "..", no second root, nothing encoded."""
    plain = path.partition("?")[0]
    odd = any(c in plain for c in "\\%\0") or plain.startswith("//") or not plain.startswith("/")
    return not odd and ".." not in plain.split("/")

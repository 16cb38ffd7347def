"""Who may connect: origin, token, and how many."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from .config import Settings
from .errors import Disconnect, Disconnects
from .log import Throttled

__all__ = ["Admission", "Authenticator", "TokenBucket"]

log = logging.getLogger("hub.ws")

# Given the connection and its token (None without one); whether it may connect, or who it is.
Authenticator = Callable[[HTTPConnection, str | None], Awaitable[object]]


class TokenBucket:
    """`rate` messages a second, `burst` at once."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._tokens = float(burst)
        self._updated = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Admission:
    """The rules of one hub, and the number of its open connections in this worker."""

    def __init__(self, settings: Settings) -> None:
        self._origins = settings.origins
        self._limit = settings.max_connections
        self._rate, self._burst = settings.message_rate, settings.burst
        self._token = settings.token.get_secret_value().encode() if settings.token else None
        # Replaces the static token when set; see `Hub.authenticate`.
        self.authenticator: Authenticator | None = None
        self.connections = 0
        self._foreign = Throttled(log, logging.WARNING, "%d connections from origins that HUB_ORIGINS does not list")
        self._full = Throttled(log, logging.WARNING, "%d connections refused because the worker is full")

    async def check(self, connection: HTTPConnection, *, authenticate: bool = True) -> Disconnect | None:
        """Why the connection may not be, or None. Without `authenticate` it says later who it is."""
        if not self._origin_allowed(connection):
            self._foreign.add(last=repr(connection.headers.get("origin", "")[:100]))
            return Disconnects.FORBIDDEN_ORIGIN
        # Before the authenticator, which may be expensive, and after it, because others may have come meanwhile: the
        # caller enters without another await.
        if authenticate and not self._is_full() and not await self._authenticate(connection):
            return Disconnects.UNAUTHORIZED
        if self._is_full():
            self._full.add()
            return Disconnects.OVERLOADED
        return None

    @property
    def closed(self) -> bool:
        """Whether a client must show a token, or whatever the authenticator asks for."""
        return self._token is not None or self.authenticator is not None

    def _is_full(self) -> bool:
        return bool(self._limit) and self.connections >= self._limit

    def _origin_allowed(self, connection: HTTPConnection) -> bool:
        """Browsers let any page open a socket to any host and send its cookies along: only the Origin tells."""
        origin = connection.headers.get("origin")
        if origin is None or "*" in self._origins or origin in self._origins:
            return True
        return urlsplit(origin).netloc.lower() == connection.headers.get("host", "").lower() != ""

    async def _authenticate(self, connection: HTTPConnection) -> bool:
        token = connection.query_params.get("token")
        if self.authenticator is not None:
            return bool(await self.authenticator(connection, token))
        return self._token is None or hmac.compare_digest((token or "").encode(), self._token)

    def enter(self) -> None:
        self.connections += 1

    def leave(self) -> None:
        self.connections -= 1

    def bucket(self) -> TokenBucket | None:
        """A rate limit for one connection; None without one."""
        return TokenBucket(self._rate, self._burst) if self._rate else None

"""Who may connect: origin, token, and how many."""

from __future__ import annotations

import hmac
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from .config import Settings
from .errors import Disconnect, Disconnects, Ended, Refused, table
from .log import Throttled

__all__ = [
    "CHANNELS",
    "ECHO",
    "ENDPOINTS",
    "EXPIRE_AT",
    "OTHER",
    "RAW",
    "SSE",
    "USER",
    "Admission",
    "Authenticator",
    "TokenBucket",
    "connect_bucket",
]

log: logging.Logger = logging.getLogger("hub.ws")

# Given the connection and its token (None without one); whether it may connect, or who it is.
Authenticator = Callable[[HTTPConnection, str | None], Awaitable[object]]

# The endpoints, as metrics call them: `/ws`, `/echo`, `/connection/websocket`, `/sse`.
RAW, ECHO, CHANNELS, SSE = ENDPOINTS = "raw", "echo", "channels", "sse"
# Who it is, in the scope of a connection: a `User`.
USER = "hub.user"
# When it has to go, in the same place: Unix time, 0 for never.
EXPIRE_AT = "hub.expire_at"
# Close codes that are counted one by one: those of RFC 6455 §7.4.1 and the hub's own. A client may send any, and counts
# must not grow with what it sends: others are one.
_KNOWN = {*range(1000, 1016), *(value.code for _, value in table(Disconnects))}
OTHER = 0

# Connections that may come at once whatever the rate; a tenth of a second's worth if that is more.
LEAST_BURST = 10


class TokenBucket:
    """`rate` messages a second, or whatever is counted, `burst` at once."""

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


def connect_bucket(rate: float) -> TokenBucket | None:
    """For `connect_rate`; None without one."""
    return TokenBucket(rate, max(LEAST_BURST, round(rate / 10))) if rate else None


class Admission:
    """The rules of one hub, and the number of its open connections in this worker."""

    def __init__(self, settings: Settings, by_signed_token: Authenticator | None = None) -> None:
        self._origins = settings.origins
        self._limit = settings.max_connections
        self._rate, self._burst = settings.message_rate, settings.burst
        # Of new connections; on our own server `hub.capacity` has it.
        self._pace = connect_bucket(settings.connect_rate)
        self._token = settings.token.get_secret_value().encode() if settings.token else None
        # In its place one may show a signed token, if there is a key for these.
        self._by_signed_token = by_signed_token
        # Replaces both when set; see `Hub.authenticate`.
        self.authenticator: Authenticator | None = None
        self.connections: int = 0
        # Open connections by endpoint, and those that have ended by endpoint and close code.
        self.open: Counter[str] = Counter()
        self.closed_by_code: Counter[tuple[str, int]] = Counter()
        self.refused: dict[Disconnect, Throttled] = {
            Disconnects.FORBIDDEN_ORIGIN: _refusals("from origins that HUB_ORIGINS does not list"),
            Disconnects.OVERLOADED: _refusals("refused because the worker is full"),
        }

    async def check(
        self, connection: HTTPConnection, *, authenticate: bool = True, paced: bool = False
    ) -> Disconnect | None:
        """Why the connection may not be, or None.

        Without `authenticate` it says later who it is; with `paced` the server has minded `connect_rate` already.
        """
        if not (paced or self._pace is None or self._pace.take()):
            return self.refuse(Disconnects.TOO_MANY_CONNECTIONS)
        if not self.allows_origin(connection):
            return self.refuse(Disconnects.FORBIDDEN_ORIGIN, repr(connection.headers.get("origin", "")[:100]))
        # Before the authenticator, which may be expensive, and after it, because others may have come meanwhile. The
        # caller enters without another await, or asks for room once more.
        if authenticate and not self._is_full() and (refusal := await self._authenticate(connection)) is not None:
            return self.refuse(refusal)
        return self.check_room()

    def check_room(self) -> Disconnect | None:
        """Why there is no room for one more, or None."""
        return self.refuse(Disconnects.OVERLOADED) if self._is_full() else None

    def refuse(self, disconnect: Disconnect, last: str = "") -> Disconnect:
        """Count and log a connection that is not admitted; `last` says which."""
        if disconnect not in self.refused:
            self.refused[disconnect] = _refusals(f"refused: {disconnect.reason}")
        self.refused[disconnect].add(last=last)
        return disconnect

    def is_known(self, connection: HTTPConnection) -> bool:
        """Whether an admitted connection is a user's, or has shown the static token."""
        if getattr(connection.scope.get(USER), "id", ""):
            return True
        if self._by_signed_token is None or self.authenticator is not None:
            return self._token is not None and self.authenticator is None  # who has not shown it was not admitted
        return self._shows_static(connection)

    def _is_full(self) -> bool:
        return bool(self._limit) and self.connections >= self._limit

    def allows_origin(self, connection: HTTPConnection) -> bool:
        """Browsers let any page open a socket to any host and send its cookies along: only the Origin tells."""
        origin = connection.headers.get("origin")
        if origin is None or "*" in self._origins or origin in self._origins:
            return True
        try:
            host = urlsplit(origin).netloc.lower()
        except ValueError:  # `http://[` is no address
            return False
        return host == connection.headers.get("host", "").lower() != ""

    async def _authenticate(self, connection: HTTPConnection) -> Disconnect | None:
        """Why it is not let in, or None; says who it is."""
        token = connection.query_params.get("token")
        judge = self.authenticator
        if judge is None:
            if self._shows_static(connection):
                return None
            # Beside a static token, who shows nothing is not let in as an anonymous client.
            judge = self._by_signed_token if token or self._token is None else None
            if judge is None:
                return Disconnects.UNAUTHORIZED if self._token is not None else None
        try:
            answer = await judge(connection, token)
        except Ended as ended:
            return ended.disconnect
        except Refused as refused:
            return Disconnects.UNVERIFIED if refused.error.temporary else Disconnects.UNAUTHORIZED
        if answer and not isinstance(answer, bool):
            connection.scope[USER] = answer
        return None if answer else Disconnects.UNAUTHORIZED

    def _shows_static(self, connection: HTTPConnection) -> bool:
        token = connection.query_params.get("token", "")
        return self._token is not None and hmac.compare_digest(token.encode(), self._token)

    def enter(self, endpoint: str) -> None:
        self.connections += 1
        self.open[endpoint] += 1

    def leave(self, endpoint: str, code: int) -> None:
        """It has ended with this close code."""
        self.connections -= 1
        self.open[endpoint] -= 1
        self.closed_by_code[endpoint, code if code in _KNOWN else OTHER] += 1

    def bucket(self) -> TokenBucket | None:
        """A rate limit for one connection; None without one."""
        return TokenBucket(self._rate, self._burst) if self._rate else None


def _refusals(what: str) -> Throttled:
    return Throttled(log, logging.WARNING, f"%d connections {what}")

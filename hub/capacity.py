"""How many connections one worker can have, and how many new ones a second it takes.

What is refused here has cost next to nothing: the WebSocket handshake has not been looked at yet. Who may connect at
all is another question (`hub.admission`).
"""

from __future__ import annotations

import logging

from .admission import TokenBucket, connect_bucket
from .config import Settings, WireOptions
from .errors import Disconnect, Disconnects
from .log import Throttled

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = ["Capacity", "descriptors", "limits", "raise_descriptor_limit", "shortage"]

log: logging.Logger = logging.getLogger("hub.wire")

# Files that are kept from clients: Redis and its reconnects, the listening socket, log, pipes. Beyond these a
# connection is dropped unanswered. At most a quarter of all.
RESERVED = 48
# HTTP requests, of health checks above all, and WebSockets that are being refused; at most an eighth.
SHORT_LIVED = 32
UNLIMITED = 2**31
# From so many on nobody needs to be told how few they are.
PLENTY = 4096


def descriptors() -> int:
    """Files that this process may open (`ulimit -n`); sockets are files."""
    if resource is None:
        return UNLIMITED
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else UNLIMITED


def raise_descriptor_limit() -> None:
    """To what the system allows: the usual limit of 1,024 is for programs that call select()."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:  # macOS calls its limit infinite and is not
            log.warning("the limit of open files stays at %d: %s", soft, error)


def limits(files: int) -> tuple[int, int]:
    """Connections of any kind from which on WebSockets are refused, and from which on all are."""
    exhausted = files - min(RESERVED, files // 4)
    return exhausted - min(SHORT_LIVED, files // 8), exhausted


def shortage(settings: Settings) -> str | None:
    """A sentence for the log if open files limit this worker more than its settings do."""
    files = descriptors()
    most, _ = limits(files)
    if most >= (settings.max_connections or PLENTY):
        return None
    wanted = f"max_connections is {settings.max_connections}, but " if settings.max_connections else ""
    return (
        f"{wanted}a worker takes {most} WebSockets at most, because it may open only {files} files: "
        "raise the limit (ulimit -n, LimitNOFILE= of systemd, ulimits: of Compose)"
    )


class Capacity:
    """Of one worker on our own server."""

    def __init__(self) -> None:
        self._full, self._exhausted = limits(descriptors())
        # Made anew when the hub brings its options.
        self._options: WireOptions | None = None
        self._bucket: TokenBucket | None = None
        self.refused: dict[Disconnect, Throttled] = {
            Disconnects.TOO_MANY_CONNECTIONS: _refusals("because they come faster than HUB_CONNECT_RATE"),
            Disconnects.OVERLOADED: _refusals("because the worker may open no more files (ulimit -n)"),
        }
        self.dropped: Throttled = Throttled(
            log, logging.ERROR, "%d connections dropped because no file is left (ulimit -n)"
        )

    def refusal(self, connections: int, options: WireOptions) -> Disconnect | None:
        """Why a WebSocket that is the last of so many connections cannot be, or None; counted and logged."""
        if options is not self._options:
            self._options, self._bucket = options, connect_bucket(options.connect_rate)
        if connections > self._full:
            return self._refuse(Disconnects.OVERLOADED)
        if self._bucket is not None and not self._bucket.take():
            return self._refuse(Disconnects.TOO_MANY_CONNECTIONS)
        return None

    def is_exhausted(self, connections: int) -> bool:
        """Whether the last of so many connections has to go at once, for Redis's sake; counted and logged."""
        if connections <= self._exhausted:
            return False
        self.dropped.add()
        return True

    def _refuse(self, disconnect: Disconnect) -> Disconnect:
        self.refused[disconnect].add()
        return disconnect


def _refusals(why: str) -> Throttled:
    return Throttled(log, logging.WARNING, f"%d connections refused {why}")

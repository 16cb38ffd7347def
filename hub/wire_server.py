"""What the connections of one worker share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakKeyDictionary

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from .capacity import Capacity
from .config import WireOptions
from .deadlines import Deadlines, Timed
from .errors import Disconnect, Disconnects
from .log import Throttled

if sys.platform == "linux":
    import fcntl
    import termios

__all__ = [
    "LOW_WATER",
    "OPTIONS_STATE",
    "WireServer",
    "open_descriptor",
    "tell_of_all_that_waits",
    "untaken",
    "wire_server",
    "wire_servers",
]

log: logging.Logger = logging.getLogger("hub.wire")

# The key of the WireOptions in the lifespan state.
OPTIONS_STATE = "hub.wire.options"

# A transport calls itself congested above the first mark and recovered below the second, except where all that waits is
# told; uvloop's own low mark is 16 bytes, so that a client on the edge would flap. Linux takes as much as the first of
# what it cannot send yet, and the second is how much of a backlog is written at once.
HIGH_WATER, LOW_WATER = 65536, 16384

# Pieces of HTTP input, of all connections together, that are handled before WebSockets get their turn. A handshake
# costs a quarter of a millisecond, and a thousand of them may come at once.
PIECES_PER_TURN = 16
# Seconds that a client has for its close frame when it was given up because nothing moves or comes.
LINGER = 0.5


class Turns:
    """Spreads work over turns of the event loop, in the order in which it came."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # What this turn has room for.
        self._left = PIECES_PER_TURN
        self._waiting: deque[Callable[[], object]] = deque()
        self._scheduled = False

    def take(self) -> bool:
        """Whether a piece of work may be done now."""
        if not self._left or self._waiting:
            return False
        self._left -= 1
        self._schedule()
        return True

    def later(self, work: Callable[[], object]) -> None:
        """Do `work`, one piece, in a later turn."""
        self._waiting.append(work)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        """A new turn. What it finds waiting comes first; what that adds comes in the next one."""
        self._scheduled = False
        count = min(len(self._waiting), PIECES_PER_TURN)
        self._left = PIECES_PER_TURN - count
        for _ in range(count):
            self._waiting.popleft()()
        if self._waiting:
            self._schedule()


class WireServer:
    """What the connections of one worker share."""

    def __init__(self, config: Config, state: ServerState, app_state: dict[str, Any]) -> None:
        self.app: ASGIApp = config.loaded_app
        self.config = config
        # uvicorn stops when both are empty. (Not `state` itself: it is the weak key of this very object.)
        self.connections: set[Any] = state.connections
        self.tasks: set[asyncio.Task[None]] = state.tasks
        self.app_state = app_state
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        # uvicorn's, until a hub brings its own: through the lifespan, or with its first connection if it is mounted.
        self.options: WireOptions = app_state.get(OPTIONS_STATE) or WireOptions(
            max_message_size=config.ws_max_size,
            ping_interval=config.ws_ping_interval or 25.0,
            ping_timeout=config.ws_ping_timeout or 10.0,
        )
        self.configured: bool = OPTIONS_STATE in app_state
        self.deadlines: Deadlines = Deadlines(self.loop)
        self.capacity: Capacity = Capacity()
        self.turns: Turns = Turns(self.loop)
        # Connections whose client reads more slowly than it is written to.
        self.congested: set[Any] = set()
        # True from the first `shutdown` on.
        self.draining = False
        self.slow: Throttled = Throttled(log, logging.WARNING, "%d clients disconnected because they read too slowly")
        self.dropped: Throttled = Throttled(
            log, logging.WARNING, "%d messages dropped for clients that read too slowly"
        )
        self.silent: Throttled = Throttled(
            log, logging.INFO, "%d connections dropped because they did not answer a ping"
        )

    @property
    def close_timeout(self) -> float:
        """Seconds between our close frame and the end without an answer."""
        return max(0.25, 0.2 * self.options.drain) if self.draining else self.options.close_timeout

    def visit(self, connection: Timed, delay: float) -> None:
        """See to an open connection after `delay` seconds. While we drain, only `shutdown` says when its end comes."""
        if not self.draining:
            self.deadlines.set(connection, delay)

    def patience(self, disconnect: Disconnect, left: float) -> float:
        """Seconds that a client has to answer our close frame; `left` are those until its deadline of before."""
        if disconnect is Disconnects.STALE:
            return min(self.close_timeout, LINGER)
        if disconnect in (Disconnects.SLOW, Disconnects.NO_PONG):
            # It had its time: it gets what is left of that, so that it is gone when `slow_timeout` is over.
            return min(self.close_timeout, max(LINGER, left))
        return self.close_timeout

    def spawn(self, conversation: Coroutine[Any, Any, None]) -> None:
        """Run an application's end of a connection, for which uvicorn waits when it stops."""
        task = self.loop.create_task(conversation)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def tune(self, transport: asyncio.Transport) -> None:
        """Bound what a connection keeps, and how long it tries, for a client that does not read or has vanished.

        Without the first option, Linux takes 2.8 MB of a stalled client before the transport's buffer shows anything;
        without the second it tries for a quarter of an hour to reach a host that is gone.
        """
        transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        sock = transport.get_extra_info("socket")
        if sys.platform != "linux" or sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        options = self.options
        patience = options.ping_interval + options.ping_timeout + options.slow_timeout
        with contextlib.suppress(OSError):  # a system that only resembles Linux
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, HIGH_WATER)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(patience * 1000))


def tell_of_all_that_waits(transport: asyncio.Transport) -> None:
    """From now on it is congested as soon as anything has to wait, and its buffer empty while it is not.

    Over TLS, which cannot be written past, that would gain nothing.
    """
    if transport.get_extra_info("sslcontext") is None:
        transport.set_write_buffer_limits(0)


def open_descriptor(transport: asyncio.Transport) -> int:
    """Its socket, if that may be written to past the transport now, else -1."""
    sock = transport.get_extra_info("socket")
    tls = transport.get_extra_info("sslcontext") is not None
    return -1 if sock is None or tls or transport.get_write_buffer_size() else int(sock.fileno())


def untaken(transport: asyncio.Transport) -> int:
    """Bytes that its client has not taken: some of what the system holds may go before the buffer gets any shorter."""
    size = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sys.platform == "linux" and sock is not None:
        with contextlib.suppress(OSError):
            size += int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return size


_servers: WeakKeyDictionary[ServerState, WireServer] = WeakKeyDictionary()


def wire_server(config: Config, state: ServerState, app_state: dict[str, Any]) -> WireServer:
    """The one of this worker; uvicorn has no place to keep it but its own state."""
    server = _servers.get(state)
    if server is None:
        server = _servers[state] = WireServer(config, state, app_state)
    return server


def wire_servers() -> list[WireServer]:
    """All of this process: one, except in tests."""
    return list(_servers.values())

"""The WebSocket server class for uvicorn: `uvicorn app:app --ws hub.wire:HubProtocol`.

A correct ASGI WebSocket server for any application (`hub.asgi`). On top of that it offers the scope extension
`hub.wire`: an endpoint that takes it over with `serve(handler)` may return, and its task, scope and dependencies are
freed; from then on frames that arrive reach the handler's callbacks, and ready-made frames are written straight to the
transport.

`write` is the state of the outgoing side, swapped rather than tested, so that a healthy connection pays one call:

    _enqueue       before the handshake is answered, and while the client does not read (congested)
    transport.write
    _discard       after our close frame, and after the connection is gone
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol, cast

from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.datastructures import Headers

from .asgi import AsgiSession
from .config import WireOptions
from .errors import Disconnect, Disconnects
from .handshake import answer, http_response, websocket_scope
from .protocol import frames
from .protocol.backlog import Backlog
from .protocol.frames import FrameError, FrameParser, Opcode
from .wire_server import wire_server

__all__ = ["EXTENSION", "Handler", "HubProtocol", "Wire"]

log = logging.getLogger("hub.wire")

# The key of the scope extension.
EXTENSION = "hub.wire"

# Frames of one connection that are handled before the others get their turn.
FRAMES_PER_TURN = 128
# The transport calls itself congested above the first mark and recovered below the second. uvloop's own low mark is 16
# bytes, so that a client on the edge would flap.
HIGH_WATER, LOW_WATER = 65536, 16384
# Linux: without it the kernel takes 2.8 MB of a client that does not read before the transport's buffer shows anything.
TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)


class Handler(Protocol):
    """Who gets what arrives. Both methods are synchronous."""

    def on_message(self, payload: bytes, text: bool, /) -> None:
        """One whole message; valid UTF-8 where `text` is true."""

    def on_close(self, code: int, reason: str, /) -> None:
        """The connection has ended, by either side; called once, and nothing is called after it."""


class Wire(Protocol):
    """One open WebSocket connection, on whatever server."""

    # Takes ready-made frames; never raises, never waits.
    write: Callable[[bytes], object]

    async def serve(self, handler: Handler, /) -> None:
        """Give the connection to `handler`. On our own server returns at once, elsewhere when it has ended."""

    def close(self, disconnect: Disconnect, /) -> None:
        """Send a close frame; what is written afterwards is discarded."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class HubProtocol(asyncio.Protocol):
    """One connection. Implements `Wire`."""

    __slots__ = (
        "__weakref__",
        "_backlog",
        "_closing",
        "_early",
        "_failed",
        "_handler",
        "_heard",
        "_held",
        "_parser",
        "_pinged",
        "_pumping",
        "_server",
        "_stall",
        "_transport",
        "congested",
        "due",
        "session",
        "write",
    )

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: object = None
    ) -> None:
        self._server = wire_server(config, server_state, app_state)
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # from connection_made on
        self.write: Callable[[bytes], object] = self._enqueue
        # What waits while `write` is `_enqueue`; None until something does.
        self._backlog: Backlog | None = None
        # The ASGI conversation, None once it is over or handed over; then `_handler` gets what arrives.
        self.session: AsgiSession | None = None
        self._handler: Handler | None = None
        # From the accepted handshake on.
        self._parser: FrameParser | None = None
        # The rest of a budget's input, or what came before the handshake was answered, is scheduled.
        self._pumping = False
        self._early = b""
        # Reading was paused by the handler.
        self._held = False
        # Something arrived since the last visit by the deadlines; a ping is on its way.
        self._heard = self._pinged = False
        # The transport's buffer is over its mark; how many bytes it had at the last visit.
        self.congested = False
        self._stall = 0
        # Our close frame is out; the peer broke the protocol, so that nothing it sends can be understood.
        self._closing = self._failed = False
        self.due = 0

    def __repr__(self) -> str:
        state = "closing" if self._closing else "congested" if self.congested else "open" if self._parser else "new"
        return f"<HubProtocol {state}>"

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            try:
                sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, LOW_WATER)
            except OSError:  # not Linux
                pass
        self._server.state.connections.add(self)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.state.connections.discard(self)
        self._server.deadlines.clear(self)
        self.write = self._discard
        self._backlog = self._parser = None
        self._tell_closed(1006, "")

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._parser is not None and not self._early:
            self._pump(data)
        elif self.session is not None or self._early:
            self._keep_early(data)
        elif not self._closing:
            self._handshake(data)

    def eof_received(self) -> None:
        return None  # lets the transport close itself

    def pause_writing(self) -> None:
        self.congested = True
        if not self._closing:
            self.write = self._enqueue
            self._stall = self._transport.get_write_buffer_size()
            self._server.deadlines.set(self, self._server.options.slow_timeout)

    def resume_writing(self) -> None:
        self.congested = False
        if self._closing or self._parser is None:
            return
        self._drain_backlog()
        if not self.congested:
            self._watch()
            if self.session is not None:
                self.session.on_drained()

    def shutdown(self) -> None:
        """uvicorn stops: called for all connections at once. The closes are spread over the drain window."""
        self._server.draining = True
        if self._parser is None or self._closing:
            self._transport.close()
        else:
            self._server.deadlines.set(self, random.uniform(0, 0.7) * self._server.options.drain)

    # The handshake

    def _handshake(self, data: bytes) -> None:
        """Answer the request, which uvicorn hands over as a whole."""
        request, response = answer(data)
        if request is None or response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self.refuse(response.status_code, response.headers, bytes(response.body or b""))
            return
        scope = websocket_scope(request, self._server.config, self._transport)
        scope["state"] = self._server.app_state.copy()
        scope["extensions"] = {"websocket.http.response": {}, EXTENSION: {"wire": self}}
        self.session = AsgiSession(self, scope, response)
        task = self._server.loop.create_task(self.session.run(self._server.app))
        self._server.state.tasks.add(task)
        task.add_done_callback(self._server.state.tasks.discard)

    def configure(self, options: WireOptions) -> None:
        """Before the handshake is answered: the hub's options, unless this worker has them."""
        if not self._server.configured:
            self._server.options, self._server.configured = options, True

    def _keep_early(self, data: bytes) -> None:
        """A client may send before it has seen the answer; the application may take its time for it."""
        self._early += data
        if len(self._early) > HIGH_WATER:
            self.abort()

    def open(self, response: bytes) -> None:
        """The application accepts: answer the handshake and write what waited for it."""
        if self._closing:
            return
        self._parser = FrameParser(self._server.options.max_message_size)
        self._transport.write(response)
        self._drain_backlog()
        if self._server.draining:
            self.shutdown()
        elif not self.congested:
            self._watch()
        if self._early:
            # In a turn of its own: an endpoint that takes the connection over does so in this one.
            self._pump_later()

    def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer the handshake with an HTTP response and end the connection."""
        self._closing = True
        self._transport.write(http_response(status, headers, body))
        self._transport.close()
        self.write = self._discard

    # Reading

    def _pump(self, data: bytes) -> None:
        """Handle what has arrived, up to the budget of this turn."""
        parser = self._parser
        if parser is None or self._failed:
            return
        try:
            for opcode, payload in parser.messages(data, FRAMES_PER_TURN):
                self._on_frame(opcode, payload)
                if self._parser is None or self._failed:
                    return
        except FrameError as error:
            self._fail(error.disconnect)
            return
        if parser.interrupted:
            self._transport.pause_reading()
            self._pump_later()

    def _pump_later(self) -> None:
        """Let the others have their turn; while the handler holds the connection `resume_reading` goes on."""
        if not self._pumping and not self._held:
            self._pumping = True
            self._server.loop.call_soon(self._pump_rest)

    def _pump_rest(self) -> None:
        self._pumping = False
        if self._held:
            return
        early, self._early = self._early, b""
        self._pump(early)
        if not self._pumping and not self._held and not self._transport.is_closing():
            self._transport.resume_reading()

    def _on_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == Opcode.CLOSE:
            self._on_close_frame(payload)
        elif self._closing or opcode == Opcode.PONG:
            return
        elif opcode == Opcode.PING:
            self.write(frames.pong_frame(payload))
        else:
            self._on_message(payload, opcode == Opcode.TEXT)

    def _on_message(self, payload: bytes, text: bool) -> None:
        target = self._handler or self.session
        if target is None:
            return
        try:
            target.on_message(payload, text)
        except Exception:
            log.exception("unexpected fault in %r", target)
            self.close(Disconnects.INTERNAL)

    def _on_close_frame(self, payload: bytes) -> None:
        code, reason = frames.parse_close(payload)
        if not self._closing:
            self._closing = True
            self._transport.write(frames.close_frame(None if code == 1005 else code))
        self.write = self._discard
        self._tell_closed(code, reason)
        self._failed = True  # §5.5.1: nothing follows a close frame
        self._transport.close()
        self._server.deadlines.set(self, self._close_timeout)

    def pause_reading(self) -> None:
        if not self._held:
            self._held = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._held:
            return
        self._held = False
        if self._early or (self._parser is not None and self._parser.interrupted):
            self._pump_later()
        elif not self._pumping and not self._transport.is_closing():
            self._transport.resume_reading()

    # Writing

    def _enqueue(self, chunk: bytes) -> None:
        options = self._server.options
        if self._backlog is None:
            self._backlog = Backlog(options.slow_budget, options.slow_policy)
        dropped = self._backlog.dropped
        if not self._backlog.push(chunk):
            # Called from the middle of a fan-out: whoever closes changes the tables, so not now.
            self.write = self._discard
            self._backlog = None
            self._server.loop.call_soon(self.close, Disconnects.SLOW)
        elif self._backlog.dropped > dropped:
            self._server.dropped.add(self._backlog.dropped - dropped)

    def _drain_backlog(self) -> None:
        while self._backlog and not self.congested:
            self._transport.write(self._backlog.pop())
        if not self.congested:
            self._backlog = None
            self.write = self._transport.write

    def _discard(self, chunk: bytes) -> None:
        return

    # The end

    async def serve(self, handler: Handler) -> None:
        self.session = None
        self._handler = handler
        if self._closing or self._transport.is_closing():
            self._tell_closed(1006, "")

    def close(self, disconnect: Disconnect) -> None:
        """Send a close frame and wait `close_timeout` for the answer."""
        if self._closing:
            return
        self._closing = True
        self.write = self._discard
        self._backlog = None
        if disconnect is Disconnects.SLOW:
            self._server.slow.add()
        if not self._transport.is_closing():
            self._transport.write(frames.close_frame(disconnect.code, disconnect.reason))
            if self._held:
                self.resume_reading()
            self._server.deadlines.set(self, self._close_timeout)
        self._tell_closed(disconnect.code, disconnect.reason)

    def _fail(self, disconnect: Disconnect) -> None:
        """The peer broke the protocol (RFC 6455 §7.1.7).

        Closing at once, with its bytes still arriving, would reset the connection and could take our close frame away
        from it: so only our direction is closed, and what still comes is thrown away until it closes too.
        """
        self._failed = True
        self.close(disconnect)
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def abort(self) -> None:
        """Drop the connection without waiting for anything."""
        self.write = self._discard
        self._closing = True
        self._transport.abort()

    def _tell_closed(self, code: int, reason: str) -> None:
        """Tell the handler or the application, once."""
        target, self._handler = self._handler or self.session, None
        if self.session is not None:
            self.session.on_close(code, reason)
            self.session = None
        elif target is not None:
            target.on_close(code, reason)

    @property
    def _close_timeout(self) -> float:
        options = self._server.options
        return max(0.25, 0.2 * options.drain) if self._server.draining else options.close_timeout

    # Deadlines

    def _watch(self) -> None:
        """Healthy: the next visit is for a ping."""
        self._pinged = False
        self._server.deadlines.set(self, self._server.options.ping_interval)

    def on_due(self) -> None:
        if self._closing:
            self.abort()
        elif self._server.draining:
            self.close(Disconnects.RESTART)
        elif self.congested:
            self._check_stall()
        elif self._pinged:
            self._check_pong()
        else:
            self._pinged, self._heard = True, False
            self.write(frames.ping_frame())
            self._server.deadlines.set(self, self._server.options.ping_timeout)

    def _check_pong(self) -> None:
        """Any byte proves life: a client that is busy sending may not get to its pong."""
        if self._heard or self._held:
            self._watch()
            return
        self._server.silent.add()
        self._transport.write(frames.close_frame(Disconnects.NO_PONG.code, Disconnects.NO_PONG.reason))
        self._tell_closed(Disconnects.NO_PONG.code, Disconnects.NO_PONG.reason)
        self.abort()

    def _check_stall(self) -> None:
        """Congested for `slow_timeout`: dropped unless it has taken something meanwhile."""
        size = self._transport.get_write_buffer_size()
        if size < self._stall:
            self._stall = size
            self._server.deadlines.set(self, self._server.options.slow_timeout)
            return
        self._server.slow.add()
        self._tell_closed(Disconnects.SLOW.code, Disconnects.SLOW.reason)
        self.abort()

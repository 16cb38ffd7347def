"""The WebSocket server class for uvicorn: `uvicorn app:app --ws hub.wire:HubProtocol`.

A correct ASGI WebSocket server for any application (`hub.asgi`). On top of that it offers the scope extension
`hub.wire`: an endpoint that takes it over with `serve(handler)` may return, and its task, scope and dependencies are
freed; from then on frames that arrive reach the handler's callbacks, and ready-made frames are written straight to the
transport.

`write` is the state of the outgoing side, swapped rather than tested, so that a healthy connection pays one call; with
`descriptor`, swapped along with it, fan-outs save even that (`hub.direct_writes`):

    _enqueue       before the handshake is answered, and while the client does not read (congested)
    transport.write
    _discard       after our close frame, and after the connection is gone
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.http11 import Request

from .asgi import AsgiSession
from .config import WireOptions
from .deadlines import RESOLUTION
from .errors import Disconnect, Disconnects
from .handshake import answer, http_response, request_in, websocket_scope
from .log import extra_of
from .protocol import frames
from .protocol.backlog import Backlog, Lossy
from .protocol.deflate import InflatingParser
from .protocol.frames import FrameError, FrameParser, Opcode
from .wire_contract import EXTENSION, Handler, Wire
from .wire_server import LOW_WATER, open_descriptor, tell_of_all_that_waits, untaken, wire_server

__all__ = ["EXTENSION", "Handler", "HubProtocol", "Wire"]

log: logging.Logger = logging.getLogger("hub.wire")

# Frames of one connection that are handled before the others get their turn.
FRAMES_PER_TURN = 128


def _discard(chunk: bytes) -> None:
    """`write` at the end. Not a method: an object that holds one of its own methods waits for the garbage collector."""


class HubProtocol(asyncio.Protocol):
    """One connection. Implements `Wire`."""

    __slots__ = (
        "__weakref__",
        "_backlog",
        "_closing",
        "_deaf",
        "_early",
        "_handler",
        "_heard",
        "_held",
        "_parser",
        "_pinged",
        "_pumping",
        "_server",
        "_stall",
        "_transport",
        "compression",
        "congested",
        "descriptor",
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
        # See `Writer`; the transport closes it after `connection_lost`.
        self.descriptor: int = -1
        # What waits while `write` is `_enqueue`; None until something does.
        self._backlog: Backlog | None = None
        # The ASGI conversation, None once it is over or handed over; then `_handler` gets what arrives.
        self.session: AsgiSession | None = None
        self._handler: Handler | None = None
        # What came before the handshake was answered.
        self._early = b""
        # See `Wire`; from the handshake on.
        self.compression: int = 0
        # From the accepted handshake on.
        self._parser: FrameParser | None = None
        # Reading is paused: by ourselves, because what has arrived waits for its turn; by the handler.
        self._pumping = self._held = False
        # Something arrived since the last visit by the deadlines; a ping is on its way.
        self._heard = self._pinged = False
        # Too much waits in the transport's buffer; what was `untaken` at the last visit.
        self.congested: bool = False
        self._stall = 0
        # The end has begun: nothing is written any more except for the close frame.
        self._closing = False
        # The peer has sent its close frame or broken the protocol: what still comes means nothing.
        self._deaf = False
        self.due: int = 0

    def __repr__(self) -> str:
        state = "closing" if self._closing else "congested" if self.congested else "open" if self._parser else "new"
        return f"<HubProtocol {state}>"

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._server.tune(cast(asyncio.Transport, transport))
        self.adopt(cast(asyncio.Transport, transport))

    def adopt(self, transport: asyncio.Transport) -> None:
        """In place of `connection_made`, of an HTTP connection of ours: it has been tuned."""
        self._transport = transport
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._server.congested.discard(self)
        self._server.deadlines.clear(self)
        self._stop_writing()
        self._parser = None
        self._tell_closed(1006, "")

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._parser is not None:
            self._pump(data)
        elif self._closing:
            return
        elif self.session is None:
            self.upgrade(request_in(data))
        else:
            self._keep_early(data)

    def eof_received(self) -> None:
        """No close frame came, so none is sent; returning None lets the transport flush and close itself."""
        self._stop_writing()
        self._server.deadlines.set(self, self._server.close_timeout)

    def pause_writing(self) -> None:
        self.congested = True
        self._server.congested.add(self)
        if not self._closing:
            self.write, self.descriptor = self._enqueue, -1
            self._stall = untaken(self._transport)
            self._server.visit(self, self._server.options.slow_timeout)

    def resume_writing(self) -> None:
        self.congested = False
        self._server.congested.discard(self)
        if self._closing or self._parser is None:
            return
        self._drain_backlog()
        if not self.congested:
            self._watch()
            if self.session is not None:
                self.session.on_drained()

    def shutdown(self, soonest: float = 0.0) -> None:
        """uvicorn stops: called for all connections at once. The closes are spread over the drain window."""
        self._server.draining = True
        spread = self._server.close_timeout if self._closing else random.uniform(0, 0.7) * self._server.options.drain
        self._server.deadlines.set(self, max(soonest, spread))

    # The handshake

    def upgrade(self, request: Request | None) -> None:
        """Answer the request; None if that is malformed."""
        server = self._server
        if server.draining:
            # Let in just before the end: it gets the code that asks it to come back, which no HTTP answer has; a proxy
            # would hand a 503 on instead of trying the next server. The application has a moment to accept it.
            self.shutdown(RESOLUTION)
        if (refusal := server.capacity.refusal(len(server.connections), server.options)) is not None:
            self.refuse(503, Headers({"Retry-After": "1"}), f"{refusal.reason}\n".encode())
            return
        response, self.compression = answer(request, server.config, compression=server.options.compression)
        if request is None or response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self.refuse(response.status_code, response.headers, bytes(response.body or b""))
            return
        scope = websocket_scope(request, server.config, self._transport) | {"state": server.app_state.copy()}
        scope["extensions"] = {"websocket.http.response": {}, EXTENSION: {"wire": self}}
        self.session = AsgiSession(self, scope, response)
        server.spawn(self.session.run(server.app))

    def configure(self, options: WireOptions) -> None:
        """Before the handshake is answered: the hub's options, unless this worker has them."""
        if not self._server.configured:
            self._server.options, self._server.configured = options, True

    def _keep_early(self, data: bytes) -> None:
        """RFC 6455 §4.1 has a client wait for the answer. What a hasty one sends is kept, and no more is read."""
        self._early += data
        self._pumping = True
        self._transport.pause_reading()

    def open(self, response: bytes) -> None:
        """The application accepts: answer the handshake and write what waited for it."""
        if self._closing:
            return
        parser = InflatingParser if self.compression else FrameParser
        self._parser = parser(self._server.options.max_message_size, self._early)
        self._transport.write(response)
        self._drain_backlog()
        if not self.congested:
            self._watch()
        if self._early:
            self._early = b""
            # In a turn of its own: an endpoint that takes the connection over does so in this one.
            self._server.loop.call_soon(self._pump_rest)

    def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer the handshake with an HTTP response and end the connection."""
        self._stop_writing()
        self._transport.write(http_response(status, headers, body))
        self._transport.close()
        self._server.deadlines.set(self, self._server.close_timeout)

    # Reading

    def _pump(self, data: bytes) -> None:
        """Handle what has arrived, up to the budget of this turn. The bytes of a turn are bounded by one read."""
        parser = self._parser
        if parser is None or self._deaf:
            return
        try:
            for opcode, payload in parser.messages(data, FRAMES_PER_TURN):
                self._on_frame(opcode, payload)
                if self._deaf or self._held:
                    break
        except FrameError as error:
            self._fail(error.disconnect)
        else:
            self._pump_later()

    def _pump_later(self) -> None:
        parser = self._parser
        if parser is not None and parser.interrupted and not (self._deaf or self._held or self._pumping):
            self._pumping = True
            self._transport.pause_reading()
            self._server.loop.call_soon(self._pump_rest)

    def _pump_rest(self) -> None:
        self._pumping = False
        if not self._held:
            self._pump(b"")
            self._read_on()

    def _read_on(self) -> None:
        if not (self._pumping or self._held or self._transport.is_closing()):
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
        assert target is not None  # else we were closing
        try:
            target.on_message(payload, text)
        except Exception:
            log.exception("unexpected fault in %r", target, extra=extra_of(target))
            self.close(Disconnects.INTERNAL)

    def _on_close_frame(self, payload: bytes) -> None:
        code, reason = frames.parse_close(payload)
        self._deaf = True  # §5.5.1: nothing follows a close frame
        if not self._closing:
            self._stop_writing()
            self._transport.write(frames.close_frame(None if code == 1005 else code))
        self._transport.close()
        self._server.deadlines.set(self, self._server.close_timeout)
        self._tell_closed(code, reason)

    def pause_reading(self) -> None:
        self._held = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._held:
            self._held = False
            self._pump_later()
            self._read_on()

    # Writing

    @property
    def waits(self) -> bool:
        return self._backlog is not None or self.congested

    @property
    def queued(self) -> int:
        """Bytes that the client has not taken."""
        return self._transport.get_write_buffer_size() + (self._backlog.size if self._backlog else 0)

    def offer(self, chunk: bytes, lossy: Lossy) -> None:
        if self.write != self._enqueue:
            self.write(chunk)
        else:
            self._enqueue(chunk, lossy)

    def _enqueue(self, chunk: bytes, lossy: Lossy | None = None) -> None:
        if self._backlog is None:
            self._backlog = Backlog(self._server.options.slow_budget)
        dropped = self._backlog.dropped
        if not self._backlog.push(chunk, lossy):
            # In the middle of a fan-out: telling the handler changes the tables, so not now.
            self._stop_writing()
            self._server.loop.call_soon(self._say_goodbye, Disconnects.SLOW)
        elif self._backlog.dropped > dropped:
            self._server.dropped.add(self._backlog.dropped - dropped)

    def _drain_backlog(self) -> None:
        while self._backlog and not self.congested:
            self._transport.write(self._backlog.pop(LOW_WATER))
        if not self.congested:
            self._backlog = None
            self.write = self._transport.write
            if self._handler is not None:
                self.descriptor = open_descriptor(self._transport)

    def _stop_writing(self) -> None:
        self._closing = True
        self.write, self.descriptor = _discard, -1
        self._backlog = None

    # The end

    async def serve(self, handler: Handler) -> None:
        if self._parser is None and not self._closing:
            raise RuntimeError("the handshake comes first: send 'websocket.accept' before `serve`")
        session, self.session, self._handler = self.session, None, handler
        if not self._closing:
            tell_of_all_that_waits(self._transport)
            self._drain_backlog()
        self.resume_reading()
        for payload, text in session.unread() if session is not None else ():
            if self._handler is None:  # it has ended the connection
                break
            self._on_message(payload, text)
        if self._closing:
            self._tell_closed(1006, "")

    def close(self, disconnect: Disconnect) -> None:
        """Send a close frame and wait `close_timeout` for the answer."""
        if not self._closing:
            self._stop_writing()
            self._say_goodbye(disconnect)

    def _say_goodbye(self, disconnect: Disconnect) -> None:
        if disconnect is Disconnects.SLOW:
            self._server.slow.add()
        if self._parser is None and not self._transport.is_closing():
            self.refuse(503, Headers(), disconnect.reason.encode())
        elif not self._transport.is_closing():
            self._send_close(disconnect)
        self._tell_closed(disconnect.code, disconnect.reason)

    def _send_close(self, disconnect: Disconnect) -> None:
        self._transport.write(frames.close_frame(disconnect.code, disconnect.reason))
        if self._deaf and self._transport.can_write_eof():
            self._transport.write_eof()
        self.resume_reading()  # for the answer
        server = self._server
        server.deadlines.set(self, server.patience(disconnect, server.deadlines.left(self)))

    def _fail(self, disconnect: Disconnect) -> None:
        """The peer broke the protocol (RFC 6455 §7.1.7).

        Closing at once, with its bytes still arriving, would reset the connection and could take our close frame away
        from it: so only our direction is closed, and what still comes is thrown away until it closes too.
        """
        self._deaf = True
        self.close(disconnect)

    def abort(self) -> None:
        """Drop the connection without waiting for anything."""
        self._stop_writing()
        self._transport.abort()

    def _tell_closed(self, code: int, reason: str) -> None:
        """Tell the handler or the application, once."""
        target = self._handler or self.session
        self._handler = self.session = None
        if target is not None:
            try:
                target.on_close(code, reason)
            except Exception:
                log.exception("unexpected fault in %r", target, extra=extra_of(target))

    # Deadlines

    def on_due(self) -> None:
        if self._closing:
            self.abort()
        elif self._server.draining:
            self.close(getattr(self._handler, "shutdown", Disconnects.RESTART))
        elif self.congested:
            self._check_stall()
        elif self._pinged:
            self._check_pong()
        else:
            self._pinged, self._heard = True, False
            self.write(frames.ping_frame())
            self._server.visit(self, self._server.options.ping_timeout)

    def _watch(self, since: float = 0.0) -> None:
        """Healthy: the next visit is for a ping. The last one was sent `since` seconds ago."""
        self._pinged = False
        self._server.visit(self, self._server.options.ping_interval - since)

    def _check_pong(self) -> None:
        """Any byte proves life: a client that is busy sending may not get to its pong."""
        if self._heard or self._held:
            self._watch(self._server.options.ping_timeout)
        else:
            self._server.silent.add()
            self.close(Disconnects.NO_PONG)

    def _check_stall(self) -> None:
        """Congested for `slow_timeout`: dropped unless it has taken something meanwhile."""
        size = untaken(self._transport)
        if size < self._stall:
            self._stall = size
            self._server.visit(self, self._server.options.slow_timeout)
        else:
            self.close(Disconnects.SLOW)

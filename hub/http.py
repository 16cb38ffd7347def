"""uvicorn's HTTP class of `hub serve`, with the defences that a public port needs.

A request (a WebSocket handshake too) that does not come to its end in time is cut off, and so is who takes nothing of
the answers; a head has a size limit; many requests, or a large one, are handled piece by piece with everybody's turn in
between; a frame that follows the handshake in the same segment is not lost, as it is in uvicorn's own classes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from websockets.datastructures import Headers

from .errors import Disconnect
from .handshake import http_response, request_of
from .log import Throttled
from .wire import HubProtocol
from .wire_contract import HTTP_EXTENSION
from .wire_server import wire_server

__all__ = ["HubHttpProtocol", "refused_requests"]

log: logging.Logger = logging.getLogger("hub.http")

# Bytes of one connection that are handled before the others get their turn.
PIECE = 16384
# Request line and headers, give or take one piece; the usual limit of proxies is 8 to 32 KiB.
MAX_HEAD_SIZE = 65536
# Requests that wait for the answer to one before them. Hardly any client sends a second one so early.
MAX_PIPELINED = 16
# Seconds in which a refused client may stop sending and read the answer.
LINGER = 3.0
# Seconds that a worker which stops gives a request on its way to arrive.
LAST_CALL = 0.5

_invalid = Throttled(log, logging.WARNING, "%d requests refused because they are not HTTP")
_slow = Throttled(log, logging.WARNING, "%d requests cut off because they did not come to their end in time")


def refused_requests() -> dict[str, int]:
    """In this process, by cause."""
    return {"invalid": _invalid.total, "slow": _slow.total}


class HubHttpProtocol(HttpToolsProtocol):
    """One connection, until it becomes a WebSocket. Implements `hub.wire_contract.HttpConnection`."""

    # httptools' own, which has no types; None once it is a WebSocket.
    parser: Any

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._wire_server = wire_server(self.config, self.server_state, self.app_state)
        self.due = 0
        # Bytes of the present request's head so far; -1 after it, 0 between requests.
        self._head = 0
        # After it, bytes since the last of the body, or of a chunk's begin: extensions of chunks, trailers.
        self._tail = 0
        # What has arrived and waits for its turn; reading is paused meanwhile.
        self._waiting = b""
        # Whether the present request asks for a WebSocket, if for any upgrade; known when its head is complete.
        self._to_websocket = False
        # The answer to a bad request is out.
        self._refused = False
        # The request that the application has got last.
        self._answering: RequestResponseCycle | None = None
        # While the client reads too slowly, how many bytes it had not taken at the last look.
        self._stall = 0
        # See `HttpConnection`.
        self.on_shutdown: Callable[[], object] | None = None
        self.stalled: bool = False

    # For answers that do not end by themselves

    @property
    def draining(self) -> bool:
        return self._wire_server.draining

    def refusal(self) -> Disconnect | None:
        return self._wire_server.capacity.refusal(len(self.connections), self._wire_server.options)

    def abort(self) -> None:
        self.transport.abort()

    # The transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wire_server.tune(transport)
        if self._wire_server.capacity.is_exhausted(len(self.connections)):
            transport.abort()
            return
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wire_server.deadlines.clear(self)
        self.pipeline.clear()
        if self._answering is not None:  # uvicorn tells the last one, and that need not be it
            self._answering.disconnected = True
            self._answering.message_event.set()  # it may wait for nothing but this, as event streams do
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        cast(dict[str, Any], cycle.scope)["extensions"] = {HTTP_EXTENSION: {"connection": self}}
        super()._start_asgi_task(cycle, app)

    def on_due(self) -> None:
        to_read = self.flow.write_paused or self.transport.is_closing()
        if to_read and self.transport.get_write_buffer_size() < self._stall:
            self._expect_reading()
            return
        if to_read:
            self.stalled = True
            self._wire_server.slow.add()
        elif not (self._refused or self._wire_server.draining):
            _slow.add()
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.transport.is_closing():
            self._expect_reading()
        elif self._head or self._refused:
            self._expect_request()
        else:
            self._wire_server.deadlines.clear(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reading()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expect_reading()

    def _expect_reading(self) -> None:
        """The client has to take some of what is left of the answers, if it is there."""
        if self not in self.connections:
            return
        self._stall = self.transport.get_write_buffer_size()
        self._wire_server.deadlines.set(self, self._wire_server.options.slow_timeout)

    def shutdown(self) -> None:
        """uvicorn stops, and no more connections are let in. One that was, just before, has not been heard yet."""
        self._wire_server.draining = True
        if self.on_shutdown is not None:
            self.on_shutdown()
        if self.cycle is None or self._head > 0 or self._waiting:
            self._expect_request()
        else:
            super().shutdown()

    def _expect_request(self) -> None:
        """It has to come to its end in time."""
        server = self._wire_server
        patience = server.options.handshake_timeout
        server.deadlines.set(self, min(patience, LAST_CALL) if server.draining else patience)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        if self._waiting:
            self._waiting += data
        elif len(data) <= PIECE and self._wire_server.turns.take():
            self._feed(data)
        else:
            self._waiting = data
            self.transport.pause_reading()
            self._wire_server.turns.later(self._go_on)

    def _go_on(self) -> None:
        """It is this connection's turn."""
        if self.transport.is_closing():
            return
        piece, self._waiting = self._waiting[:PIECE], self._waiting[PIECE:]
        if not self._waiting and not self.flow.read_paused:
            self.transport.resume_reading()
        self._feed(piece)
        if self._waiting:
            self._wire_server.turns.later(self._go_on)

    def _feed(self, data: bytes) -> None:
        self._count(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest, self._waiting = data[upgrade.args[0] :] + self._waiting, b""
            self._upgrade(rest)
        except httptools.HttpParserError:
            _invalid.add()
            self._refuse(400, "This is not a valid HTTP request, or one with a body that asks for an upgrade.")
        else:
            if self._head > MAX_HEAD_SIZE or self._tail > MAX_HEAD_SIZE:
                part = "head is" if self._head > 0 else "trailers are"
                self._refuse(431, f"The request's {part} larger than {MAX_HEAD_SIZE} bytes.")

    def _count(self, data: bytes) -> None:
        """The clock of a request starts with its first byte, even if that is only an empty line."""
        if self._head < 0:
            self._tail += len(data)
        else:
            self._head += len(data)
            if not self.due:
                self._expect_request()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests wait for an answer")
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers, which nobody here has a use for, do not pass for headers (RFC 9110 §6.5.1)."""
        if self._head >= 0:
            super().on_header(name, value)

    def on_chunk_header(self) -> None:
        self._tail = 0

    def on_body(self, body: bytes) -> None:
        self._tail = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._head, self._tail = -1, 0
        if self.parser.should_upgrade():
            self._to_websocket = super()._should_upgrade()
            if not self._to_websocket and self._has_body():
                # The parser takes what follows for the other protocol, and then for the next request.
                raise ValueError("a body cannot be read before an upgrade")
        super().on_headers_complete()
        if self._wire_server.draining and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._head = 0
        if not self.flow.write_paused:
            self._wire_server.deadlines.clear(self)
        super().on_message_complete()

    def _should_upgrade(self) -> bool:
        """Asked by uvicorn several times a request."""
        return self._to_websocket

    def _has_body(self) -> bool:
        fields = dict(self.headers)
        return b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0"

    @property
    def _busy(self) -> bool:
        """A request before this one is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _upgrade(self, rest: bytes) -> None:
        """The parser stops at a request with an Upgrade field; `rest` is what follows its head."""
        if not self._to_websocket:
            self._ignore_upgrade()
        elif self._busy:
            self.transport.close()
        else:
            self.handle_websocket_upgrade()
            self.parser = None  # it and we would keep each other alive
            self.transport.resume_reading()
            if rest:
                cast(asyncio.Protocol, self.transport.get_protocol()).data_received(rest)

    def handle_websocket_upgrade(self) -> None:
        """As in uvicorn, which writes the request anew for the other class to parse."""
        ordinary = self.scope["method"] == "GET" and self.url.isascii() and not self._has_body()
        if self.ws_protocol_class is not HubProtocol or not ordinary:
            super().handle_websocket_upgrade()
            return
        self.connections.discard(self)
        protocol = HubProtocol(self.config, self.server_state, self.app_state)
        protocol.adopt(self.transport)
        protocol.upgrade(request_of(self.url, self.headers))
        self.transport.set_protocol(protocol)
        if self.flow.write_paused:  # by an answer before it; the transport says so once
            self._wire_server.deadlines.clear(self)
            protocol.pause_writing()

    def _ignore_upgrade(self) -> None:
        """As RFC 9110 §7.8 allows: the request is being answered, but it is the connection's last."""
        self.cycle.keep_alive = False
        self.flow.pause_reading()

    def _refuse(self, status: int, reason: str) -> None:
        """Answer and end. Closing with bytes still arriving could take the answer away from the client."""
        if not self._busy:
            self.transport.write(http_response(status, Headers(), f"{reason}\n".encode()))
        if self._busy or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._refused, self._waiting = True, b""
        self.transport.write_eof()
        self.transport.resume_reading()
        self._wire_server.deadlines.set(self, LINGER)
